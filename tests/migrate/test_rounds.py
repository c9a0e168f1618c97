"""Rounds of looking: changes behind the scan, above all renames."""

from __future__ import annotations

import os

import pytest

from lddp.content.packs import PACK_BYTES_MAX
from lddp.core.records import DirectoryReport
from lddp.migrate import batch, portions
from lddp.migrate.look import SMALL_BYTES_MAX
from tests.migrate.conftest import root_only
from tests.migrate.world import World

pytestmark = root_only


def sent(world: World) -> int:
    """Bytes in packs so far."""
    return sum(map(len, world.packs.values()))


def last(world: World) -> tuple[DirectoryReport, ...]:
    return world.shipments[-1].directories


@pytest.mark.parametrize("seen", [["d", "e"], ["d"], ["e"]])
def test_a_renamed_directory_is_one_observation_from_either_side(scanned: World, seen: list[str]) -> None:
    """Whichever name the watcher tells of, both are reported together, and no content moves."""
    before, number, shipments = sent(scanned), scanned.inode("d").number, len(scanned.shipments)
    os.rename(scanned.source / "d", scanned.source / "e")
    left = scanned.look(*seen)
    if seen == ["e"]:  # the old name was not asked for: the new one tells the namespace of the move
        scanned.look("d")
    assert not left.again
    assert scanned.inode("e").number == number
    assert not scanned.has("d")
    assert sent(scanned) == before
    assert len(scanned.shipments) <= shipments + 2
    scanned.assert_same()


def test_a_directory_moved_into_another(scanned: World) -> None:
    before, number = sent(scanned), scanned.inode("d/deep").number
    os.rename(scanned.source / "d" / "deep", scanned.source / "empty directory" / "deeper")
    left = scanned.look("d/deep")
    assert not left.again
    assert {report.inode for report in last(scanned)} == {
        scanned.inode("d").number,
        scanned.inode("empty directory").number,
    }
    assert scanned.inode("empty directory/deeper").number == number
    assert sent(scanned) == before
    scanned.assert_same()


def test_an_absence_waits_while_the_object_lives_below_a_directory_that_is_not_known(scanned: World) -> None:
    number = scanned.inode("d/deep").number
    (scanned.source / "new" / "newer").mkdir(parents=True)
    os.rename(scanned.source / "d" / "deep", scanned.source / "new" / "newer" / "deep")
    left = scanned.look("d/deep")
    assert scanned.has("d/deep")  # not reported absent: it would be removed, and copied again later
    assert left.again.names == {scanned.inode("d").number: {b"deep"}}
    assert scanned.has("new")  # what must be known first was looked at in the same round
    before = sent(scanned)
    scanned.scan()
    scanned.again(left)
    assert scanned.inode("new/newer/deep").number == number
    assert not scanned.has("d/deep")
    assert sent(scanned) == before
    scanned.assert_same()


def test_two_directories_that_change_names(scanned: World) -> None:
    numbers = scanned.inode("d").number, scanned.inode("empty directory").number
    for one, other in (("d", "t"), ("empty directory", "d"), ("t", "empty directory")):
        os.rename(scanned.source / one, scanned.source / other)
    scanned.look("d", "empty directory")
    assert (scanned.inode("empty directory").number, scanned.inode("d").number) == numbers
    scanned.assert_same()


def test_a_removal_is_reported(scanned: World) -> None:
    os.unlink(scanned.source / "linked")
    os.unlink(scanned.source / "fifo")
    scanned.look("linked", "fifo")
    assert not scanned.has("linked")
    assert scanned.inode("d/packed").nlink == 1
    scanned.assert_same()


def test_what_left_the_tree_is_absent(scanned: World) -> None:
    os.rename(scanned.source / "d", scanned.source.parent / "outside")
    left = scanned.look("d")
    assert not left.again
    assert not scanned.has("d")
    scanned.assert_same()


def test_changed_files_and_attributes(scanned: World) -> None:
    (scanned.source / "d" / "small").write_bytes(b"SMALL")
    os.chmod(scanned.source / "empty", 0o6700)
    os.setxattr(scanned.source / "d" / "deep", "user.x", b"1")
    (scanned.source / "symlink").unlink()
    os.symlink("another", scanned.source / "symlink")
    scanned.look("empty", "symlink", "d/deep/", files=("d/small",))
    scanned.assert_same()


def test_a_small_file_that_has_become_large_is_left_to_be_read_alone(scanned: World) -> None:
    os.truncate(scanned.source / "d" / "small", SMALL_BYTES_MAX + 1)
    left = scanned.look(files=("d/small",))
    number = scanned.inode("d/small").number
    assert left.large == {number}
    scanned.read_large(number)
    scanned.settle()
    scanned.assert_same()


