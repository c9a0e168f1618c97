"""What the kernel is told without having asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from lddp.core import records as r
from lddp.core.records import OperationId
from lddp.doors.fuse import wire
from tests.doors.fuse.kernel import PATIENCE_S, MachineGround

Notice = tuple[bytes, ...]


async def _at_once() -> None:
    """Where nothing is followed."""


class Told:
    """Takes notices; `elsewhere` returns those of a record from another zone."""

    def __init__(self, ground: MachineGround) -> None:
        self._notices: asyncio.Queue[list[Sequence[bytes]]] = asyncio.Queue()
        self._ground = ground
        self._sequence = 1000
        self.settled: Callable[[], Awaitable[None]] = _at_once
        """Returns when the kernel knows of every change so far."""
        self.going_on = asyncio.Event()
        """Not set: the kernel lets who tells it wait."""
        self.going_on.set()

    async def take(self, notices: list[Sequence[bytes]]) -> None:
        self._notices.put_nowait(notices)
        await self.going_on.wait()

    async def elsewhere(self, record: Callable[..., r.Record], *fields: object) -> set[Notice]:
        self._sequence += 1
        assert not self._ground.apply(record(OperationId(b"other", self._sequence), 1, 7, *fields)).errno
        return await self.next()

    async def next(self) -> set[Notice]:
        async with asyncio.timeout(PATIENCE_S):
            return {tuple(notice) for notice in await self._notices.get()}

    async def rest(self) -> set[Notice]:
        """All that there is to be told, which need not be anything."""
        await self.settled()
        found: set[Notice] = set()
        while not self.is_silent:
            found |= await self.next()
        return found

    @property
    def is_silent(self) -> bool:
        return self._notices.empty()


def attributes(node: int) -> Notice:
    return tuple(wire.inode_notice(node, -1))


def bytes_of(node: int) -> Notice:
    return tuple(wire.inode_notice(node, 0))


def name(directory: int, text: bytes) -> Notice:
    return tuple(wire.entry_notice(directory, text))
