"""The projector: order, waiting for bytes, refusals of the filesystem, directory times."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest

from lddp.core import effects as e
from lddp.core.records import (
    Append,
    Attributes,
    Content,
    Link,
    MakeDirectory,
    OperationId,
    Put,
    Record,
    Rename,
    RenameFlag,
    SetAttributes,
    Truncate,
    Unlink,
    Write,
)
from lddp.errors import UnavailableError
from lddp.replay import projector as module
from lddp.replay.awaited import name_of_changed
from tests.core.support import SOURCE, content
from tests.replay.bench import PATIENCE_S, RULE, Bench, walk

ATTRIBUTES = Attributes(0o644, 0, 0, 5)


class Records:
    """Makes records with ids and times that go on."""

    def __init__(self) -> None:
        self.count = 0

    def head(self, path: bytes) -> tuple[OperationId, int, int, bytes]:
        self.count += 1
        return OperationId(b"client", self.count), SOURCE, 1000 + self.count, b"/data/" + path

    def directory(self, path: bytes) -> Record:
        return MakeDirectory(*self.head(path), 0o755, 0, 0)

    def put(self, path: bytes, what: bytes | Content) -> Record:
        return Put(*self.head(path), 0o644, 0, 0, content(what) if isinstance(what, bytes) else what)

    def rename(self, path: bytes, to: bytes, flag: RenameFlag = RenameFlag.NONE) -> Record:
        return Rename(*self.head(path), b"/data/" + to, flag)

    def link(self, path: bytes, to: bytes) -> Record:
        return Link(*self.head(path), b"/data/" + to)

    def unlink(self, path: bytes) -> Record:
        return Unlink(*self.head(path))


@pytest.fixture
def make() -> Records:
    return Records()


# -- order ------------------------------------------------------------------------------------------------------------


async def test_effects_run_in_the_order_of_the_log(bench: Bench, make: Records) -> None:
    bench.submit_all([make.directory(b"d"), make.put(b"d/a", b"1"), make.rename(b"d/a", b"b"), make.put(b"d/a", b"2")])
    bench.submit_all([make.rename(b"d", b"e"), make.unlink(b"b"), make.rename(b"e", b"d"), make.put(b"b", b"3")])
    await bench.settled()
    bench.assert_equal()
    assert bench.effects_left() == 0


async def test_what_waits_keeps_back_what_conflicts_and_nothing_else(bench: Bench, make: Records) -> None:
    late = bench.late(b"x" * 5000)
    bench.submit_all([make.directory(b"d"), make.directory(b"d/s"), make.put(b"old", b"0")])
    bench.submit(make.put(b"d/s/late", late))
    waiting = bench.gsn
    blocked = [
        make.link(b"d/s/late", b"same inode"),
        SetAttributes(*make.head(b"d/s/late"), mode=0o600),
        make.rename(b"old", b"d/s/late"),  # the same path, another inode
        make.rename(b"d", b"e"),  # an ancestor
        make.put(b"e/inside", b"below what waits"),
    ]
    bench.submit_all(blocked)
    through = [make.put(b"beside", b"1"), make.directory(b"other"), make.put(b"other/late", b"2")]
    bench.submit_all(through)
    await bench.projector.wait(bench.gsn, PATIENCE_S)
    await bench.asked_for(late)
    done = {effect.path for effect in bench.carrier.carried if isinstance(effect, e.PutFileEffect)}
    assert done == {b"old", b"beside", b"other/late"}
    assert not any(isinstance(effect, e.RenameEffect | e.LinkEffect) for effect in bench.carrier.carried)
    assert bench.projector.projected == waiting - 1
    assert [bench.projector.is_projected(waiting + step) for step in range(9)] == [False] * 6 + [True] * 3
    with pytest.raises(UnavailableError, match="was not at"):
        await bench.projector.wait(waiting, 0.0)
    await bench.supply(late)
    await bench.settled()
    bench.assert_equal()
    assert bench.asked == [late.digest]


@pytest.mark.parametrize("name", [b"beside", b"there/second"])
async def test_a_change_is_there_when_it_is_under_the_name_it_was_asked_by(
    bench: Bench, make: Records, name: bytes
) -> None:
    """A file with two names is changed by the first of them; what the other one is in has still to come there."""
    late = bench.late(b"x" * 5000)
    bench.submit_all([make.directory(b"d"), make.put(b"beside", b"1"), make.link(b"beside", b"d/second")])
    bench.submit_all([make.put(b"there", late), make.rename(b"there", b"late"), make.rename(b"d", b"there")])
    change = SetAttributes(*make.head(name), mode=0o600)
    bench.submit(change)
    named = name_of_changed(change)
    assert named == b"/data/" + name
    await bench.projector.wait(bench.gsn, PATIENCE_S)
    await bench.asked_for(late)
    assert bench.projector.is_projected(bench.gsn, named) == (name == b"beside")
    await bench.supply(late)
    await bench.projector.wait(bench.gsn, PATIENCE_S, named)
    await bench.settled()
    bench.assert_equal()


def test_what_makes_a_name_or_takes_one_is_under_it_by_itself(make: Records) -> None:
    records = [make.directory(b"d"), make.link(b"a", b"b"), make.rename(b"a", b"b"), make.unlink(b"a")]
    assert {name_of_changed(record) for record in records} == {b""}


async def test_two_files_with_the_same_bytes(bench: Bench, make: Records) -> None:
    """The first takes the blob away, whether it was here or had to come."""
    for here in (True, False):
        data = bytes([here]) * 40_000
        what = bench.hold(data) if here else bench.late(data)
        bench.submit_all([make.put(b"one %d" % here, what), make.put(b"two %d" % here, what)])
        await bench.supply(what)
        await bench.settled()
        bench.assert_equal()


async def test_bytes_that_the_log_replaced_need_not_come(bench: Bench, make: Records) -> None:
    gone, replaced, now = bench.late(b"1" * 5000), bench.late(b"2" * 5000), bench.late(b"3" * 5000)
    bench.submit_all([make.put(b"a", gone), make.put(b"b", replaced), make.link(b"b", b"c")])
    await bench.asked_for(gone, replaced)
    bench.submit_all([make.rename(b"b", b"d"), make.unlink(b"a"), make.put(b"d", now)])
    await bench.supply(now)
    await bench.refuse()
    await bench.wait.reached(2)
    await bench.wait.go()
    await bench.settled()
    bench.assert_equal()
    assert set(bench.asked) == {gone.digest, replaced.digest, now.digest}


@pytest.mark.parametrize("change", ["write", "append", "truncate"])
async def test_bytes_that_were_changed_in_part_are_still_needed(bench: Bench, make: Records, change: str) -> None:
    whole, part = bench.late(b"1" * 5000), bench.late(b"2" * 5000)
    bench.submit(make.put(b"a", whole))
    match change:
        case "write":
            bench.submit(Write(*make.head(b"a"), 100, part))
        case "append":
            bench.submit(Append(*make.head(b"a"), part))
        case _:
            bench.submit(Truncate(*make.head(b"a"), 1000))
    await bench.asked_for(whole)
    await bench.refuse()
    await bench.wait.reached(1)
    await bench.wait.go()
    await bench.supply(whole, part)
    await bench.settled()
    bench.assert_equal()


async def test_a_put_before_a_put_and_a_write_is_skipped(bench: Bench, make: Records) -> None:
    first, second, part = bench.late(b"1" * 5000), bench.late(b"2" * 5000), bench.late(b"3" * 50)
    bench.submit_all([make.put(b"a", first), make.put(b"a", second), Write(*make.head(b"a"), 7, part)])
    await bench.supply(second, part)
    await bench.settled()
    bench.assert_equal()
    assert first.digest not in bench.asked


async def test_more_waits_than_may(bench: Bench, make: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCKED_MAX", 3)
    monkeypatch.setattr(module, "BATCH_EFFECTS", 2)
    late = [bench.late(b"%d" % number * 5000) for number in range(6)]
    for number, one in enumerate(late):
        bench.submit(make.put(b"%d" % number, one))
    await bench.asked_for(*late[:2])
    await bench.supply_all()
    await bench.settled()
    bench.assert_equal()


async def test_a_zone_that_falls_behind_reads_the_outbox(
    bench: Bench, make: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OFFERED_MAX", 4)
    monkeypatch.setattr(module, "BATCH_EFFECTS", 3)
    for number in range(20):
        bench.submit_all([make.directory(b"%d" % number), make.put(b"%d/f" % number, b"%d" % number)])
        if number % 7 == 3:
            await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await bench.settled()
    bench.assert_equal()


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
async def test_a_zone_that_refuses_stops_and_goes_on(bench: Bench, make: Records, number: int) -> None:
    await bench.settled()
    bench.zone.fail(number, method="put_file", path=b"a")
    bench.submit_all([make.directory(b"d"), make.put(b"a", b"1")])
    refused = bench.gsn
    await bench.wait.reached(1)
    assert bench.projector.stopped.startswith(errno.errorcode[number] + " at 'a'")
    bench.submit_all([make.put(b"b", b"2"), make.put(b"d/c", b"3")])  # the log goes on
    with pytest.raises(UnavailableError, match=errno.errorcode[number]):
        await bench.projector.wait(refused, 0.0)
    await bench.wait.go()
    await bench.wait.reached(2)
    assert bench.projector.projected < refused
    assert not any(method == "put_file" for method, _ in bench.zone.calls)
    bench.zone.heal()
    await bench.wait.go()
    await bench.settled()
    assert bench.projector.stopped == ""
    bench.assert_equal()


async def test_a_disk_that_is_full_until_something_is_removed(bench: Bench, make: Records) -> None:
    bench.zone.capacity = 100
    bench.submit_all([make.put(b"a", b"x" * 60), make.put(b"b", b"y" * 60), make.put(b"c", b"z" * 10)])
    await bench.wait.reached(1)
    assert bench.projector.stopped.startswith("ENOSPC at 'b'")
    bench.zone.capacity = 1000
    await bench.wait.go()
    await bench.settled()
    bench.assert_equal()


@pytest.mark.parametrize("away", ["removed", "replaced", "renamed and removed"])
async def test_a_disk_that_is_too_full_for_what_the_log_takes_away_again(
    bench: Bench, make: Records, away: str
) -> None:
    """Whoever removes a file because a zone has no room for it need not make room for it first."""
    bench.zone.capacity = 10_000
    large = bench.hold(b"y" * 20_000)
    bench.submit_all([make.put(b"a", b"x" * 60), make.put(b"b", large), make.put(b"c", b"z" * 10)])
    await bench.wait.reached(1)
    assert bench.projector.stopped.startswith("ENOSPC at 'b'")
    match away:
        case "removed":
            bench.submit(make.unlink(b"b"))
        case "replaced":
            bench.submit(make.put(b"b", b"small"))
        case _:
            bench.submit_all([make.link(b"b", b"e"), make.rename(b"b", b"d"), make.unlink(b"d"), make.unlink(b"e")])
    await bench.wait.go()
    await bench.settled()
    assert bench.projector.stopped == ""
    bench.assert_equal()
    assert bench.store.held() == ([], []), "the bytes are let go"


async def test_a_refusal_of_what_had_waited_is_not_called_done(bench: Bench, make: Records) -> None:
    late = bench.late(b"1" * 5000)
    bench.submit_all([make.put(b"a", late), make.put(b"b", b"2")])
    await bench.asked_for(late)
    bench.zone.fail(errno.ENOSPC, method="put_file", path=b"a")
    await bench.supply(late)
    await bench.wait.reached(1)
    assert bench.projector.projected == bench.gsn - 2
    assert not bench.projector.is_projected(bench.gsn - 1)
    bench.zone.heal()
    await bench.wait.go()
    await bench.settled()
    bench.assert_equal()


async def test_a_refusal_at_a_checkpoint(bench: Bench, make: Records) -> None:
    """Directories get their times before the sync."""
    bench.submit_all([make.directory(b"d"), make.put(b"d/a", b"1")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    bench.zone.make_directory(b"d/strange", ATTRIBUTES)
    bench.zone.remove(b"d/strange")  # moves the time of `d`
    bench.zone.fail(errno.EROFS, method="set_attributes")
    settled = asyncio.get_running_loop().create_task(bench.settled())
    await bench.wait.reached(1)
    assert bench.projector.stopped.startswith("EROFS")
    bench.zone.heal()
    await bench.wait.go()
    await settled
    assert bench.projector.stopped == ""
    bench.assert_equal()


async def test_a_refusal_before_what_needs_the_zone_to_be_still(bench: Bench, make: Records) -> None:
    """Directories get their times first, and the filesystem does not let them."""
    bench.submit_all([make.directory(b"d"), make.put(b"d/a", b"1")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    bench.zone.make_directory(b"d/strange", ATTRIBUTES)
    bench.zone.remove(b"d/strange")  # moves the time of `d`
    bench.zone.fail(errno.EROFS, method="set_attributes")
    job = asyncio.get_running_loop().create_task(bench.projector.exclusively(lambda view: view.gsn))
    await bench.wait.reached(1)
    assert bench.projector.stopped.startswith("EROFS")
    bench.zone.heal()
    await bench.wait.go()
    async with asyncio.timeout(PATIENCE_S):
        assert await job == bench.gsn
    bench.assert_equal()


async def test_a_directory_that_somebody_else_made_meanwhile_is_not_replaced(bench: Bench, make: Records) -> None:
    """After this zone had looked, and before its own had the name."""
    make_parked = bench.zone.make_parked

    def hook(name: bytes) -> bytes:
        bench.zone.make_directory(b"d", ATTRIBUTES)
        bench.zone.make_directory(b"d/theirs", ATTRIBUTES)
        bench.zone.make_parked = make_parked  # type: ignore[method-assign]
        return make_parked(name)

    bench.zone.make_parked = hook  # type: ignore[method-assign]
    bench.submit_all([make.directory(b"d"), make.directory(b"d/e"), make.put(b"d/e/f", b"1")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    assert [path for path, _ in walk(bench.zone)] == [b"", b"d", b"d/e", b"d/e/f", b"d/theirs"]
    assert bench.zone.status(b"d").mode == 0o755
    assert not bench.zone.parked
    assert not bench.projector.stopped


async def test_a_fetch_that_this_nodes_disk_does_not_take_is_tried_again(bench: Bench, make: Records) -> None:
    late = bench.late(b"1" * 5000)
    full = True

    async def fetch(what: Content, _inode: int, _holders: object) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        bench.hold(bench.bytes[what.digest])

    bench.store.use(fetch)
    bench.submit(make.put(b"a", late))
    await bench.wait.reached(1)
    bench.submit(make.put(b"b", b"2"))
    await bench.projector.wait(bench.gsn, PATIENCE_S)
    assert bench.projector.stopped.startswith("ENOSPC at the bytes of 'a'"), "also while the rest goes on"
    full = False
    await bench.wait.go()
    await bench.settled()
    assert bench.projector.stopped == ""
    bench.assert_equal()


async def test_a_disk_that_does_not_take_bytes_which_are_not_needed_any_more(bench: Bench, make: Records) -> None:
    async def fetch(_what: Content, _inode: int, _holders: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.store.use(fetch)
    bench.submit(make.put(b"a", bench.late(b"1" * 5000)))
    await bench.wait.reached(1)
    assert bench.projector.stopped.startswith("ENOSPC")
    bench.submit(make.unlink(b"a"))
    await bench.wait.go()
    await bench.settled()
    assert bench.projector.stopped == ""
    bench.assert_equal()


async def test_what_somebody_else_removed_is_drift_and_stops_nothing(bench: Bench, make: Records) -> None:
    bench.submit_all([make.put(b"a", b"1"), make.put(b"b", b"2")])
    await bench.settled()
    bench.zone.remove(b"a")
    bench.submit_all([make.rename(b"a", b"c"), make.rename(b"b", b"d")])
    await bench.settled()
    assert bench.carrier.drift == [b"a"]
    assert sorted(bench.zone.root.entries) == [b"d"]


async def test_effects_wait_for_a_tree_that_cannot_be_opened(bench: Bench, make: Records) -> None:
    cast(Any, bench.projector._carriers).clear()
    bench.projector.awaits = lambda rule: rule == RULE
    bench.submit_all([make.directory(b"d"), make.put(b"d/a", b"1"), make.put(b"d/a", b"2")])
    with pytest.raises(UnavailableError):
        await bench.projector.wait_through(bench.gsn - 2, 0.01)
    await bench.restart()
    await bench.settled()
    bench.assert_equal()


async def test_what_waits_for_the_tree_of_a_rule_that_is_removed_holds_up_no_others(
    bench: Bench, make: Records
) -> None:
    cast(Any, bench.projector._carriers).clear()
    awaited = {RULE}
    bench.projector.awaits = awaited.__contains__
    bench.submit_all([make.directory(b"d"), make.put(b"d/a", b"1")])
    with pytest.raises(UnavailableError):
        await bench.projector.wait_through(bench.gsn, 0.01)
    awaited.clear()
    bench.projector.poke()
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)


# -- directory times --------------------------------------------------------------------------------------------------


def rename_chain(make: Records) -> list[Record]:
    return [
        *(make.directory(path) for path in (b"a", b"a/b", b"a/b/c", b"z")),
        make.put(b"a/b/c/f", b"1"),
        make.rename(b"a/b", b"z/y"),
        make.put(b"z/y/c/g", b"2"),
        make.rename(b"z", b"x"),
        make.unlink(b"x/y/c/f"),
    ]


def exchange(make: Records) -> list[Record]:
    return [
        *(make.directory(path) for path in (b"a", b"a/in", b"b", b"b/in")),
        make.put(b"a/in/f", b"1"),
        make.put(b"b/in/f", b"2"),
        make.rename(b"a", b"b", RenameFlag.EXCHANGE),
        make.rename(b"a/in", b"b/in", RenameFlag.EXCHANGE),
    ]


@pytest.mark.parametrize("records", [rename_chain, exchange])
async def test_directory_times_after_settling_and_across_restarts(
    bench: Bench, make: Records, records: Callable[[Records], list[Record]]
) -> None:
    found = records(make)
    bench.submit_all(found)
    await bench.settled()
    bench.assert_equal()
    before = len(found)
    again = Records()
    again.count = before
    for position, record in enumerate([again.put(b"%d" % number, b"-") for number in range(3)]):
        bench.submit(record)
        await bench.projector.wait_through(bench.gsn, PATIENCE_S)
        await bench.restart()
        assert position >= 0
    await bench.settled()
    bench.assert_equal()


@pytest.mark.parametrize("records", [rename_chain, exchange])
async def test_directory_times_with_a_restart_after_every_record(
    bench: Bench, make: Records, records: Callable[[Records], list[Record]]
) -> None:
    for record in records(make):
        bench.submit(record)
        await bench.projector.wait_through(bench.gsn, PATIENCE_S)
        await bench.restart()
    await bench.settled()
    bench.assert_equal()


async def test_directories_get_their_times_only_when_the_zone_is_up_to_date(bench: Bench, make: Records) -> None:
    late = bench.late(b"1" * 5000)
    bench.submit_all([make.directory(b"d"), make.put(b"d/late", late), make.put(b"d/here", b"2")])
    bench.submit_all([make.rename(b"d", b"e")])
    await bench.asked_for(late)
    checkpoint = asyncio.get_running_loop().create_task(bench.projector.checkpoint())
    await asyncio.sleep(0)
    assert not checkpoint.done()
    await bench.supply(late)
    async with asyncio.timeout(PATIENCE_S):
        await checkpoint
    bench.assert_equal()


# -- random histories -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
async def test_random_histories_with_late_bytes_and_kills(bench: Bench, seed: int) -> None:
    from tests.core.support import tree
    from tests.core.test_writable import random_operation

    random = Random(seed)
    root = bench.machine.rules[1].root
    for number in range(150):
        paths = sorted(path for path in tree(bench.view(), root) if path)
        operation = random_operation(random, number + 1, paths, SOURCE)
        if isinstance(operation, Put) and random.random() < 0.5:
            operation = operation._replace(content=bench.late(random.randbytes(5000)))
        bench.submit(operation)
        draw = random.random()
        if draw < 0.1:
            await bench.supply_all()
        elif draw < 0.15:
            await bench.restart()
        elif draw < 0.4:
            await asyncio.sleep(0)
    await bench.supply_all()
    await bench.settled()
    bench.assert_equal()


async def test_a_rule_that_is_removed_while_its_effects_are_carried_out_stops_nobody(
    bench: Bench, make: Records
) -> None:
    await bench.end()
    carriers = bench.build_closed()
    carriers[RULE] = bench.carrier
    bench.projector.awaits = lambda _rule: False
    bench.submit_all([make.directory(b"%d" % number) for number in range(8)])

    def removed(after: bool) -> None:
        if after and len(bench.carrier.carried) == 4:
            carriers.clear()

    bench.kill = removed
    bench.start()
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    assert not carriers
    made = [effect.path for effect in bench.carrier.carried if isinstance(effect, e.MakeDirectoryEffect)]
    assert made == [b"", *(b"%d" % number for number in range(8))], "what has begun ends in the tree that is still open"
