"""Bytes whose record is promised before it is ordered: what became of them is known later."""

from __future__ import annotations

from collections.abc import Callable

from lddp.access import ContentWriter
from lddp.core.records import Content


class Later:
    """Implements `lddp.access.ContentWriter` over another one, which hears `used` or `abort` from the queue if a record
    that names its content was queued."""

    def __init__(self, inner: ContentWriter, committed: Callable[[Content, Later], None]) -> None:
        self._inner = inner
        self._committed = committed
        self.content: Content | None = None
        self.is_queued = False

    async def write(self, data: bytes) -> None:
        await self._inner.write(data)

    async def commit(self) -> Content:
        self.content = await self._inner.commit()
        self._committed(self.content, self)
        return self.content

    async def abort(self) -> None:
        if not self.is_queued:
            await self._inner.abort()

    def used(self) -> None:
        """Too early where it is queued."""
        if not self.is_queued:
            self._inner.used()

    # -- from the queue

    def was_ordered(self) -> None:
        self._inner.used()

    async def was_refused(self) -> None:
        await self._inner.abort()
