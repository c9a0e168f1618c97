"""Power cuts: whatever part of the changes since the last checkpoint is on the disk, with whatever bytes, the next
start ends with the zone equal to the model."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from lddp.core import effects as e
from lddp.core.records import (
    Append,
    Attributes,
    Record,
    RemoveDirectory,
    Rename,
    RenameFlag,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Write,
)
from lddp.errors import StorageError
from lddp.replay.checkpoints import read_projected
from lddp.replay.existing import OnExisting
from lddp.replay.places import name_aside
from lddp.replay.progress import boot_id
from tests.core.support import content
from tests.fakes.zone import Bytes, FakeZone
from tests.replay.bench import PATIENCE_S, RULE, Bench, Killed, Strict
from tests.replay.small import record_of, steps_of
from tests.replay.test_crashes import Killer, ended, history
from tests.replay.test_projector import Records

Scene = Callable[[Records], tuple[list[Record], list[Record]]]
"""What is durable, and what was done since."""


def changed(make: Records, path: bytes, data: bytes) -> list[Record]:
    """A file whose bytes nobody but the zone has."""
    return [make.put(path, data), Append(*make.head(path), content(b" and more"))]


def symlink(make: Records, path: bytes, target: bytes) -> Record:
    return Symlink(*make.head(path), target, 0, 0)


def exchange(make: Records, one: bytes, other: bytes) -> Record:
    return Rename(*make.head(one), b"/data/" + other, RenameFlag.EXCHANGE)


def chain(make: Records) -> tuple[list[Record], list[Record]]:
    before = [*changed(make, b"a", b"five"), *changed(make, b"b", b"six")]
    return before, [make.rename(b"a", b"c"), make.rename(b"b", b"a"), make.rename(b"c", b"b")]


def rotation(make: Records) -> tuple[list[Record], list[Record]]:
    before = [record for name in (b"log", b"log.1", b"log.2") for record in changed(make, name, name)]
    after = [make.rename(b"log.1", b"log.2"), make.rename(b"log", b"log.1"), *changed(make, b"log", b"new")]
    return before, [*after, make.rename(b"log.1", b"log.2"), make.rename(b"log", b"log.1")]


def exchanged(make: Records) -> tuple[list[Record], list[Record]]:
    before = [*changed(make, b"a", b"five"), *changed(make, b"b", b"six")]
    return before, [exchange(make, b"a", b"b"), Write(*make.head(b"a"), 1, content(b"W"))]


def exchanged_directories(make: Records) -> tuple[list[Record], list[Record]]:
    before = [make.directory(b"a"), make.directory(b"b"), *changed(make, b"a/f", b"1"), *changed(make, b"b/f", b"2")]
    return before, [exchange(make, b"a", b"b"), make.rename(b"a/f", b"f"), make.rename(b"b/f", b"a/f")]


def down_and_up(make: Records) -> tuple[list[Record], list[Record]]:
    before = [make.directory(path) for path in (b"d", b"d/e", b"x")] + changed(make, b"d/e/f", b"1")
    after = [make.rename(b"d/e", b"e"), make.rename(b"d", b"e/d"), make.rename(b"x", b"d"), make.rename(b"e", b"d/e")]
    return before, [*after, make.rename(b"d/e/f", b"d/f"), make.put(b"e", b"2")]


def linked(make: Records) -> tuple[list[Record], list[Record]]:
    before = [*changed(make, b"a", b"five"), make.link(b"a", b"b"), *changed(make, b"o", b"other")]
    after = [make.rename(b"a", b"c"), make.rename(b"o", b"a"), make.link(b"b", b"d"), make.unlink(b"b")]
    return before, [*after, make.rename(b"a", b"b"), Write(*make.head(b"c"), 2, content(b"XY"))]


def linked_at_two_depths(make: Records) -> tuple[list[Record], list[Record]]:
    before = [*changed(make, b"a", b"five"), *(make.directory(path) for path in (b"x", b"x/d", b"x/d/e"))]
    after = [make.rename(b"a", b"b"), make.unlink(b"x/d/e/a"), make.rename(b"x/d/e", b"e"), make.rename(b"x/d", b"e/d")]
    return [*before, make.link(b"a", b"x/d/e/a")], [*after, make.rename(b"b", b"e/d/b")]


def renamed_by_link(make: Records) -> tuple[list[Record], list[Record]]:
    before = [*changed(make, b"a", b"five"), *changed(make, b"b", b"six")]
    return before, [make.link(b"a", b"c"), make.unlink(b"a"), make.link(b"b", b"a"), make.unlink(b"b")]


def changed_by_a_name_that_goes(make: Records) -> tuple[list[Record], list[Record]]:
    before = [*changed(make, b"a", b"five"), make.link(b"a", b"b")]
    after: list[Record] = [Write(*make.head(b"a"), 2, content(b"XY")), Truncate(*make.head(b"a"), 6)]
    return before, [*after, make.unlink(b"a"), make.put(b"a", b"another")]


def replaced(make: Records) -> tuple[list[Record], list[Record]]:
    before = [*changed(make, b"a", b"five"), *changed(make, b"b", b"six")]
    return before, [make.rename(b"a", b"b"), *changed(make, b"a", b"seven"), make.rename(b"b", b"c")]


def unlinked_and_made_again(make: Records) -> tuple[list[Record], list[Record]]:
    before = [make.directory(b"d"), *changed(make, b"d/f", b"1"), *changed(make, b"g", b"2")]
    rmdir = RemoveDirectory(*make.head(b"d"))
    after = [make.unlink(b"d/f"), rmdir, make.directory(b"d"), make.rename(b"g", b"d/f"), make.put(b"g", b"3")]
    return before, after


def moved_out_of_what_goes(make: Records) -> tuple[list[Record], list[Record]]:
    before = [make.directory(b"d"), *changed(make, b"d/f", b"1")]
    after = [Write(*make.head(b"d/f"), 0, content(b"2")), make.rename(b"d/f", b"f"), RemoveDirectory(*make.head(b"d"))]
    return before, [*after, make.put(b"d", b"a file now")]


def made_and_moved(make: Records) -> tuple[list[Record], list[Record]]:
    before = changed(make, b"x", b"1")
    after = [make.directory(b"e"), make.rename(b"x", b"e/x"), make.rename(b"e", b"g"), make.directory(b"e")]
    return before, [*after, make.put(b"e/h", b"2"), make.rename(b"g/x", b"e/x")]


def symlinks(make: Records) -> tuple[list[Record], list[Record]]:
    before = [symlink(make, b"a", b"one"), symlink(make, b"b", b"two")]
    return before, [make.rename(b"a", b"c"), make.rename(b"b", b"a"), symlink(make, b"b", b"three")]


def attributes(make: Records) -> tuple[list[Record], list[Record]]:
    """Times of directories and extended attributes follow what is moved."""
    before: list[Record] = [make.directory(b"d"), make.directory(b"e"), make.put(b"d/a", b"1"), make.put(b"e/b", b"2")]
    before += [SetXattr(*make.head(path), b"user.x", path) for path in (b"d", b"d/a", b"e/b")]
    after: list[Record] = [SetXattr(*make.head(b"d/a"), b"user.x", b"new"), make.rename(b"d/a", b"e/a")]
    after += [make.rename(b"e/b", b"d/a"), SetAttributes(*make.head(b"e/a"), 0o600), exchange(make, b"d", b"e")]
    return before, [*after, SetXattr(*make.head(b"d"), b"user.y", b"-")]


def told(make: Records, before: str, after: str) -> tuple[list[Record], list[Record]]:
    """Steps as `tests.replay.small` has them."""
    durable, since = ([step.strip() for step in steps.split(";")] for steps in (before, after))
    return [record_of(make, step) for step in steps_of(durable)], [record_of(make, step) for step in steps_of(since)]


def file_in_a_circle(make: Records) -> tuple[list[Record], list[Record]]:
    """It is at its place when all of it is on the disk, and when nothing is."""
    return told(make, "changed a", "rename a b; put a; rename a c; rename b a; rename c b")


def directories_in_a_circle(make: Records) -> tuple[list[Record], list[Record]]:
    before = "mkdir d; mkdir e; changed d/x; changed e/x"
    return told(make, before, "rename d g; rename e d; rename d/x x; rename d e; rename g d; rename x e/x")


def name_taken_by_another_meanwhile(make: Records) -> tuple[list[Record], list[Record]]:
    """What came to a name that an object has left, and goes on from there."""
    return told(make, "mkdir e; changed x", "rename x b; rename e x; rename x e; put x")


def made_where_another_was(make: Records) -> tuple[list[Record], list[Record]]:
    before = "mkdir d; mkdir d/e; changed d/x"
    return told(make, before, "rename d b; mkdir d; mkdir d/e; rename b/x d/e/x; rename d a; put b/e/x; symlink d")


def made_where_one_went(make: Records) -> tuple[list[Record], list[Record]]:
    """What is made anew is not to be taken for what had the name, nor for what stands for that one."""
    before = "mkdir d; changed d/x"
    return told(make, before, "rename d/x x; rmdir d; mkdir d; mkdir d/e; rename x d/x; rename d/x d/e/x")


def gone_out_of_what_went(make: Records) -> tuple[list[Record], list[Record]]:
    """New bytes that may be torn, in a directory that is not there any more to be made again in."""
    return told(make, "mkdir d; changed a", "put d/x; rename d/x x; rmdir d; symlink d")


def names_lost_and_got_again(make: Records) -> tuple[list[Record], list[Record]]:
    before = "changed a; link a b; link a c"
    return told(make, before, "unlink a; rename b a; write a; link c b; unlink c; append b")


def change_of_a_name_that_was_another_files(make: Records) -> tuple[list[Record], list[Record]]:
    """`a` and `b` are one file; what is written to the one that takes the name and goes is not for it."""
    before = "changed a; link a b; changed g"
    return told(make, before, "link a x; unlink x; rename g a; write a; append a; unlink a; truncate b")


def into_each_other_and_parked(make: Records) -> tuple[list[Record], list[Record]]:
    """A cut in the middle of the exchange: the directory that had been inside of the other one has that inside of it,
    and is outside of the tree."""
    return told(make, "mkdir d; mkdir d/e; put a", "rename d/e e; rename d b; rename b e/x; exchange e a")


def name_taken_by_what_is_gone(make: Records) -> tuple[list[Record], list[Record]]:
    """`b` is a name of the file before `g` takes it, which is destroyed in the end: what was written to that one is not
    for this one."""
    return told(make, "changed a; link a b; changed g", "unlink a; link b c; rename g b; write b; append b; unlink b")


def replaced_name_of_a_file_with_two(make: Records) -> tuple[list[Record], list[Record]]:
    before = "changed a; link a b; changed x"
    return told(make, before, "rename a d; put g; rename g d; rename b a; rename x b; rename a d; write d")


def link_where_a_directory_was(make: Records) -> tuple[list[Record], list[Record]]:
    before = "mkdir d; mkdir d/e; changed d/e/x"
    return told(make, before, "rename d/e/x x; rmdir d/e; rmdir d; link x d; unlink x; rename d x; mkdir d")


def into_a_new_directory_that_is_parked(make: Records) -> tuple[list[Record], list[Record]]:
    """A cut in the middle of an exchange leaves the directory outside of the tree, with what was moved into it."""
    return told(make, "changed b", "mkdir e; rename b e/x; symlink g; exchange e g")


def stranger_one(make: Records) -> tuple[list[Record], list[Record]]:
    before = "mkdir d; mkdir d/e; changed d/e/x; changed a"
    after = "rename a d/x; mkdir e; write d/x; unlink d/e/x; exchange d/x e; exchange d e; rename d e/d; mkdir d"
    return told(make, before, after)


def stranger_two(make: Records) -> tuple[list[Record], list[Record]]:
    before = "mkdir d; mkdir d/e; changed a"
    after = "unlink a; mkdir e; rename d/e a; rmdir d; mkdir e/d; symlink d; rename e/d x; exchange d x"
    return told(make, before, after)


def stranger_three(make: Records) -> tuple[list[Record], list[Record]]:
    before = "mkdir d; mkdir e; changed d/x; changed e/x"
    return told(make, before, "mkdir g; exchange d/x e; exchange d/x g; put e; rename g/x e; rename d g")


def everything(make: Records) -> tuple[list[Record], list[Record]]:
    records = history(make)
    return records[:6], records[6:]


SCENES: list[Scene] = [
    *(chain, rotation, exchanged, exchanged_directories, down_and_up, linked, linked_at_two_depths),
    renamed_by_link,
    *(changed_by_a_name_that_goes, replaced, unlinked_and_made_again, moved_out_of_what_goes, made_and_moved),
    *(symlinks, attributes, everything),
    *(file_in_a_circle, directories_in_a_circle, name_taken_by_another_meanwhile, made_where_another_was),
    *(made_where_one_went, gone_out_of_what_went, names_lost_and_got_again, change_of_a_name_that_was_another_files),
    *(replaced_name_of_a_file_with_two, link_where_a_directory_was, stranger_one, stranger_two, stranger_three),
    *(into_a_new_directory_that_is_parked, into_each_other_and_parked, name_taken_by_what_is_gone),
]


class Boots:
    """The machine is started again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        first = boot_id()
        monkeypatch.setattr("lddp.replay.progress.boot_id", lambda: b"%036d" % self.count if self.count else first)
        monkeypatch.setattr("lddp.replay.rewind._log", Strict())

    async def cut(self, bench: Bench, random: Random, prefix: int | None = None) -> None:
        """Power goes and comes back; the node starts."""
        if bench.task is not None:
            await bench.end()
        self.count += 1
        bench.zone.cut(random, prefix)
        await bench.restart()


