"""What a comparison found different is brought back: names, kinds, targets, bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lddp.core.records import Create, Kind, Symlink
from lddp.core.view import View
from lddp.replay.places import path_of
from lddp.replay.repair import carry_repair, plan_repair
from tests.fakes.zone import FakeZone
from tests.replay.bench import Bench
from tests.replay.test_projector import Records

BYTES = b"bytes of a file " * 1000


def mended(bench: Bench, *paths: bytes) -> list[bytes]:
    bench.hold(BYTES)
    with bench.environment.read() as tables:
        view = View(tables)
        (rule,) = view.rules()
        mends = plan_repair(view, rule, bench.zone, paths)
        return carry_repair(view, bench.carrier, bench.store, mends)


async def assert_equal(bench: Bench) -> None:
    """With one more record, after which the directories that were touched get their times."""
    make = Records()
    make.count = 100
    bench.submit(make.put(b"z", b""))
    await bench.settled()
    bench.assert_equal()


async def make_three(bench: Bench) -> None:
    """A file, a fifo and a symlink, each with two names."""
    make = Records()
    bench.submit(make.put(b"f", bench.hold(BYTES)))
    bench.submit(Create(*make.head(b"p"), Kind.FIFO, 0o600, 0, 0))
    bench.submit(Symlink(*make.head(b"l"), b"target", 0, 0))
    bench.submit_all([make.link(name, name + b"2") for name in (b"f", b"p", b"l")])
    await bench.settled()


def separated(zone: FakeZone, name: bytes) -> None:
    """The second name stands for an object of its own, just as the first."""
    status = zone.status(name)
    attributes = zone.root.entries[name].attributes
    assert status.kind is not None
    zone.remove(name + b"2")
    zone.make_node(name + b"2", status.kind, attributes, b"target" if status.kind is Kind.SYMLINK else b"", 0)


def gone(zone: FakeZone, name: bytes) -> None:
    zone.remove(name + b"2")


def both_gone(zone: FakeZone, name: bytes) -> None:
    zone.remove(name)
    zone.remove(name + b"2")


def one_more(zone: FakeZone, name: bytes) -> None:
    """A third name makes the count of names wrong; it is nobody's, and is left alone."""
    zone.link(name, name + b"3")


@pytest.mark.parametrize("name", [b"p", b"l"])
@pytest.mark.parametrize("damage", [separated, gone, both_gone])
async def test_the_names_of_a_node_are_names_of_one_object(
    bench: Bench, name: bytes, damage: Callable[[FakeZone, bytes], None]
) -> None:
    await make_three(bench)
    damage(bench.zone, name)
    assert mended(bench, name, name + b"2") == [name]
    assert bench.zone.status(name).inode == bench.zone.status(name + b"2").inode
    await assert_equal(bench)
    assert mended(bench, name, name + b"2") == []


@pytest.mark.parametrize("damage", [gone, both_gone])
async def test_the_names_of_a_file_are_names_of_one_object(
    bench: Bench, damage: Callable[[FakeZone, bytes], None]
) -> None:
    await make_three(bench)
    damage(bench.zone, b"f")
    assert mended(bench, b"f", b"f2") == [b"f"]
    await assert_equal(bench)


@pytest.mark.parametrize("name", [b"f", b"p", b"l"])
async def test_a_name_more_costs_it_its_object(bench: Bench, name: bytes) -> None:
    await make_three(bench)
    one_more(bench.zone, name)
    assert mended(bench, name) == [name]
    bench.zone.remove(name + b"3")
    await assert_equal(bench)


async def test_what_is_right_is_left_alone(bench: Bench) -> None:
    await make_three(bench)
    bench.zone.calls.clear()
    assert mended(bench, b"f", b"f2", b"p", b"p2", b"l", b"l2", b"nothing") == []
    assert not {"put_file", "make_node", "link", "remove"} & {method for method, _ in bench.zone.calls}


async def test_a_tree_that_is_gone_is_made_again_however_deep_it_is(bench: Bench) -> None:
    """Deeper than Python lets a function call itself; a directory comes before what is in it."""
    make = Records()
    paths = [b"/".join([b"d"] * depth) for depth in range(1, 1101)]
    bench.submit_all([make.directory(path) for path in paths])
    with bench.environment.read() as tables:
        view = View(tables)
        (rule,) = view.rules()
        mends = plan_repair(view, rule, bench.zone, [b"d"])
    assert [path_of(mend.effects[0]) for mend in mends] == paths
