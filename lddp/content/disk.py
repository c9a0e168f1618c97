"""Blocking disk work: threads made for it, sparse files, and syncs shared by everybody who waits for one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

STEP_BYTES = 1024 * 1024
"""How much one read or write moves: large enough that a thread's hand-over costs little, small enough to share."""
HOLE_STEP_BYTES = 256 * 1024 * 1024
"""How many zeros are hashed in one call, so that a huge hole can be abandoned half-way."""
THREADS_MAX = 16
VECTORS_MAX = 512
ZEROS = memoryview(bytes(STEP_BYTES))
WRITE_BACK_BYTES = 8 * 1024 * 1024
"""How much of a file is written and not yet on its way to the disk, at most, where `WriteBack` looks after it."""
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4


class DiskThreads:
    """Threads for blocking file work."""

    def __init__(self, threads: int = THREADS_MAX) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="lddp-content")

    async def run(
        self, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Runs `work` in a thread; see `finished`."""
        return await finished(asyncio.wrap_future(self._executor.submit(work, *args, **kwargs)))

    def begin(self, work: Callable[Parameters, object], *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        """Has `work` done in a thread, without waiting for it. What it fails with is logged."""
        self._executor.submit(work, *args, **kwargs).add_done_callback(_log_failure)

    async def make(
        self,
        drop: Callable[[Result], object],
        work: Callable[Parameters, Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """As `run`, for what has to be closed: `drop` is called with it where the caller is cancelled."""
        return await finished(asyncio.wrap_future(self._executor.submit(work, *args, **kwargs)), drop)

    def close(self) -> None:
        self._executor.shutdown(wait=True)


def _log_failure(work: Future[object]) -> None:
    if (error := work.exception()) is not None:
        logger.error("disk work in the background failed", exc_info=error)


async def finished(work: asyncio.Future[Result], drop: Callable[[Result], object] | None = None) -> Result:
    """What a thread's work gives. A cancelled caller still waits for it, because a thread cannot be stopped and must
    never find its descriptor closed, or worse, reused; what nobody takes any more is given to `drop`."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not work.cancelled() and work.exception() is None and drop is not None:
            with contextlib.suppress(OSError):  # the caller is gone; its own cleanup follows
                drop(work.result())
        raise asyncio.CancelledError
    return work.result()


class WriteBack:
    """Has the kernel write a file that grows to the disk while it grows, so that the sync at its end waits for the last
    part only. It makes nothing durable."""

    def __init__(self) -> None:
        self._begun = 0

    def reached(self, descriptor: int, offset: int) -> None:
        """The file has so many bytes now. Waits for the disk where that is two steps behind. Blocking."""
        while offset - self._begun >= WRITE_BACK_BYTES:
            if self._begun:
                before = self._begun - WRITE_BACK_BYTES
                _sync_range(descriptor, before, WRITE_BACK_BYTES, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
            _sync_range(descriptor, self._begun, WRITE_BACK_BYTES, _WRITE)
            self._begun += WRITE_BACK_BYTES


def _sync_range(descriptor: int, offset: int, size: int, flags: int) -> None:
    """sync_file_range(2). What it fails with is left to the sync at the end, which asks for the same bytes."""
    _LIBC.sync_file_range(ctypes.c_int(descriptor), ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(flags))


_LIBC = ctypes.CDLL(None, use_errno=True)


class GroupSync:
    """Makes files and directories durable; who asks while a sync runs shares the next one.

    A round syncs the data of each file and then each directory once, whatever the number of files.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_SyncRequest] = []
        self._running = False
        self.rounds = 0

    def sync(self, descriptor: int | None, directory: int | None) -> None:
        """Blocks until the file's data and the directory's entries are durable, as far as given. Raises what the kernel
        reports: then it has dropped what it could not write, and another sync would not tell."""
        request = _SyncRequest(descriptor, directory)
        with self._changed:
            self._waiting.append(request)
            while self._running and not request.done:
                self._changed.wait()
            if not request.done:
                self._running = True
                batch, self._waiting = self._waiting, []
        if not request.done:
            self._round(batch)
        if request.error is not None:
            raise request.error

    def _round(self, batch: list[_SyncRequest]) -> None:
        try:
            for request in batch:
                if request.descriptor is not None:
                    request.attempt(os.fdatasync, request.descriptor)
            for directory in {request.directory for request in batch if request.directory is not None}:
                concerned = [request for request in batch if request.directory == directory]
                concerned[0].attempt(os.fsync, directory)
                for request in concerned[1:]:
                    request.error = request.error or concerned[0].error
        finally:
            with self._changed:
                for request in batch:
                    request.done = True
                self._running = False
                self.rounds += 1
                self._changed.notify_all()


class _SyncRequest:
    __slots__ = ("descriptor", "directory", "done", "error")

    def __init__(self, descriptor: int | None, directory: int | None) -> None:
        self.descriptor = descriptor
        self.directory = directory
        self.done = False
        self.error: OSError | None = None

    def attempt(self, sync: Callable[[int], None], descriptor: int) -> None:
        try:
            sync(descriptor)
        except OSError as error:  # kept for the one who asked
            self.error = self.error or error


def write_at(descriptor: int, offset: int, pieces: Sequence[bytes | memoryview]) -> int:
    """Writes all pieces one after the other from `offset`; returns the offset behind them."""
    views = [memoryview(piece) for piece in pieces if len(piece)]
    while views:
        written = os.pwritev(descriptor, views[:VECTORS_MAX], offset)
        if not written:
            raise OSError(errno.EIO, "the disk took no bytes")
        offset += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
    return offset


def next_data(descriptor: int, offset: int, end: int) -> tuple[int, int]:
    """(begin, end) of the next stretch of data at or behind `offset`, within `end`; (end, end) when only a hole is
    left."""
    try:
        begin = os.lseek(descriptor, offset, os.SEEK_DATA)
        if begin >= end:
            return end, end
        return begin, min(end, os.lseek(descriptor, begin, os.SEEK_HOLE))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end, end
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a filesystem that does not know about holes
            return offset, end
        raise


def stretches(descriptor: int, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of all data in [offset, end), in pieces of STEP_BYTES at most; ends early where the file does."""
    while offset < end:
        offset, stop = next_data(descriptor, offset, end)
        while offset < stop:
            data = os.pread(descriptor, min(STEP_BYTES, stop - offset), offset)
            if not data:
                return
            yield offset, data
            offset += len(data)


def open_directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def remove(path: str) -> None:
    """Unlinks a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
