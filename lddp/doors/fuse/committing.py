"""From a private copy to records of the log: a whole Put, or the changed ranges where a small part of a big file
changed."""

from __future__ import annotations

import errno
import os

from lddp.access import ContentWriter
from lddp.core import records as r
from lddp.core.namespace import Inode
from lddp.core.records import Content, Record
from lddp.doors.fuse.dirty import Dirty
from lddp.doors.fuse.files import TRIES_MAX, File, Files
from lddp.doors.fuse.inodes import Inodes
from lddp.doors.fuse.ordering import Orders, refused

CHUNK_BYTES = 1 << 20
RANGES_FROM_BYTES = 1 << 20
"""Files from this size on travel in ranges, where at most half of their bytes changed. A Put names the version that it
replaces and so never hits another file; ranges name a path only, so small files do not use them."""


class Committer:
    def __init__(self, orders: Orders, files: Files, inodes: Inodes) -> None:
        self._orders = orders
        self._ground = orders.ground
        self._files = files
        self._inodes = inodes

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
            with self._ground.view() as view:
                inode = view.inode(file.number)
            if inode is None:
                file.dirty = Dirty(file.size)  # nobody can ever see it but who has it open
                return
            in_ranges = file.size >= RANGES_FROM_BYTES and file.dirty.size * 2 <= file.size and bool(file.digest)
            same = inode.content is not None and not inode.pending and inode.content.digest == file.digest
            done = await (self._ranges(file) if in_ranges and same else self._whole(file))
            if done:
                return

    def _path(self, number: int) -> tuple[Inode, bytes] | None:
        inode, path = self._files.inode(number)
        return None if inode is None else (inode, path)

    # -- whole --------------------------------------------------------------------------------------------------------

    async def _whole(self, file: File) -> bool:
        """False where the file was changed or moved from elsewhere meanwhile, or what was sent is not wanted."""
        found = self._path(file.number)
        if found is None:
            return False
        writer = self._ground.content_writer(found[1], file.size)
        async with file.lock:
            # What is written from here on belongs to the next commit.
            dirty, file.dirty = file.dirty, Dirty(file.size)
            size, mtime_ns = file.size, file.mtime_ns
            try:
                content = await self._send(writer, file, 0, size)
            except BaseException:
                file.dirty = dirty.again(file.dirty)
                raise
        try:
            outcome = await self._put(file.number, content, mtime_ns, writer)
        except BaseException:
            file.dirty = dirty.again(file.dirty)
            raise
        if outcome is None:
            file.dirty = Dirty(file.size)
            return True
        self._done(file, content.digest)
        return True

    async def _put(self, number: int, content: Content, mtime_ns: int, writer: ContentWriter) -> r.Outcome | None:
        """None where the file has no name any more."""
        for _ in range(TRIES_MAX):
            async with self._orders.moves.shared():
                found = self._path(number)
                if found is None:
                    await writer.abort()
                    return None
                inode, path = found
                id, zone, _ = self._orders.stamp()
                record = r.Put(
                    id, zone, mtime_ns, path, inode.mode, inode.uid, inode.gid, content, inode.version or r.SOME_VERSION
                )
                (outcome,) = await self._orders.many([record])
            if outcome.errno not in (errno.ESTALE, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EINVAL):
                break
        if outcome.errno:
            await writer.abort()
            raise refused(outcome.errno)
        writer.used()
        return outcome

    async def _send(self, writer: ContentWriter, file: File, start: int, stop: int) -> Content:
        """The bytes of the copy, on their way to the zones. `lock` is held."""
        try:
            while start < stop:
                size = min(CHUNK_BYTES, stop - start)
                if size <= 64 * 1024:
                    data = os.pread(file.staged, size, start)
                else:
                    data = await self._files.run(os.pread, file.staged, size, start)
                await writer.write(data)
                start += size
            return await writer.commit()
        except BaseException:
            await writer.abort()
            raise

    def _done(self, file: File, digest: bytes) -> None:
        before, file.digest = file.digest, digest
        self._inodes.pages_are_now(file.number, before, digest)
        self._inodes.changed(file.number, file.changed_ns)

    # -- in ranges ----------------------------------------------------------------------------------------------------

    async def _ranges(self, file: File) -> bool:
        found = self._path(file.number)
        if found is None:
            return False
        writers: list[ContentWriter] = []
        pieces: list[tuple[int, Content]] = []
        async with file.lock:
            dirty, file.dirty = file.dirty, Dirty(file.size)
            size, mtime_ns = file.size, file.mtime_ns
            try:
                for start, stop in dirty.spans():
                    writer = self._ground.content_writer(found[1], stop - start)
                    writers.append(writer)
                    pieces.append((start, await self._send(writer, file, start, stop)))
            except BaseException:
                file.dirty = dirty.again(file.dirty)
                raise
        try:
            return await self._order_ranges(file, dirty, size, mtime_ns, pieces, writers)
        except BaseException:
            file.dirty = dirty.again(file.dirty)
            raise

    async def _order_ranges(
        self,
        file: File,
        dirty: Dirty,
        size: int,
        mtime_ns: int,
        pieces: list[tuple[int, Content]],
        writers: list[ContentWriter],
    ) -> bool:
        async with self._orders.moves.shared():
            found = self._path(file.number)
            if found is None:
                for writer in writers:
                    await writer.abort()
                return False
            _, path = found
            stamp = self._orders.stamp
            records: list[Record] = []
            sizes = [dirty.low] if dirty.low < dirty.before else []
            if size != dirty.low:
                sizes.append(size)
            records += [r.Truncate(*stamp()[:2], mtime_ns, path, one) for one in sizes]
            records += [r.Write(*stamp()[:2], mtime_ns, path, start, content) for start, content in pieces]
            if not records:
                records = [r.Truncate(*stamp()[:2], mtime_ns, path, size)]
            outcomes = await self._orders.naming(records, writers)
        if any(outcome.errno or outcome.inode != file.number for outcome in outcomes):
            # Another file has the name by now: the whole of this one is sent, to wherever it is.
            file.dirty = dirty.again(file.dirty)
            file.digest = b""
            return False
        with self._ground.view() as view:
            inode = view.inode(file.number)
        mine = inode is not None and inode.version == outcomes[-1].version and inode.content is not None
        digest = inode.content.digest if inode is not None and mine and inode.content is not None else b""
        self._done(file, digest)
        return True
