"""One pass over a file for several receivers: the fastest sets the pace, and who falls behind reads for itself."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable

from lddp.content.disk import DiskThreads
from lddp.content.reading import SequentialRead

WAITING_CHUNKS_MAX = 8

Chunk = tuple[int, bytes]


class Pass:
    """Reads and hashes the file while its feeds take the pieces. `offset` is how far it has come; `digest` is cancelled
    where the file ended early or could not be read."""

    def __init__(
        self, descriptor: int, size: int, disk: DiskThreads, told: Callable[[int], None] | None = None
    ) -> None:
        self._told = told
        self._passed = 0
        self.descriptor = descriptor
        self.size = size
        self.disk = disk
        self._read = SequentialRead(descriptor, 0, size, hashing=True)
        self._feeds: list[Feed] = []
        self._moved = asyncio.Event()
        self.digest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @property
    def offset(self) -> int:
        return self._read.offset

    def feed(self) -> Feed:
        """For a receiver that is there before the pass runs."""
        assert not self._read.offset
        feed = Feed(self)
        self._feeds.append(feed)
        return feed

    async def run(self) -> bytes:
        """Reads to the end; the digest of what was there, which the feeds get only if it was all."""
        try:
            while (chunk := await self.disk.run(self._read.next)) is not None:
                await self._room()
                for feed in self._feeds:
                    feed.put(chunk)
                if not self._feeds:
                    self.passed(self.offset)
            for feed in self._feeds:
                feed.end()
        except BaseException:
            self.digest.cancel()
            raise
        digest = self._read.digest()
        if self.offset == self.size:
            self.digest.set_result(digest)
        else:
            self.digest.cancel()
        return digest

    async def _room(self) -> None:
        """Waits while somebody is full and nobody is hungry; then who is full is on its own."""
        while True:
            taking = [feed for feed in self._feeds if not feed.alone]
            full = [feed for feed in taking if feed.full]
            if not full:
                break
            if any(feed.hungry for feed in taking):
                for feed in full:
                    feed.alone = True
                break
            self._moved.clear()
            await self._moved.wait()
        self._feeds = [feed for feed in self._feeds if not feed.alone]

    def moved(self) -> None:
        self._moved.set()

    def passed(self, offset: int) -> None:
        """What is before `offset` is on its way to the fastest receiver, or read where there is none."""
        if self._told is not None and offset > self._passed:
            self._passed = offset
            self._told(offset)


class Feed:
    """One receiver's share of a pass. It has a descriptor of its own, because it may outlast the pass's caller."""

    def __init__(self, file_pass: Pass) -> None:
        self._pass = file_pass
        self._chunks: deque[Chunk] = deque()
        self._ready = asyncio.Event()
        self._ended = False
        self._own: SequentialRead | None = None
        self._offset = 0
        self.alone = False
        self.size = file_pass.size
        self.descriptor = os.dup(file_pass.descriptor)

    @property
    def full(self) -> bool:
        return len(self._chunks) >= WAITING_CHUNKS_MAX

    @property
    def hungry(self) -> bool:
        return not self._chunks

    def put(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._ready.set()

    def end(self) -> None:
        self._ended = True
        self._ready.set()

    async def next(self) -> Chunk | None:
        """The next piece, or None after the last."""
        while not (self._chunks or self._ended or self.alone):
            self._ready.clear()
            await self._ready.wait()
        if self._chunks:
            offset, data = self._chunks.popleft()
            self._pass.moved()
            self._pass.passed(offset)
            self._offset = offset + len(data)
            return offset, data
        if not self.alone:
            return None
        if self._own is None:
            self._own = SequentialRead(self.descriptor, self._offset, self.size, hashing=False)
        return await self._pass.disk.run(self._own.next)

    def rewind(self) -> None:
        """Begins anew, on its own, where some of it was taken already."""
        if self._offset or self._own is not None:
            self.leave()
            self._chunks.clear()
            self._offset = 0
            self._own = None

    def leave(self) -> None:
        """Takes no more from the pass."""
        self.alone = True
        self._chunks.clear()
        self._pass.moved()

    def digest(self) -> asyncio.Future[bytes]:
        """The digest of the whole file, at the end of the pass; whoever waits may cancel it for himself."""
        return asyncio.shield(self._pass.digest)

    def close(self, _: object = None) -> None:
        self.leave()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
