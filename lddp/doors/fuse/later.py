"""Bytes whose record is promised before it is ordered: they spread while it waits, and what became of them is known
later."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from lddp.access import ContentWriter
from lddp.core.records import Content
from lddp.errors import UnavailableError

_log = logging.getLogger(__name__)
PAUSE_NOTHING_TAKEN_S = 0.2
PASSING = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.ENOSPC, errno.EDQUOT)
)
"""What a node may have again: descriptors, memory, room."""
FAILURES_MAX = 16
"""How often it is tried again after other errors of the disk."""


class Later:
    """Implements `lddp.access.ContentWriter` over another one, which hears `used` or `abort` from the queue if a record
    that names its content was queued. `commit` returns when the bytes are at this node."""

    def __init__(self, inner: ContentWriter, committed: Callable[[Content, Later], None]) -> None:
        self._inner = inner
        self._committed = committed
        self.content: Content | None = None
        self.is_queued = False
        self.is_asked_for = False
        """Whether a record that names it was sent without being queued: then it may be ordered, whatever is heard."""
        self._spreading: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        await self._inner.write(data)

    async def rewrite(self, offset: int, data: bytes) -> None:
        await self._inner.rewrite(offset, data)

    async def seal(self) -> Content:
        if self.content is None:
            self.content = await self._inner.seal()
        return self.content

    async def commit(self) -> Content:
        self.content = await self.seal()
        if self.content.inline is not None or not self.content.size:
            await self._inner.commit()  # goes with its record
        else:
            self._spreading = asyncio.get_running_loop().create_task(self._spread())
        self._committed(self.content, self)
        return self.content

    async def _spread(self) -> None:
        """Until the bytes are as durable as the rule asks for: they are promised."""
        is_told, failures = False, 0
        while True:
            try:
                await self._inner.commit()
                return
            except (UnavailableError, OSError) as error:
                failures += isinstance(error, OSError) and error.errno not in PASSING
                if failures > FAILURES_MAX:
                    _log.error("bytes that were promised cannot be sent: %s", error)
                    raise
                if isinstance(error, OSError) and not is_told:
                    is_told = True
                    _log.warning("bytes that were promised cannot be sent yet: %s", error)
                # There is no event to wait for: zones that can be reached again may take them, or this node may have
                # descriptors again.
                await asyncio.sleep(PAUSE_NOTHING_TAKEN_S)
            except Exception:
                _log.exception("bytes that were promised cannot be sent")
                raise

    @property
    def is_unnamed(self) -> bool:
        """Whether surely no record names it."""
        return not (self.is_queued or self.is_asked_for)

    async def abort(self) -> None:
        if not self.is_queued:
            await self.was_refused()

    def used(self) -> None:
        """Too early where it is queued."""
        if not self.is_queued:
            self._inner.used()

    # -- from the queue

    @property
    def is_spread(self) -> bool:
        """Whether a record may name it."""
        return self._spreading is None or (self._spreading.done() and not self.failed)

    @property
    def failed(self) -> int:
        """The errno of what no record may ever name; 0 where that is not known of it."""
        if self._spreading is None or not self._spreading.done():
            return 0
        if self._spreading.cancelled():
            return errno.EIO
        error = self._spreading.exception()
        return 0 if error is None else getattr(error, "errno", 0) or errno.EIO

    async def spread(self) -> None:
        """Returns when they are where they have to be, or will never be."""
        if self._spreading is not None:
            await asyncio.wait([self._spreading])

    def was_ordered(self) -> None:
        self._inner.used()

    async def was_refused(self) -> None:
        await self.stop()
        await self._inner.abort()

    async def stop(self) -> None:
        """Spreads no further."""
        if self._spreading is not None and not self._spreading.done():
            self._spreading.cancel()
            await asyncio.wait([self._spreading])
