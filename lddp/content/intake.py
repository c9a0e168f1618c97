"""The way from a connection to an arriving file: the next bytes are read while the last ones are written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from lddp.content.arrival import Arrival
from lddp.content.disk import DiskThreads
from lddp.core.limits import FILE_BYTES_MAX
from lddp.errors import FormatError


class Intake:
    """Feeds one Arrival, in order. One write is under way and one body in memory at most. Always `close` it.

    Without a `size` the file is still being written: `ends_at` says it, and bytes may come again before."""

    def __init__(self, arrival: Arrival, disk: DiskThreads, size: int | None) -> None:
        self.arrival = arrival
        self._disk = disk
        self._size = FILE_BYTES_MAX if size is None else size
        self._grows = size is None
        self._pending: asyncio.Task[None] | None = None
        self._reached = arrival.offset

    async def put(self, offset: int, pieces: list[bytes], release: Callable[[], None]) -> None:
        """Takes the bytes at `offset`; `release` is called once they are out of memory. FormatError where they are
        out of order or beyond the promised size."""
        end = offset + sum(map(len, pieces))
        try:
            again = self._grows and end <= self._reached
            if (offset < self._reached and not again) or end > self._size:
                raise FormatError(f"bytes {offset} to {end} after {self._reached} in a file of {self._size}")
            await self.settle()
        except BaseException:
            release()
            raise
        self._reached = max(self._reached, end)
        self._pending = asyncio.create_task(self._write(offset, pieces))
        self._pending.add_done_callback(lambda _: release())

    async def _write(self, offset: int, pieces: list[bytes]) -> None:
        if offset > self.arrival.offset:
            await self._skip(offset)
        if pieces:
            write = self.arrival.write if offset == self.arrival.offset else partial(self.arrival.rewrite, offset)
            await self._disk.run(write, pieces)

    async def _skip(self, offset: int) -> None:
        while not await self._disk.run(self.arrival.skip, offset):
            pass

    def ends_at(self, size: int) -> None:
        """How large the file is, after all."""
        if not self._reached <= size <= FILE_BYTES_MAX:
            raise FormatError(f"a file of {size} bytes, of which {self._reached} have come")
        self._size, self._grows = size, False

    async def settle(self) -> None:
        """Waits for the write under way. Raises what the disk says."""
        pending, self._pending = self._pending, None
        if pending is not None:
            await pending

    async def recover(self) -> None:
        """After a broken transfer: what arrived is written, and the next bytes follow it."""
        await self.settle()
        self._reached = self.arrival.offset

    async def start_again(self) -> None:
        await self.settle()
        await self._disk.run(self.arrival.start_again)
        self._reached = 0

    async def finish(self) -> bytes:
        """The digest of all `size` bytes; those that did not come are zeros."""
        await self.settle()
        await self._skip(self._size)
        return await self._disk.run(self.arrival.seal)

    async def close(self, *, keep: bool) -> None:
        """Ends the write under way, then closes the file and, unless it is to be kept, removes it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
            await asyncio.wait((pending,))
            if not pending.cancelled():
                pending.exception()  # whoever closes has an error of its own already
        await self._disk.run(self.arrival.close if keep else self.arrival.discard)