async def played(directory: Path, scene: Scene, count: int | None = None, *, is_shared: bool = False) -> Bench:
    """With the first `count` records, all of them."""
    directory.mkdir()
    bench = Bench(directory, is_shared=is_shared)
    bench.start()
    bench.rule()
    before, after = scene(Records())
    bench.submit_all(before)
    await bench.settled()
    bench.submit_all(after[:count])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    return bench


async def ends(directory: Path, scene: Scene) -> list[int]:
    """How many records there are before each checkpoint that a scene makes by itself, and in all."""
    bench = await played(directory, scene, 0)
    _, after = scene(Records())
    found = []
    for count, record in enumerate(after):
        syncs = bench.zone.syncs
        bench.submit_all([record])
        await bench.projector.wait_through(bench.gsn, PATIENCE_S)
        if bench.zone.syncs > syncs:
            found.append(count)
    await bench.close()
    return [*found, len(after)]


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("scene", SCENES)
async def test_after_any_number_of_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene, is_shared: bool
) -> None:
    """Also of a tree that programs could change."""
    boots, most = Boots(monkeypatch), 0
    for end in await ends(tmp_path / "ends", scene):
        prefix, changes = 0, 0
        while prefix <= changes:
            bench = await played(tmp_path / f"{end}-{prefix}", scene, end, is_shared=is_shared)
            changes = len(bench.zone.changes)
            most = max(most, changes)
            await boots.cut(bench, Random(prefix), prefix)
            await bench.settled()
            bench.assert_equal()
            await bench.close()
            prefix += 1
    assert most > 2


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("scene", SCENES)
async def test_cuts_and_kills_of_the_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene, is_shared: bool
) -> None:
    """It is ended at each of its points, by a kill or another power cut, of which any part may be left."""
    boots, at, was_ended = Boots(monkeypatch), 0, True
    while was_ended:
        bench = await played(tmp_path / str(at), scene, is_shared=is_shared)
        random = Random(at)
        bench.kill = Killer(at)
        await boots.cut(bench, random)
        was_ended = await ended(bench)
        bench.kill = lambda _after: None
        if at % 3:
            await boots.cut(bench, random)
        else:
            await bench.restart()
        await bench.settled()
        bench.assert_equal()
        await bench.close()
        at += 1
    assert at > 4


