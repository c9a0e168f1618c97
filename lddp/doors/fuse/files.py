"""The open files of a mount, and those that are kept open for the next open."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from lddp.access import OpenFile
from lddp.content.disk import finished
from lddp.core.namespace import Inode
from lddp.core.operations import EMPTY_DIGEST
from lddp.doors.fuse import copying
from lddp.doors.fuse.dirty import Dirty
from lddp.doors.fuse.file import File
from lddp.doors.fuse.memory import Memory
from lddp.doors.fuse.ordering import Orders, patient, refused
from lddp.doors.fuse.spares import Spares
from lddp.errors import OperationError, UnavailableError

AT_ONCE_BYTES = 128 * 1024
"""What is written to a file's pages without a thread: such a write is a copy in memory, a thread costs more."""
IDLE_FILES_MAX = 64
IDLE_BYTES_MAX = 1 << 20
"""How large a file may be that is kept open after its last close, for the next open of it; clones may be larger."""
TRIES_MAX = 16
NOT_THERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL))
"""What says that the path of a file leads to no file any more."""
Got = TypeVar("Got")


class Files:
    """Every File of one mount."""

    def __init__(self, orders: Orders, became: Callable[[int, bytes], None]) -> None:
        self.orders, self._ground, self._became = orders, orders.ground, became
        self._files: dict[int, File] = {}
        self._idle: OrderedDict[int, File] = OrderedDict()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="fuse-file")
        self._spares = Spares(self._ground.scratch, self._threads)
        self._memory = Memory(self._ground.scratch)
        self.wrote: Callable[[File, int, int], None] = lambda file, start, stop: None
        """Told of bytes of a copy that were changed, and `cut` of a new size."""
        self.cut: Callable[[File, int], None] = lambda file, size: None
        self.stored: Callable[[int], None] = lambda number: None
        """Told of an inode of which the kernel has changed bytes without knowing that its time is another."""
        self.misled: Callable[[int], None] = lambda number: None
        """Told of one of which the kernel is to forget bytes: later, as it may hold what the call itself needs."""

    def get(self, number: int) -> File | None:
        return self._files.get(number)

    def __iter__(self) -> Any:
        return iter(list(self._files.values()))

    async def run(
        self, function: Callable[..., Got], *arguments: Any, drop: Callable[[Got], object] | None = None
    ) -> Got:
        """In a thread. Whoever is cancelled waits for it nevertheless; `drop` is called with what he does not get."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        return await finished(work, drop)

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
            file = self._files[number] = File(number, self._became)
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
        if file.is_known and not file.is_stale and (file.size <= IDLE_BYTES_MAX or self._is_clone_of_a_name(file)):
            self._idle[file.number] = file
            if len(self._idle) <= IDLE_FILES_MAX:
                return False
            _, file = self._idle.popitem(last=False)
        self.discard(file)
        return False

    def _is_clone_of_a_name(self, file: File) -> bool:
        """A clone of what has no name any more would keep room that comes back otherwise."""
        return file.is_clone and self.inode(file.number)[0] is not None

    def discard(self, file: File) -> None:
        file.drop()
        self._files.pop(file.number, None)
        self._idle.pop(file.number, None)

    def abandon(self, file: File) -> None:
        """What was written to it is lost."""
        file.end_stream()
        file.dirty = Dirty(file.size)
        file.is_stale = True

    def forget_idle(self, file: File) -> None:
        """Nobody needs its bytes any more."""
        if not file.opens:
            self.discard(file)

    def gone(self, number: int) -> None:
        """The last name of an inode is gone."""
        file = self._files.get(number)
        if file is not None:
            file.end_stream()
            self.forget_idle(file)

    def inode(self, number: int) -> tuple[Inode | None, bytes]:
        """As the namespace has it now, and its path."""
        with self._ground.view() as view:
            inode = view.inode(number)
            return inode, b"" if inode is None else self.orders.path(view, inode)

    @patient
    async def freshened(self, file: File) -> None:
        async with file.lock:
            await self.freshen(file)

    async def freshen(self, file: File) -> None:
        """Makes the file's bytes those of the log, unless somebody writes to it. `lock` is held."""
        if file.is_stale:
            await self.notice(file)
        for _ in range(TRIES_MAX):
            inode, path = self.inode(file.number)
            if inode is None:
                if not file.is_known:
                    raise refused(errno.ESTALE)
                file.is_orphan = True
                return
            file.is_orphan = False
            known = inode.content.digest if inode.content is not None and not inode.pending else b""
            if file.is_known and (file.is_ahead or (known and known == file.digest)) and file.is_intact():
                return
            if known == EMPTY_DIGEST or (known and not inode.size):
                file.become_empty(known)
                return
            if await self._reopen(file, path, inode):
                return
        raise refused(errno.ESTALE)

    async def _is_left_old(self, file: File) -> bool:
        """As `freshen`, for who reads. But where the kernel waits for that before it forgets what it has of the file:
        better the bytes that were there before than to wait for those that are to come. It is told once more then."""
        try:
            await self.freshen(file)
        except UnavailableError:
            if not file.is_told or not file.is_known:
                raise
            self.misled(file.number)
            return True
        return False

    async def _reopen(self, file: File, path: bytes, before: Inode) -> bool:
        """False where the path is another object's, or nobody's, since it was looked for. `before` is what the file was
        then: what is queued gives it one version, whatever the log brings below that."""
        try:
            opened = await self._ground.open_file(path)
        except OperationError as error:
            if error.errno not in NOT_THERE:
                raise
            return False
        if opened.entry.inode != file.number:
            opened.close()
            return False
        if file.passes:
            if not await self._replace(file, opened):
                return False
        else:
            file.drop()
            file.base = opened
        inode, _ = self.inode(file.number)
        content = None if inode is None else inode.content
        same = inode is not None and inode.version == opened.entry.version and content == before.content
        file.become(content.digest if same and content is not None else b"", opened.entry.size)
        if file.passes and inode is not None and not same:
            file.is_stale = True  # for the one that came meanwhile nobody refreshes it: this was to do that
        return True

    async def _replace(self, file: File, opened: OpenFile) -> bool:
        """The copy stays the same file and gets these bytes; False where they became others meanwhile."""
        file.is_stale = True  # if this does not come to its end
        try:
            for copy in file.copies:
                await self.run(copying.replace, opened.descriptor, copy, opened.entry.size)
            return opened.is_intact()
        finally:
            opened.close()

    # -- reading ------------------------------------------------------------------------------------------------------

    @patient
    async def read(self, file: File, offset: int, size: int) -> bytes:
        data = await self._asked(file, os.pread, size, offset)
        return b"" if data is None else data

    async def _asked(self, file: File, function: Callable[..., Got], *arguments: int) -> Got | None:
        """What `function` says of a descriptor of the bytes, and of no other; None where there are none."""
        for _ in range(TRIES_MAX):
            is_old = False
            if not file.is_known or not file.is_intact():
                async with file.lock:
                    is_old = await self._is_left_old(file)
            descriptor = file.descriptor
            if descriptor < 0:
                return None
            try:
                found = await self.run(function, descriptor, *arguments)
            except OSError as error:
                if error.errno != errno.EBADF and descriptor == file.descriptor and file.is_intact():
                    raise
                continue  # replaced by a newer one meanwhile
            if descriptor == file.descriptor and (is_old or file.is_intact()):
                return found
        raise refused(errno.EIO)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def stage(self, file: File, *, size: int, keep: bool = True) -> None:
        """A private copy to write to, which is to have `size` bytes then, or more; empty without `keep`. `lock` is
        held."""
        if file.staged >= 0 and not file.is_intact() and keep:
            await self.freshen(file)
        if file.staged >= 0:
            if file.is_in_memory and not self._memory.fits(size):
                await self._to_disk(file)
            if not keep:
                self.resize(file, 0)
            return
        if keep:
            staged, is_in_memory = await self._copied(file, size)
        else:
            if not file.is_known:
                # What the log has is to be replaced, whatever it is.
                inode, _ = self.inode(file.number)
                file.size = 0 if inode is None else inode.size
                file.dirty = Dirty(file.size)
            staged, is_in_memory = await self._empty(size)
        if file.base is not None:
            file.base.close()
            file.base = None
        file.staged, file.is_known, file.is_in_memory = staged, True, is_in_memory
        if is_in_memory:
            self._memory.note(file)
        if not keep:
            self.resize(file, 0)

    async def _empty(self, size: int) -> tuple[int, bool]:
        """A new copy, and whether it is in memory."""
        staged = self._memory.take(size)
        return (staged, True) if staged >= 0 else (await self._spares.take(), False)

    async def _copied(self, file: File, size: int) -> tuple[int, bool]:
        """As `_empty`, with the bytes of the file."""
        for _ in range(TRIES_MAX):
            if not file.is_known or not file.is_intact():
                await self.freshen(file)
            staged, is_in_memory = await self._empty(max(size, file.size))
            try:
                if file.base is None:
                    return staged, is_in_memory
                await self.run(copying.copy, file.base.descriptor, staged, file.size)
                if file.is_intact():
                    return staged, is_in_memory
            except BaseException:
                os.close(staged)
                raise
            os.close(staged)
        raise refused(errno.EIO)

    async def _to_disk(self, file: File) -> None:
        """The copy is to be larger than memory has them."""
        staged = await self._spares.take()
        try:
            await self.run(copying.copy, file.staged, staged, file.size)
        except BaseException:
            os.close(staged)
            raise
        os.close(file.staged)
        file.staged, file.is_in_memory = staged, False

    def write_at_once(self, file: File, offset: int, data: memoryview) -> int | None:
        """Bytes written; None where that needs bytes to be copied, or to be waited for."""
        if file.lock.locked() or len(data) > AT_ONCE_BYTES or not file.is_intact():
            return None
        if file.stream is not None and file.stream.is_full:
            return None
        if file.is_in_memory and not self._memory.fits(offset + len(data)):
            return None
        if file.staged < 0 and not self._begin(file, offset + len(data)):
            return None
        return self._write(file, offset, data)

    def _begin(self, file: File, size: int) -> bool:
        """Gives a file that has no bytes a copy in memory; False where there is more to do."""
        if not file.is_known or file.base is not None or file.size:
            return False
        staged = self._memory.take(size)
        if staged < 0:
            return False
        file.staged, file.is_in_memory = staged, True
        self._memory.note(file)
        return True

    def _write(self, file: File, offset: int, data: memoryview) -> int:
        done = file.put(offset, data)
        self.note(file, offset, offset + done)
        return done

    def note(self, file: File, start: int, stop: int) -> None:
        """These bytes of the copy were changed."""
        file.is_clone = False
        file.dirty.write(start, stop)
        self.wrote(file, start, stop)
        file.size = max(file.size, stop)
        file.mtime_ns = file.changed_ns = self._ground.time_ns()

    async def notice(self, file: File) -> None:
        """What has been stored through mappings of the copy is a change of it. `lock` is held."""
        if file.mirror >= 0:
            for start, stop in await self.run(copying.follow, file.staged, file.mirror, file.size):
                file.has_stores = True
                self.note(file, start, stop)
                self.stored(file.number)

    def resize(self, file: File, size: int) -> None:
        file.cut(size)
        file.is_clone = False
        file.dirty.resize(size)
        self.cut(file, size)
        file.size = size
        file.mtime_ns = file.changed_ns = self._ground.time_ns()

    @patient
    async def write(self, file: File, offset: int, data: memoryview, *, appends: bool) -> tuple[int, int]:
        """Where it was written, which is the end of the file if it `appends`, and how many bytes."""
        if file.stream is not None:
            await file.stream.room()
        async with file.lock:
            await self.stage(file, size=offset + len(data))
            while appends and offset != file.size:
                offset = file.size
                await self.stage(file, size=offset + len(data))
            if len(data) <= AT_ONCE_BYTES:
                return offset, self._write(file, offset, data)
            try:
                done = await self.run(file.put, offset, data)
            except asyncio.CancelledError:
                self.note(file, offset, offset + len(data))  # it was written nevertheless
                raise
            self.note(file, offset, offset + done)
            return offset, done

    @patient
    async def truncate(self, file: File, size: int) -> None:
        async with file.lock:
            await self.stage(file, size=size, keep=size > 0)
            self.resize(file, size)

    @patient
    async def seek(self, file: File, offset: int, whence: int) -> int:
        found = await self._asked(file, os.lseek, offset, whence)
        if found is None:
            raise refused(errno.ENXIO)
        return found

    def close(self) -> None:
        for file in list(self._files.values()):
            self.discard(file)
        self._spares.close()
        self._threads.shutdown(wait=False)
