"""Files that are pushed while they are written, between real stores over real unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random

import pytest
from blake3 import blake3

from lddp.content import connections, growing
from lddp.content.arrival import Arrival
from lddp.content.frames import DURABLE, GROWING, Connection, Type
from lddp.content.growing import Growing
from lddp.core.limits import FILE_BYTES_MAX

from .world import Node, World, content_of, cut_after, put, read, until

MIB = 1024 * 1024
UPLOAD = bytes(16)


class Writing:
    """A file at a node that grows while it is pushed to others."""

    def __init__(self, node: Node, *to: str, enough: int = 0) -> None:
        self.node = node
        self.arrival: Arrival = node.store.arrival(durable=True)
        found = node.pusher.grow(self.arrival.descriptor, True, to, enough=enough, upload=UPLOAD)
        assert found is not None
        self.growing: Growing = found

    def write(self, *pieces: bytes) -> None:
        self.arrival.write(pieces)
        # Some are in memory still.
        self.growing.reach(self.arrival.offset, pieces if len(pieces) > 1 else ())

    def rewrite(self, offset: int, data: bytes) -> None:
        self.arrival.rewrite(offset, [data])
        self.growing.rewrite(offset, offset + len(data))

    async def end(self) -> set[str]:
        self.growing.finish(self.arrival.offset, self.arrival.seal())
        return await self.node.pusher.grown(self.growing)


def incoming(node: Node) -> int:
    """Bytes on their way into a store."""
    directory = node.directory / "store" / "incoming"
    size = 0
    for one in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it is given up, or whole, at this moment
            size += one.stat().st_size
    return size


async def test_peers_hold_the_bytes_before_the_end(world: World) -> None:
    a, b, c = [await world.node(name) for name in "abc"]
    file = Writing(a, "b", "c", enough=2)
    data = os.urandom(5 * MIB + 3)
    for start in range(0, len(data), 700_000):
        file.write(data[start : start + 700_000])
    await until(lambda: incoming(b) == incoming(c) == len(data))
    assert b.names("blobs") == c.names("blobs") == []
    assert await file.end() == {"b", "c"}
    for node in (b, c):
        assert read(node.store, content_of(data)) == data and not incoming(node)
        assert node.traffic["client"].received == len(data)


@pytest.mark.parametrize("seed", range(5))
async def test_what_is_written_again_is_sent_again(world: World, seed: int) -> None:
    a, b, c = [await world.node(name) for name in "abc"]
    dice = random.Random(seed)
    file, model = Writing(a, "b", "c"), bytearray()
    for _ in range(40):
        data = dice.randbytes(dice.randrange(1, 2 * MIB))
        if dice.random() < 0.5 and len(data) < len(model):
            at = dice.randrange(len(model) - len(data))
            model[at : at + len(data)] = data
            file.rewrite(at, data)
        else:
            model += data
            file.write(*([data] if dice.random() < 0.5 else [data[:1000], data[1000:]]))
        if dice.random() < 0.5:
            await asyncio.sleep(0)
    file.growing.enough = 2
    assert await file.end() == {"b", "c"}
    for node in (b, c):
        assert read(node.store, content_of(bytes(model))) == model


async def test_what_is_in_memory_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await world.node("a"), await world.node("b")
    file = Writing(a, "b", enough=1)
    pieces = [os.urandom(MIB) for _ in range(9)]
    file.write(*pieces[:6])  # nobody has taken anything yet: the first two are read
    await until(lambda: incoming(b) == 6 * MIB)

    def fail(*_: object) -> bytes:
        raise AssertionError("read from the file")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        file.write(*pieces[6:8])
        file.write(pieces[8], b"")
        await until(lambda: incoming(b) == 9 * MIB)
    assert await file.end() == {"b"}
    assert read(b.store, content_of(b"".join(pieces))) == b"".join(pieces)


async def test_a_small_part_that_is_written_again_travels_alone(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    file = Writing(a, "b", enough=1)
    file.write(bytes(8 * MIB))
    await until(lambda: incoming(b) == 8 * MIB)
    file.rewrite(100, b"header")
    assert await file.end() == {"b"}
    data = bytes(100) + b"header" + bytes(8 * MIB - 106)
    assert read(b.store, content_of(data)) == data
    assert b.traffic["client"].received == 8 * MIB + 6


async def test_a_transfer_that_breaks_begins_anew(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    assert await a.pusher.push_pack(bytes(16), b"1", False, ["b"]) == {"b"}
    await a.connections.close()
    a.connections._closed = False
    world.spoil_request["b"] = cut_after(3 * MIB)
    assert await a.pusher.push_pack(bytes(16), b"1", False, ["b"]) == {"b"}  # over the connection that will break
    file = Writing(a, "b", enough=1)
    data = os.urandom(6 * MIB)
    file.write(data)
    file.rewrite(0, b"x")
    assert await file.end() == {"b"}
    assert read(b.store, content_of(b"x" + data[1:])) == b"x" + data[1:]
    await until(lambda: not incoming(b))


async def test_what_is_given_up_leaves_nothing(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    file = Writing(a, "b")
    file.write(os.urandom(3 * MIB))
    await until(lambda: incoming(b) == 3 * MIB)
    await file.growing.give_up()
    file.arrival.discard()
    await until(lambda: not incoming(b))
    assert b.names("blobs") == [] and file.growing.is_over and file.growing.descriptor == -1
    content = put(a.store, b"1" * MIB)
    held = a.store.held_as(content)
    assert isinstance(held, int)
    assert (await a.pusher.push_file(held, MIB, True, ["b"])).peers == {"b"}, "the peer is not believed to be down"
    os.close(held)


async def test_a_writer_waits_for_enough_and_not_for_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "WINDOW_BYTES", MIB)
    a, b, c = [await world.node(name) for name in "abc"]
    gates = {name: asyncio.Event() for name in "bc"}
    connect = world.connect

    async def gated(peer: str):  # type: ignore[no-untyped-def]
        await gates[peer].wait()
        return await connect(peer)

    a.connections._connect = gated
    file = Writing(a, "b", "c", enough=1)
    file.write(bytes(3 * MIB))
    waiting = asyncio.create_task(file.growing.room())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    gates["b"].set()
    await asyncio.wait_for(waiting, 10)
    assert await file.end() == {"b"} and not c.names("blobs")
    gates["c"].set()
    await until(lambda: c.names("blobs") == b.names("blobs"))


async def test_nobody_waits_for_peers_that_are_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "WINDOW_BYTES", MIB)
    a = await world.node("a")
    world.refusing |= {"b", "c"}
    file = Writing(a, "b", "c", enough=1)
    file.write(bytes(3 * MIB))
    await asyncio.wait_for(file.growing.room(), 10)
    assert await file.end() == set()


async def test_a_full_peer_is_left_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await world.node("a"), await world.node("b")
    file = Writing(a, "b", enough=1)
    data = os.urandom(4 * MIB)
    file.write(data)
    await until(lambda: incoming(b) == len(data))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        file.growing.rewrite(0, 1)
        file.growing.rewrite(0, 1)  # what came before could not be written
        await until(lambda: file.growing.is_over)
    assert await file.end() == set() and not incoming(b)


async def test_what_idles_gives_its_place_to_another(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    files = [Writing(a, "b", enough=1) for _ in range(connections.GROWING_MAX)]
    for file in files:
        file.write(b"1" * MIB)
    await until(lambda: incoming(b) == len(files) * MIB)
    assert a.pusher.grow(files[0].arrival.descriptor, True, ["b"]) is None
    world.clock.now += growing.IDLE_S
    for file in files[1:]:
        file.write(b"2")
    files.append(Writing(a, "b", enough=1))
    files[-1].write(b"3")
    assert await files[0].end() == set()
    for file in files[1:]:
        assert await file.end() == {"b"}
    assert len(b.names("blobs")) == 2 and not incoming(b)


async def test_pushes_of_others_have_connections_of_their_own(world: World) -> None:
    a, _ = await world.node("a"), await world.node("b")
    files = [Writing(a, "b", enough=1) for _ in range(connections.GROWING_MAX)]
    assert await a.pusher.push_pack(bytes(16), b"1", True, ["b"]) == {"b"}
    for file in files:
        assert await file.end() == {"b"}


async def _raw(world: World, begin: int, flags: int, *frames: tuple[Type, int, bytes]) -> None:
    connection = Connection(*await world.connect("b"), "b")
    await connection.send(Type.PUSH_BEGIN, 1, begin, [], flags)
    for type_, offset, body in frames:
        await connection.send(type_, 1, offset, [body])
    await connection._reader.read()
    connection.abort()


@pytest.mark.parametrize(
    ("begin", "frames"),
    [
        (5, []),
        (0, [(Type.DATA, 0, b"12345"), (Type.DATA, 3, b"1234")]),
        (0, [(Type.DATA, 0, b"12345"), (Type.PUSH_END, 4, blake3(b"1234").digest())]),
        (0, [(Type.PUSH_END, FILE_BYTES_MAX + 1, bytes(32))]),
        (0, [(Type.DATA, FILE_BYTES_MAX, b"1")]),
        (0, [(Type.PUSH_END, 0, b"short")]),
    ],
    ids=["a size", "across the end", "an end before the end", "too large", "data too far", "no digest"],
)
async def test_bad_pushes(world: World, begin: int, frames: list[tuple[Type, int, bytes]]) -> None:
    b = await world.node("b")
    await _raw(world, begin, GROWING | DURABLE, *frames)
    await b.idle()
    assert len(b.errors) == 1 and not incoming(b) and b.names("blobs") == []


async def test_other_bytes_than_the_digest_says_are_refused(world: World) -> None:
    b = await world.node("b")
    connection = Connection(*await world.connect("b"), "b")
    await connection.send(Type.PUSH_BEGIN, 1, 0, [], GROWING)
    await connection.send(Type.DATA, 1, 0, [b"12345"])
    await connection.send(Type.DATA, 1, 1, [b"x"])
    await connection.send(Type.PUSH_END, 1, 5, [blake3(b"12345").digest()])
    assert (await connection.receive_answer(1)).type is Type.REFUSED
    connection.abort()
    assert b.names("blobs") == [] and not b.errors
