"""Only what nobody needs for long is swept."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from lddp.content.store import Store
from lddp.core import effects as e
from lddp.core.records import Attributes, Content
from lddp.errors import UnavailableError
from lddp.node.sweep import Sweep
from lddp.replay import outbox
from tests.fakes.memory import MemoryKeyValue

ATTRIBUTES = Attributes(0o644, 0, 0, 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def blob(store: Store, data: bytes) -> Content:
    with store.writer() as writer:
        writer.write(data)
        return writer.commit(sync=False)


def need(keyvalue: MemoryKeyValue, gsn: int, content: Content) -> None:
    effect = e.PutFileEffect(gsn << 16, b"f", ATTRIBUTES, content, False)
    with keyvalue.write() as tables:
        outbox.append(tables, gsn, 1, [e.ScopedEffect(1, e.Scope(), effect)])


async def test_what_no_effect_names_goes_at_the_second_look(store: Store) -> None:
    keyvalue = MemoryKeyValue()
    sweep = Sweep(keyvalue, store)
    lost, waiting, kept = [blob(store, b"%d" % number * 40_000) for number in range(3)]
    store.keep(kept)
    need(keyvalue, 7, waiting)
    lost_pack, named_pack = b"1" * 16, b"2" * 16
    await store.add_pack(lost_pack, b"lost")
    await store.add_pack(named_pack, b"named")
    need(keyvalue, 8, Content(blake3(b"named").digest(), 5, pack=named_pack))
    assert sweep.look() == 0, "it may have come just now"
    assert sweep.look() == 2
    assert store.open(lost) is None
    assert store.pack(lost_pack) is None
    for content in (waiting, kept):
        assert store.open(content) is not None
    assert store.pack(named_pack) == b"named"


async def test_what_is_needed_in_between_is_suspected_anew(store: Store) -> None:
    keyvalue = MemoryKeyValue()
    sweep = Sweep(keyvalue, store)
    content = blob(store, b"late" * 10_000)
    sweep.look()
    need(keyvalue, 7, content)
    assert sweep.look() == 0
    with keyvalue.write() as tables:
        outbox.discard(tables, 7)
    assert sweep.look() == 0
    assert store.open(content) is not None
    assert sweep.look() == 1
    assert store.open(content) is None


async def test_what_an_upload_waits_with_is_not_suspected(store: Store) -> None:
    """There may be no majority for days, and its record comes all the same."""
    sweep = Sweep(MemoryKeyValue(), store)
    with store.writer("client") as writer:
        writer.write(b"waits" * 10_000)
        content = writer.commit(sync=False)
    assert sweep.look() == sweep.look() == 0, "the claim of one that cannot say any more has just ended"
    assert store.open(content) is not None
    assert sweep.look() == 1


async def test_what_came_of_a_pull_that_nobody_wants_any_more_goes(store: Store) -> None:
    keyvalue = MemoryKeyValue()
    sweep = Sweep(keyvalue, store)
    for number in range(2):
        data = b"%d" % number * 40_000
        content = Content(blake3(data).digest(), len(data))
        part = store.part(content)
        part.write([data[:10_000]])
        part.close()
        if number:
            need(keyvalue, 7, content)
    before = store.usage().part_bytes
    assert sweep.look() == 0
    assert sweep.look() == 1
    assert 0 < store.usage().part_bytes < before


async def test_nothing_goes_while_no_majority_is_there_nor_at_the_first_look_when_it_is_back(store: Store) -> None:
    """A record that names the bytes may stand in this node's log, and be agreed on then."""
    sweep = Sweep(MemoryKeyValue(), store)
    content = blob(store, b"x" * 40_000)
    away: list[bool] = [False, True, True, False, False]

    async def barrier(_timeout_s: float) -> int:
        if away.pop(0):
            raise UnavailableError("no leader")
        return 1

    with ThreadPoolExecutor(1) as threads:
        for _ in range(4):
            await sweep.look_in_touch(threads, barrier)
            assert store.open(content) is not None
        await sweep.look_in_touch(threads, barrier)
    assert store.open(content) is None
