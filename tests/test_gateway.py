"""The gateway: how records get their outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import pytest

from lddp.core.codec import CODES, encode
from lddp.core.namespace import NUMBER
from lddp.core.records import (
    Attributes,
    Barrier,
    DirectoryReport,
    Kind,
    MakeDirectory,
    Observation,
    ObservedEntry,
    OperationId,
    Record,
)
from lddp.core.tables import Table, Tables
from lddp.errors import LimitError, OutcomeUnknownError, StorageError, UnavailableError
from lddp.gateway import NO_ZONE, Gateway
from lddp.node.history import History
from lddp.replay.outbox import Item
from lddp.submissions import Applied
from tests.core.support import SOURCE, TARGET, create_rule
from tests.fakes.memory import MemoryKeyValue


class Time:
    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class Numbers:
    def __init__(self) -> None:
        self.drawn = 0

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def token(self, size: int) -> bytes:
        self.drawn += 1
        return bytes([self.drawn]) * size


PATIENCE_S = 20.0


class FakeMember:
    """Consensus as the gateway sees it. What is submitted stays in `queue` until the test orders it."""

    def __init__(self, environment: MemoryKeyValue) -> None:
        self.environment = environment
        self.leader: str | None = "somebody"
        self.queue: list[bytes] = []
        self.on_leader_change: list[Any] = []
        self.full = False
        self.index = 0
        self.hurried = 0
        self.is_settled = True
        self.asked = asyncio.Event()
        """Something was submitted, or refused."""

    async def barrier(self, _timeout_s: float) -> int:
        return self.index

    async def wait_applied(self, _index: int, _timeout_s: float) -> None:
        """The test folds at once what it orders."""

    def latest(self) -> AbstractContextManager[Tables]:
        return self.environment.read()

    def hurry(self) -> None:
        self.hurried += 1

    def submit(self, records: Sequence[bytes]) -> None:
        self.asked.set()
        if self.full:
            raise UnavailableError("the inbox is full")
        self.queue += records

    def change_leader(self, leader: str | None) -> None:
        self.asked.clear()
        self.leader = leader
        for callback in self.on_leader_change:
            callback(leader)

    async def until_asked(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.asked.wait()


class Node:
    """A gateway with its database. `order` and `commit` do what consensus does in one tick."""

    def __init__(self, zone: int = TARGET, witness: bool = False, numbers: Numbers | None = None) -> None:
        self.environment = MemoryKeyValue()
        self.time = Time()
        self.gateway = Gateway(self.environment, zone, self.time, numbers or Numbers(), witness)
        self.member = FakeMember(self.environment)
        self.gateway.start(cast(Any, self.member))
        self.effects: list[tuple[list[Item], int]] = []
        self.gateway.on_effects.append(lambda items, gsn: self.effects.append((items, gsn)))
        self.reached: list[int] = []
        self.gateway.on_applied.append(self.reached.append)

    def fold(self, records: Sequence[bytes]) -> bool:
        """Whether somebody waits for it to be durable."""
        self.member.index += 1
        with self.environment.write() as tables:
            return self.gateway.apply(tables, self.member.index, records)

    def commit(self) -> None:
        self.gateway.committed(self.member.index, self.member.index)

    def order(self, records: Sequence[bytes] | None = None) -> None:
        """One entry, of all that was submitted where nothing is given, folded and durable."""
        if records is None:
            records, self.member.queue = self.member.queue, []
        self.fold(records)
        self.commit()

    def directory(self, name: bytes) -> Record:
        return MakeDirectory(self.gateway.next_id(), TARGET, 5, b"/data/" + name, 0o755, 0, 0)


@pytest.fixture
async def node() -> Any:
    node = Node()
    node.order([encode(create_rule())])
    yield node
    await node.gateway.stop()


def _of_unknown_type() -> bytes:
    body = msgpack.packb([250, [b"newer node", 1]])
    return b"\x01" + zlib.crc32(body).to_bytes(4, "big") + body


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# -- outcomes ---------------------------------------------------------------------------------------------------------


async def test_each_record_gets_its_own_outcome(node: Node) -> None:
    records = [node.directory(b"a"), node.directory(b"a"), node.directory(b"b/c"), node.directory(b"b")]
    futures = node.gateway.post(records)
    assert node.member.queue == [encode(record) for record in records]
    node.order()
    applied = [future.result() for future in futures]
    assert [one.gsn for one in applied] == [2, 3, 4, 5]
    assert [one.outcome.errno for one in applied] == [0, 17, 2, 0]
    assert node.gateway.gsn == node.reached[-1] == 5


@pytest.mark.parametrize(
    "newer", [b"\xff" + encode(Barrier(OperationId(b"newer node", 1), 5, "data"))[1:], _of_unknown_type()]
)
async def test_a_record_of_a_later_version_stops_the_node_with_nothing_of_its_entry_folded(
    node: Node, newer: bytes
) -> None:
    record = node.directory(b"before")
    with pytest.raises(StorageError, match=r"record 3 of the log: .*upgrade this node"):
        node.order([encode(record), newer])
    assert node.gateway.gsn == 1
    with node.gateway.view() as view:
        assert view.resolve(b"/data/before") is None


async def test_a_record_that_no_version_can_read_has_no_effect_on_any_node(node: Node) -> None:
    damaged = bytearray(encode(node.directory(b"damaged")))
    damaged[-1] ^= 1
    record = node.directory(b"after")
    node.order([bytes(damaged), encode(record)])
    assert node.gateway.gsn == 3
    with node.gateway.view() as view:
        assert view.resolve(b"/data/damaged") is None
        assert view.resolve(b"/data/after") is not None


def _with_a_long_name(operation: OperationId) -> Observation:
    """As a source on NTFS or exFAT may have it: 255 characters, of three bytes each."""
    attributes = Attributes(0o644, 0, 0, 1)
    entry = ObservedEntry("\u6587".encode() * 255, b"handle", Kind.FILE, attributes, 1)
    return Observation(operation, SOURCE, 1, 1, (DirectoryReport(1, (entry,), (), False, attributes),), ())


async def test_a_record_beyond_a_limit_has_no_effect_on_any_node(node: Node) -> None:
    """As earlier versions wrote it. Whoever reads the log passes over it, too."""
    record = _with_a_long_name(OperationId(b"older node", 1))
    body = msgpack.packb([CODES[Observation], *record])
    after = node.directory(b"after")
    entry = [b"\x01" + zlib.crc32(body).to_bytes(4, "big") + body, encode(after)]
    node.order(entry)
    assert node.gateway.gsn == 3
    with node.gateway.view() as view:
        assert view.resolve(b"/data/after") is not None
    member = SimpleNamespace(first_index=1, records_at=lambda _index: entry)
    history = History(cast(Any, SimpleNamespace(gateway=node.gateway, environment=node.environment, member=member)))
    portion = history.portion(2, 3)
    assert portion is not None and portion.records == [(3, after)]


async def test_a_record_beyond_a_limit_is_not_submitted(node: Node) -> None:
    """This node would fold it, without decoding it, and no other could."""
    with pytest.raises(LimitError):
        node.gateway.post([_with_a_long_name(node.gateway.next_id())])
    assert not node.member.queue


async def test_records_of_others_are_folded_without_a_waiter(node: Node) -> None:
    own = node.directory(b"own")
    (future,) = node.gateway.post([own])
    foreign = MakeDirectory(OperationId(b"other node", 1), 3, 5, b"/data/theirs", 0o755, 0, 0)
    node.order([encode(foreign), encode(own)])
    assert future.result().gsn == 3
    with node.gateway.view() as view:
        assert view.resolve(b"/data/theirs") is not None


async def test_nobody_hears_of_an_outcome_that_is_not_durable(node: Node) -> None:
    (future,) = node.gateway.post([node.directory(b"a")])
    waiting = asyncio.get_running_loop().create_task(node.gateway.wait(2, 5.0))
    node.fold(node.member.queue)
    await settle()
    assert not future.done()
    assert not waiting.done()
    assert node.gateway.gsn == 1
    assert len(node.effects) == 1
    node.commit()
    assert future.result().gsn == 2
    await waiting
    items, gsn = node.effects[1]
    assert (gsn, {item.order[0] for item in items}) == (2, {2})


async def test_who_asks_early_hears_once_it_is_folded(node: Node) -> None:
    early, late = node.directory(b"early"), node.directory(b"late")
    (first,) = node.gateway.post([early], early=True)
    (second,) = node.gateway.post([late])
    node.fold(node.member.queue)
    node.gateway.folded(2, 2)
    assert first.result().gsn == 2
    assert not second.done()
    node.commit()
    assert second.result().gsn == 3


async def test_new_effects_are_told_before_any_outcome(node: Node) -> None:
    told: list[tuple[list[int], bool]] = []
    (first,) = node.gateway.post([node.directory(b"a")], early=True)
    node.gateway.on_new_effects.append(
        lambda items: told.append((sorted({item.order[0] for item in items}), first.done()))
    )
    node.fold(node.member.queue)
    node.gateway.folded(2, 2)
    assert first.done()
    node.fold([encode(node.directory(b"b"))])
    node.gateway.folded(3, 3)
    node.commit()
    node.fold([encode(node.directory(b"c"))])
    node.gateway.folded(4, 4)
    assert told == [([2], False), ([3], True), ([4], True)]


async def test_what_is_changed_is_told_when_it_is_folded(node: Node) -> None:
    told: list[tuple[int, set[int]]] = []
    node.gateway.on_changed.append(lambda numbers: told.append((node.gateway.latest_gsn, numbers)))
    node.gateway.post([node.directory(b"a")], early=True)
    node.fold(node.member.queue)
    node.gateway.folded(2, 2)
    with node.gateway.latest() as view:
        made = view.resolve(b"/data/a")
    assert made is not None
    assert [(gsn, made.number in numbers) for gsn, numbers in told] == [(2, True)]
    assert (node.gateway.gsn, node.gateway.latest_gsn) == (1, 2)
    node.commit()
    assert len(told) == 1
    assert node.gateway.gsn == 2


async def test_who_waits_for_what_was_shown_before_the_start(node: Node) -> None:
    await node.gateway.settled()
    node.member.is_settled = False
    waiting = asyncio.get_running_loop().create_task(node.gateway.settled())
    node.fold([encode(node.directory(b"a"))])
    node.gateway.folded(2, 2)
    await settle()
    assert not waiting.done()
    node.member.is_settled = True
    node.fold([encode(node.directory(b"b"))])
    node.gateway.folded(3, 3)
    await waiting


async def test_who_waits_for_a_durable_fold_makes_it_hurry(node: Node) -> None:
    node.gateway.post([node.directory(b"a")], early=True)
    assert not node.fold(node.member.queue)
    again = node.directory(b"b")
    node.gateway.post([again], early=True)
    node.gateway.post([again])
    assert node.fold([encode(again)]), "asked for twice, once not early"
    node.commit()
    waiting = asyncio.get_running_loop().create_task(node.gateway.wait(4, 5.0))
    await settle()
    assert not node.member.hurried, "there is nothing yet to be made durable"
    assert node.fold([encode(node.directory(b"c"))])
    node.commit()
    await waiting


async def test_who_waits_for_what_is_folded_already_makes_it_hurry(node: Node) -> None:
    node.gateway.post([node.directory(b"a")], early=True)
    assert not node.fold(node.member.queue)
    waiting = asyncio.get_running_loop().create_task(node.gateway.wait(2, 5.0))
    await settle()
    assert node.member.hurried == 1
    node.commit()
    await waiting


async def test_submit_and_submit_many(node: Node) -> None:
    task = asyncio.get_running_loop().create_task(
        node.gateway.submit_many([node.directory(b"a"), node.directory(b"b")], 5.0)
    )
    single = asyncio.get_running_loop().create_task(node.gateway.submit(node.directory(b"c"), 5.0))
    await settle()
    node.order()
    assert [one.gsn for one in await task] == [2, 3]
    assert await single == Applied(4, (await single).outcome)


async def test_effects_of_other_zones_are_not_kept() -> None:
    node = Node(zone=99)
    node.order([encode(create_rule())])
    (future,) = node.gateway.post([node.directory(b"a")])
    node.order()
    assert future.result().outcome.errno == 0
    assert [gsn for _, gsn in node.effects] == [1, 2]
    await node.gateway.stop()


# -- once -------------------------------------------------------------------------------------------------------------


async def test_the_same_id_posted_twice_is_one_record(node: Node) -> None:
    record = node.directory(b"a")
    first, again = node.gateway.post([record])[0], node.gateway.post([record, node.directory(b"b")])[0]
    assert first is again
    assert len(node.member.queue) == 2
    node.order()
    assert first.result().gsn == 2


async def test_a_retry_after_the_outcome_gets_the_first_one(node: Node) -> None:
    record = node.directory(b"a")
    (first,) = node.gateway.post([record])
    node.order()
    (again,) = node.gateway.post([record])
    node.order()
    assert first is not again
    assert again.result().outcome == first.result().outcome
    with node.gateway.view() as view:
        assert len(view.list(view.rules()[0].root)) == 1


async def test_a_record_that_was_ordered_twice_resolves_once(node: Node) -> None:
    record = node.directory(b"a")
    (future,) = node.gateway.post([record])
    node.order([encode(record), encode(record)])
    assert future.result() == Applied(2, future.result().outcome)
    assert node.gateway.gsn == 3


async def test_a_new_leader_is_given_what_has_no_outcome_yet(node: Node) -> None:
    records = [node.directory(name) for name in (b"a", b"b", b"c")]
    futures = node.gateway.post(records)
    node.order(node.member.queue[:1])
    node.member.queue.clear()  # lost with the old leader
    node.member.change_leader(None)
    assert node.member.queue == []
    node.member.change_leader("new")
    await node.member.until_asked()
    assert node.member.queue == [encode(record) for record in records[1:]]
    node.order()
    assert [future.result().outcome.errno for future in futures] == [0, 0, 0]


async def test_a_resubmission_that_is_refused_is_made_later(node: Node) -> None:
    (future,) = node.gateway.post([node.directory(b"a")])
    node.member.queue.clear()
    node.member.full = True
    node.member.change_leader("new")
    await node.member.until_asked()
    node.member.full = False
    node.member.change_leader("newer")
    await node.member.until_asked()
    node.order()
    assert future.result().outcome.errno == 0


async def test_ids_of_two_starts_differ() -> None:
    numbers = Numbers()
    one, other = Node(numbers=numbers), Node(numbers=numbers)
    ids = {node.gateway.next_id() for node in (one, other) for _ in range(3)}
    assert len(ids) == 6
    for node in (one, other):
        await node.gateway.stop()


# -- unknown ----------------------------------------------------------------------------------------------------------


async def test_after_the_deadline_the_outcome_is_unknown_and_a_retry_is_safe(node: Node) -> None:
    record = node.directory(b"a")
    with pytest.raises(OutcomeUnknownError, match="same id"):
        await node.gateway.submit(record, 0.0)
    node.member.change_leader("new")
    assert node.member.queue == [encode(record)]  # given up: not submitted again
    (again,) = node.gateway.post([record])
    node.order()  # both of them
    assert again.result().outcome.errno == 0
    assert again.result().gsn == 2
    assert node.gateway.gsn == 3


async def test_a_cancelled_caller_harms_nothing(node: Node) -> None:
    task = asyncio.get_running_loop().create_task(node.gateway.submit(node.directory(b"a"), 5.0))
    await settle()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    node.order()
    assert node.gateway.gsn == 2


async def test_a_node_that_stops_tells_who_waits(node: Node) -> None:
    (future,) = node.gateway.post([node.directory(b"a")])
    waiting = asyncio.get_running_loop().create_task(node.gateway.wait(99, 5.0))
    await settle()
    await node.gateway.stop()
    with pytest.raises(OutcomeUnknownError, match="stopped"):
        await future
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_stop_leaves_no_outcome_that_nobody_has_looked_at(node: Node) -> None:
    """Of a batch its asker hears of the first one only, and who went away of none."""
    loop, said = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _loop, context: said.append(context["message"]))
    asking = loop.create_task(node.gateway.submit_many([node.directory(b"a"), node.directory(b"b")]))
    leaving = loop.create_task(node.gateway.submit(node.directory(b"c")))
    node.gateway.post([node.directory(b"d")])
    await settle()
    leaving.cancel()
    await asyncio.wait({leaving})
    await node.gateway.stop()
    with pytest.raises(OutcomeUnknownError, match="stopped"):
        await asking
    del asking, leaving
    gc.collect()
    await settle()
    assert said == []


async def test_too_much_waits_already(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lddp.submissions.WAITING_MAX", 2)
    futures = node.gateway.post([node.directory(b"a"), node.directory(b"b")])
    with pytest.raises(UnavailableError, match="waiting to be ordered"):
        node.gateway.post([node.directory(b"c")])
    assert len(node.member.queue) == 2
    node.order()
    assert all(future.done() for future in futures)
    node.gateway.post([node.directory(b"c")])


# -- the log ----------------------------------------------------------------------------------------------------------


async def test_a_record_that_cannot_be_read_takes_a_number_and_harms_nothing(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    (future,) = node.gateway.post([node.directory(b"a")])
    damaged = bytearray(encode(node.directory(b"x")))
    damaged[-1] ^= 1
    node.order([b"", bytes(damaged), b"noise", *node.member.queue])
    assert future.result().gsn == 5
    assert caplog.text.count("not readable") == 3
    with node.gateway.view() as view:
        assert [name for name, _ in view.list(view.rules()[0].root)] == [b"a"]


async def test_a_large_record_of_this_node_is_the_same_decoded_or_not(node: Node) -> None:
    """What a node submitted itself is not decoded when it comes back."""
    other = Node()
    other.order([encode(create_rule())])
    record = MakeDirectory(node.gateway.next_id(), TARGET, 5, b"/data/" + b"n" * 200, 0o755, 0, 0)
    large = Barrier(node.gateway.next_id(), 5, "x" * 5000)
    futures = node.gateway.post([record, large])
    entry = list(node.member.queue)
    node.order()
    other.order(entry)
    assert [future.done() for future in futures] == [True, True]
    assert not node.gateway._own
    assert node.gateway.gsn == other.gateway.gsn == 3
    with node.gateway.view() as view, other.gateway.view() as its:
        assert view.digest(1) == its.digest(1)
    await other.gateway.stop()


async def test_a_witness_counts_and_folds_nothing() -> None:
    witness = Node(zone=NO_ZONE, witness=True)
    witness.order([encode(create_rule()), b"noise"])
    witness.order([encode(witness.directory(b"a"))])
    assert witness.gateway.gsn == 3
    with witness.environment.read() as tables:
        assert [table for table in Table if list(tables.scan(table))] == [Table.META, Table.ENTRY_GSNS]
        found = {NUMBER.unpack(k)[0]: NUMBER.unpack(v)[0] for k, v in tables.scan(Table.ENTRY_GSNS)}
        assert found == {1: 1, 3: 2}
    assert witness.effects == [([], 2), ([], 3)]
    await witness.gateway.stop()


async def test_the_count_goes_on_after_a_restart(node: Node) -> None:
    again = Gateway(node.environment, TARGET, node.time, Numbers())
    assert again.gsn == again.machine.gsn == 1
    assert [rule.name for rule in again.machine.rules.values()] == ["data"]


async def test_waiting_for_an_index(node: Node) -> None:
    await node.gateway.wait(1, 0.0)
    with pytest.raises(UnavailableError, match="this node is at 1, not at 2"):
        await node.gateway.wait(2, 0.0)
    early, late = (asyncio.get_running_loop().create_task(node.gateway.wait(gsn, 5.0)) for gsn in (2, 3))
    await settle()
    node.gateway.post([node.directory(b"a")])
    node.order()
    await early
    assert not late.done()
    node.gateway.post([node.directory(b"b")])
    node.order()
    await late


async def test_who_waits_for_an_index_far_ahead_makes_no_fold_durable_at_once(node: Node) -> None:
    """One such waiter would make every fold a transaction."""
    far = asyncio.get_running_loop().create_task(node.gateway.wait(10**18, 5.0))
    await settle()
    assert not node.fold([encode(node.directory(b"a"))])
    near = asyncio.get_running_loop().create_task(node.gateway.wait(3, 5.0))
    await settle()
    assert node.fold([encode(node.directory(b"b"))])
    node.commit()
    await near
    assert not far.done()
    far.cancel()


async def test_so_many_wait_for_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lddp.gateway.WAITING_MAX", 2)
    node = Node()
    waiting = [asyncio.get_running_loop().create_task(node.gateway.wait(9, 5.0)) for _ in range(2)]
    await settle()
    with pytest.raises(UnavailableError, match="too many callers wait"):
        await node.gateway.wait(9, 5.0)
    waiting.pop().cancel()
    await settle()
    waiting.append(asyncio.get_running_loop().create_task(node.gateway.wait(1, 5.0)))
    await settle()
    assert not waiting[1].done(), "there is room again where somebody waits no longer"
    node.order([encode(create_rule())])
    await waiting[1]
    waiting[0].cancel()
    await node.gateway.stop()
