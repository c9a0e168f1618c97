"""The marks of what was done, in a file that a killed process leaves behind."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lddp.replay import progress as module
from lddp.replay.progress import Progress
from tests.replay.bench import Killed


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
    first.reset({(45, 1), (49, 1)})
    second = reopened(path)
    assert second.done == {(45, 1), (49, 1)}
    second.mark((50, 0))
    assert reopened(path).done == {(45, 1), (49, 1), (50, 0)}


def test_a_full_disk_does_not_keep_another_boot_from_making_marks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Progress(path)
    first.mark((4, 0))

    def full(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(module, "boot_id", lambda: b"another".ljust(36))
    second = reopened(path)
    assert not second.survived
    second.mark((2, 0))
    assert reopened(path).done == {(2, 0)}
    assert os.listdir(os.path.dirname(path)) == ["progress"]
    with pytest.raises(OSError, match="No space"):
        Progress(path + "-of-nobody")
    assert os.listdir(os.path.dirname(path)) == ["progress"]


def test_marks_of_another_boot_are_not_trusted(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Progress(path)
    first.reset({(9, 0)})
    first.mark((4, 0))
    monkeypatch.setattr(module, "boot_id", lambda: b"another".ljust(36))
    second = reopened(path)
    assert not second.survived
    assert second.done == set()
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
    second.reset(second.done - {(1, 0)})
    assert second.room >= 8
    for gsn in range(9, 17):
        second.mark((gsn, 0))
    assert reopened(path).done == {(gsn, 0) for gsn in range(2, 17)}


def test_marks_of_files_that_are_withheld(path: str) -> None:
    first = Progress(path)
    first.mark((1, 0))
    first.mark((2, 1 << 19), withheld=True)
    first.mark((2**42 - 1, 3), withheld=True)
    first.reset(first.withheld | {(1, 0)})
    second = reopened(path)
    assert second.done == {(1, 0), (2, 1 << 19), (2**42 - 1, 3)}
    assert second.withheld == {(2, 1 << 19), (2**42 - 1, 3)}
    second.reset({(1, 0), (2**42 - 1, 3)})
    assert reopened(path).withheld == {(2**42 - 1, 3)}


def test_what_was_begun_and_perhaps_done(path: str) -> None:
    first = Progress(path)
    first.begin((1, 0))
    first.mark((1, 0))
    first.begin((2, 0))  # refused
    first.mark((3, 0))
    first.begin((4, 7))
    second = reopened(path)
    assert (second.done, second.begun) == ({(1, 0), (3, 0)}, {(4, 7)})
    second.begin((5, 0))
    third = reopened(path)
    assert third.begun == {(4, 7), (5, 0)}
    third.reset({(3, 0)})
    third.mark((4, 7))
    assert third.begun == {(5, 0)}
    fourth = reopened(path)
    assert (fourth.done, fourth.begun) == ({(3, 0), (4, 7)}, {(5, 0)})


class Fatal(set[tuple[int, int]]):
    """The process is killed while these marks are made anew."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        raise Killed


@pytest.mark.parametrize("capacity", [8, 65_536])
def test_a_kill_while_the_marks_are_made_anew(path: str, monkeypatch: pytest.MonkeyPatch, capacity: int) -> None:
    """With the smaller one the file has to grow, too."""
    monkeypatch.setattr(module, "MARKS_MAX", capacity)
    first = Progress(path)
    marks = {(gsn, 1) for gsn in range(1, 9)}
    for order in sorted(marks):
        first.mark(order)
    with pytest.raises(Killed):
        first.reset(Fatal(marks - {(1, 1)}))
    second = reopened(path)
    assert second.survived and second.done == marks


class ClosedMeanwhile(mmap.mmap):
    """Whose owner closes it between the look whether it is open and a byte's coming."""

    def __setitem__(self, at: int | slice, data: int | bytes) -> None:  # type: ignore[override]
        if isinstance(at, int):
            self.close()
        super().__setitem__(at, data)  # type: ignore[assignment, index]


def test_writes_are_lost_in_the_moment_of_the_end(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sync that says it runs in a thread of its own."""
    monkeypatch.setattr(mmap, "mmap", ClosedMeanwhile)
    first = Progress(path)
    first.lost(True)
    monkeypatch.undo()
    assert reopened(path).has_lost


def test_the_file_is_private(path: str) -> None:
    Progress(path).close()
    assert os.stat(path).st_mode & 0o077 == 0
    assert len(module.boot_id()) == 36
