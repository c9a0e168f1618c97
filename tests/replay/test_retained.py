"""Bytes that an operation brought stay until every zone has them."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from lddp.content.store import Store
from lddp.content.suspects import Suspects
from lddp.core import effects as e
from lddp.core.records import Append, Attributes, Content, OperationId, Put, Rename, RenameFlag
from lddp.core.tables import Table
from lddp.replay import expected as expected_module
from lddp.replay import outbox
from lddp.replay.expected import Expected, read_expected
from lddp.replay.outbox import Item
from lddp.replay.retained import Retained
from tests.content.world import put
from tests.core.support import SOURCE, content
from tests.fakes.memory import MemoryKeyValue
from tests.replay.bench import Bench

HEAD = SOURCE, 1000, b"/data/a"


class Others:
    """How far the other zones are."""

    def __init__(self) -> None:
        self.gsn = 0


def retain(bench: Bench, others: Others) -> Retained:
    """As a node does at its start."""
    with bench.environment.read() as tables:
        retained = bench.projector.retained = Retained(bench.store, lambda _rule: others.gsn, tables)
    bench.store.is_expected = retained.expected.has
    return retained


async def test_a_zone_that_was_away_finds_what_was_changed_in_part_since(bench: Bench) -> None:
    others = Others()
    retained = retain(bench, others)
    large = bench.hold(b"large" * 10_000)
    bench.submit(Put(OperationId(b"c", 1), *HEAD, 0o644, 0, 0, large))
    bench.submit(Append(OperationId(b"c", 2), *HEAD, content(b"more")))
    await bench.settled()
    bench.assert_equal()
    held = bench.store.open(large)
    assert held is not None, "the file holds other bytes now; the others have to ask the store"
    assert held.to_take() is None

    await bench.end()
    bench.progress.close()
    bench._build()
    retained = retain(bench, others)
    bench.start()
    await bench.settled()
    others.gsn = bench.gsn - 2
    retained.release_due()
    assert bench.store.open(large) is not None
    others.gsn = bench.gsn - 1
    retained.release_due()
    assert bench.store.open(large) is None


async def test_what_is_used_again_is_not_dropped(bench: Bench) -> None:
    others = Others()
    retained = retain(bench, others)
    large = bench.hold(b"large" * 10_000)
    bench.submit(Put(OperationId(b"c", 1), *HEAD, 0o644, 0, 0, large))
    first = bench.gsn
    bench.submit(Put(OperationId(b"c", 2), SOURCE, 1000, b"/data/b", 0o644, 0, 0, large))
    await bench.settled()
    assert bench.asked == [], "one copy serves both files"
    others.gsn = first
    retained.release_due()
    assert bench.store.open(large) is not None


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_nobody_takes_the_bytes_of_an_effect_that_is_to_come(bench: Bench, is_restarted: bool) -> None:
    """It waits behind another one. What was observed has the same bytes."""
    others = Others()
    await bench.end()
    retain(bench, others)
    bench.start()
    late, large = bench.late(b"late" * 10_000), bench.hold(b"large" * 10_000)
    bench.submit(Put(OperationId(b"c", 1), *HEAD, 0o644, 0, 0, late))
    bench.submit(Rename(OperationId(b"c", 2), *HEAD, b"/data/b", RenameFlag.NONE))
    bench.submit(Put(OperationId(b"c", 3), *HEAD, 0o644, 0, 0, large))
    await bench.asked_for(late)
    if is_restarted:
        await bench.end()
        bench.progress.close()
        bench._build()
        retain(bench, others)
        bench.start()
    attributes = Attributes(0o644, 0, 0, 1)
    bench.append(e.PutFileEffect(12, b"observed", attributes, large, observed=True))
    await bench.projector.wait(bench.gsn, 5.0)
    assert bench.zone.status(b"observed").size == large.size
    await bench.supply(late)
    await bench.settled()
    assert bench.zone.status(b"a").size == large.size
    assert set(bench.asked) == {late.digest}
    others.gsn = bench.gsn
    retained = bench.projector.retained
    assert retained is not None
    retained.release_due()
    assert bench.store.usage().blobs == 0


async def test_what_is_let_go_stays_for_an_effect_that_is_to_come(bench: Bench) -> None:
    """Every zone has what the first one brought."""
    others = Others()
    await bench.end()
    retained = retain(bench, others)
    bench.start()
    late, large = bench.late(b"late" * 10_000), bench.hold(b"large" * 10_000)
    bench.submit(Put(OperationId(b"c", 1), SOURCE, 1000, b"/data/first", 0o644, 0, 0, large))
    others.gsn = bench.gsn
    await bench.projector.wait(bench.gsn, 5.0)
    bench.submit(Put(OperationId(b"c", 2), *HEAD, 0o644, 0, 0, late))
    bench.submit(Rename(OperationId(b"c", 3), *HEAD, b"/data/b", RenameFlag.NONE))
    bench.submit(Put(OperationId(b"c", 4), *HEAD, 0o644, 0, 0, large))
    await bench.asked_for(late)
    retained.release_due()
    await bench.supply(late)
    await bench.settled()
    assert set(bench.asked) == {late.digest}
    bench.assert_equal()


def puts(*digests: bytes, first_gsn: int = 1) -> list[Item]:
    attributes = Attributes(0o644, 0, 0, 1)
    effects = [e.PutFileEffect(1, b"a", attributes, Content(digest, 100_000), False) for digest in digests]
    return [Item((gsn, 0), 1, effect) for gsn, effect in enumerate(effects, first_gsn)]


def digests(count: int) -> list[bytes]:
    return [bytes([number]) * 32 for number in range(count)]


def recalled(*items: Item) -> Expected:
    environment = MemoryKeyValue()
    with environment.write() as tables:
        for item in items:
            outbox.append(tables, item.order[0], SOURCE, [e.ScopedEffect(1, e.Scope(), item.effect)])
    found = Expected()
    assert found.has(Content(bytes(32), 1)), "nobody knows yet what an earlier process had to carry out"
    found.recalled(read_expected(environment, (1, 0)))
    return found


def test_what_is_expected_until_it_is_reached() -> None:
    first, second, third, fourth = (Content(digest, 100_000) for digest in digests(4))
    expected = recalled(*puts(first.digest, second.digest))
    assert not expected.has(first), "before the last checkpoint"
    expected.expect(puts(third.digest, second.digest, first_gsn=5))
    has = [(2, [second, third]), (4, [second, third]), (5, [second]), (6, [])]
    for gsn, contents in has:
        expected.reached(gsn)
        assert [content for content in (first, second, third, fourth) if expected.has(content)] == contents


def test_what_is_too_much_to_be_remembered_is_still_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_module, "EXPECTED_MAX", 4)
    known = [blake3(bytes([number])).digest() for number in range(100)]
    expected = recalled(*puts(*known[:20]))
    expected.expect(puts(*known[20:50], first_gsn=21))
    assert not expected.has(Content(known[0], 1)), "before the last checkpoint"
    assert [digest for digest in known[1:] if expected.has(Content(digest, 1))] == known[1:50]
    expected.reached(49)
    assert expected.has(Content(known[49], 1))
    expected.reached(50)
    assert not any(expected.has(Content(digest, 1)) for digest in known)


async def test_what_is_expected_after_a_start_is_known_once_all_is_folded_again(bench: Bench) -> None:
    """What was folded and not durable yet is in no outbox."""
    await bench.end()
    bench.progress.close()
    bench._build()
    retained, folded = retain(bench, Others()), asyncio.Event()

    async def folded_again() -> None:
        await folded.wait()

    bench.projector.folded_again = folded_again
    bench.start()
    await bench.settled()
    large = bench.hold(b"large" * 10_000)
    bench.store.release(large)
    assert bench.store.open(large) is not None
    known, recalled = asyncio.Event(), retained.expected.recalled

    def note(found: dict[bytes, int]) -> None:
        recalled(found)
        known.set()

    retained.expected.recalled = note  # type: ignore[method-assign]
    folded.set()
    await known.wait()
    retained.release_due()
    assert bench.store.open(large) is None


def test_only_bytes_that_nothing_else_holds_are_kept() -> None:
    attributes = Attributes(0o644, 0, 0, 1)
    large = Content(b"d" * 32, 100_000)
    put = e.PutFileEffect(1, b"a", attributes, large, False)
    assert Retained.concerns(put)
    assert Retained.concerns(e.WriteEffect(1, b"a", 0, large, 100_000, attributes))
    assert not Retained.concerns(put._replace(observed=True))
    assert not Retained.concerns(put._replace(content=content(b"inline")))
    assert not Retained.concerns(put._replace(content=large._replace(pack=b"p")))


async def test_a_start_that_cannot_read_what_was_expected_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or nothing would ever be dropped, and nobody would know why."""

    def fails(_environment: object, _after: object) -> dict[bytes, int]:
        raise OSError(errno.EIO, "the database")

    monkeypatch.setattr("lddp.replay.checkpoints.read_expected", fails)
    retain(bench, Others())
    bench.start()
    assert bench.task is not None
    with pytest.raises(OSError, match="the database"):
        async with asyncio.timeout(30):
            await bench.task


