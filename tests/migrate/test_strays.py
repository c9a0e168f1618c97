"""Changes of objects that operations made, which the log does not know by their identity."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lddp.core.records import Rename, RenameFlag
from lddp.migrate.backlog import Backlog
from lddp.migrate.dirty import WHOLE
from lddp.migrate.look import Failure
from lddp.migrate.options import MigrationOptions
from tests.core.support import SOURCE
from tests.migrate.conftest import root_only
from tests.migrate.writable import Writable

pytestmark = root_only


def test_what_a_program_makes_in_directories_that_operations_made(writable: Writable) -> None:
    (writable.source / "e" / "f" / "new").mkdir()
    (writable.source / "e" / "f" / "new" / "file").write_bytes(b"in a new directory")
    (writable.source / "e" / "other").write_bytes(b"beside")
    number = writable.inode("e/f").number
    writable.find({writable.identity(b"e/f"): {b"new"}, writable.identity(b"e"): {b"other"}})
    assert writable.inode("e/f").number == number
    assert writable.inode("e/f").identity == writable.identity(b"e/f")
    writable.assert_same()


def test_what_a_program_removes_there(writable: Writable) -> None:
    (writable.source / "e" / "file").unlink()
    (writable.source / "e" / "f").rmdir()
    writable.find({writable.identity(b"e"): {b"file", b"f"}})
    assert not writable.has("e/file")
    assert not writable.has("e/f")
    writable.assert_same()


def test_a_directory_is_compared_as_a_whole_once_it_is_known(writable: Writable) -> None:
    (writable.source / "e" / "file").write_bytes(b"changed")
    (writable.source / "e" / "other").write_bytes(b"unheard of")
    writable.find({writable.identity(b"e"): {WHOLE}})
    writable.find({writable.identity(b"e/f"): {b""}})
    writable.assert_same()


def test_a_directory_that_has_the_place_of_one_that_an_operation_made(writable: Writable) -> None:
    """The log takes it for that one, and whatever told of what is in it is over."""
    shutil.rmtree(writable.source / "e")
    (writable.source / "e").mkdir()
    (writable.source / "e" / "strange").write_bytes(b"unheard of")
    number = writable.inode("e").number
    writable.finish(writable.look("e"))
    assert writable.inode("e").number == number
    assert not writable.has("e/file")
    writable.assert_same()


def test_a_comparison_asks_who_a_directory_is_before_it_looks_into_it(writable: Writable) -> None:
    """An operation has moved it and another has its place in the log; the source's files are not there yet."""
    flag = RenameFlag(0)
    for old, new in ((b"/data/e", b"/data/g"), (b"/data/empty directory", b"/data/e")):
        writable.do(Rename(*writable.head(), old, new, flag))
    (writable.source / "e" / "other").write_bytes(b"of the directory that is to be g")
    left = writable.look(compare=("g",))
    assert left.again.compare == {writable.inode("g").number}
    assert not writable.has("e/other")
    assert writable.has("g/file")


def test_a_file_that_was_moved_by_an_operation_while_a_program_had_it_open(writable: Writable) -> None:
    """Its event names the place where it was opened."""
    identity = writable.identity(b"e/file")
    with (writable.source / "e" / "file").open("wb") as file:
        writable.do(Rename(*writable.head(), b"/data/e/file", b"/data/moved", RenameFlag(0)))
        os.rename(writable.source / "e" / "file", writable.source / "moved")
        file.write(b"written")
    writable.find({identity: {b""}})
    for path in (b"e", b"e/f"):
        writable.find({writable.identity(path): {b""}})
    writable.assert_same()


def test_without_the_kernel_every_directory_may_be_the_one(writable: Writable, monkeypatch: pytest.MonkeyPatch) -> None:
    (writable.source / "e" / "f" / "new").write_bytes(b"new")
    identity = writable.identity(b"e/f")
    monkeypatch.setattr(writable.source_zone, "locate", lambda _handle: None)
    monkeypatch.setattr(writable.source_zone, "alive", lambda _handle: None)
    writable.find({identity: {b"new"}, b"\x01somewhere else": {b"name"}})
    writable.find({writable.identity(b"e"): {WHOLE}})
    writable.assert_same()


@pytest.mark.parametrize("place", ["outside", "excluded", "removed"])
def test_what_is_none_of_ours_is_left(tmp_path: Path, place: str) -> None:
    writable = Writable(tmp_path, MigrationOptions(exclude=("excluded",)))
    writable.scan()
    path = (tmp_path if place == "outside" else writable.source) / place
    path.mkdir()
    identity = writable.source_zone.status(os.fsencode(place)).handle if place != "outside" else b""
    if place == "outside":
        path.rename(writable.source / place)
        identity = writable.identity(os.fsencode(place))
        (writable.source / place).rename(path)
    if place == "removed":
        path.rmdir()
    shipments = len(writable.shipments)
    assert not writable.look(strays={identity: {b"name"}}).again
    assert len(writable.shipments) == shipments
    writable.close()


def test_a_stray_is_work_to_do_unless_it_may_be_below_what_cannot_be_read(writable: Writable) -> None:
    now = 0.0
    backlog = Backlog(writable.environment, writable.rule, lambda: now)
    assert backlog.is_idle()
    backlog.dirty.add_stray(b"\x01handle", b"one")
    backlog.dirty.add_stray(b"\x01handle", b"two")
    assert not backlog.is_idle()
    work = backlog.take_dirty()
    assert work.strays == {b"\x01handle": {b"one", b"two"}}
    assert not backlog.take_dirty()
    backlog.busy.clear()
    backlog.dirty.put_back(work)
    assert not backlog.is_idle()
    backlog.note_failure(7, Failure(b"e", 13))
    assert backlog.is_idle()


def test_the_source_of_the_rule_takes_operations(writable: Writable) -> None:
    assert not writable.rule.observe_only
    assert writable.rule.source == SOURCE
