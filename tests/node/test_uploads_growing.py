"""Large uploads, which are pushed while they come: between real stores, over real unix sockets."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lddp.content import growing
from lddp.content.store import Store
from lddp.errors import UnavailableError
from lddp.node.uploads import GROW_FROM_BYTES, Upload
from tests.content.world import Node, World, content_of, read, until
from tests.fakes.memory import MemoryKeyValue
from tests.node.test_uploads import rule

MIB = 1 << 20
DATA = os.urandom(8 * MIB + 5)


class Zones:
    """A node that takes uploads, and two others."""

    def __init__(self, world: World, a: Node, b: Node, c: Node, threads: ThreadPoolExecutor) -> None:
        self.world, self.a, self.b, self.c = world, a, b, c
        self.node: Any = SimpleNamespace(
            store=a.store,
            environment=MemoryKeyValue(),
            threads=threads,
            pusher=a.pusher,
            gateway=SimpleNamespace(zone=0),
            peers_of=lambda rule: ["b", "c"][: len(rule.members) - 1],
        )

    def upload(self, zones: int = 3) -> Upload:
        return Upload(self.node, rule(zones))

    def nothing(self) -> bool:
        """Whether no store has anything."""
        return not any(node.names(folder) for node in (self.a, self.b, self.c) for folder in ("blobs", "incoming"))


@pytest.fixture
async def zones(tmp_path: Path) -> AsyncIterator[Zones]:
    world = World(tmp_path)
    with ThreadPoolExecutor(1) as threads:
        yield Zones(world, *[await world.node(name) for name in "abc"], threads)
        await world.close()


def incoming(node: Node) -> int:
    return sum(path.stat().st_size for path in (node.directory / "store" / "incoming").iterdir())


async def write(upload: Upload, data: bytes = DATA) -> None:
    for at in range(0, len(data), 300_000):
        await upload.write(data[at : at + 300_000])


async def test_bytes_are_elsewhere_before_the_end(zones: Zones) -> None:
    upload = zones.upload()
    await write(upload)
    await until(lambda: min(incoming(zones.b), incoming(zones.c)) >= len(DATA) - 3 * MIB)
    content = await upload.commit()
    upload.used()
    assert content == content_of(DATA)
    await until(lambda: all(node.names("blobs") for node in (zones.b, zones.c)))
    for node in (zones.a, zones.b, zones.c):
        assert read(node.store, content) == DATA and not node.names("incoming")
        assert node.traffic["client"].received in (0, len(DATA)), "a byte crosses once"


async def test_small_ones_are_pushed_at_their_end(zones: Zones) -> None:
    upload = zones.upload()
    await write(upload, DATA[:GROW_FROM_BYTES])
    assert not incoming(zones.b) and not zones.b.accepted
    await upload.commit()
    assert zones.b.names("blobs") or zones.c.names("blobs")


async def test_bytes_written_again(zones: Zones) -> None:
    upload = zones.upload()
    await write(upload)
    await upload.rewrite(10, b"again")
    await upload.rewrite(len(DATA) - 2, b"!!")
    expected = DATA[:10] + b"again" + DATA[15:-2] + b"!!"
    content = await upload.commit()
    assert content == content_of(expected)
    await until(lambda: all(node.names("blobs") for node in (zones.b, zones.c)))
    for node in (zones.a, zones.b, zones.c):
        assert read(node.store, content) == expected


async def test_bytes_written_again_before_it_grows_cross_once(zones: Zones) -> None:
    """What was written last is in memory still as it was before."""
    data = bytearray(DATA)
    upload = zones.upload()
    for at in range(0, GROW_FROM_BYTES, MIB):
        await upload.write(bytes(data[at : at + MIB]))
    at = GROW_FROM_BYTES - 100
    data[at : at + 5] = b"again"
    await upload.rewrite(at, b"again")
    await write(upload, bytes(data[GROW_FROM_BYTES:]))
    content = await upload.commit()
    assert content == content_of(bytes(data))
    await until(lambda: all(node.names("blobs") for node in (zones.b, zones.c)))
    for node in (zones.b, zones.c):
        assert read(node.store, content) == data
        assert node.traffic["client"].received == len(data)


async def test_one_that_is_given_up_half_way_leaves_nothing(zones: Zones) -> None:
    upload = zones.upload()
    await write(upload)
    await until(lambda: bool(incoming(zones.b) and incoming(zones.c)))
    await upload.abort()
    await until(zones.nothing)


@pytest.mark.parametrize("members", [2, 3])
async def test_one_whose_record_is_refused_leaves_nothing(zones: Zones, members: int) -> None:
    upload = zones.upload(members)
    await write(upload)
    await upload.commit()
    await upload.abort()
    await until(zones.nothing)


async def test_one_that_cannot_be_kept_here_leaves_nothing_elsewhere(
    zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have got all of it by then."""
    honest = Store.publish

    def publish(self: Store, *arguments: Any, **more: Any) -> None:
        if self is zones.a.store:
            raise OSError(errno.EIO, "broken")
        honest(self, *arguments, **more)

    monkeypatch.setattr(Store, "publish", publish)
    upload = zones.upload()
    await write(upload)
    with pytest.raises(OSError, match="broken"):
        await upload.commit()
    await until(lambda: bool(zones.b.names("blobs") and zones.c.names("blobs")))
    await upload.abort()
    await until(zones.nothing)


async def test_who_was_down_gets_it_at_the_end(zones: Zones) -> None:
    zones.world.refusing |= {"b", "c"}
    upload = zones.upload()
    await write(upload)
    with pytest.raises(UnavailableError):
        await upload.commit()
    zones.world.refusing.clear()
    zones.world.clock.now += 60
    content = await upload.commit()
    assert any(node.store.open(content) is not None for node in (zones.b, zones.c))


async def test_one_of_two_zones_waits_for_nobody(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "WINDOW_BYTES", MIB)
    gate, connect = asyncio.Event(), zones.world.connect

    async def gated(peer: str):  # type: ignore[no-untyped-def]
        await gate.wait()
        return await connect(peer)

    zones.a.connections._connect = gated
    upload = zones.upload(2)
    await write(upload)
    content = await upload.commit()
    assert zones.b.store.open(content) is None
    gate.set()
    await until(lambda: zones.b.store.open(content) is not None)


async def test_more_at_once_than_grow(zones: Zones) -> None:
    uploads = [zones.upload() for _ in range(6)]
    for number, upload in enumerate(uploads):
        await write(upload, DATA + bytes([number]))
    contents = await asyncio.gather(*(upload.commit() for upload in uploads))
    assert contents == [content_of(DATA + bytes([number])) for number in range(6)]
    for upload in uploads:
        await upload.abort()
    await until(zones.nothing)
