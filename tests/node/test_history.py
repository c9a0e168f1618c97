"""The log as people read it: in portions, to its end, and never with a gap that is not told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from lddp.config import LimitsConfig
from lddp.consensus.config import RaftConfig
from lddp.consensus.member import RaftMember
from lddp.core.namespace import NUMBER
from lddp.core.records import MakeDirectory
from lddp.core.tables import Table, Tables
from lddp.errors import OperationError
from lddp.gateway import Gateway
from lddp.node import gossip, history
from lddp.node.history import History
from lddp.node.system import SystemClock, SystemRandom
from tests.core.support import TARGET, create_rule
from tests.fakes.memory import MemoryKeyValue

RECORDS = 200
ENTRIES = 40
PATIENCE_S = 60.0


class Log(NamedTuple):
    """As much of a node as its history looks at."""

    environment: MemoryKeyValue
    gateway: Gateway
    member: RaftMember

    async def make(self, *names: bytes) -> None:
        """One entry."""
        ids = (self.gateway.next_id() for _ in names)
        await self.gateway.submit_many(
            [MakeDirectory(id, TARGET, 5, b"/data/" + name, 0o755, 0, 0) for id, name in zip(ids, names, strict=True)]
        )

    async def drop(self, through: int) -> None:
        """What is before the entry at this index is not kept any more, as where every node has it."""

        def forget(tables: Tables) -> None:
            for key, value in list(tables.scan(Table.ENTRY_GSNS)):
                if NUMBER.unpack(value)[0] <= through:
                    tables.delete(Table.ENTRY_GSNS, key)

        self.member.compact(through)
        await self.member.transact(forget)
        assert self.member.first_index == through + 1


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    """A rule, and directories in entries of five."""
    environment, clock, random = MemoryKeyValue(), SystemClock(), SystemRandom()
    gateway = Gateway(environment, TARGET, clock, random)
    config = RaftConfig(node="a", address="unix:/unused", peers={}, ecosystem="e", compaction_margin=1)
    member = RaftMember(config, environment, gateway.apply, clock=clock, random=random)
    member.on_folded.append(gateway.folded)
    member.on_committed.append(gateway.committed)
    gateway.start(member)
    leads = asyncio.Event()
    member.on_leader_change.append(lambda _leader: leads.set())
    await member.start()
    await leads.wait()
    log = Log(environment, gateway, member)
    await gateway.submit(create_rule(), PATIENCE_S)
    for entry in range(ENTRIES):
        await log.make(*(b"%03d" % number for number in range(entry * 5, entry * 5 + 5)))
    assert gateway.gsn == RECORDS + 1
    yield log
    await gateway.stop()
    await member.stop()


def history_of(log: Log) -> History:
    node: Any = log
    return History(node)


async def test_a_log_is_read_to_its_end_however_little_is_looked_at_at_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RECORDS_AT_ONCE", 7)
    monkeypatch.setattr(history, "LOOKED_MAX", 30)
    reader = history_of(log)
    for path, limit, expected in (
        (b"", 1000, [*range(1, RECORDS + 2)]),
        (b"", 4, [*range(1, RECORDS + 2)]),
        (b"/data/150", 1000, [152]),
        (b"/elsewhere", 1000, []),
    ):
        found, following, answers = list[int](), 1, 0
        while following:
            documents, following = await reader.documents(following, 0, path, limit)
            assert len(documents) <= limit
            found += [document["index"] for document in documents]
            answers += 1
        assert found == expected
        assert answers >= RECORDS // 40, "what is looked at for one answer is bounded, too"
    documents, following = await reader.documents(3, 5, b"", 1000)
    assert [document["index"] for document in documents] == [3, 4, 5] and following == 0
    documents, following = await reader.documents(3, 5, b"", 3)
    assert [document["index"] for document in documents] == [3, 4, 5] and following == 0


async def test_other_things_have_their_turn_while_the_log_is_searched(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RECORDS_AT_ONCE", 10)
    reader, turns = history_of(log), 0
    search = asyncio.ensure_future(reader.documents(1, 0, b"/elsewhere", 10))
    while not search.done():
        await asyncio.sleep(0)
        turns += 1
    assert search.result() == ([], 0)
    assert turns >= RECORDS // 15


async def test_what_is_kept_is_read_from_its_first_record(log: Log) -> None:
    await log.drop(20)
    documents, following = await history_of(log).documents(1, 0, b"", 3)
    first = documents[0]["index"]
    assert 1 < first < RECORDS
    assert [document["index"] for document in documents] == [first, first + 1, first + 2]
    assert following == first + 3


async def test_a_reader_of_events_that_is_too_slow_is_told(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not read was dropped meanwhile: it must not go on behind that as if nothing had been there."""
    monkeypatch.setattr(history, "RECORDS_AT_ONCE", 10)
    events = history_of(log).events(0)
    seen = [event.gsn for event in await anext(events)]
    await log.drop(30)
    with pytest.raises(OperationError, match="the log no longer holds") as told:
        while seen[-1] <= RECORDS:
            seen += [event.gsn for event in await anext(events)]
    assert seen == [*range(1, len(seen) + 1)] and len(seen) < 100
    with pytest.raises(OperationError) as refused:
        await anext(history_of(log).events(len(seen)))
    assert (told.value.errno, str(told.value)) == (refused.value.errno, str(refused.value))


async def test_a_reader_of_events_that_comes_along_has_all(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RECORDS_AT_ONCE", 10)
    events = history_of(log).events(0)
    for gsn in range(1, RECORDS + 2):
        assert [event.gsn for event in await anext(events)] == [gsn]
    upcoming = asyncio.ensure_future(anext(events))
    await log.make(b"new")
    assert [event.gsn for event in await upcoming] == [RECORDS + 2]
    await events.aclose()


async def test_no_more_than_so_much_is_dropped_at_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a node that was away has kept the others from dropping; and what says where records are goes with
    the entries."""
    monkeypatch.setattr(gossip, "COMPACT_ENTRIES_MIN", 1)
    monkeypatch.setattr(gossip, "COMPACT_ENTRIES_MAX", 15)
    config: Any = SimpleNamespace(peers={}, limits=LimitsConfig(log_entries_kept=5))
    gossiping = gossip.Gossip(log.gateway, log.member, None, config, dict)
    end, steps = log.member.applied_index - 5, 0
    while (first := log.member.first_index) <= end - 1:
        gossiping._compact()
        places = await log.member.transact(lambda tables: [value for _, value in tables.scan(Table.ENTRY_GSNS)])
        assert 0 < log.member.first_index - first <= 15
        assert NUMBER.unpack(places[0])[0] >= log.member.first_index
        steps += 1
    assert steps > 1
