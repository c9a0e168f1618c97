"""Removing a tree that somebody changes at the worst moments, one moment at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lddp.zones import removal
from lddp.zones.removal import remove_tree


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside" / "a" / "keep").mkdir(parents=True)
    (tmp_path / "outside" / "z" / "keep").mkdir(parents=True)
    return tmp_path / "outside"


def remove(path: Path) -> None:
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        remove_tree(parent, os.fsencode(path.name))
    finally:
        os.close(parent)


def intact(outside: Path) -> bool:
    return (outside / "a" / "keep").is_dir() and (outside / "z" / "keep").is_dir()


def test_directory_becomes_a_symlink_before_it_is_entered(
    root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "t" / "a" / "b").mkdir(parents=True)
    enter = removal._enter

    def swap_then_enter(directory: int, name: bytes) -> int | None:
        if name == b"a" and (root / "t" / "a").is_dir():
            os.rename(root / "t" / "a", root / "moved")
            (root / "t" / "a").symlink_to(outside)
        return enter(directory, name)

    monkeypatch.setattr(removal, "_enter", swap_then_enter)
    remove(root / "t")
    assert intact(outside)
    assert os.listdir(root) == ["moved"]


def test_directory_is_moved_away_while_it_is_emptied(
    root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way up then leads to a directory that has the names still to be removed, but not the one just emptied."""
    for name in ("a", "m", "z"):
        (root / "t" / name / "b").mkdir(parents=True)
    remove_leaves = removal._remove_leaves

    def move_then_remove(directory: int) -> list[bytes]:
        here = Path(os.readlink(f"/proc/self/fd/{directory}"))
        if here == root / "t" / "m":
            os.rename(here, outside / "moved")
        return sorted(remove_leaves(directory), key=lambda name: name == b"m")  # the last is entered first

    monkeypatch.setattr(removal, "_remove_leaves", move_then_remove)
    remove(root / "t")
    assert (outside / "moved").is_dir()
    assert intact(outside)
    assert os.listdir(root) == []


def test_something_is_put_in_while_it_is_emptied(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "t" / "a").mkdir(parents=True)
    (root / "t" / "f").write_bytes(b"")
    remove_leaves = removal._remove_leaves
    added = iter(range(5))

    def remove_then_add(directory: int) -> list[bytes]:
        left = remove_leaves(directory)
        for number in added:
            os.mkdir(f"late{number}", dir_fd=directory)
            break
        return left

    monkeypatch.setattr(removal, "_remove_leaves", remove_then_add)
    remove(root / "t")
    assert os.listdir(root) == []


def test_something_is_put_in_without_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "t" / "a").mkdir(parents=True)
    remove_leaves = removal._remove_leaves

    def remove_then_add(directory: int) -> list[bytes]:
        left = remove_leaves(directory)
        os.mkdir("late", dir_fd=directory)
        return left

    monkeypatch.setattr(removal, "_remove_leaves", remove_then_add)
    with pytest.raises(OSError, match="not empty"):
        remove(root / "t")
