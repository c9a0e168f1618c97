"""Connections to peers: reused while they work, bounded in number, and not tried again at once where they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lddp.content.frames import STALL_SECONDS, Connection
from lddp.errors import UnavailableError
from lddp.ports import Clock

CONNECT_SECONDS = 10.0
IDLE_SECONDS_MAX = 60.0
PER_PEER_MAX = 8
GROWING_MAX = PER_PEER_MAX // 2
"""How many of them may wait for files that are still being written."""
PAUSE_SECONDS_FIRST = 1.0
PAUSE_SECONDS_MAX = 30.0

Connect = Callable[[str], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@dataclass(slots=True)
class _Peer:
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PER_PEER_MAX))
    idle: list[tuple[Connection, float]] = field(default_factory=list)
    failures: int = 0
    retry_at: float = 0.0


class Connections:
    """To all peers of a node. Pushes and pulls have one each, so that neither waits for the other's."""

    def __init__(
        self,
        connect: Connect,
        clock: Clock,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._connect = connect
        self.clock = clock
        self._connect_seconds = connect_seconds
        self._stall_seconds = stall_seconds
        self._peers: dict[str, _Peer] = {}
        self._last_id = 0
        self._closed = False

    def next_id(self) -> int:
        """A request id, unique in this process."""
        self._last_id += 1
        return self._last_id

    def is_down(self, peer: str) -> bool:
        """True while a peer that failed is left alone; who must not wait does without it."""
        return self.clock.monotonic() < self._peers.setdefault(peer, _Peer()).retry_at

    @asynccontextmanager
    async def use(self, peer: str) -> AsyncIterator[Connection]:
        """A connection for one request. An exception inside the context closes it, because nobody knows then what the
        stream will say next. The peer counts as down where a fresh connection fails; a reused one may be stale."""
        state = self._peers.setdefault(peer, _Peer())
        async with state.slots:
            reused = self._take_idle(state)
            connection = reused or await self._open(peer, state)
            try:
                yield connection
            except BaseException as error:
                connection.abort()
                if isinstance(error, UnavailableError):
                    if reused is None:
                        self._failed(state)
                    self._drop_idle(state)  # the peer has probably restarted
                raise
            state.failures = 0
            if connection.usable and not self._closed:
                state.idle.append((connection, self.clock.monotonic()))
            else:
                connection.abort()

    @staticmethod
    def _drop_idle(state: _Peer) -> None:
        for connection, _ in state.idle:
            connection.abort()
        state.idle.clear()

    def _take_idle(self, state: _Peer) -> Connection | None:
        while state.idle:
            connection, since = state.idle.pop()
            if connection.usable and self.clock.monotonic() - since < IDLE_SECONDS_MAX:
                return connection
            connection.abort()
        return None

    async def _open(self, peer: str, state: _Peer) -> Connection:
        try:
            async with asyncio.timeout(self._connect_seconds):
                reader, writer = await self._connect(peer)
        except TimeoutError:
            self._failed(state)
            raise UnavailableError(f"{peer} did not accept a connection in time; retry") from None
        except OSError as error:
            self._failed(state)
            raise UnavailableError(f"no connection to {peer}: {error}; retry") from error
        except UnavailableError:
            self._failed(state)
            raise
        return Connection(reader, writer, peer, self._stall_seconds)

    def _failed(self, state: _Peer) -> None:
        pause = min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_FIRST * 2**state.failures)
        state.failures = min(state.failures + 1, 16)
        state.retry_at = self.clock.monotonic() + pause

    async def close(self) -> None:
        self._closed = True
        idle = [connection for state in self._peers.values() for connection, _ in state.idle]
        for state in self._peers.values():
            state.idle.clear()
        await asyncio.gather(*(connection.close() for connection in idle))
