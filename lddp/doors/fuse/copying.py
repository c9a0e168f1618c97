"""Private copies of files. Blocking: for threads."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lddp.zones import syscalls

STEP_BYTES = 8 << 20
COMPARED_BYTES = 1 << 20
PAGE_BYTES = 4096
KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
ALLOCATIONS = {0, KEEP_SIZE, KEEP_SIZE | _PUNCH_HOLE, _ZERO_RANGE, _ZERO_RANGE | KEEP_SIZE}
"""Modes of fallocate(2) that there are here."""


def new_file(directory: Path) -> int:
    """An empty file without a name; gone with its last descriptor, also when the process is killed."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    descriptor, name = tempfile.mkstemp(dir=directory)
    os.unlink(name)
    return descriptor


def require_room_for(directory: Path, size: int) -> None:
    """OSError(EFBIG) where files there cannot have this size: a record that says so would stop the zone."""
    descriptor = new_file(directory)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def data_in(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of what is not a hole."""
    start = 0
    while start < size:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno != errno.EINVAL:
                raise
            yield start, size  # this filesystem does not know
            return
        stop = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start >= stop:
            return
        yield start, stop
        start = stop


def copy(source: int, target: int, size: int) -> None:
    """The first `size` bytes of a file into an empty one, holes as holes; shared blocks where the filesystem can."""
    if not size:
        return
    with contextlib.suppress(OSError):
        syscalls.clone(target, source)
        os.ftruncate(target, size)
        return
    for start, stop in data_in(source, size):
        while start < stop:
            copied = _copy_some(source, target, start, min(STEP_BYTES, stop - start))
            if not copied:
                break  # it became shorter; who asked looks whether it is still the same
            start += copied
    os.ftruncate(target, size)


def _copy_some(source: int, target: int, offset: int, size: int) -> int:
    try:
        return os.copy_file_range(source, target, size, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.pwrite(target, os.pread(source, size, offset), offset)


def replace(source: int, target: int, size: int) -> None:
    """The first `size` bytes of a file in place of all that another one has, which is never emptier meanwhile than one
    of the two."""
    if os.fstat(target).st_size > size:
        os.ftruncate(target, size)
    try:
        syscalls.clone(target, source)
    except OSError:
        at = 0
        while at < size:
            copied = _copy_some(source, target, at, min(STEP_BYTES, size - at))
            if not copied:
                break  # it became shorter; who asked looks whether it is still the same
            at += copied
    os.ftruncate(target, size)


def follow(source: int, mirror: int, size: int) -> list[tuple[int, int]]:
    """Where a file differs from its mirror, as (start, stop) of pages; the mirror has the same afterwards."""
    found: list[tuple[int, int]] = []
    for at in range(0, size, COMPARED_BYTES):
        count = min(COMPARED_BYTES, size - at)
        data = os.pread(source, count, at)
        if data == os.pread(mirror, count, at):
            continue
        for start in range(0, len(data), PAGE_BYTES):
            page = data[start : start + PAGE_BYTES]
            if page != os.pread(mirror, len(page), at + start):
                os.pwrite(mirror, page, at + start)
                found.append((at + start, at + start + len(page)))
    return found


def allocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_int(descriptor), ctypes.c_int(mode), ctypes.c_int64(offset), ctypes.c_int64(length))
    if libc.fallocate(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
