"""The comparison at the end finds every planted difference, and nothing where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.migrate.conftest import IS_ROOT
from tests.migrate.world import World

Plant = Callable[[Path], None]
LINK = "not the same file as its other names"


def flip_a_byte(top: Path) -> None:
    """Size and modification time stay."""
    path = top / "d" / "deep" / "large"
    found = path.stat()
    with path.open("r+b") as file:
        file.seek(200_000)
        file.write(b"X")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def change_size(top: Path) -> None:
    path = top / "d" / "small"
    found = path.stat()
    path.write_bytes(b"smaller")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def one_nanosecond(top: Path) -> None:
    found = (top / "empty").stat()
    os.utime(top / "empty", ns=(0, found.st_mtime_ns + 1))


def directory_time(top: Path) -> None:
    os.utime(top / "d" / "deep", ns=(0, 1))


def symlink_time(top: Path) -> None:
    os.utime(top / "symlink", ns=(0, 1), follow_symlinks=False)


def mode(top: Path) -> None:
    os.chmod(top / "empty directory", 0o701)


def set_id(top: Path) -> None:
    os.chmod(top / "d" / "small", 0o4604)


def owner(top: Path) -> None:
    os.chown(top / "d" / "small", 12345, -1)
    os.chmod(top / "d" / "small", 0o604)


def group(top: Path) -> None:
    os.chown(top / "fifo", -1, 12345)


def xattr_value(top: Path) -> None:
    os.setxattr(top / "d" / "small", "user.colour", b"red")


def xattr_gone(top: Path) -> None:
    os.removexattr(top / "d" / "small", "user.colour")


def xattr_more(top: Path) -> None:
    os.setxattr(top / "d", "user.more", b"")


def hold_time(change: Plant, *parts: str) -> Plant:
    """A change of entries, without the time of their directory moving."""

    def plant(top: Path) -> None:
        directory = top.joinpath(*parts)
        found = directory.stat()
        change(top)
        os.utime(directory, ns=(0, found.st_mtime_ns))

    return plant


def missing(top: Path) -> None:
    (top / "d" / "small").unlink()


def break_link(top: Path) -> None:
    found = (top / "linked").stat()
    data = (top / "linked").read_bytes()
    (top / "linked").unlink()
    (top / "linked").write_bytes(data)
    os.chmod(top / "linked", found.st_mode & 0o7777)
    os.utime(top / "linked", ns=(0, found.st_mtime_ns))


def retarget(top: Path) -> None:
    found = (top / "symlink").lstat()
    (top / "symlink").unlink()
    os.symlink("d/NOWHERE", top / "symlink")
    os.utime(top / "symlink", ns=(0, found.st_mtime_ns), follow_symlinks=False)


def another_kind(top: Path) -> None:
    (top / "fifo").unlink()
    (top / "fifo").write_bytes(b"")


PLANTED: list[tuple[Plant, bytes, str]] = [
    (flip_a_byte, b"d/deep/large", "bytes"),
    (change_size, b"d/small", "size"),
    (one_nanosecond, b"empty", "modification time"),
    (directory_time, b"d/deep", "modification time"),
    (symlink_time, b"symlink", "modification time"),
    (mode, b"empty directory", "mode"),
    (set_id, b"d/small", "mode"),
    (xattr_value, b"d/small", "extended attributes"),
    (xattr_gone, b"d/small", "extended attributes"),
    (xattr_more, b"d", "extended attributes"),
    (hold_time(missing, "d"), b"d/small", "missing"),
    (hold_time(break_link), b"linked", LINK),
    (hold_time(retarget), b"symlink", "target"),
    (hold_time(another_kind), b"fifo", "another kind of object"),
]
if IS_ROOT:
    PLANTED += [(owner, b"d/small", "owner"), (group, b"fifo", "group")]


@pytest.mark.parametrize(("plant", "path", "what"), PLANTED, ids=lambda one: getattr(one, "__name__", None))
def test_every_difference_is_found_and_named(scanned: World, plant: Plant, path: bytes, what: str) -> None:
    before = scanned.verify().total
    plant(scanned.target)
    finding = scanned.verify()
    if what == LINK:  # whichever of the two names is met second
        assert finding.differences in ([(b"linked", what)], [(b"d/packed", what)])
        return
    assert (path, what) in finding.differences
    assert {found for found, _ in finding.differences} == {path}
    assert finding.difference_count == len(finding.differences)
    assert finding.total != before


@pytest.mark.parametrize(("plant", "path", "what"), PLANTED, ids=lambda one: getattr(one, "__name__", None))
def test_the_same_in_the_source(scanned: World, plant: Plant, path: bytes, what: str) -> None:
    """What the source has otherwise than the log is a change that nobody saw."""
    plant(scanned.source)
    differences = scanned.verify(scanned.source_zone).differences
    assert (path, what) in differences or (what == LINK and (b"d/packed", what) in differences)
    assert scanned.verify().differences == []


def test_extra_names(scanned: World) -> None:
    def add(top: Path) -> None:
        (top / "d" / "extra").write_bytes(b"1")
        (top / "d" / "more" / "below").mkdir(parents=True)

    hold_time(add, "d")(scanned.target)
    finding = scanned.verify()
    assert (finding.differences, sorted(finding.extraneous)) == ([], [b"d/extra", b"d/more"])
    assert finding.total == scanned.verify(scanned.source_zone).total
    add(scanned.source)
    finding = scanned.verify(scanned.source_zone)
    assert (b"d/extra", "name is not in the log") in finding.differences


def test_files_that_should_be_apart_and_are_one(scanned: World) -> None:
    for top in (scanned.source, scanned.target):
        for name in ("one", "two"):
            (top / name).write_bytes(b"alike")
            os.utime(top / name, ns=(0, 5))
    scanned.look("one", "two")
    scanned.assert_same()

    def unite(top: Path) -> None:
        (top / "two").unlink()
        os.link(top / "one", top / "two")

    hold_time(unite)(scanned.target)
    assert [path for path, _ in scanned.verify().differences] == [b"two"]


def test_equal_trees_have_equal_totals_and_counts(scanned: World) -> None:
    source, target = scanned.verify(scanned.source_zone), scanned.verify()
    assert (source.total, source.directories, source.files, source.file_bytes) == (
        target.total, target.directories, target.files, target.file_bytes,
    )  # fmt: skip
    assert (target.directories, target.files, target.file_bytes) == (4, 5, 5 + 3000 + 300_000 + 9)
    assert target.of_zone(7).zone == 7


def test_a_tree_that_cannot_be_listed(scanned: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(scanned.target_zone, "open_read", refuse)
    finding = scanned.verify()
    assert (b"d/small", "EACCES") in finding.differences
    assert finding.difference_count == 5


def test_the_lists_are_cut_and_the_counts_are_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lddp.migrate.verify.LISTED_MAX", 3)
    world.scan()
    for number in range(7):
        (world.source / f"{number}").write_bytes(b"")
        (world.target / f"{number}").write_bytes(b"")
    source, target = world.verify(world.source_zone), world.verify()
    assert (source.difference_count, len(source.differences)) == (8, 3)
    assert (target.extraneous_count, len(target.extraneous)) == (7, 3)
