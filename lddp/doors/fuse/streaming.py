"""What is written to a file in order is on its way to the zones while it is written.

A Stream follows the writer of a private copy, a little behind, and gives the bytes to the ContentWriter that the commit
goes on with: that sends the rest, and again what was written again meanwhile. Where a file is cut below what was taken,
or too much of it is written again, the stream is given up, and the commit sends everything, as it does where nothing
is written in order.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator

from lddp.access import ContentWriter
from lddp.doors.fuse.dirty import Dirty
from lddp.doors.fuse.file import File
from lddp.doors.fuse.files import Files
from lddp.doors.fuse.ground import Ground
from lddp.errors import LddpError

_log = logging.getLogger(__name__)
STREAM_FROM_BYTES = 4 << 20
"""So many bytes in order make a stream; a smaller file never is one."""
BEHIND_BYTES = 1 << 20
"""What was written last is often written again."""
CHUNK_BYTES = 1 << 20
WINDOW_BYTES = 16 << 20
"""How far the zones may be behind a writer, before it waits for them: what a close has to wait for is no more."""
STREAMS_MAX = 16
"""Of one mount: each has some chunks in memory."""
IDLE_S = 5.0
"""How long a file has not been written to whose place another one may take."""


class Stream:
    """Bytes of a copy from `start` on, of which those before `taken` have been given to `writer`."""

    def __init__(self, file: File, start: int, stop: int, files: Files, ground: Ground) -> None:
        assert not file.is_in_memory, "what is sent before its commit stays where it is"
        self.start = self.taken = start
        self.again = Dirty(0)
        """What was written again after it was taken."""
        self.writer: ContentWriter | None = None
        self._stop = stop
        self._number = file.number
        self._files = files
        self._ground = ground
        self._descriptor = os.dup(file.staged)
        self._more = asyncio.Event()
        self._moved = asyncio.Event()
        self._is_ending = False
        self._clock = asyncio.get_running_loop().time
        self._wrote_at = self._clock()
        self.task = asyncio.get_running_loop().create_task(self._run())
        self.task.add_done_callback(self._done)

    def _done(self, _: asyncio.Task[bool]) -> None:
        os.close(self._descriptor)
        self._moved.set()

    # -- the writer of the file ---------------------------------------------------------------------------------------

    def wrote(self, start: int, stop: int, reached: int) -> bool:
        """These bytes are others now, and everything from `start` of the stream to `reached` has been written. False
        where it is not worth it any more."""
        self._stop = reached
        self._wrote_at = self._clock()
        if start < self.taken and stop > self.start:
            self.again.write(max(start, self.start), min(stop, self.taken))
        self._more.set()
        return self.again.size * 2 <= self.taken - self.start

    def cut(self, size: int) -> bool:
        """The file has this size now. False where some of what was taken is not in it any more."""
        self._stop = min(self._stop, size)
        return size > self.start and size >= self.taken

    @property
    def idle_s(self) -> float:
        return self._clock() - self._wrote_at

    @property
    def is_full(self) -> bool:
        return self._stop - self.taken > WINDOW_BYTES and not self.task.done()

    async def room(self) -> None:
        """Returns when the writer may go on."""
        while self.is_full:
            self._moved.clear()
            await self._moved.wait()

    # -- the way to the zones -----------------------------------------------------------------------------------------

    async def _run(self) -> bool:
        """Until it is to end; whether it can be gone on with. Otherwise nothing is left of it."""
        try:
            if await self._follow():
                return True
        except (OSError, LddpError) as error:
            _log.info("what is written to inode %d is sent when it is committed: %s", self._number, error)
        except BaseException:
            await self.abort()
            raise
        await self.abort()
        return False

    async def _follow(self) -> bool:
        while True:
            inode, path = self._files.inode(self._number)
            if inode is None:
                return False  # nobody else will ever see it
            if self._is_ending:
                return True
            if self._stop - self.taken >= CHUNK_BYTES + BEHIND_BYTES:
                if self.writer is None:
                    self.writer = self._ground.content_writer(path, None)
                start = self.taken
                self.taken += CHUNK_BYTES  # what is written from here on is written again
                data = await self._files.run(os.pread, self._descriptor, CHUNK_BYTES, start)
                assert len(data) == CHUNK_BYTES, "a copy is shorter than what was written to it"
                await self.writer.write(data)
                self._moved.set()
            else:
                self._more.clear()
                await self._more.wait()

    async def abort(self) -> None:
        if self.writer is not None:
            await self.writer.abort()

    async def end(self) -> bool:
        """Whether the commit can go on with it: takes no more."""
        self._is_ending = True
        self._more.set()
        try:
            await asyncio.wait((self.task,))
        except BaseException:
            if not self.task.cancel() and not self.task.cancelled() and self.task.result():
                await self.abort()
            raise
        return not self.task.cancelled() and self.task.result()


class Streams:
    """Every Stream of one mount."""

    def __init__(self, ground: Ground, files: Files) -> None:
        self._ground = ground
        self._files = files
        self._streams: dict[asyncio.Task[bool], Stream] = {}
        files.wrote, files.cut = self._wrote, self._cut

    def __len__(self) -> int:
        return len(self._streams)

    def _wrote(self, file: File, start: int, stop: int) -> None:
        dirty, stream = file.dirty, file.stream
        if start >= stop:
            return
        if stream is not None:
            if not stream.wrote(start, stop, dirty.stop_of(stream.start)):
                self._give_up(file)
        elif dirty.run_bytes >= STREAM_FROM_BYTES and dirty.may_stream and self._has_room():
            stream = file.stream = Stream(file, *dirty.span_at(start), self._files, self._ground)
            self._streams[stream.task] = stream
            stream.task.add_done_callback(self._streams.pop)

    def _has_room(self) -> bool:
        """For one more, where need be in the place of the one that has idled longest."""
        if len(self._streams) < STREAMS_MAX:
            return True
        idlest = max(self._streams.values(), key=lambda stream: stream.idle_s)
        if idlest.idle_s >= IDLE_S:
            idlest.task.cancel()
        return False

    def _cut(self, file: File, size: int) -> None:
        if file.stream is not None and not file.stream.cut(size):
            self._give_up(file)

    def _give_up(self, file: File) -> None:
        """Until the next commit."""
        file.dirty.may_stream = False
        file.end_stream()

    async def take(self, file: File) -> Stream | None:
        """What has been sent of a file that is committed now: the caller goes on with it, or aborts it. Its lock is
        held."""
        stream = file.stream
        if stream is None:
            return None
        try:
            return stream if await stream.end() and stream.writer is not None else None
        finally:
            file.stream = None

    async def close(self) -> None:
        """Gives all up."""
        tasks = list(self._streams)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def split(spans: list[tuple[int, int]], stream: Stream | None) -> Iterator[tuple[int, int]]:
    """The spans; that which a stream begins in as two."""
    for start, stop in spans:
        if stream is not None and start < stream.start < stop:
            yield start, stream.start
            start = stream.start
        yield start, stop
