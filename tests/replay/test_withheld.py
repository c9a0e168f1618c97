"""Files whose bytes were passed over: nothing that the log says of them touches what was at their names before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from lddp.core import effects as e
from lddp.core.records import Attributes, Content, Kind
from tests.core.support import content
from tests.replay.bench import PATIENCE_S, Bench, walk

OLD = Attributes(0o644, 1, 1, 1000)
NEW = Attributes(0o600, 2, 2, 2000)
OTHER, FILE, LATER = 7 << 16, 8 << 16, 9 << 16
"""Inodes: of what is there before, of what is withheld, and of another file."""
FOUND = content(b"found")
LOST = Content(b"lost".ljust(32), 5000)


def put(path: bytes, what: Content = LOST, observed: bool = True) -> e.PutFileEffect:
    return e.PutFileEffect(FILE, path, NEW, what, observed)


def found(bench: Bench) -> dict[bytes, tuple[object, ...]]:
    """Bytes, attributes and object of every file."""
    return {
        path: (bytes(inode.data), inode.attributes, inode.number)
        for path, inode in walk(bench.zone)
        if inode.kind is Kind.FILE
    }


async def carried(bench: Bench, *effects: e.Effect) -> None:
    """The effects of one record, of whose inodes the log has none any more: so bytes that are not here are passed
    over."""
    bench.append(*effects)
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)


async def linked_before(bench: Bench) -> dict[bytes, tuple[object, ...]]:
    """A file with two names; one of them is about to become another file's."""
    await carried(bench, e.PutFileEffect(OTHER, b"a", OLD, content(b"old"), False), e.LinkEffect(OTHER, b"a", b"b"))
    return found(bench)


async def again(bench: Bench) -> None:
    await bench.restart()


async def goes_on(bench: Bench) -> None:
    assert bench.task is not None


BETWEEN = pytest.mark.parametrize("between", [goes_on, again])
Between = Callable[[Bench], Awaitable[None]]


@BETWEEN
async def test_what_stood_at_the_name_is_not_changed(bench: Bench, between: Between) -> None:
    before = await linked_before(bench)
    await carried(bench, put(b"b"))
    await between(bench)
    await carried(bench, e.SetAttributesEffect(FILE, b"b", Kind.FILE, NEW))
    await carried(bench, e.WriteEffect(FILE, b"b", 0, content(b"NEW"), 3, NEW), e.TruncateEffect(FILE, b"b", 1, NEW))
    assert found(bench) == before
    await between(bench)
    await carried(bench, put(b"b", FOUND, False), e.SetAttributesEffect(FILE, b"b", Kind.FILE, OLD))
    assert found(bench)[b"a"] == before[b"a"]
    assert found(bench)[b"b"][:2] == (b"found", OLD)
    assert not bench.carrier.withheld and not bench.carrier.drift


@BETWEEN
@pytest.mark.parametrize(
    ("loses", "left"),
    [
        ([e.RenameEffect(FILE, b"b", b"c", False)], b"a"),
        ([e.RemoveEffect(FILE, b"b", False)], b"a"),
        ([e.LinkEffect(FILE, b"b", b"c"), e.RemoveEffect(FILE, b"b", False)], b"a"),
        ([e.ParkEffect(FILE, b"b"), e.UnparkEffect(FILE, b"c")], b"a"),
        ([e.ParkEffect(FILE, b"b"), e.RemoveEffect(FILE, b"", False)], b"a"),
        ([e.LinkEffect(FILE, b"b", b"c")], b"ab"),
    ],
)
async def test_names_that_it_loses_are_gone_and_those_that_it_gets_are_left(
    bench: Bench, between: Between, loses: list[e.Effect], left: bytes
) -> None:
    before = await linked_before(bench)
    await carried(bench, put(b"b"))
    await between(bench)
    for effect in loses:
        await carried(bench, effect)
        await between(bench)
    assert found(bench) == {bytes([name]): before[bytes([name])] for name in left}
    assert not bench.carrier.drift and not bench.zone.parked


async def test_a_checkpoint_remembers_it(bench: Bench) -> None:
    """Something of it waits while the marks are made anew."""
    before = await linked_before(bench)
    late = bench.late(b"x" * 5000)
    await carried(bench, put(b"b"))
    passed_over = bench.gsn
    bench.append(e.WriteEffect(FILE, b"b", 0, late, 5000, NEW))
    bench.append(put(b"b", FOUND, False))
    await bench.asked_for(late)
    async with asyncio.timeout(PATIENCE_S):
        while bench.projector.durable < passed_over:
            bench.time.now += 1000.0
            bench.projector.poke()
            await asyncio.sleep(0)
    await bench.restart()
    await bench.supply(late)
    await bench.settled()
    assert found(bench)[b"a"] == before[b"a"]
    assert found(bench)[b"b"][0] == b"found"


async def test_bytes_that_come_give_it_all_its_names(bench: Bench) -> None:
    await linked_before(bench)
    await carried(bench, put(b"b"), e.LinkEffect(FILE, b"b", b"c"), e.RenameEffect(FILE, b"b", b"d", False))
    await carried(bench, put(b"c", FOUND, False), e.LinkEffect(FILE, b"c", b"d"))
    await carried(bench, e.RenameEffect(FILE, b"d", b"a", False))
    assert {path: data for path, (data, *_) in found(bench).items()} == {b"a": b"found", b"c": b"found"}
    assert len({number for *_, number in found(bench).values()}) == 1


async def test_a_file_that_has_its_object_keeps_the_old_bytes(bench: Bench) -> None:
    await carried(bench, put(b"a", FOUND))
    await carried(bench, put(b"a", LOST, False), e.RenameEffect(FILE, b"a", b"b", False))
    assert found(bench)[b"b"][0] == b"found"
    assert not bench.carrier.withheld


async def test_a_file_that_was_never_there_is_withheld_whoever_brings_it(bench: Bench) -> None:
    """A client's put of a file that the source has and the log has no bytes of is not called observed."""
    await carried(bench, put(b"a", LOST, False), e.SetAttributesEffect(FILE, b"a", Kind.FILE, OLD))
    assert bench.carrier.withheld == {FILE}
    assert not found(bench) and not bench.carrier.drift


async def test_it_is_forgotten_when_it_is_gone_from_the_log(bench: Bench) -> None:
    await carried(bench, put(b"a"), e.RemoveEffect(FILE, b"a", False))
    await bench.settled()
    assert not bench.carrier.withheld
    await bench.restart()
    await bench.settled()
    assert not bench.carrier.withheld