async def test_bytes_that_two_rules_have_stay_until_the_zones_of_both_have_them(tmp_path: Path) -> None:
    """A zone of rule 1 is away. Those of rule 2 get the same bytes later, and are all there. Also after a restart."""
    everywhere = {1: 50, 2: 200}
    environment = MemoryKeyValue()
    store = Store(tmp_path / "content")
    large = put(store, b"large" * 10_000)
    for is_restarted in (False, True):
        with environment.read() as tables:
            retained = Retained(store, everywhere.__getitem__, tables)
        retained.expected.recalled({})
        if not is_restarted:
            for rule, gsn in ((1, 100), (2, 120)):
                effect = e.PutFileEffect(gsn << 16, b"f", Attributes(0o644, 0, 0, 1), large, False)
                retained.hold(Item((gsn, 0), rule, effect))
                retained.used(Item((gsn, 0), rule, effect))
            with environment.write() as tables:
                for key, value in retained.snapshot().items():
                    tables.put(Table.LOCAL, key, value)
        retained.release_due()
        assert store.open(large) is not None, "the zone of rule 1 is still to ask for them"
        store.close()
        store = Store(tmp_path / "content")
    with environment.read() as tables:
        retained = Retained(store, everywhere.__getitem__, tables)
    retained.expected.recalled({})
    everywhere[1] = 100
    retained.release_due()
    assert store.open(large) is None
    store.close()


async def test_what_is_of_another_boot_is_hashed_beside_the_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files take longer than other nodes wait for a sign of life."""
    large = bench.hold(b"large" * 10_000)
    bench.progress.close()
    (bench.directory / "content" / "boot").write_text("another boot")
    bench._build()
    threads = []

    is_whole = Suspects._is_whole

    def looks(self: Suspects, name: str) -> bool:
        threads.append(threading.current_thread())
        return is_whole(self, name)

    monkeypatch.setattr(Suspects, "_is_whole", looks)
    bench.start()
    bench.submit(Put(OperationId(b"c", 1), *HEAD, 0o644, 0, 0, large))
    await bench.asked_for(large)
    await bench.supply(large)
    await bench.settled()
    bench.assert_equal()
    assert threads and threading.main_thread() not in threads
