"""Other names of objects that operations made and that the log does not know by their identity."""

from __future__ import annotations

import os

import pytest

from lddp.core.records import Link, Put
from lddp.migrate import nameless
from lddp.migrate.batch import Shipment
from lddp.migrate.dirty import Work
from tests.core.support import content
from tests.migrate.conftest import root_only
from tests.migrate.writable import Writable

pytestmark = root_only


def glance_at(writable: Writable, path: str) -> None:
    writable.glance((writable.inode(path).number, path))


def link(writable: Writable, path: str, to: str) -> None:
    os.link(writable.source / path, writable.source / to)


def test_a_second_name_that_a_program_gives_to_what_an_operation_made(writable: Writable) -> None:
    glance_at(writable, "e/file")
    assert not writable.inode("e/file").identity, "it is as the log has it: nobody had a reason to report it"
    link(writable, "e/file", "second")
    (writable.source / "second").write_bytes(b"written by its second name")
    writable.finish(writable.look("second"))
    assert writable.inode("e/file").number == writable.inode("second").number
    writable.assert_same()


def test_a_second_name_in_a_directory_that_is_listed(writable: Writable) -> None:
    glance_at(writable, "e/file")
    (writable.source / "new").mkdir()
    link(writable, "e/file", "new/second")
    (writable.source / "e" / "file").write_bytes(b"written by its first name")
    assert not writable.look("new").again
    for left in writable.scan():
        writable.finish(left)
    assert writable.inode("e/file").number == writable.inode("new/second").number
    writable.assert_same()


def test_a_second_name_from_before_it_was_glanced_at(writable: Writable) -> None:
    link(writable, "e/file", "second")
    glance_at(writable, "e/file")
    assert writable.inode("e/file").identity
    writable.finish(writable.look("second"))
    assert writable.inode("e/file").number == writable.inode("second").number
    writable.assert_same()


@pytest.mark.parametrize("is_in_the_log", [True, False])
def test_a_second_name_that_is_met_before_the_first_is_glanced_at(writable: Writable, is_in_the_log: bool) -> None:
    """It has as many names as the log believes, but others."""
    writable.do(Put(*writable.head(), b"/data/made", 0o644, 0, 0, content(b"made")))
    writable.do(Link(*writable.head(), b"/data/made", b"/data/d/link"))
    (writable.source / "made").write_bytes(b"made")
    os.utime(writable.source / "made", ns=(1, 1))
    link(writable, "made", "second")
    held: list[Shipment] = []
    work = Work({writable.inode().number: {b"second"}}, set(), set(), {}, {})
    left = writable.rounds.look(work, writable.ship if is_in_the_log else held.append)
    assert not writable.inode("made").identity
    glance_at(writable, "made")
    for shipment in held:
        writable.ship(shipment)
    writable.finish(writable.look("second") if writable.outcomes[-1].void else left)
    assert writable.inode("made").number == writable.inode("second").number
    writable.finish(writable.look("d/", "e/", ""))
    writable.assert_same()


def test_too_many_to_be_remembered_are_reported(writable: Writable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameless, "NAMELESS_MAX", 0)
    glance_at(writable, "e/file")
    assert writable.inode("e/file").identity == writable.identity(b"e/file")
    writable.assert_same()


def test_what_is_reported_is_remembered_only_until_that_is_in_the_log(writable: Writable) -> None:
    (writable.source / "new").write_bytes(b"new")
    link(writable, "new", "newer")
    writable.rounds._nameless._met.clear()  # of the fixture's scan
    left = writable.look("new", "newer")
    assert left.met == {writable.identity(b"new")}
    assert writable.rounds._nameless._met == left.met
    writable.look()
    assert writable.rounds._nameless._met == left.met, "nobody has said that it is in the log"
    writable.rounds.ended(left)
    writable.look()
    assert writable.rounds._nameless._met == set()
