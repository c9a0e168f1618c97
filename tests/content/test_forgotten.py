"""What is pushed for an upload that is given up meanwhile goes, in whatever order the push and the word of it come."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lddp.content import forgotten
from lddp.content.forgotten import Forgotten
from lddp.content.push import Pushed
from lddp.content.store import Store

from .world import Node, World, content_of, until

DATA = os.urandom(200_000)
UPLOAD, OTHER = bytes(15) + b"1", bytes(15) + b"2"


class Slow:
    """A node's store, which stores nothing before it is told to go on."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Semaphore(0), threading.Event()
        honest = Store.publish

        def publish(store: Store, *arguments: object, **more: object) -> None:
            if store is node.store:
                self.entered.release()
                assert self.go_on.wait(10)
            honest(store, *arguments, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(Store, "publish", publish)

    async def storing(self) -> None:
        """Until one more is about to be stored."""
        await until(lambda: self.entered.acquire(blocking=False))


@contextmanager
def opened(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(DATA)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def push(node: Node, descriptor: int, upload: bytes) -> asyncio.Task[Pushed]:
    return asyncio.create_task(node.pusher.push_file(descriptor, len(DATA), True, ["b"], upload=upload))


async def give_up(node: Node, pushing: asyncio.Task[Pushed], upload: bytes) -> None:
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    await forget(node, upload)


async def forget(node: Node, upload: bytes) -> None:
    """Returns when the peer has answered."""
    node.pusher.forget(content_of(DATA).digest, upload, ["b"])
    await until(lambda: not node.pusher._forgetting)


@pytest.mark.parametrize("recent_max", [0, forgotten.RECENT_MAX])
async def test_what_is_given_up_while_it_is_stored_goes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recent_max: int
) -> None:
    """Also where many others are given up meanwhile; and where an earlier push for it breaks off."""
    monkeypatch.setattr(forgotten, "RECENT_MAX", recent_max)
    a, b = await world.node("a"), await world.node("b")
    slow = Slow(b, monkeypatch)
    with opened(tmp_path) as descriptor:
        pushes = [push(a, descriptor, UPLOAD) for _ in range(2)]
        for _ in pushes:
            await slow.storing()
        for pushing in pushes:
            await give_up(a, pushing, UPLOAD)
        slow.go_on.set()
        await until(lambda: not b.names("incoming"))
        await a.connections.close()
        await b.idle()
    assert not b.names("blobs")


async def test_what_is_given_up_before_it_is_read_is_refused(world: World, tmp_path: Path) -> None:
    a, b = await world.node("a"), await world.node("b")
    await forget(a, UPLOAD)
    with opened(tmp_path) as descriptor:
        assert not (await push(a, descriptor, UPLOAD)).peers
        assert not b.names("blobs") and not b.names("incoming")
        assert (await push(a, descriptor, OTHER)).peers == {"b"}
    assert b.names("blobs")


async def test_equal_bytes_of_another_upload_stay(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await world.node("a"), await world.node("b")
    slow = Slow(b, monkeypatch)
    with opened(tmp_path) as descriptor:
        given_up, wanted = push(a, descriptor, UPLOAD), push(a, descriptor, OTHER)
        for _ in range(2):
            await slow.storing()
        await give_up(a, given_up, UPLOAD)
        slow.go_on.set()
        assert (await wanted).peers == {"b"}
        await until(lambda: not b.names("incoming"))
    assert b.names("blobs")
    await forget(a, OTHER)
    assert not b.names("blobs")


def test_nothing_is_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgotten, "RECENT_MAX", 2)
    ones = Forgotten()
    names = [bytes([number]) for number in range(4)]
    with ones.push(names[0]), ones.push(names[1]):
        with pytest.raises(OSError), ones.push(names[0]):
            ones.add(names[0])
            raise OSError
        for name in names[2:]:
            ones.add(name)
        assert names[0] in ones, "the other push of it is still on its way"
        assert names[1] not in ones
    assert [name in ones for name in names] == [False, False, True, True]
    assert not ones._under_way and not ones._marked