async def test_ordinary_moves_wait_for_no_checkpoint(bench: Bench) -> None:
    """A checkpoint before each of them would cost more than they do."""
    make = Records()
    bench.submit_all([make.directory(b"d"), *changed(make, b"d/f", b"1")])
    for name in (b"f", b"a", b"a.1", b"a.2", b"b"):
        bench.submit_all(changed(make, name, name))
    await bench.settled()
    syncs = bench.zone.syncs
    for count in range(5):
        bench.submit_all([make.put(b".f", b"%d" % count), make.rename(b".f", b"f")])
        rotated = [(b"a.2", b"a.3"), (b"a.1", b"a.2"), (b"a", b"a.1")]
        bench.submit_all([*(make.rename(*names) for names in rotated), make.put(b"a", b"%d" % count)])
        bench.submit_all([make.rename(b"a", b"t"), make.rename(b"b", b"a"), make.rename(b"t", b"b")])
        bench.submit_all([exchange(make, b"a", b"b"), make.rename(b"d", b"e"), make.rename(b"e", b"d")])
        new = b"new%d" % count
        bench.submit_all([make.directory(new), make.put(new + b"/x", b"-"), make.rename(new, new + b".done")])
        bench.submit_all([make.rename(b"d/f", new + b".done/f"), make.rename(new + b".done/f", b"d/f")])
        await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    assert bench.zone.syncs == syncs
    await bench.settled()
    bench.assert_equal()


