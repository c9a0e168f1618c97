"""Looking at a real tree: what is reported, what never is, and what fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lddp import ports
from lddp.core.namespace import Inode
from lddp.core.records import Attributes
from lddp.migrate import look as module
from lddp.migrate.look import Failure, Moved
from lddp.migrate.options import MigrationOptions
from lddp.zones.looking import OpenDirectory
from lddp.zones.posix import PosixZone
from tests.fakes.zone import FakeZone
from tests.migrate.conftest import fill
from tests.migrate.world import World

PLAIN = Attributes(0o644, 0, 0, 5)


def test_a_scan_brings_everything_over(scanned: World) -> None:
    totals = scanned.view().totals(1)
    assert (totals.directories, totals.pending_directories, totals.pending_files) == (4, 0, 0)
    assert scanned.inode("d/deep/large").content is not None
    assert scanned.inode("linked").number == scanned.inode("d/packed").number
    assert os.stat(scanned.target / "linked").st_nlink == 2
    assert os.getxattr(scanned.target / "d" / "small", "user.colour") == b"green"


def test_where_bytes_travel(scanned: World) -> None:
    """Very small files in the record, small ones in a pack, large ones by themselves."""
    entries = {
        entry.name: entry
        for shipment in scanned.shipments
        for report in shipment.directories
        for entry in report.entries
    }
    tiny, packed, large = entries[b"small"].content, entries[b"packed"].content, entries[b"large"].content
    assert tiny is not None and tiny.inline == b"small"
    assert packed is not None and packed.inline is None and packed.pack
    assert large is None
    assert entries[b"large"].size == 300_000


def test_nothing_is_reported_twice(scanned: World) -> None:
    left = scanned.look(compare=("", "d", "d/deep", "empty directory"))
    assert not left.again
    assert all(not report.entries and not report.absent for s in scanned.shipments[-1:] for report in s.directories)


def test_a_scan_in_portions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PORTION_ENTRIES", 7)
    for number in range(30):
        (world.source / f"f{number}").write_bytes(b"%d" % number * 200)
    reports = list(world.looker().scan(world.inode()))
    assert [len(report.entries) for report in reports] == [7, 7, 7, 7, 2]
    assert [report.complete for report in reports] == [False] * 4 + [True]
    world.scan()
    world.assert_same()


# -- torn reads -------------------------------------------------------------------------------------------------------


class Interrupted:
    """Stands for os.pread: another process writes to the file behind its back, some times."""

    def __init__(self, change: Callable[[], None], times: int) -> None:
        self._change = change
        self._times = times
        self._read = os.pread

    def __call__(self, descriptor: int, size: int, offset: int) -> bytes:
        data = self._read(descriptor, size, offset)
        if self._times:
            self._times -= 1
            self._change()
        return data


def grow(path: Path) -> Callable[[], None]:
    def change() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    return change


def rewrite(path: Path) -> Callable[[], None]:
    """Other bytes, the same size and modification time: only the change time tells."""

    def change() -> None:
        found = path.stat()
        path.write_bytes(os.urandom(found.st_size))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    return change


def shrink(path: Path) -> Callable[[], None]:
    return lambda: os.truncate(path, 3)


@pytest.mark.parametrize("change", [grow, rewrite, shrink])
@pytest.mark.parametrize("times", [1, 2, 1000])
def test_a_torn_read_is_never_reported(
    world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Callable[[], None]], times: int
) -> None:
    path = world.source / "f"
    path.write_bytes(b"0123456789" * 100)
    monkeypatch.setattr(os, "pread", Interrupted(change(path), times))
    (report,) = world.looker().scan(world.inode())
    monkeypatch.undo()
    (entry,) = report.entries
    if entry.content is None:
        assert times > 2
        return
    looker = world.looker()
    (again,) = looker.scan(world.inode())
    there = again.entries[0]
    assert there.content is not None
    assert (there.content.digest, there.stamp) == (entry.content.digest, entry.stamp)
    assert entry.content.size == entry.size == path.stat().st_size


@pytest.mark.parametrize("change", [grow, rewrite, shrink])
def test_a_torn_read_of_a_known_file(
    world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Callable[[], None]]
) -> None:
    path = world.source / "f"
    path.write_bytes(b"0123456789" * 100)
    world.scan()
    path.write_bytes(b"9876543210" * 100)
    monkeypatch.setattr(os, "pread", Interrupted(change(path), 1000))
    left = world.look(files=("f",))
    monkeypatch.undo()
    assert left.again.files == left.postponed == {world.inode("f").number}
    assert not world.again(left).again
    world.assert_same()


def test_a_file_that_is_exchanged_for_another_while_it_is_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.source / "f").write_bytes(b"one")
    (world.source.parent / "other").write_bytes(b"two")
    opened = OpenDirectory.open_read

    def open_read(directory: OpenDirectory, name: bytes) -> int:
        if name == b"f" and (world.source.parent / "other").exists():
            os.rename(world.source.parent / "other", world.source / "f")
        return opened(directory, name)

    monkeypatch.setattr(OpenDirectory, "open_read", open_read)
    (report,) = world.looker().scan(world.inode())
    assert report.entries[0].content is None


# -- what is not there any more ---------------------------------------------------------------------------------------


def test_a_directory_that_was_moved_is_not_looked_at_under_its_old_name(scanned: World) -> None:
    inode = scanned.inode("d/deep")
    os.rename(scanned.source / "d" / "deep", scanned.source / "elsewhere")
    (scanned.source / "d" / "deep").mkdir()
    for look in (scanned.looker().differences, scanned.looker().open_directory):
        with pytest.raises(Moved):
            look(inode)


def test_a_directory_that_is_exchanged_while_it_is_listed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.source / "d").mkdir()
    (world.source / "d" / "f").write_bytes(b"1")
    world.rounds.scan([world.inode().number], world.ship)
    inode = world.inode("d")
    opened = world.source_zone.open_directory

    def open_directory(path: bytes) -> ports.OpenDirectory:
        os.rename(world.source / "d", world.source / "away")
        (world.source / "d").mkdir()
        return opened(path)

    monkeypatch.setattr(world.source_zone, "open_directory", open_directory)
    with pytest.raises(Moved):
        list(world.looker().scan(inode))


@pytest.mark.parametrize("look", ["scan", "names", "differences"])
def test_a_directory_that_is_moved_while_it_is_looked_into(
    scanned: World, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    """That it cannot be read there is no failure."""
    inode, looker = scanned.inode("d"), scanned.looker()
    opened = looker.open_directory

    def open_directory(inode: Inode) -> tuple[bytes, ports.Status]:
        found = opened(inode)
        os.rename(scanned.source / "d", scanned.source / "away")
        return found

    monkeypatch.setattr(looker, "open_directory", open_directory)
    looks: dict[str, Callable[[], object]] = {
        "scan": lambda: list(looker.scan(inode)),
        "names": lambda: looker.names(inode, {b""}),
        "differences": lambda: looker.differences(inode),
    }
    with pytest.raises(Moved):
        looks[look]()


def test_the_top_of_a_tree_that_is_gone_cannot_be_read(scanned: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: bytes) -> ports.OpenDirectory:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(scanned.source_zone, "open_directory", missing)
    with pytest.raises(FileNotFoundError):
        scanned.looker().differences(scanned.inode())


def test_open_file_finds_any_of_its_names(scanned: World) -> None:
    os.unlink(scanned.source / "d" / "packed")
    path, descriptor, found = scanned.looker().open_file(scanned.inode("linked"))
    os.close(descriptor)
    assert (path, found.st_size) == (b"linked", 3000)
    os.rename(scanned.source / "linked", scanned.source / "unknown")
    with pytest.raises(Moved):
        scanned.looker().open_file(scanned.inode("linked"))


@pytest.mark.parametrize("other", ["directory", "symlink", "fifo"])
def test_a_file_whose_name_another_object_takes_while_it_is_opened_has_moved(
    scanned: World, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    inode = scanned.inode("linked")
    os.unlink(scanned.source / "d" / "packed")
    path = scanned.source / "linked"
    opened = scanned.source_zone.open_read

    def open_read(name: bytes) -> int:
        os.rename(path, scanned.source / "away")
        {"directory": path.mkdir, "symlink": lambda: path.symlink_to("away"), "fifo": lambda: os.mkfifo(path)}[other]()
        return opened(name)

    monkeypatch.setattr(scanned.source_zone, "open_read", open_read)
    with pytest.raises(Moved):
        scanned.looker().open_file(inode)


def test_a_file_that_cannot_be_opened_where_it_is_has_not_moved(
    scanned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_read(name: bytes) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)

    monkeypatch.setattr(scanned.source_zone, "open_read", open_read)
    with pytest.raises(OSError, match="Invalid argument"):
        scanned.looker().open_file(scanned.inode("linked"))


@pytest.mark.parametrize("other", [None, "symlink", "file"])
def test_a_symlink_that_changes_while_it_is_read(
    scanned: World, monkeypatch: pytest.MonkeyPatch, other: str | None
) -> None:
    """Of other attributes no event tells by this name; of another object one does."""
    new = scanned.source / "new"
    new.symlink_to("target")
    read = scanned.source_zone.read_link

    def read_link(path: bytes) -> tuple[ports.Status, bytes]:
        if other is None:
            os.utime(new, ns=(9, 9), follow_symlinks=False)
        else:
            new.unlink()
            {"symlink": lambda: new.symlink_to("another"), "file": new.touch}[other]()
        return read(path)

    monkeypatch.setattr(scanned.source_zone, "read_link", read_link)
    report = scanned.looker().names(scanned.inode(), {b"new"})
    told = [(entry.target, entry.attributes.mtime_ns, entry.stamp) for entry in report.entries]
    assert told == ([(b"target", 9, new.lstat().st_ctime_ns)] if other is None else [])
    assert not report.absent


# -- left out and failed ----------------------------------------------------------------------------------------------


def test_sockets_are_skipped_and_said(world: World) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(world.source)
        try:
            one.bind("socket")
        finally:
            os.chdir(here)
        (left,) = world.scan()
    assert left.skipped == {b"socket"}
    assert not world.has("socket")
    assert world.verify(world.source_zone).difference_count == 0


def test_exclusions_leave_out_what_is_below(tmp_path: Path) -> None:
    world = World(tmp_path, MigrationOptions(exclude=("deep", "*.tmp"), size_bytes_max=100))
    fill(world.source)
    (world.source / "a.tmp").write_bytes(b"1")
    excluded = set[bytes]().union(*(left.excluded for left in world.scan()))
    assert excluded == {b"d/deep", b"a.tmp", b"d/packed", b"linked"}
    assert not any(world.has(path) for path in ("d/deep", "a.tmp", "linked"))
    world.assert_same()
    world.close()


def test_what_becomes_excluded_goes(world: World) -> None:
    (world.source / "f").write_bytes(b"1")
    world.scan()
    world.begin(MigrationOptions(exclude=("f",)))
    assert world.look(compare=("",)).excluded == {b"f"}
    assert not world.has("f")
    world.assert_same()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_is_reported_without_its_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name in ("good", "bad"):
        (world.source / name).write_bytes(b"1")
    opened = {where: where.open_read for where in (OpenDirectory, PosixZone)}

    def refuse(where: Any, name: bytes) -> int:
        if name == b"bad":
            raise OSError(number, os.strerror(number))
        return opened[type(where)](where, name)

    monkeypatch.setattr(OpenDirectory, "open_read", refuse)
    monkeypatch.setattr(PosixZone, "open_read", refuse)
    looker = world.looker()
    (report,) = looker.scan(world.inode())
    assert looker.failures == [Failure(b"bad", number)]
    assert {entry.name: entry.content is None for entry in report.entries} == {b"good": False, b"bad": True}
    left = world.rounds.scan([world.inode().number], world.ship)
    bad = world.inode("bad")
    assert bad.pending
    left = world.rounds.look(left.again._replace(files={bad.number}), world.ship)
    assert left.failures == [(bad.number, Failure(b"bad", number))]
    assert left.again.files == left.postponed == {bad.number}
    monkeypatch.undo()
    assert not world.again(left).again
    world.assert_same()


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_symlink_that_cannot_be_read_is_not_reported_without_its_target(
    scanned: World, monkeypatch: pytest.MonkeyPatch, is_listed: bool
) -> None:
    directory = scanned.source / "new"
    directory.mkdir()
    scanned.look("new")
    if is_listed:
        scanned.scan()
    (directory / "link").symlink_to("target")
    (directory / "file").write_bytes(b"beside it")

    def read_link(path: bytes) -> tuple[ports.Status, bytes]:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(scanned.source_zone, "read_link", read_link)
    number = scanned.inode("new").number
    if is_listed:
        left = scanned.look("new/link", "new/file")
    else:
        left = scanned.rounds.scan([number], scanned.ship)
        scanned.settle()
    assert scanned.has("new/file")
    assert not scanned.has("new/link")
    assert left.failures == [(number, Failure(b"new/link", errno.EIO))]
    assert left.again.names == {number: {b"link"}}
    assert left.postponed == {number}
    monkeypatch.undo()
    assert not scanned.again(left).again
    scanned.assert_same()


@pytest.mark.parametrize("method", ["list", "xattrs"])
def test_a_directory_that_cannot_be_read_is_a_failure(tmp_path: Path, method: str) -> None:
    zone = FakeZone()
    zone.make_directory(b"d", PLAIN._replace(mode=0o755))
    world = World(tmp_path, zone=zone)
    world.rounds.scan([world.inode().number], world.ship)
    number = world.inode("d").number
    zone.fail(errno.EACCES, method=method, path=b"d")
    left = world.rounds.scan([number], world.ship)
    assert left.failures == [(number, Failure(b"d", errno.EACCES))]
    assert left.postponed == {number}
    assert world.inode("d").pending
    zone.heal()
    world.rounds.scan([number], world.ship)
    assert not world.inode("d").pending
    world.close()


def test_a_file_that_vanishes_while_it_is_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.source / "f").write_bytes(b"1")
    opened = OpenDirectory.open_read

    def open_read(directory: OpenDirectory, name: bytes) -> int:
        os.unlink(world.source / "f")
        return opened(directory, name)

    monkeypatch.setattr(OpenDirectory, "open_read", open_read)
    looker = world.looker()
    (report,) = looker.scan(world.inode())
    assert (report.entries, looker.failures) == ((), [])
