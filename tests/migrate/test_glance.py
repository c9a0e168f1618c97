"""Operations that the source's files followed after a program had changed them, of which no event tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lddp.core.records import Put, Rename, RenameFlag, SetAttributes, SetXattr, Unlink, Write, XattrFlag
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from lddp.replay.settling import directory_attributes, set_directories
from lddp.zones.posix import PosixZone
from tests.core.support import content
from tests.migrate.conftest import root_only
from tests.migrate.writable import Writable

pytestmark = root_only
PLAIN = RenameFlag(0)


def follow(writable: Writable, *paths: str) -> None:
    """Names that events told of are looked at."""
    writable.finish(writable.look(*paths))


def test_what_is_as_the_log_has_it_is_not_looked_at(writable: Writable) -> None:
    writable.do(Put(*writable.head(), b"/data/e/file", 0o644, 0, 0, content(b"more")))
    (writable.source / "e" / "file").write_bytes(b"more")
    os.utime(writable.source / "e" / "file", ns=(1, 1))
    shipments = len(writable.shipments)
    number = writable.inode("e/file").number
    operated = [(number, "e/file"), (writable.inode("e/f").number, "e/f"), (1 << 40, "gone"), (1 << 40, "d/gone/too")]
    assert not writable.glance(*operated).again
    assert len(writable.shipments) == shipments


def test_an_operation_that_the_files_have_not_followed_waits(writable: Writable) -> None:
    number = writable.inode("e/file").number
    left = writable.look(operated={(number, b"e/file"): writable.operated + 1})
    assert left.again.operated == {(number, b"e/file"): writable.operated + 1}
    assert left.postponed == {-1}


def test_an_operation_moved_another_object(writable: Writable) -> None:
    """Two files changed names, and the log did not know it yet."""
    source = writable.source
    for name in ("one", "two"):
        (source / name).write_bytes(name.encode())
    follow(writable, "one", "two")
    number = writable.inode("one").number
    writable.do(Rename(*writable.head(), b"/data/one", b"/data/moved", PLAIN))
    os.rename(source / "one", source / "three")
    os.rename(source / "two", source / "one")
    os.rename(source / "three", source / "two")
    os.rename(source / "one", source / "moved")  # the operation
    follow(writable, "one", "two")
    writable.glance((number, "moved"), (number, "one"))
    assert writable.inode("moved").size == 3
    assert not writable.has("one")
    assert writable.inode("two").identity == writable.identity(b"two")
    follow(writable, "e", "e/f/", "e/file", "e/")
    writable.assert_same()


def test_an_operation_moved_what_a_program_had_removed(writable: Writable) -> None:
    number = writable.inode("e/file").number
    writable.do(Rename(*writable.head(), b"/data/e/file", b"/data/moved", PLAIN))
    (writable.source / "e" / "file").unlink()
    writable.glance((number, "e/file"), (number, "moved"))
    assert not writable.has("moved")


def test_an_operation_wrote_into_another_file(writable: Writable) -> None:
    source = writable.source
    number = writable.inode("e/file").number
    os.rename(source / "e" / "file", source / "mine")
    os.rename(source / "d" / "small", source / "e" / "file")
    writable.do(Write(*writable.head(), b"/data/e/file", 0, content(b"MADE")))
    follow(writable, "mine", "d/small", "e")
    follow(writable, "e/file")
    with (source / "e" / "file").open("r+b") as file:
        file.write(b"MADE")  # the operation, once all that was told has been looked at
    writable.glance((number, "e/file"))
    follow(writable, "e/f/", "e/", "mine")
    writable.assert_same()


@pytest.mark.parametrize("path", ["e/file", "e/link"])
@pytest.mark.parametrize("is_reported", [False, True])
def test_an_operation_gave_attributes_to_another_object(writable: Writable, path: str, is_reported: bool) -> None:
    """What should have got them is as it was, and has been seen so."""
    os.symlink("file", writable.source / "e" / "link")
    follow(writable, "e/link", *([path] if is_reported else []))
    number = writable.inode(path).number
    writable.do(SetAttributes(*writable.head(), b"/data/" + path.encode(), None, None, 7, None))
    assert writable.inode(path).gid == 7
    writable.glance((number, path))
    assert writable.inode(path).gid == 0
    writable.assert_same()


def test_an_operation_gave_an_xattr_to_another_object(writable: Writable) -> None:
    follow(writable, "e/file")
    writable.do(SetXattr(*writable.head(), b"/data/e/file", b"user.a", b"1", XattrFlag.NONE))
    writable.glance((writable.inode("e/file").number, "e/file"))
    assert not writable.inode("e/file").xattrs
    writable.assert_same()


def test_an_operation_put_a_file_into_another_directory(writable: Writable) -> None:
    """Two directories had changed places, and the log did not know it yet. The file itself is as it should be."""
    source = writable.source
    follow(writable, "e")
    for old, new in (("d", "aside"), ("e", "d"), ("aside", "e")):
        os.rename(source / old, source / new)
    writable.do(Put(*writable.head(), b"/data/d/new", 0o644, 0, 0, content(b"new")))
    (source / "d" / "new").write_bytes(b"new")
    os.utime(source / "d" / "new", ns=(1, 1))
    writable.glance((writable.inode("d/new").number, "d/new"))
    follow(writable, "e")
    follow(writable, "d/", "e/", "")
    assert not writable.has("e/new")
    assert writable.has("d/new")
    writable.assert_same()


def test_an_operation_in_a_directory_that_a_program_had_moved(writable: Writable) -> None:
    """It met nothing. By the time that the files have followed, the path is another object's in the log."""
    source = writable.source
    follow(writable, "e", "e/file")
    number, directory = writable.inode("e/file").number, writable.inode("e").number
    os.rename(source / "e", source / "moved")
    os.link(source / "moved" / "file", source / "e")
    writable.do(Rename(*writable.head(), b"/data/e/file", b"/data/e/renamed", PLAIN))
    follow(writable, "e", "moved")
    operated = {(number, b"e/file"), (number, b"e/renamed"), (directory, b"/file"), (directory, b"/renamed")}
    writable.finish(writable.look(operated=dict.fromkeys(operated, writable.operated)))
    assert writable.has("moved/file")
    assert not writable.has("moved/renamed")
    writable.finish(writable.look("", "moved/"))
    writable.assert_same()