async def test_new_directories_wait_for_no_checkpoint(bench: Bench) -> None:
    """Also where others have been before."""
    make = Records()
    bench.submit_all([make.directory(path) for path in (b"d", b"e", b"e/d")])
    await bench.settled()
    syncs = bench.zone.syncs
    for count in range(5):
        old = b"old%d" % count
        bench.submit_all([make.rename(b"d", old), make.directory(b"d"), make.rename(old, b"d/old")])
        bench.submit_all(
            [RemoveDirectory(*make.head(b"e/d")), make.directory(b"e/d"), exchange(make, b"e/d", b"d/old")]
        )
        bench.submit_all([make.rename(b"d", b"e/d/%d" % count), make.directory(b"d"), make.put(b"d/f", b"1")])
        bench.submit_all([make.unlink(b"d/f"), RemoveDirectory(*make.head(b"d")), make.rename(b"e/d/%d" % count, b"d")])
        bench.submit_all([make.rename(b"d/old", b"d.%d" % count), make.rename(b"e/d", b"d/e"), make.directory(b"e/d")])
        bench.submit_all([RemoveDirectory(*make.head(b"d/e"))])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    assert bench.zone.syncs == syncs
    await bench.settled()
    bench.assert_equal()
    assert not bench.zone.parked


async def test_what_was_durable_before_something_that_waits_is_not_done_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots, make = Boots(monkeypatch), Records()
    late = bench.late(b"1" * 5000)
    bench.submit_all([*changed(make, b"a", b"five"), *changed(make, b"b", b"six")])
    await bench.settled()
    bench.submit_all([make.put(b"late", late), make.rename(b"a", b"c"), make.rename(b"b", b"a")])
    await bench.projector.wait(bench.gsn, PATIENCE_S)
    await bench.noted()
    await boots.cut(bench, Random(0), 0)
    await bench.supply(late)
    await bench.settled()
    assert not [effect for effect in bench.carrier.carried if isinstance(effect, e.RenameEffect)]
    bench.assert_equal()


