"""What a node has done itself in the source, where no event tells and no operation's name leads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lddp.core.records import Kind, Put, Rename, RenameFlag, Write
from lddp.migrate.dirty import WHOLE, Work
from lddp.migrate.observer import Observer
from lddp.migrate.rounds import Leftover
from lddp.node.system import SystemClock
from tests.core.support import SOURCE, content
from tests.migrate.conftest import root_only
from tests.migrate.world import World
from tests.migrate.writable import Writable

pytestmark = root_only
UNKNOWN = "d/second"


class FakeGateway:
    clock = SystemClock()
    zone = SOURCE


def observer_of(world: World) -> Observer:
    """One that does nothing by itself."""
    gateway: Any = FakeGateway()
    unused: Any = None
    return Observer(
        gateway,
        world.environment,
        world.source_zone,
        world.rule,
        world.exclusion,
        unused,
        [],
        lambda gsn: gsn,
        unused,
        unused,
    )


class Written:
    """A program has given a file another name, which the log does not know yet. An operation has written to the file,
    and another one has given its name away; the source's files follow when the test says so."""

    def __init__(self, writable: Writable) -> None:
        self._writable, self._source = writable, writable.source
        writable.finish(writable.look("e/file"))
        self.number, self.identity = writable.inode("e/file").number, writable.identity(b"e/file")
        os.link(self._source / "e" / "file", self._source / UNKNOWN)
        writable.do(Write(*writable.head(), b"/data/e/file", 0, content(b"MADE")))
        writable.do(Rename(*writable.head(), b"/data/d/small", b"/data/e/file", RenameFlag(0)))

    def follow(self) -> None:
        with (self._source / "e" / "file").open("r+b") as file:
            file.write(b"MADE")
        os.rename(self._source / "d" / "small", self._source / "e" / "file")
        self._writable.unwatched.add_file(self.identity, self.number)

    def glance(self) -> None:
        self._writable.glance((self.number, "e/file"), (self.number, "d/small"))


@pytest.fixture
def written(writable: Writable) -> Written:
    return Written(writable)


def test_a_file_that_was_reported_by_its_other_name_before_it_was_written(written: Written, writable: Writable) -> None:
    writable.look(UNKNOWN)
    assert writable.inode(UNKNOWN).number != written.number, "by then the log had nothing of it any more"
    written.follow()
    written.glance()
    writable.assert_same()


def test_a_file_that_is_reported_only_afterwards(written: Written, writable: Writable) -> None:
    written.follow()
    written.glance()
    assert writable.inode(UNKNOWN).kind is Kind.FILE
    writable.assert_same()


def test_a_file_whose_report_is_on_its_way(written: Written, writable: Writable) -> None:
    """Not to be found by what it is, when it is looked for: it is read again once it can be."""
    held: list[Any] = []
    directory = writable.inode("d").number
    writable.rounds.look(Work({directory: {b"second"}}, set(), set(), {}, {}), held.append)
    written.follow()
    left = writable.look(operated={(written.number, b"e/file"): writable.operated})
    assert left.changed == {written.identity}
    for shipment in held:
        writable.ship(shipment)  # older than what has been reported since
    writable.finish(left)
    # The backlog compares a directory again of which an older report came in behind a newer one.
    writable.finish(writable.look("d/"))
    writable.assert_same()


def test_a_file_of_which_the_log_has_all_names_is_not_read(writable: Writable) -> None:
    os.link(writable.source / "e" / "file", writable.source / UNKNOWN)
    writable.finish(writable.look("e/file", UNKNOWN))
    number = writable.inode("e/file").number
    assert writable.inode(UNKNOWN).number == number
    writable.unwatched.add_file(writable.identity(b"e/file"), number)
    shipments = len(writable.shipments)
    left = writable.look()
    assert not left.again
    assert not left.changed
    assert len(writable.shipments) == shipments


def test_a_file_that_has_another_name_elsewhere_is_not_read_for_each_write(writable: Writable, tmp_path: Path) -> None:
    """As backups of hard links have: of a report by another name the log can tell which file it is."""
    writable.finish(writable.look("e/file"))
    os.link(writable.source / "e" / "file", tmp_path / "outside")
    shipments = len(writable.shipments)
    writable.unwatched.add_file(writable.identity(b"e/file"), writable.inode("e/file").number)
    left = writable.look()
    assert left.changed == {writable.identity(b"e/file")}
    writable.finish(left)
    assert len(writable.shipments) == shipments


def test_a_file_that_is_still_to_follow_the_log_is_waited_for(writable: Writable) -> None:
    """What is said of it would be void, again and again, while somebody writes."""
    os.link(writable.source / "e" / "file", writable.source / UNKNOWN)
    number = writable.inode("e/file").number
    writable.do(Write(*writable.head(), b"/data/e/file", 0, content(b"MADE")))
    writable.unwatched.add_file(writable.identity(b"e/file"), number)
    writable.as_of = writable.operated - 1
    left = writable.look()
    assert not left.again
    writable.as_of = writable.operated
    assert writable.look().again.strays == {writable.identity(b"e/file"): {WHOLE}}


