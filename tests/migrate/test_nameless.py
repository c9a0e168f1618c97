"""Other names of objects that operations made and that the log does not know by their identity."""

from __future__ import annotations

import os

import pytest

from lddp.migrate import nameless
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


def test_too_many_to_be_remembered_are_reported(writable: Writable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameless, "NAMELESS_MAX", 0)
    glance_at(writable, "e/file")
    assert writable.inode("e/file").identity == writable.identity(b"e/file")
    writable.assert_same()