async def test_a_change_that_waits_finds_its_file_where_it_has_been_moved_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name that stays, in a directory whose move was durable already."""
    boots, make = Boots(monkeypatch), Records()
    late = bench.late(b"2" * 5000)
    bench.submit_all([*changed(make, b"c", b"1"), make.directory(b"d"), make.link(b"c", b"d/c")])
    await bench.settled()
    bench.submit_all([Write(*make.head(b"c"), 1, late), make.rename(b"d", b"b")])
    bench.submit_all([make.unlink(b"c"), make.put(b"o", b"-")])
    await bench.projector.wait(bench.gsn, PATIENCE_S)
    await bench.noted()
    await boots.cut(bench, Random(0), len(bench.zone.changes))
    await bench.supply(late)
    await bench.settled()
    bench.assert_equal()


async def test_what_waits_is_not_taken_for_what_stands_for_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is gone, and a new one that is to have its name and is not made yet."""
    boots, make = Boots(monkeypatch), Records()
    late = bench.late(b"1" * 5000)
    bench.submit_all([make.directory(path) for path in (b"x", b"x/n", b"o")])
    await bench.settled()
    bench.submit_all([make.rename(b"x/n", b"n"), RemoveDirectory(*make.head(b"x")), make.put(b"m", late)])
    bench.submit_all([make.rename(b"m", b"k"), make.directory(b"m"), make.rename(b"m", b"x"), make.rename(b"o", b"p")])
    await bench.projector.wait(bench.gsn, PATIENCE_S)
    await boots.cut(bench, Random(0), len(bench.zone.changes))
    await bench.supply(late)
    await bench.settled()
    bench.assert_equal()


