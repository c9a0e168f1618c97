"""A small world for transfers: nodes with real stores and unix sockets, and a relay that can be told to misbehave."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from blake3 import blake3

from lddp.content.connections import Connections
from lddp.content.give import Locate
from lddp.content.handover import Handover
from lddp.content.limiter import Limiter
from lddp.content.pull import Puller
from lddp.content.push import Pusher
from lddp.content.serve import ContentServer
from lddp.content.store import Store
from lddp.content.traffic import Traffic
from lddp.core.records import Content
from lddp.errors import LddpError


class FakeClock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


Spoil = Callable[[bytes, int], bytes | None]
"""(bytes, how many passed before) -> what to pass on instead; None cuts the connection."""


class Node:
    """One node's content plane, served at a unix socket."""

    def __init__(self, world: World, name: str, *, handover: bool = False, locate: Locate | None = None) -> None:
        self.world = world
        self.name = name
        self.directory = world.directory / name
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.store = Store(self.directory / "store")
        self.traffic = Traffic()
        self.limiter = Limiter(world.clock)
        self.handover = Handover(str(self.directory / "handover")) if handover else None
        self.doubted: list[int] = []
        """Inodes whose files turned out to hold other bytes than they were believed to."""
        self.server = ContentServer(
            self.store,
            self.limiter,
            self.traffic,
            locate=locate,
            doubt=self.doubted.append,
            handover=self.handover,
            stall_seconds=world.stall_seconds,
        )
        self.connections = Connections(world.connect, world.clock, stall_seconds=world.stall_seconds)
        self.pusher = Pusher(self.connections, self.limiter, self.store.disk, self.traffic)
        self.puller = Puller(self.store, self.connections, self.traffic)
        self.store.use(self.puller.fetch)
        self.errors: list[Exception] = []
        self.accepted = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    @property
    def socket_path(self) -> str:
        return str(self.directory / "socket")

    async def start(self) -> None:
        if self.handover is not None:
            self.handover.start()
        self._listener = await asyncio.start_unix_server(self._accept, self.socket_path)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.accepted += 1
        try:
            await self.server.serve(reader, writer, "client")
        except LddpError as error:
            self.errors.append(error)
        except asyncio.CancelledError:
            pass
        finally:
            self._serving.discard(task)

    async def idle(self) -> None:
        """Until no connection is served any more."""
        async with asyncio.timeout(10):
            while self._serving:
                await asyncio.wait(set(self._serving))

    async def stop(self) -> None:
        await self.pusher.close()
        await self.connections.close()
        if self._listener is not None:
            self._listener.close()
        for task in set(self._serving):
            task.cancel()
        await self.idle()
        if self.handover is not None:
            self.handover.close()
        self.store.close()

    def names(self, folder: str) -> list[str]:
        return sorted(os.listdir(self.directory / "store" / folder))


class World:
    """Nodes by name, and what happens to the bytes on their way to a node."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FakeClock()
        self.stall_seconds = 20.0
        self.nodes: dict[str, Node] = {}
        self.spoil: dict[str, Callable[[], Spoil]] = {}
        """For a peer: makes what is done to the bytes that it sends, for each connection anew."""
        self.spoil_request: dict[str, Callable[[], Spoil]] = {}
        self.refusing: set[str] = set()
        self.elsewhere: dict[str, str] = {}
        """For a peer that is no Node: the path of its socket."""
        self._stack = AsyncExitStack()

    async def node(self, name: str, *, handover: bool = False, locate: Locate | None = None) -> Node:
        node = self.nodes[name] = Node(self, name, handover=handover, locate=locate)
        await node.start()
        self._stack.push_async_callback(node.stop)
        return node

    async def connect(self, peer: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if peer in self.elsewhere:
            return await asyncio.open_unix_connection(self.elsewhere[peer])
        if peer in self.refusing or peer not in self.nodes:
            raise ConnectionRefusedError(peer)
        path = self.nodes[peer].socket_path
        answers, requests = self.spoil.get(peer), self.spoil_request.get(peer)
        if answers is None and requests is None:
            return await asyncio.open_unix_connection(path)
        return await self._relayed(path, answers, requests)

    async def _relayed(
        self, path: str, answers: Callable[[], Spoil] | None, requests: Callable[[], Spoil] | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        relay_path = str(self.directory / os.urandom(4).hex())

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_unix_connection(path)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, far_writer, requests() if requests else None))
                    group.create_task(_pump(far_reader, writer, answers() if answers else None))
            except* OSError:
                pass
            finally:
                writer.transport.abort()
                far_writer.transport.abort()

        server = await asyncio.start_unix_server(relay, relay_path)
        streams = await asyncio.open_unix_connection(relay_path)

        async def close() -> None:
            server.close()
            streams[1].transport.abort()

        self._stack.push_async_callback(close)
        return streams

    async def close(self) -> None:
        await self._stack.aclose()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, spoil: Spoil | None) -> None:
    passed = 0
    while data := await reader.read(64 * 1024):
        out = spoil(data, passed) if spoil else data
        if out is None:
            raise ConnectionResetError
        passed += len(data)
        writer.write(out)
        await writer.drain()
    raise ConnectionResetError


def cut_after(size: int) -> Callable[[], Spoil]:
    """Passes exactly `size` bytes, then cuts; only on the first connection."""
    cuts = [size]

    def make() -> Spoil:
        limit = cuts.pop() if cuts else None

        def spoil(data: bytes, passed: int) -> bytes | None:
            return data if limit is None or passed + len(data) <= limit else None

        return spoil

    return make


def flip_at(position: int) -> Callable[[], Spoil]:
    """Changes one byte on its way, on every connection."""

    def spoil(data: bytes, passed: int) -> bytes | None:
        if not passed <= position < passed + len(data):
            return data
        changed = bytearray(data)
        changed[position - passed] ^= 0x40
        return bytes(changed)

    return lambda: spoil


def content_of(data: bytes) -> Content:
    return Content(blake3(data).digest(), len(data))


def put(store: Store, data: bytes) -> Content:
    """A blob in the store, whatever its size."""
    arrival = store.arrival()
    arrival.write([data])
    content = content_of(data)
    assert arrival.seal() == content.digest
    store.publish(arrival, content.digest)
    return content


def read(store: Store, content: Content) -> bytes:
    source = store.open(content)
    assert source is not None, "not here"
    data = bytearray(source.size)
    for offset, piece in source.chunks():
        data[offset : offset + len(piece)] = piece
    return bytes(data)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- what is waited for has no event
            await asyncio.sleep(0)
