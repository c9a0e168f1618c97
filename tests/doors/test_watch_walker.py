"""Placing watches while places are out of date: the events of renames were not read yet."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lddp.doors.watch import kernel
from lddp.doors.watch.tree import Node, Tree
from lddp.doors.watch.walker import Stale, Walker
from lddp.errors import ZoneError
from tests.dead_mount import dead_mount


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("a/deep", "b"):
            (root / name).mkdir(parents=True)
        self.descriptor = kernel.inotify_init()
        self.walker = Walker(self.descriptor, bytes(root))
        self.walker.walk(lambda _: None)
        self.found: list[Node] = []

    def node(self, name: str) -> Node:
        return self.walker.tree.root.children[os.fsencode(name)]

    def close(self) -> None:
        self.walker.close()
        os.close(self.descriptor)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "source")
    yield made
    made.close()


def test_new_directory_is_found_with_all_below_it(place: Place) -> None:
    (place.root / "a/new/below").mkdir(parents=True)
    place.walker.enter(place.node("a"), b"new", place.found.append)
    assert [node.name for node in place.found] == [b"new", b"below"]
    assert not place.walker.owed


def test_directory_that_was_moved_unseen_is_owed_until_a_walk_finds_it(place: Place) -> None:
    moved = place.node("a")
    os.rename(place.root / "a", place.root / "b/c")
    (place.root / "b/c/new").mkdir()
    with pytest.raises(Stale):
        place.walker.enter(moved, b"new", place.found.append)
    assert place.walker.owed == {moved}
    place.walker.walk(place.found.append)
    assert [node.name for node in place.found] == [b"new"]
    assert place.walker.tree.path(place.found[0]) == [b"b", b"c", b"new"]
    assert not place.walker.owed


def test_another_directory_at_the_place_is_not_taken_for_the_one_that_was_there(place: Place) -> None:
    first, second = place.node("a"), place.node("b")
    os.rename(place.root / "a", place.root / "x")
    os.rename(place.root / "b", place.root / "a")
    (place.root / "a/new").mkdir()
    with pytest.raises(Stale):
        place.walker.enter(first, b"new", place.found.append)
    place.walker.walk(place.found.append)
    assert place.found[0].parent is second
    assert place.walker.tree.path(first) == [b"x"]


def test_directory_that_is_not_met_is_adrift_and_can_be_forgotten(place: Place, tmp_path: Path) -> None:
    gone = place.node("a")
    os.rename(place.root / "a", tmp_path / "elsewhere")
    place.walker.walk(place.found.append)
    assert place.walker.tree.adrift == {gone}
    place.walker.forget(gone)
    assert not place.walker.tree.adrift
    assert set(place.walker.tree.root.children) == {b"b"}


def test_place_below_itself_is_refused() -> None:
    root, above, below = Node(1, b"1"), Node(2, b"2"), Node(3, b"3")
    tree = Tree(root)
    tree.add(above)
    tree.add(below)
    assert tree.place(above, root, b"above")
    assert tree.place(below, above, b"below")
    assert not tree.place(above, below, b"loop")
    assert tree.path(below) is None
    assert tree.adrift == {above}


def test_wide_tree_needs_few_open_directories(place: Place) -> None:
    for outer in range(200):
        (place.root / f"wide{outer}" / "inner").mkdir(parents=True)
    place.walker.walk(place.found.append)
    assert len(place.found) == 400
    assert len(os.listdir("/proc/self/fd")) < 100


def test_interrupted_descent_is_owed_and_goes_on_where_it_stopped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for outer in range(3):
        (place.root / f"a/new/{outer}/inner").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    real, allowed = kernel.inotify_watch, 5

    def refuse_after_some(descriptor: int, directory: int, mask: int) -> int:
        nonlocal allowed
        allowed -= 1
        if allowed < 0:
            raise OSError(errno.ENOSPC, "no space")
        return real(descriptor, directory, mask)

    monkeypatch.setattr(kernel, "inotify_watch", refuse_after_some)
    with pytest.raises(ZoneError, match=r"fs\.inotify\.max_user_watches"):
        place.walker.enter(place.node("a"), b"new", place.found.append)
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.setattr(kernel, "inotify_watch", real)
    for node in list(place.walker.owed):
        place.walker.relist(node, place.found.append)
    assert not place.walker.owed
    assert sorted(node.name for node in place.found) == [b"0", b"1", b"2", b"inner", b"inner", b"inner", b"new"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_mount_whose_server_has_died_is_not_entered(place: Place) -> None:
    (place.root / "mnt").mkdir()
    with dead_mount(place.root / "mnt"):
        place.walker.relist(place.walker.tree.root, place.found.append)
        place.walker.walk(place.found.append)
    assert not place.found
    assert not place.walker.owed