async def test_a_file_whose_bytes_only_the_source_has_is_durable_before_it_is_changed(bench: Bench) -> None:
    """The source changes its own file in the same way: then nobody has the bytes from before."""
    wanted = bench.hold(b"found" * 1000)
    bench.append(e.PutFileEffect(7, b"f", Attributes(0o644, 0, 0, 5), wanted, True))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    syncs = bench.zone.syncs
    bench.append(e.WriteEffect(7, b"f", 0, content(b"F"), 5000, Attributes(0o644, 0, 0, 6)))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    assert bench.zone.syncs == syncs + 1
    assert [change.method for change in bench.zone.changes] == ["write"]


@pytest.mark.parametrize("policy", [OnExisting.KEEP, OnExisting.SKIP_SAME_SIZE_MTIME])
async def test_a_torn_file_is_not_taken_for_one_to_be_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, policy: OnExisting
) -> None:
    boots = Boots(monkeypatch)
    bench.carrier.policy = bench.policy = policy
    bench.zone.make_directory(b"d", Attributes(0o755, 0, 0, 1))
    bench.zone.put_file(b"d/own", Attributes(0o600, 1, 1, 1), Bytes(b"mine!"))
    bench.zone.sync()
    wanted = Attributes(0o644, 0, 0, 5)
    puts = [
        e.PutFileEffect(number, name, wanted, content(b"found"), True) for number, name in ((7, b"d/f"), (8, b"d/own"))
    ]
    bench.append(*puts)
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    bench.zone.root.entries[b"d"].entries[b"f"].data = bytearray(5)
    bench.zone.sync()
    await boots.cut(bench, Random(0))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    found = bench.zone.root.entries[b"d"].entries
    assert bytes(found[b"f"].data) == b"found"
    assert bytes(found[b"own"].data) == (b"mine!" if policy is OnExisting.KEEP else b"found")


