"""The marks of what was done, in a file that a killed process leaves behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lddp.replay import progress as module
from lddp.replay.progress import Progress


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "progress")


def reopened(path: str) -> Progress:
    """As the next process finds it; the one before was not closed."""
    return Progress(path)


def test_marks_survive_the_process(path: str) -> None:
    first = Progress(path)
    assert not first.survived
    first.mark((1, 0))
    first.mark((7, 3))
    second = reopened(path)
    assert second.survived
    assert second.done == {(1, 0), (7, 3)}
    second.mark((8, 0))
    assert reopened(path).done == {(1, 0), (7, 3), (8, 0)}


def test_a_reset_keeps_what_is_beyond_it(path: str) -> None:
    first = Progress(path)
    for gsn in range(1, 50):
        first.mark((gsn, 1))
    first.reset((40, 0), {(45, 1), (49, 1)})
    second = reopened(path)
    assert (second.base, second.done) == ((40, 0), {(45, 1), (49, 1)})
    second.mark((50, 0))
    assert reopened(path).done == {(45, 1), (49, 1), (50, 0)}


def test_marks_of_another_boot_are_not_trusted(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Progress(path)
    first.reset((3, 0), {(9, 0)})
    first.mark((4, 0))
    monkeypatch.setattr(module, "boot_id", lambda: b"another".ljust(36))
    second = reopened(path)
    assert not second.survived
    assert (second.base, second.done) == ((0, 0), set())
    second.mark((2, 0))
    third = reopened(path)
    assert third.survived
    assert third.done == {(2, 0)}


@pytest.mark.parametrize("damage", ["empty", "short", "odd", "noise"])
def test_a_file_that_is_not_ours_is_made_anew(path: str, damage: str) -> None:
    size = 0
    if damage != "empty":
        Progress(path).mark((5, 0))
        size = os.path.getsize(path)
    content = {"empty": b"", "short": bytes(100), "odd": bytes(size + 5), "noise": b"\xa5" * size}[damage]
    Path(path).write_bytes(content)
    found = Progress(path)
    assert (found.survived, found.done) == (False, set())
    found.mark((6, 0))
    assert reopened(path).done == {(6, 0)}


def test_a_full_file(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MARKS_MAX", 8)
    first = Progress(path)
    assert first.room == 8
    for gsn in range(1, 9):
        first.mark((gsn, 0))
    assert first.room == 0
    second = reopened(path)
    assert (second.room, len(second.done)) == (0, 8)
    second.reset((1, 0), second.done - {(1, 0)})
    assert second.room >= 8
    for gsn in range(9, 17):
        second.mark((gsn, 0))
    assert reopened(path).done == {(gsn, 0) for gsn in range(2, 17)}


def test_the_file_is_private(path: str) -> None:
    Progress(path).close()
    assert os.stat(path).st_mode & 0o077 == 0
    assert len(module.boot_id()) == 36
