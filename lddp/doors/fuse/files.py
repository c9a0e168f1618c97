"""Open files of a mount.

All opens of an inode share one File. It reads from the zone's own file (`base`) until somebody writes; then from a
private copy (`staged`), which every open of the mount sees at once and nobody else before it is committed.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lddp.access import OpenFile
from lddp.content.disk import finished
from lddp.core.namespace import Inode
from lddp.core.operations import EMPTY_DIGEST
from lddp.doors.fuse import copying
from lddp.doors.fuse.dirty import Dirty
from lddp.doors.fuse.errors import Opened
from lddp.doors.fuse.ordering import Orders, refused
from lddp.doors.fuse.spares import Spares
from lddp.errors import OperationError

if TYPE_CHECKING:
    from lddp.doors.fuse.streaming import Stream

AT_ONCE_BYTES = 128 * 1024
"""What is written to a file's pages without a thread: such a write is a copy in memory, a thread costs more."""
IDLE_FILES_MAX = 64
IDLE_BYTES_MAX = 1 << 20
"""How large a file may be that is kept open after its last close, for the next open of it."""
TRIES_MAX = 16
NOT_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL))
"""What says that the path of a file leads to no file any more."""
_WRITABLE = os.O_WRONLY | os.O_RDWR
Got = TypeVar("Got")


