"""From a private copy to records of the log: a whole Put, or the changed ranges where a small part of a big file
changed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence

from lddp.access import ContentWriter
from lddp.core import records as r
from lddp.core.digest import truncated, written
from lddp.core.namespace import Inode
from lddp.core.records import Content
from lddp.doors.fuse.dirty import Dirty
from lddp.doors.fuse.file import File
from lddp.doors.fuse.files import Files
from lddp.doors.fuse.inodes import Inodes
from lddp.doors.fuse.later import Later
from lddp.doors.fuse.ordering import Orders, refused
from lddp.doors.fuse.streaming import Stream, Streams, split

CHUNK_BYTES = 1 << 20
RANGES_FROM_BYTES = 1 << 20
"""Files from this size on travel in ranges, where at most half of their bytes changed."""


class _OtherContentError(Exception):
    """The file has not the content any more that its changed ranges are for."""


class Committer:
    def __init__(self, orders: Orders, files: Files, inodes: Inodes, streams: Streams) -> None:
        self._orders = orders
        self._ground = orders.ground
        self._files = files
        self._inodes = inodes
        self._streams = streams

    async def commit(self, file: File) -> None:
        """What was written is in the log, durable on a majority, when this returns. OSError where the state machine
        refuses it; then it is still to be committed."""
        async with file.commits:
            if not file.dirty.touched:
                return
            file.is_committing = True
            try:
                await self._commit(file)
            finally:
                file.is_committing = False

    async def _commit(self, file: File) -> None:
        while True:
            inode, path = self._files.inode(file.number)
            if inode is None:
                if await self._orders.until_certain(file.number):
                    continue  # what has taken its last name may be refused, and it has that again
                file.end_stream()
                file.dirty = Dirty(file.size)  # nobody can ever see it but who has it open
                return
            in_ranges = file.size >= RANGES_FROM_BYTES and bool(file.digest) and self._are_ranges_less(file)
            same = inode.content is not None and not inode.pending and inode.content.digest == file.digest
            done = await (self._ranges(file, path) if in_ranges and same else self._whole(file, path))
            if done:
                return

    def _are_ranges_less(self, file: File) -> bool:
        """Also where all that was changed has been added at the end, and is on its way."""
        adds = file.stream is not None and 0 < file.stream.start >= file.dirty.low
        return adds or file.dirty.size * 2 <= file.size

    # -- whole --------------------------------------------------------------------------------------------------------

    async def _whole(self, file: File, path: bytes) -> bool:
        """False where the file has no name any more."""
        async with file.lock:
            stream = await self._streams.take(file)
            # What is written from here on belongs to the next commit.
            dirty, file.dirty = file.dirty, Dirty(file.size)
            size, mtime_ns = file.size, file.mtime_ns
            try:
                writers = await self._read(file, path, [(0, size)], stream)
            except BaseException:
                file.dirty = dirty.again(file.dirty)
                raise
        try:
            (content,) = await self._spread(writers)

            def put(inode: Inode, path: bytes) -> list[r.InPlace]:
                id, zone, _ = self._orders.stamp()
                return [r.Put(id, zone, mtime_ns, path, inode.mode, inode.uid, inode.gid, content)]

            outcomes = await self._order(file.number, put, writers)
            if outcomes is None:
                return False
            if outcomes[0].errno:
                raise refused(outcomes[0].errno)
        except BaseException:
            file.dirty = dirty.again(file.dirty)
            raise
        self._done(file, content.digest)
        return True

    async def _order(
        self, number: int, records: Callable[[Inode, bytes], list[r.InPlace]], writers: list[ContentWriter]
    ) -> list[r.Outcome] | None:
        """As `Orders.about`, for records of which the last name what `writers` took, each one's. What was ordered once
        is in the log, whatever became of the others and of what was made again: zones may still need the bytes. Where
        it raises, they may be ordered yet, and need the bytes then; what nobody needs is swept later. None also where
        `records` finds another content."""
        ordered: set[int] = set()

        def told(outcomes: Sequence[r.Outcome]) -> None:
            ordered.update(at for at in range(-len(writers), 0) if not outcomes[at].errno)

        outcomes: list[r.Outcome] | None = None
        try:
            outcomes = await self._orders.about(number, records, told)
        except _OtherContentError:
            pass
        except BaseException:
            # What was not even queued would be sent for ever.
            await _abort([writer for writer in writers if isinstance(writer, Later) and writer.is_unnamed])
            raise
        for at, writer in zip(range(-len(writers), 0), writers, strict=True):
            if at in ordered:
                writer.used()
            else:
                await writer.abort()
        return outcomes

    async def _read(
        self, file: File, path: bytes, spans: list[tuple[int, int]], stream: Stream | None
    ) -> list[ContentWriter]:
        """The bytes of the copy, to be sent to the zones. Goes on with the stream for the span that begins where it
        does. `lock` is held."""
        writers: list[ContentWriter] = []
        is_used = False
        try:
            for start, stop in spans:
                writer = None if stream is None or start != stream.start else stream.writer
                if stream is None or writer is None:
                    writers.append(writer := self._ground.content_writer(path, stop - start))
                else:
                    writers.append(writer)
                    is_used = True
                    await self._send_again(writer, file, stream)
                    start = stream.taken
                async for data in self._bytes(file, start, stop):
                    await writer.write(data)
                await writer.seal()
        except BaseException:
            await _abort(writers)
            raise
        finally:
            if stream is not None and not is_used:
                await stream.abort()
        return writers

    async def _spread(self, writers: Sequence[ContentWriter]) -> list[Content]:
        """Where the zones that have to take the bytes cannot be reached, this waits for them as records do."""
        try:
            return [await self._orders.patiently(writer.commit) for writer in writers]
        except BaseException:
            await _abort(writers)
            raise

    async def _send_again(self, writer: ContentWriter, file: File, stream: Stream) -> None:
        """What was written again after it was sent."""
        for start, stop in stream.again.spans():
            async for data in self._bytes(file, start, stop):
                await writer.rewrite(start - stream.start, data)
                start += len(data)

    async def _bytes(self, file: File, start: int, stop: int) -> AsyncIterator[bytes]:
        while start < stop:
            size = min(CHUNK_BYTES, stop - start)
            if size <= 64 * 1024:
                data = os.pread(file.staged, size, start)
            else:
                data = await self._files.run(os.pread, file.staged, size, start)
            yield data
            start += size

    def _done(self, file: File, digest: bytes) -> None:
        before, file.digest, file.was_committed = file.digest, digest, True
        self._inodes.pages_are_now(file.number, before, digest)
        self._inodes.changed(file.number, file.changed_ns)

    # -- in ranges ----------------------------------------------------------------------------------------------------

    async def _ranges(self, file: File, path: bytes) -> bool:
        """False where the file has no name any more, or takes no ranges."""
        async with file.lock:
            stream = await self._streams.take(file)
            dirty, file.dirty = file.dirty, Dirty(file.size)
            before, size, mtime_ns = file.digest, file.size, file.mtime_ns
            spans = list(split(dirty.spans(), stream))
            try:
                writers = await self._read(file, path, spans, stream)
            except BaseException:
                file.dirty = dirty.again(file.dirty)
                raise
        try:
            contents = await self._spread(writers)
            pieces = [(start, content) for (start, _), content in zip(spans, contents, strict=True)]
            cuts = _cuts(dirty, size, pieces)
            stages = _stages(before, cuts, pieces)
            outcomes = await self._order(file.number, self._records_of(mtime_ns, stages, cuts, pieces), writers)
        except BaseException:
            file.dirty = dirty.again(file.dirty)
            raise
        if outcomes is None or any(outcome.errno for outcome in outcomes):
            # The whole is sent, if to anybody.
            file.dirty = dirty.again(file.dirty)
            file.digest = b""
            return False
        digest = stages[-1]
        inode, _ = self._files.inode(file.number)
        if file.is_stale or inode is None or inode.content is None or inode.content.digest != digest:
            # Another zone has put something before or after them, or they were stored to a copy with bytes that are
            # lost. It has not the bytes that there are now.
            file.is_stale, digest = True, b""
            self._files.misled(file.number)
        self._done(file, digest)
        return True

    def _records_of(
        self, mtime_ns: int, stages: list[bytes], cuts: list[int], pieces: list[tuple[int, Content]]
    ) -> Callable[[Inode, bytes], list[r.InPlace]]:
        """Cuts first, then what was written: carried out twice they do the same as once. Only for a content that is one
        of the `stages`: the first of them may have been promised, and refused meanwhile."""

        def records(inode: Inode, path: bytes) -> list[r.InPlace]:
            if inode.content is None or inode.content.digest not in stages:
                raise _OtherContentError
            stamp = self._orders.stamp
            truncations = [r.Truncate(*stamp()[:2], mtime_ns, path, size) for size in cuts]
            return [*truncations, *(r.Write(*stamp()[:2], mtime_ns, path, start, content) for start, content in pieces)]

        return records


def _cuts(dirty: Dirty, size: int, pieces: list[tuple[int, Content]]) -> list[int]:
    """The sizes that a file has to be given before what was written."""
    cuts = [dirty.low] if dirty.low < dirty.before else []
    return [*cuts, size] if size != dirty.low or not (cuts or pieces) else cuts


def _stages(digest: bytes, cuts: list[int], pieces: list[tuple[int, Content]]) -> list[bytes]:
    """The identities of a file with ever more of these changes, from that before them."""
    stages = [digest]
    for size in cuts:
        stages.append(truncated(stages[-1], size))
    for start, content in pieces:
        stages.append(written(stages[-1], start, content.size, content.digest))
    return stages


async def _abort(writers: Sequence[ContentWriter]) -> None:
    for writer in writers:
        await writer.abort()
