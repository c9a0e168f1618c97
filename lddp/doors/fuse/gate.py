"""Many may pass side by side, or one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


class Gate:
    """A lock that is shared or exclusive. Whoever wants it alone is let in before those who come later."""

    def __init__(self) -> None:
        self._passing = 0
        self._turn = asyncio.Lock()
        self._empty = asyncio.Event()
        self._empty.set()
        self.is_alone = False
        """Whether somebody has it, or waits to have it, alone."""

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._turn:
            self._passing += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._passing -= 1
            if not self._passing:
                self._empty.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        async with self._turn:
            self.is_alone = True
            try:
                await self._empty.wait()
                yield
            finally:
                self.is_alone = False


class RoomGate(Gate):
    """A gate before a queue: who passes has waited until there is room."""

    def __init__(self, room: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._room = room

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        await self._room()
        async with super().shared():
            yield

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        await self._room()
        async with super().exclusive():
            yield