class File:
    """One inode that is open. `digest` names the content in the log that `base` has, or that `staged` was made from or
    committed as; empty where that is not known. `size` and `mtime_ns` are what stat shows while there is a copy."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.opens = 0
        self.base: OpenFile | None = None
        self.staged = -1
        self.is_known = False
        """Whether there are bytes to read: `base`, `staged`, or none because the file is empty."""
        self.digest = b""
        self.size = 0
        self.mtime_ns = 0
        self.changed_ns = 0
        """When the copy was changed last."""
        self.dirty = Dirty(0)
        self.stream: Stream | None = None
        """What of `dirty` is on its way to the zones already."""
        self.is_committing = False
        self.is_stale = False
        """Whether the log has another content since, from elsewhere."""
        self.is_orphan = False
        """Whether it has no name any more, so that no bytes can come from elsewhere."""
        self.lock = asyncio.Lock()
        """Held while bytes are changed, copied or replaced."""
        self.commits = asyncio.Lock()
        """Held while what was written goes into the log, and while a name of the file goes."""

    @property
    def descriptor(self) -> int:
        """Of its bytes; -1 where it is empty."""
        if self.staged >= 0:
            return self.staged
        return -1 if self.base is None else self.base.descriptor

    @property
    def is_ahead(self) -> bool:
        """Whether the log is still to learn what it has."""
        return self.dirty.touched or self.is_committing

    def is_intact(self) -> bool:
        if self.is_orphan:
            return True
        if self.is_stale and not self.is_ahead:
            return False
        return self.staged >= 0 or self.base is None or self.base.is_intact()

    def end_stream(self) -> None:
        """What was sent before its commit is not wanted any more."""
        if self.stream is not None:
            self.stream.task.cancel()
            self.stream = None

    def drop(self) -> None:
        """Lets go of its bytes."""
        self.end_stream()
        if self.base is not None:
            self.base.close()
            self.base = None
        if self.staged >= 0:
            os.close(self.staged)
            self.staged = -1
        self.is_known = self.is_stale = False

    def become_empty(self, digest: bytes) -> None:
        self.drop()
        self.digest, self.size, self.is_known = digest, 0, True
        self.dirty = Dirty(0)


@dataclass(frozen=True, slots=True)
class Handle:
    file: File
    flags: int
    opened: Opened
    has_made: bool = False
    """Whether this open has made the file."""

    @property
    def writes(self) -> bool:
        return bool(self.flags & _WRITABLE)


class Files:
    """Every File of one mount."""

    def __init__(self, orders: Orders) -> None:
        self._orders, self._ground = orders, orders.ground
        self._files: dict[int, File] = {}
        self._idle: OrderedDict[int, File] = OrderedDict()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="fuse-file")
        self._spares = Spares(self._ground.scratch, self._threads)
        self.wrote: Callable[[File, int, int], None] = lambda file, start, stop: None
        self.cut: Callable[[File, int], None] = lambda file, size: None  # told of a new size, `wrote` of changed bytes

    def get(self, number: int) -> File | None:
        return self._files.get(number)

    def __iter__(self) -> Any:
        return iter(list(self._files.values()))

    async def run(self, function: Callable[..., Got], *arguments: Any) -> Got:
        """In a thread. Whoever is cancelled waits for it nevertheless."""
        return await finished(asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments))

    @asynccontextmanager
    async def quiet(self, *numbers: int) -> AsyncIterator[None]:
        """No commit of these files runs meanwhile, so that none takes the path that a file is losing."""
        async with AsyncExitStack() as stack:
            for number in sorted(set(numbers)):
                file = self._files.get(number)
                if file is not None:
                    await stack.enter_async_context(file.commits)
            yield

    # -- opening ------------------------------------------------------------------------------------------------------

    def hold(self, number: int) -> File:
        """The File of an inode, kept until `let_go`."""
        file = self._files.get(number)
        if file is None:
            file = self._files[number] = File(number)
        self._idle.pop(number, None)
        file.opens += 1
        return file

    def let_go(self, file: File) -> bool:
        """Whether that was the last hold and something is still to be committed: then the caller holds it again."""
        file.opens -= 1
        if file.opens:
            return False
        if file.is_ahead:
            return True
        if file.is_known and file.size <= IDLE_BYTES_MAX:
            self._idle[file.number] = file
            if len(self._idle) <= IDLE_FILES_MAX:
                return False
            _, file = self._idle.popitem(last=False)
        self.discard(file)
        return False

    def discard(self, file: File) -> None:
        file.drop()
        self._files.pop(file.number, None)
        self._idle.pop(file.number, None)

    def gone(self, number: int) -> None:
        """The last name of an inode is gone."""
        file = self._files.get(number)
        if file is not None:
            file.end_stream()
        if file is not None and not file.opens:
            self.discard(file)

    def inode(self, number: int) -> tuple[Inode | None, bytes]:
        """As the namespace has it now, and its path."""
        with self._ground.view() as view:
            inode = view.inode(number)
            return inode, b"" if inode is None else self._orders.path(view, inode)

    async def freshen(self, file: File) -> None:
        """Makes the file's bytes those of the log, unless somebody writes to it. `lock` is held."""
        for _ in range(TRIES_MAX):
            inode, path = self.inode(file.number)
            if inode is None:
                if not file.is_known:
                    raise refused(errno.ESTALE)
                file.is_orphan = True
                return
            known = inode.content.digest if inode.content is not None and not inode.pending else b""
            if file.is_known and (file.is_ahead or (known and known == file.digest)) and file.is_intact():
                return
            if known == EMPTY_DIGEST or (known and not inode.size):
                file.become_empty(known)
                return
            if await self._reopen(file, path):
                return
        raise refused(errno.ESTALE)

    async def _reopen(self, file: File, path: bytes) -> bool:
        """False where the path is another object's, or nobody's, since it was looked for."""
        try:
            opened = await self._ground.open_file(path)
        except OperationError as error:
            if error.errno not in NOT_THERE:
                raise
            return False
        if opened.entry.inode != file.number:
            opened.close()
            return False
        file.drop()
        inode, _ = self.inode(file.number)
        same = inode is not None and inode.version == opened.entry.version and inode.content is not None
        file.digest = inode.content.digest if inode is not None and same and inode.content is not None else b""
        file.base, file.size, file.is_known = opened, opened.entry.size, True
        file.dirty = Dirty(file.size)
        return True

    # -- reading ------------------------------------------------------------------------------------------------------

    def read_at_once(self, file: File, offset: int, size: int) -> bytes | None:
        """Bytes that are in memory already; None where a thread has to wait for them."""
        descriptor = file.descriptor
        size = max(0, min(size, file.size - offset))
        if descriptor < 0 or not size:
            return b"" if file.is_known and file.is_intact() else None
        data = bytearray(size)
        try:
            count = os.preadv(descriptor, [data], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            return None
        return bytes(data) if count == size and file.is_intact() else None

    async def read(self, file: File, offset: int, size: int) -> bytes:
        for _ in range(TRIES_MAX):
            if not file.is_known or not file.is_intact():
                async with file.lock:
                    await self.freshen(file)
            descriptor = file.descriptor
            if descriptor < 0:
                return b""
            try:
                data = await self.run(os.pread, descriptor, size, offset)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                continue  # replaced by a newer one meanwhile
            if file.is_intact() and descriptor == file.descriptor:
                return data
        raise refused(errno.EIO)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def stage(self, file: File, *, keep: bool = True) -> None:
        """A private copy to write to; empty without `keep`. `lock` is held."""
        if file.staged >= 0 and not file.is_intact() and keep:
            await self.freshen(file)
        if file.staged >= 0:
            if not keep:
                self.resize(file, 0)
            return
        staged = await self._spares.take()
        try:
            if keep:
                await self._fill(file, staged)
            elif not file.is_known:
                # What the log has is to be replaced, whatever it is.
                inode, _ = self.inode(file.number)
                file.size = 0 if inode is None else inode.size
                file.dirty = Dirty(file.size)
        except BaseException:
            os.close(staged)
            raise
        if file.base is not None:
            file.base.close()
            file.base = None
        file.staged, file.is_known = staged, True
        if not keep:
            self.resize(file, 0)

    async def _fill(self, file: File, staged: int) -> None:
        for _ in range(TRIES_MAX):
            if not file.is_known or not file.is_intact():
                await self.freshen(file)
            if file.base is None:
                return
            await self.run(os.ftruncate, staged, 0)
            await self.run(copying.copy, file.base.descriptor, staged, file.size)
            if file.is_intact():
                return
        raise refused(errno.EIO)

    def write_at_once(self, file: File, offset: int, data: memoryview) -> int | None:
        """Bytes written; None where that needs a copy to be made, or to be waited for."""
        if file.staged < 0 or file.lock.locked() or len(data) > AT_ONCE_BYTES or not file.is_intact():
            return None
        if file.stream is not None and file.stream.is_full:
            return None
        return self._write(file, offset, data)

    def _write(self, file: File, offset: int, data: memoryview) -> int:
        done = 0
        while done < len(data):
            done += os.pwrite(file.staged, data[done:], offset + done)
        self.note(file, offset, offset + done)
        return done

    def note(self, file: File, start: int, stop: int) -> None:
        """These bytes of the copy were changed."""
        file.dirty.write(start, stop)
        self.wrote(file, start, stop)
        file.size = max(file.size, stop)
        file.mtime_ns = file.changed_ns = self._ground.time_ns()

    def resize(self, file: File, size: int) -> None:
        os.ftruncate(file.staged, size)
        file.dirty.resize(size)
        self.cut(file, size)
        file.size = size
        file.mtime_ns = file.changed_ns = self._ground.time_ns()

    async def write(self, file: File, offset: int, data: memoryview) -> int:
        if file.stream is not None:
            await file.stream.room()
        async with file.lock:
            await self.stage(file)
            if len(data) <= AT_ONCE_BYTES:
                return self._write(file, offset, data)
            try:
                done = await self.run(os.pwrite, file.staged, data, offset)
            except asyncio.CancelledError:
                self.note(file, offset, offset + len(data))  # it was written nevertheless
                raise
            self.note(file, offset, offset + done)
            return done

    async def truncate(self, file: File, size: int) -> None:
        async with file.lock:
            await self.stage(file, keep=size > 0)
            self.resize(file, size)

    async def require_room_for(self, size: int) -> None:
        """EFBIG where this zone's filesystem has no files of this size: a record that says so would stop the zone."""
        await self.run(copying.require_room_for, self._ground.scratch(), size)

    async def allocate(self, file: File, mode: int, offset: int, length: int) -> None:
        if mode not in copying.ALLOCATIONS:
            raise refused(errno.EOPNOTSUPP)
        async with file.lock:
            await self.stage(file)
            before = file.size
            await self.run(copying.allocate, file.staged, mode, offset, length)
            if mode & ~1:
                self.note(file, offset, min(offset + length, before))
            if not mode & 1 and offset + length > before:
                self.resize(file, offset + length)

    async def seek(self, file: File, offset: int, whence: int) -> int:
        if not file.is_known or not file.is_intact():
            async with file.lock:
                await self.freshen(file)
        if file.descriptor < 0:
            raise refused(errno.ENXIO)
        return await self.run(os.lseek, file.descriptor, offset, whence)

    def close(self) -> None:
        for file in list(self._files.values()):
            self.discard(file)
        self._spares.close()
        self._threads.shutdown(wait=False)