def test_a_large_file_whose_change_time_alone_moved_is_read_again(scanned: World) -> None:
    path = scanned.source / "d" / "deep" / "large"
    found = path.stat()
    with path.open("r+b") as file:
        file.write(b"XXXX")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    left = scanned.look("d/deep/large")
    number = scanned.inode("d/deep/large").number
    assert left.large == {number}
    assert scanned.verify(scanned.source_zone).differences == [(b"d/deep/large", "bytes")]
    scanned.read_large(number)
    scanned.settle()
    scanned.assert_same()


def test_a_comparison_finds_all_that_was_missed(scanned: World) -> None:
    source = scanned.source
    (source / "d" / "new").write_bytes(b"new")
    (source / "empty").unlink()
    (source / "d" / "small").write_bytes(b"S")
    os.rename(source / "d" / "deep", source / "deeper")
    (source / "deeper" / "added").write_bytes(b"added")
    (source / "fifo").unlink()
    (source / "fifo").write_bytes(b"a file now")
    left = scanned.look(compare=("", "d", "empty directory", "d/deep"))
    for _ in range(3):
        scanned.scan()
        left = scanned.again(left)
    assert not left.again
    scanned.assert_same()


@pytest.fixture
def many(scanned: World, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """60 directories that have been moved from one known directory to another, and a round that is too large for one
    observation; their numbers."""
    for where in (batch, portions):
        monkeypatch.setattr(where, "PORTION_ENTRIES", 8)
    top = scanned.source / "d" / "many"
    top.mkdir()
    for number in range(60):
        (top / f"{number:02}").mkdir()
    scanned.look("d/many")
    scanned.scan()
    scanned.assert_same()
    numbers = {scanned.inode(f"d/many/{number:02}").number for number in range(60)}
    for number in range(60):
        os.rename(top / f"{number:02}", scanned.source / "empty directory" / f"{number:02}")
    before = len(scanned.shipments)
    scanned.look(*(f"d/many/{number:02}" for number in range(60)))
    assert len(scanned.shipments) > before + 2
    directories = [report for shipment in scanned.shipments[before:] for report in shipment.directories]
    first_absence = next(place for place, report in enumerate(directories) if report.absent)
    assert not any(report.entries for report in directories[first_absence + 1 :])
    return numbers


def test_a_round_too_large_for_one_observation_ends_well(scanned: World, many: set[int]) -> None:
    """What came back void is looked at again."""
    for _ in range(60):
        void = {number for outcome in scanned.outcomes for number in outcome.void}
        scanned.outcomes.clear()
        if not void:
            break
        assert void == {scanned.inode("empty directory").number}
        scanned.look(compare=("empty directory",))
    scanned.scan()
    scanned.assert_same()


def test_a_round_too_large_for_one_observation_keeps_renames(scanned: World, many: set[int]) -> None:
    assert {scanned.inode(f"empty directory/{number:02}").number for number in range(60)} == many


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_files_that_come_at_once_do_not_outgrow_a_pack(scanned: World) -> None:
    names = [f"burst{number}" for number in range(50)]
    for name in names:
        (scanned.source / name).write_bytes(os.urandom(250_000))
    left = scanned.look(*names)
    assert max(map(len, scanned.packs.values())) <= PACK_BYTES_MAX
    assert scanned.pending(), "the rest is read one by one"
    assert not left.again
    scanned.scan()
    scanned.assert_same()


def test_directories_that_share_a_pack_do_not_outgrow_it(world: World) -> None:
    for directory, count in (("a", 16), ("b", 40)):
        (world.source / directory).mkdir()
        for number in range(count):
            (world.source / directory / f"{number}").write_bytes(os.urandom(255_000))
    world.rounds._growth.entries = portions.PORTION_ENTRIES  # as after the first shipments
    world.scan()
    assert sent(world) == 56 * 255_000
    assert max(map(len, world.packs.values())) <= PACK_BYTES_MAX
    world.assert_same()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_large_file_under_another_name_that_was_written_and_given_its_time_back(
    scanned: World, is_replaced: bool
) -> None:
    """Nobody watched: only its change time tells, and that the log has it under its first name."""
    large, other = scanned.source / "d" / "deep" / "large", scanned.source / "d" / "small"
    before = large.stat()
    with large.open("r+b") as file:
        file.write(b"written")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    to = other if is_replaced else scanned.source / "d" / "moved"
    os.rename(large, to)
    number = scanned.inode("d/deep/large").number
    left = scanned.look(compare=("d", "d/deep"))
    assert scanned.inode("d/" + to.name).number == number
    assert left.large == {number}
    scanned.read_large(number)
    scanned.look("d/", "d/deep/")
    scanned.assert_same()
