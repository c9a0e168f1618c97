"""The bytes of messages that have come and wait for the next cycle, which are bounded."""

from __future__ import annotations

import asyncio

INCOMING_BYTES_MAX = 64 << 20


class Incoming:
    """Of all links together: one that brings more than there is room for waits until a cycle has taken everything."""

    def __init__(self) -> None:
        self._bytes = 0
        self._room: asyncio.Future[None] | None = None

    def add(self, size: int) -> bool:
        """Whether it is too much by now."""
        self._bytes += size
        return self._bytes > INCOMING_BYTES_MAX

    def room(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Ends when more may come, or by its cancellation."""
        if self._room is None:
            self._room = loop.create_future()
        return self._room

    def taken(self) -> None:
        """All that came is in the cycle that has begun."""
        self._bytes = 0
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def end(self) -> None:
        """No cycle will take anything."""
        if self._room is not None and not self._room.done():
            self._room.cancel()
