"""A mirror that looks only at what events name equals the tree after a storm of changes."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lddp.doors.watch import Event, FanotifyWatcher, Flag, InotifyWatcher, Overflow, Watcher
from tests.doors.watching import DEADLINE_S, Mirror, handle_of, tree_of, until

Make = Callable[[Path, Mirror], Watcher]
OPERATIONS = 600
MOVED = 100
"""So many that one of them meets the order that matters: what is owed has none."""


def fanotify(root: Path, mirror: Mirror) -> Watcher:
    return FanotifyWatcher(os.fsencode(root), accept=mirror.accept, own_changes=True)


def inotify(root: Path, mirror: Mirror) -> Watcher:
    return InotifyWatcher(os.fsencode(root))


WATCHERS = [
    pytest.param(fanotify, id="fanotify", marks=pytest.mark.skipif(os.geteuid() != 0, reason="fanotify needs root")),
    pytest.param(inotify, id="inotify"),
]


class Storm:
    """Random changes below `root`, and moves out to and in from `outside`."""

    def __init__(self, root: Path, outside: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = root
        self.outside = outside
        self.count = 0

    def run(self, operations: int) -> None:
        operations_known = [self.make, self.make, self.fill, self.write, self.write, self.move, self.move, self.leave]
        operations_known += [self.come_in, self.remove, self.link, self.chmod, self.nest, self.replace]
        for _ in range(operations):
            operation = self.random.choice(operations_known)
            try:
                operation()
            except OSError:
                # Another thread was there first; what it did is an event as well.
                continue

    def directory(self) -> Path:
        """A random one: a walk down that may stop anywhere."""
        at = self.root
        while self.random.random() < 0.7:
            below = sorted(entry.name for entry in os.scandir(at) if entry.is_dir(follow_symlinks=False))
            if not below:
                break
            at = at / self.random.choice(below)
        return at

    def some(self) -> Path:
        at = self.directory()
        return at / self.random.choice(sorted(os.listdir(at)) or ["none"])

    def name(self) -> str:
        return f"n{self.random.randrange(12)}"

    def make(self) -> None:
        os.mkdir(self.directory() / self.name())

    def nest(self) -> None:
        path = self.directory().joinpath(*(self.name() for _ in range(4)))
        os.makedirs(path)
        (path / "leaf").write_text(str(path))

    def fill(self) -> None:
        at = self.directory()
        for _ in range(5):
            (at / self.name()).write_bytes(self.random.randbytes(20))

    def write(self) -> None:
        with open(self.some(), "ab") as file:
            file.write(self.random.randbytes(3))

    def replace(self) -> None:
        at = self.directory()
        (at / "new").write_bytes(self.random.randbytes(9))
        os.rename(at / "new", self.some())

    def move(self) -> None:
        os.rename(self.some(), self.directory() / self.name())

    def leave(self) -> None:
        self.count += 1
        os.rename(self.some(), self.outside / f"{threading.get_ident()}-{self.count}")

    def come_in(self) -> None:
        os.rename(
            self.outside / self.random.choice(os.listdir(self.outside) or ["none"]), self.directory() / self.name()
        )

    def remove(self) -> None:
        path = self.some()
        if path.is_dir() and not path.is_symlink():
            os.rmdir(path)
        else:
            os.unlink(path)

    def link(self) -> None:
        if self.random.random() < 0.5:
            os.link(self.some(), self.directory() / self.name(), follow_symlinks=False)
        else:
            os.symlink(self.name(), self.directory() / self.name())

    def chmod(self) -> None:
        path = self.some()
        if not path.is_symlink():
            os.chmod(path, self.random.choice([0o700, 0o711, 0o755]))


async def mirrored(make: Make, tmp_path: Path, change: Callable[[Path, Path], None]) -> Mirror:
    root, outside = tmp_path / "source", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "n1" / "n2").mkdir(parents=True)
    mirror = Mirror(os.fsencode(root))
    watcher = make(root, mirror)
    await watcher.start()
    mirror.list(mirror.top)
    async with asyncio.timeout(DEADLINE_S):
        changing = asyncio.ensure_future(asyncio.to_thread(change, root, outside))

        async def consume() -> None:
            while True:
                mirror.take(await watcher.batch())

        consuming = asyncio.ensure_future(consume())
        await changing
        await watcher.settle()
        consuming.cancel()
        await asyncio.wait([consuming])
    await watcher.stop()
    assert mirror.tree() == tree_of(mirror.root)
    return mirror


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("make", WATCHERS)
async def test_mirror_equals_the_tree_after_a_storm(make: Make, seed: int, tmp_path: Path) -> None:
    def change(root: Path, outside: Path) -> None:
        storms = [Storm(root, outside, seed * 10 + number) for number in range(3)]
        threads = [threading.Thread(target=storm.run, args=(OPERATIONS,)) for storm in storms]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    mirror = await mirrored(make, tmp_path, change)
    assert mirror.overflows == 0


def test_a_look_that_waits_for_another_one_is_made_after_it(tmp_path: Path) -> None:
    """Directories are moved, and what they were moved from and to is moved as well before the mirror hears of it."""
    root = os.fsencode(tmp_path)
    for number in range(MOVED):
        for name in ("from", "to"):
            (tmp_path / "top" / f"{number}" / name).mkdir(parents=True)
        (tmp_path / "top" / f"{number}" / "from" / "d").mkdir()
    mirror = Mirror(root)
    mirror.list(mirror.top)
    events: list[Event | Overflow] = []
    for number in range(MOVED):
        at = tmp_path / "top" / f"{number}"
        before, after, moved = (handle_of(os.fsencode(path)) for path in (at / "from", at / "to", at / "from" / "d"))
        os.rename(at / "from" / "d", at / "to" / "d")
        (at / "to" / "d" / "file").touch()
        events.append(Event(before, b"d", moved, Flag.MOVED, after, b"d"))
        events.append(Event(moved, b"file", b"", Flag.CREATED))
    top = handle_of(os.fsencode(tmp_path / "top"))
    (tmp_path / "new").mkdir()
    os.rename(tmp_path / "top", tmp_path / "new" / "top")
    mirror.take(events)
    new = handle_of(os.fsencode(tmp_path / "new"))
    mirror.take([Event(mirror.top, b"new", new, Flag.CREATED), Event(mirror.top, b"top", top, Flag.MOVED, new, b"top")])
    assert mirror.tree() == tree_of(root)
    assert not mirror.owed


@pytest.mark.parametrize("make", WATCHERS)
async def test_nested_new_directories_filled_at_once_are_not_missed(make: Make, tmp_path: Path) -> None:
    def fill(root: Path) -> None:
        for outer in range(20):
            deep = root.joinpath(*(f"{outer}.{level}" for level in range(8)))
            os.makedirs(deep)
            at = deep
            while at != root.parent:
                (at / "file").write_text(str(at))
                at = at.parent

    def change(root: Path, outside: Path) -> None:
        threads = [threading.Thread(target=fill, args=(root / f"{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    mirror = await mirrored(make, tmp_path, change)
    assert len(mirror.tree()) >= 4 * 20 * 16


@pytest.mark.parametrize("make", WATCHERS)
async def test_changes_that_were_not_read_before_are_all_found_afterwards(make: Make, tmp_path: Path) -> None:
    root, outside = tmp_path / "source", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    mirror = Mirror(os.fsencode(root))
    watcher = make(root, mirror)
    await watcher.start()
    Storm(root, outside, 7).run(2000)
    # `accept` knows the root only, as the consumer's first listing is still to come.
    mirror.list(mirror.top)
    await until(watcher, watcher.mark(), mirror)
    await watcher.stop()
    assert mirror.tree() == tree_of(mirror.root)