def test_an_operation_deep_below_a_directory_that_a_program_had_moved(writable: Writable) -> None:
    """Deeper than Python lets a function call itself; the log allows more."""
    source = writable.source
    follow(writable, "e", "e/file")
    path = b"e/" + b"d/" * 1100 + b"f"
    operated = {(1 << 40, path): writable.operated}
    assert not writable.look(operated=operated).again
    os.rename(source / "e", source / "moved")
    assert writable.look(operated=operated).again.operated == operated
    follow(writable, "moved")
    assert not writable.look(operated=operated).again
    writable.finish(writable.look("", "moved/"))
    writable.assert_same()


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_directory_is_looked_at_again_once_its_time_is_put_right(writable: Writable, is_listed: bool) -> None:
    """As at a start, that carries effects out again of which nobody is told."""
    source = writable.source
    (source / "new").mkdir()
    left = writable.look("new")
    writable.settling.add(b"new")
    (left,) = writable.scan() if not is_listed else [writable.scan() and writable.look("new/")]
    assert left.again.names == {writable.inode("new").number: {b""}}
    assert left.postponed == {writable.inode("new").number}
    os.utime(source / "new", ns=(7, 7))
    writable.settling.clear()
    writable.finish(left)
    assert writable.inode("new").mtime_ns == 7


def test_an_operation_removed_another_object(writable: Writable) -> None:
    source = writable.source
    number = writable.inode("empty").number
    os.rename(source / "fifo", source / "elsewhere")
    os.rename(source / "empty", source / "fifo")
    writable.do(Unlink(*writable.head(), b"/data/empty", -1))
    os.rename(source / "elsewhere", source / "empty")
    writable.glance((number, "empty"))
    assert writable.inode("empty").identity == writable.identity(b"empty")


def test_a_directory_is_glanced_at_once_its_time_is_put_right(writable: Writable) -> None:
    """A program has changed it meanwhile, and was reported; the operation's time is put over that."""
    source, number = writable.source, writable.inode("e/file").number
    follow(writable, "e/")
    os.utime(source / "e", ns=(7, 7))
    writable.do(Put(*writable.head(), b"/data/e/file", 0o644, 0, 0, content(b"more")))
    follow(writable, "e/")
    assert writable.inode("e").mtime_ns == 7
    writable.settling.add(b"e")
    left = writable.look(operated={(number, b"e/file"): writable.operated})
    assert left.again.operated == {(number, b"e/file"): writable.operated}
    os.utime(source / "e", ns=(1, 1))
    writable.settling.clear()
    writable.finish(left)
    assert writable.inode("e").mtime_ns == 1


def test_a_program_moved_a_directory_whose_time_was_to_be_put_right(writable: Writable) -> None:
    """With what it is in: by its old path it is not found, and of neither change does an event tell."""
    source = writable.source
    follow(writable, "e", "e/file", "e/f")
    above = writable.inode("e/f").number
    writable.do(Put(*writable.head(), b"/data/e/f/new", 0o644, 0, 0, content(b"new")))
    (source / "e" / "f" / "new").write_bytes(b"new")  # the operation, which moves the time of its directory
    os.utime(source / "e" / "f" / "new", ns=(1, 1))
    os.rename(source / "e", source / "moved")
    follow(writable, "e", "moved", "")
    assert writable.inode("moved/f").mtime_ns == 1
    number = writable.inode("moved/f/new").number
    writable.glance((number, "e/f/new"), (above, "/new"))
    writable.assert_same()


def test_the_time_of_a_directory_is_not_put_right_at_another_one(writable: Writable, tmp_path: Path) -> None:
    """A program exchanged the two, and the log did not know it yet."""
    source = writable.source
    follow(writable, "e", "d")
    before = {name: (source / name).stat().st_mtime_ns for name in ("d", "e")}
    assert before["d"] != before["e"]
    for old, new in (("d", "aside"), ("e", "d"), ("aside", "e")):
        os.rename(source / old, source / new)
    staging = tmp_path / "staging at the source"
    staging.mkdir()
    carrier = Carrier(PosixZone(os.fsencode(source), os.fsencode(staging)), OnExisting.OVERWRITE)
    for is_source, expected in ((True, "d"), (False, "e")):
        set_directories(carrier, directory_attributes(writable.view(), 1, {b"e"}, is_source=is_source))
        assert (source / "e").stat().st_mtime_ns == before[expected]
