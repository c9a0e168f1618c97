"""An endpoint that stands before a node and breaks what it passes on, as a script says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """Of each connection: the bytes that pass to the node and back before it is cut (None: all). What is not scripted
    passes whole. A connection carries one request."""

    target: int
    cuts: list[tuple[int | None, int | None]] = field(default_factory=list)
    hold: asyncio.Event | None = None
    """Where it is given, no connection passes anything before it is set."""
    requests: list[bytes] = field(default_factory=list)
    """Heads of the requests that came."""
    port: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # one of the two has gone
        finally:
            self._tasks.discard(task)
            await _close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = self.cuts.pop(0) if self.cuts else (None, None)
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        if self.hold is not None:
            await self.hold.wait()
        node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self.target)
        # One request a connection, so that each has its cut.
        node_writer.write(head[:-2] + b"Connection: close\r\n\r\n")
        sending = asyncio.create_task(_pass(reader, node_writer, there))
        receiving = asyncio.create_task(_pass(node_reader, writer, back))
        try:
            done, _ = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if receiving not in done and not sending.exception() and not sending.result():
                await asyncio.wait({receiving})
        finally:
            node_writer.close()  # before anything that a second cancellation could cut short
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
            await _close(node_writer)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> bool:
    """Passes so many bytes on; whether there were more of them than that."""
    passed = 0
    while data := await reader.read(65_536):
        part = data if limit is None else data[: limit - passed]
        writer.write(part)
        passed += len(part)
        if limit is not None and passed >= limit:
            # What waits for the node to take it is not waited for: it is to go.
            return True
        await writer.drain()
    return False


@contextlib.asynccontextmanager
async def proxy(target: int, *cuts: tuple[int | None, int | None]) -> AsyncIterator[Proxy]:
    found = Proxy(target, list(cuts))
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        await found.close()
