"""Many may pass side by side, or one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType


class _Shared:
    """Every change of a mount passes here, and a class costs a third of what a generator does."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __aenter__(self) -> None:
        await self._gate.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.leave()


class Gate:
    """A lock that is shared or exclusive. Whoever wants it alone is let in before those who come later."""

    def __init__(self) -> None:
        self._passing = 0
        self._turn = asyncio.Lock()
        self._empty = asyncio.Event()
        self._empty.set()
        self.is_alone = False
        """Whether somebody has it, or waits to have it, alone."""

    def shared(self) -> AbstractAsyncContextManager[None]:
        return _Shared(self)

    async def enter(self) -> None:
        async with self._turn:
            self._passing += 1
            self._empty.clear()

    def leave(self) -> None:
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

    async def enter(self) -> None:
        await self._room()
        await super().enter()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        await self._room()
        async with super().exclusive():
            yield