async def test_a_tree_that_is_not_open_is_not_called_durable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier process carried effects out; this one can neither open the tree nor sync it."""
    boots, make = Boots(monkeypatch), Records()
    bench.submit(make.put(b"a", b"1"))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await bench.end()
    carriers = bench.build_closed()
    bench.start()
    await bench.projector.checkpoint()
    assert bench.projector.durable < bench.gsn and RULE not in carriers
    await boots.cut(bench, Random(0), 0)
    await bench.settled()
    bench.assert_equal()


async def test_what_was_put_before_a_kill_is_not_brought_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process after it does not know any more that its bytes can be had again."""
    boots, make = Boots(monkeypatch), Records()
    bench.submit_all(changed(make, b"a", b"old"))
    await bench.settled()
    bench.submit_all([make.rename(b"a", b"b"), make.put(b"a", b"new")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await bench.restart()
    bench.submit_all([make.rename(b"a", b"c"), make.rename(b"b", b"a"), make.rename(b"a", b"d")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await boots.cut(bench, Random(0), len(bench.zone.changes))
    await bench.settled()
    bench.assert_equal()


async def test_what_was_put_before_a_checkpoint_that_was_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    boots, make = Boots(monkeypatch), Records()
    bench.submit_all(changed(make, b"a", b"old"))
    await bench.settled()
    bench.submit_all([make.rename(b"a", b"b"), make.put(b"a", b"new")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    bench.zone.fail(errno.EIO, method="sync", times=1)
    refused = asyncio.get_running_loop().create_task(bench.projector.checkpoint())
    assert bench.task is not None
    with pytest.raises(StorageError, match="EIO"):
        await bench.task
    refused.cancel()
    bench.submit_all(
        [make.rename(b"a", b"c"), make.rename(b"b", b"a"), make.put(b"b", b"third"), make.rename(b"a", b"d")]
    )
    await boots.cut(bench, Random(0), len(bench.zone.changes))
    await bench.settled()
    bench.assert_equal()


async def test_a_name_that_a_file_with_two_loses_to_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was observed that another file has the name `a` now; the file that had it goes on as `b`, and `a` comes back
    to it."""
    boots, prefix, changes = Boots(monkeypatch), 0, 0
    while prefix <= changes:
        (tmp_path / str(prefix)).mkdir()
        bench, make = Bench(tmp_path / str(prefix)), Records()
        bench.start()
        bench.rule()
        bench.submit_all([*changed(make, b"a", b"five"), make.link(b"a", b"b")])
        await bench.settled()
        file, other, wanted = bench.zone.root.entries[b"a"], 1 << 40, Attributes(0o644, 0, 0, 5)
        number = next(effect.inode for effect in bench.carrier.carried if isinstance(effect, e.LinkEffect))
        bench.append(
            e.RenameEffect(number, b"b", b"c", False),
            e.PutFileEffect(other, b"a", wanted, content(b"other"), True, True),
            e.RenameEffect(other, b"a", b"b", False),
            e.LinkEffect(number, b"c", b"a"),
            e.RemoveEffect(number, b"c", False),
            e.WriteEffect(other, b"b", 0, content(b"O"), 5, wanted),
        )
        await bench.projector.wait_through(bench.gsn, PATIENCE_S)
        changes = len(bench.zone.changes)
        await boots.cut(bench, Random(prefix), prefix)
        await bench.settled()
        found = {name: (inode.number, bytes(inode.data)) for name, inode in bench.zone.root.entries.items()}
        assert found.keys() == {b"a", b"b"}
        assert found[b"a"] == (file.number, b"five and more")
        assert found[b"b"][1] == b"Other"
        await bench.close()
        prefix += 1
    assert changes > 4


async def test_a_checkpoint_in_the_first_step_calls_nothing_less_durable_than_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots, make = Boots(monkeypatch), Records()
    bench.submit_all([make.directory(b"d"), *changed(make, b"d/x", b"1")])
    await bench.settled()
    durable = bench.projector.durable
    bench.submit_all([make.rename(b"d", b"e"), make.directory(b"d"), make.put(b"d/x", b"2")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await boots.cut(bench, Random(0), 0)
    seen: list[int] = []
    sync = bench.zone.sync

    def look() -> None:
        sync()
        with bench.environment.read() as tables:
            seen.append(read_projected(tables)[0])

    monkeypatch.setattr(bench.zone, "sync", look)
    await bench.settled()
    assert seen and min(seen) >= durable
    bench.assert_equal()


async def test_what_is_durable_leaves_the_outbox_after_a_cut_between_the_two(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots, make = Boots(monkeypatch), Records()
    bench.submit_all([make.put(b"a", b"1"), make.put(b"b", b"2")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    transactions = bench.transactions

    def kill(_after: bool) -> None:
        if bench.transactions == transactions + 1:
            raise Killed

    bench.kill = kill
    assert await ended(bench)
    assert bench.effects_left() > 0
    bench.kill = lambda _after: None
    await boots.cut(bench, Random(0))
    await bench.settled()
    assert bench.effects_left() == 0


async def test_the_root_keeps_its_time_when_things_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second cut leaves a new directory set aside, which is looked into in the root."""
    boots = Boots(monkeypatch)
    for seed in range(8):
        (tmp_path / str(seed)).mkdir()
        bench = Bench(tmp_path / str(seed))
        bench.start()
        bench.rule()
        before, after = told(Records(), "mkdir e", "mkdir e/d; rename e/d e/x")
        bench.submit_all(before)
        await bench.settled()
        bench.submit_all(after)
        await bench.projector.wait_through(bench.gsn, PATIENCE_S)
        bench.zone.park(b"e/x", name_aside(next(iter(made_directories(bench)))))
        await boots.cut(bench, Random(seed), len(bench.zone.changes))
        await bench.settled()
        bench.assert_equal()
        await bench.close()


def made_directories(bench: Bench) -> list[int]:
    """Inodes, the latest first."""
    made = [effect.inode for effect in bench.carrier.carried if isinstance(effect, e.MakeDirectoryEffect)]
    return made[::-1]


async def test_nothing_is_brought_back_where_handles_have_changed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be recognised, so nothing is missing either."""
    boots, make = Boots(monkeypatch), Records()
    bench.submit_all([make.directory(b"d"), *changed(make, b"d/a", b"five")])
    await bench.settled()
    bench.submit_all([make.rename(b"d/a", b"b"), make.rename(b"d", b"e")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await bench.end()
    status, said = bench.zone.status, list[str]()
    monkeypatch.setattr(bench.zone, "status", lambda path: status(path)._replace(handle=b"\1" + path))
    monkeypatch.setattr("lddp.replay.rewind._log", SimpleNamespace(critical=said.append))
    await boots.cut(bench, Random(0), len(bench.zone.changes))
    await bench.settled()
    bench.assert_equal()
    assert len(said) == 1


async def test_a_checkpoint_while_a_tree_is_closed_after_a_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of that tree stays known until it can be opened."""
    boots, make = Boots(monkeypatch), Records()
    bench.submit_all([*changed(make, b"a", b"five"), *changed(make, b"b", b"six")])
    await bench.settled()
    bench.submit_all([make.rename(b"a", b"c"), make.rename(b"b", b"a"), make.rename(b"c", b"b")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await bench.end()
    boots.count += 1
    bench.zone.cut(Random(0), len(bench.zone.changes))
    carriers = bench.build_closed()
    bench.start()
    bench.submit(make.put(b"g", b"seven"))
    await bench.projector.checkpoint()
    carriers[RULE] = bench.carrier
    bench.projector.poke()
    await bench.settled()
    bench.assert_equal()


@pytest.mark.parametrize("prefix", range(8))
async def test_a_directory_that_somebody_put_in_the_place_of_a_file_has_no_other_names(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, prefix: int
) -> None:
    """The log calls it a file, with another name: there it cannot be put."""
    boots, make = Boots(monkeypatch), Records()
    bench.submit_all([*changed(make, b"f", b"five"), make.link(b"f", b"g")])
    await bench.settled()
    bench.zone.remove(b"g")
    bench.zone.make_directory(b"g", Attributes(0o755, 0, 0, 5))
    bench.zone.put_file(b"g/in", Attributes(0o644, 0, 0, 5), Bytes(b"theirs"))
    bench.zone.sync()
    bench.submit_all([make.unlink(b"f"), make.rename(b"g", b"h"), make.rename(b"h", b"i")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await boots.cut(bench, Random(prefix), prefix)
    await bench.settled()
    assert bench.zone.status(b"i/in").size == len(b"theirs")


@pytest.mark.parametrize("prefix", range(8))
async def test_a_directory_that_somebody_moved_is_put_back_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, prefix: int
) -> None:
    """It was at one place at the checkpoint. Where the log met it again, it had been brought by somebody else."""
    boots, make = Boots(monkeypatch), Records()
    bench.submit_all([make.directory(b"d"), *changed(make, b"d/in", b"five"), *changed(make, b"f", b"six")])
    await bench.settled()
    bench.submit_all([make.rename(b"d", b"e")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    bench.zone.remove(b"f")
    bench.zone.rename(b"e", b"f")
    bench.submit_all([make.rename(b"f", b"g")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await boots.cut(bench, Random(prefix), prefix)
    await bench.settled()
    found = [bench.zone.status(path + b"/in") for path in (b"e", b"g") if has(bench.zone, path + b"/in")]
    assert [status.size for status in found] == [len(b"five and more")]


def has(zone: FakeZone, path: bytes) -> bool:
    try:
        zone.status(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