def test_a_file_that_the_log_takes_for_another_one_by_then_is_read(writable: Writable) -> None:
    """A report by its other name was on its way when it was found that the log knew it by its first."""
    writable.finish(writable.look("e/file"))
    number, identity = writable.inode("e/file").number, writable.identity(b"e/file")
    os.link(writable.source / "e" / "file", writable.source / UNKNOWN)
    held: list[Any] = []
    writable.rounds.look(Work({writable.inode("d").number: {b"second"}}, set(), set(), {}, {}), held.append)
    writable.do(Write(*writable.head(), b"/data/e/file", 0, content(b"MADE")))
    with (writable.source / "e" / "file").open("r+b") as file:
        file.write(b"MADE")
    writable.unwatched.add_file(identity, number)
    left = writable.look()
    assert left.again.strays == {identity: {WHOLE + b"%d" % number}}
    writable.do(Rename(*writable.head(), b"/data/empty", b"/data/e/file", RenameFlag(0)))
    os.rename(writable.source / "empty", writable.source / "e" / "file")
    for shipment in held:
        writable.ship(shipment)
    assert writable.inode(UNKNOWN).number != number
    writable.finish(left)
    writable.glance((number, "e/file"), (number, "empty"))
    writable.finish(writable.look("d/"))
    writable.assert_same()


def test_other_objects_with_several_names(writable: Writable) -> None:
    """They have no bytes to be read: their names are looked at."""
    writable.finish(writable.look("fifo"))
    os.chmod(writable.source / "fifo", 0o600)
    writable.finish(writable.look(strays={writable.identity(b"fifo"): {WHOLE}}))
    writable.assert_same()


def test_a_name_in_another_directory_than_the_log_meant(writable: Writable) -> None:
    """A program had moved it there, and moved it on before anybody looked: the log has it at its first place."""
    os.rename(writable.source / "e", writable.source / "aside")
    os.rename(writable.source / "d", writable.source / "e")
    handle = writable.identity(b"e")
    writable.do(Put(*writable.head(), b"/data/e/new", 0o644, 0, 0, content(b"operation's")))
    (writable.source / "e" / "new").write_bytes(b"operation's")
    os.rename(writable.source / "e", writable.source / "d")
    os.rename(writable.source / "aside", writable.source / "e")
    writable.unwatched.add_place(handle, b"e", b"new")
    writable.glance((writable.inode("e/new").number, "e/new"))
    assert writable.has("d/new")
    writable.finish(writable.look("e/"))
    writable.assert_same()


@pytest.mark.parametrize("is_known", [False, True])
def test_a_name_where_the_log_meant_it_is_not_looked_at(writable: Writable, is_known: bool) -> None:
    if is_known:
        writable.finish(writable.look("e"))
    assert bool(writable.inode("e").identity) == is_known
    writable.unwatched.add_place(writable.identity(b"e"), b"e", b"file")
    shipments = len(writable.shipments)
    assert not writable.look().again
    assert len(writable.shipments) == shipments


def test_a_name_in_a_directory_whose_listing_is_on_its_way(writable: Writable) -> None:
    """The listing may be older."""
    new = writable.source / "new"
    new.mkdir()
    held: list[Any] = []
    writable.look("new")
    writable.rounds.scan([writable.inode("new").number], held.append)
    (new / "f").write_bytes(b"operation's")
    writable.unwatched.add_place(writable.identity(b"new"), b"e", b"f")
    left = writable.look()
    for shipment in held:
        writable.ship(shipment)
    writable.finish(left)
    assert writable.has("new/f")
    writable.finish(writable.look("new/"))
    writable.assert_same()


def test_a_name_that_no_operation_has_given(writable: Writable) -> None:
    os.rename(writable.source / "e" / "file", writable.source / "d" / "file.lddp-1")
    writable.unwatched.add_path(b"d/file.lddp-1")
    writable.finish(writable.look("e/file"))
    assert writable.has("d/file.lddp-1")
    writable.assert_same()


def test_after_more_than_can_be_remembered_everything_is_compared(writable: Writable) -> None:
    observer = observer_of(writable)
    left = writable.look()
    observer._finish(set(), left)
    assert not observer.dirty
    observer._finish(set(), left._replace(lost=True))
    assert {writable.inode(path).number for path in ("", "d", "d/deep", "e", "e/f")} <= observer.dirty.compare


def test_what_is_on_its_way_to_the_log_is_read_again_behind_it(writable: Writable) -> None:
    observer = observer_of(writable)
    one = observer.backlog.begin(set())
    left: Leftover = writable.look()
    observer._finish(set(), left._replace(changed=frozenset({b"\x01handle"})))
    observer.backlog.end(one)
    assert observer._changed_since == {b"\x01handle"}
