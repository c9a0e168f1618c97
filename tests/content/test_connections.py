"""What becomes of a connection after a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lddp.content.connections import Connections
from lddp.node.system import SystemClock


class Peer:
    """Greets everybody, and hangs up when told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hang_up = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []
        self.connections = Connections(self._connect, SystemClock())

    async def start(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.hang_up.wait()
        writer.close()

    async def _connect(self, _peer: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.writers.append(writer)
        self.readers = reader
        return reader, writer


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Peer(tmp_path / "socket")
    server = await peer.start()
    yield peer
    peer.hang_up.set()
    await peer.connections.close()
    server.close()
    await server.wait_closed()


async def test_it_is_kept_for_the_next_one(peer: Peer) -> None:
    for _ in range(2):
        async with peer.connections.use("peer"):
            pass
    assert len(peer.writers) == 1
    assert not peer.writers[0].is_closing()


async def test_it_is_closed_where_the_peer_has_hung_up_meanwhile(peer: Peer) -> None:
    async with peer.connections.use("peer") as connection:
        peer.hang_up.set()
        await peer.readers.read()
        assert not connection.usable
    assert peer.writers[0].is_closing()


async def test_it_is_closed_where_nobody_will_ask_for_it_again(peer: Peer) -> None:
    async with peer.connections.use("peer"):
        await peer.connections.close()
    assert peer.writers[0].is_closing()
