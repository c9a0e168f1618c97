"""What is opened for a transfer that is given up at that moment, or cannot begin, is closed."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lddp.content.arrival import Arrival
from lddp.content.disk import DiskThreads
from lddp.content.frames import Connection, Type, Wanted

from .world import World, content_of, put, until

DATA = os.urandom(200_000)


class Opening:
    """Work of a thread that waits until it may go on. `made` is what it gave."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.made: list[Any] = []
        self._work = work

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        self.begun.set()
        assert self.go_on.wait(10)
        self.made.append(self._work(*arguments, **more))
        return self.made[-1]

    async def given_up(self, who: asyncio.Task[Any]) -> None:
        """Whoever waits for it is cancelled before it comes to its end."""
        await until(self.begun.is_set)
        who.cancel()
        await asyncio.sleep(0)
        assert not who.done(), "a thread cannot be stopped"
        self.go_on.set()
        with suppress(asyncio.CancelledError):
            await who


@pytest.mark.parametrize("fails", [False, True])
async def test_what_nobody_takes_is_dropped(fails: bool) -> None:
    disk, dropped = DiskThreads(1), list[int]()

    def drop(number: int) -> None:
        dropped.append(number)
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert await disk.make(drop, int, "1") == 1 and not dropped
    opening = Opening(int)
    await opening.given_up(asyncio.ensure_future(disk.make(drop, opening, "2")))
    assert dropped == [2]
    opening = Opening(int)
    await opening.given_up(asyncio.ensure_future(disk.make(drop, opening, "no number")))
    assert dropped == [2] and not opening.made
    disk.close()


async def test_a_pull(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a = await world.node("a")
    opening = Opening(a.store.part)
    monkeypatch.setattr(a.store, "part", opening)
    await opening.given_up(asyncio.ensure_future(a.store.fetch(content_of(DATA), 1, ["b"])))
    part: Arrival = opening.made[0]
    assert part.descriptor == -1 and a.names("parts"), "what had come of it is kept"


async def test_a_push_at_its_taker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    b = await world.node("b")
    opening = Opening(b.store.arrival)
    monkeypatch.setattr(b.store, "arrival", opening)
    connection = Connection(*await world.connect("b"), "b")
    await connection.send(Type.PUSH_BEGIN, 1, len(DATA))
    (serving,) = await served(world)
    await opening.given_up(serving)
    arrival: Arrival = opening.made[0]
    assert arrival.descriptor == -1 and not b.names("incoming")
    connection.abort()


async def test_a_pull_at_its_giver(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    b = await world.node("b")
    content = put(b.store, DATA)
    opening = Opening(b.store.held_as)
    monkeypatch.setattr(b.store, "held_as", opening)
    connection = Connection(*await world.connect("b"), "b")
    await connection.send(Type.PULL, 1, 0, [Wanted(content, 1).pack()])
    (serving,) = await served(world)
    await opening.given_up(serving)
    assert not is_open(b.directory / "store" / "blobs" / content.digest.hex())
    connection.abort()


async def served(world: World) -> list[asyncio.Task[None]]:
    node = world.nodes["b"]
    await until(lambda: bool(node._serving))
    return list(node._serving)


def is_open(path: Path) -> bool:
    """Whether this process has the file open."""
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            if one.samefile(path):
                return True
    return False


async def test_a_push_that_cannot_begin_for_all_peers(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No descriptor is left for the second one."""
    a, _, _ = [await world.node(name) for name in "abc"]
    path = tmp_path / "file"
    path.write_bytes(DATA)
    descriptor = os.open(path, os.O_RDONLY)
    honest, left = os.dup, [1]

    def dup(number: int) -> int:
        if not left:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        left.pop()
        return honest(number)

    before = asyncio.all_tasks()
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", dup)
        with pytest.raises(OSError, match="Too many open files"):
            await a.pusher.push_file(descriptor, len(DATA), True, ["b", "c"])
    os.close(descriptor)
    assert asyncio.all_tasks() == before
    assert not is_open(path)
