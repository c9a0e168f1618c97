"""Bytes into and out of files, with holes left as holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from lddp.ports import ContentSource
from lddp.zones import syscalls

SPARSE_SIZE_MIN = 1 << 20
"""Files of this size and more are searched for zeros that need not be stored."""

HOLE_BYTES = 64 * 1024
"""A run of zeros this long, and aligned to it, becomes a hole."""

CLONE_BYTES_MIN = 64 * 1024
"""Smaller files are written as fast as they are cloned."""

_ZEROS = bytes(HOLE_BYTES)


def fill_new(descriptor: int, source: ContentSource) -> None:
    """Gives a new, empty file a content: its blocks where the filesystem can share them, or the bytes. These are
    written; what the source leaves out, and long runs of zeros, become holes."""
    if source.size >= CLONE_BYTES_MIN and _clone(descriptor, source):
        return
    sparse = source.size >= SPARSE_SIZE_MIN
    end = 0
    for offset, data in source.chunks():
        assert offset >= end, "chunks come in ascending order"
        end = offset + len(data)
        assert end <= source.size, "a content has no bytes beyond its size"
        if sparse:
            for start, piece in _without_zeros(offset, data):
                write_all(descriptor, piece, start)
        else:
            write_all(descriptor, data, offset)
    # The last piece may have been zeros, so that the file ends before `end`.
    if sparse or end < source.size:
        os.ftruncate(descriptor, source.size)


def _clone(descriptor: int, source: ContentSource) -> bool:
    whole = source.open_to_clone()
    if whole is None:
        return False
    try:
        syscalls.clone(descriptor, whole)
    except OSError:  # not there, or not between these two; what is really wrong shows when it is written
        return False
    finally:
        os.close(whole)
    return True


def fill_part(descriptor: int, at: int, source: ContentSource) -> None:
    """Writes a content over part of an existing file; what the source leaves out is made zeros."""
    done = 0
    for offset, data in source.chunks():
        assert offset >= done, "chunks come in ascending order"
        if offset > done:
            _clear(descriptor, at + done, offset - done)
        write_all(descriptor, data, at + offset)
        done = offset + len(data)
        assert done <= source.size, "a content has no bytes beyond its size"
    if done < source.size:
        _clear(descriptor, at + done, source.size - done)


def data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the parts of a file below `size` that are not holes, in ascending order."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # no data from here to the end, or the file became shorter
            if error.errno != errno.EINVAL:
                raise
            start, end = offset, size  # a filesystem that does not know holes
        if start >= size:
            return
        end = min(end, size)
        yield start, end - start
        offset = end


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """`pwrite` until everything is written."""
    done = os.pwrite(descriptor, data, offset)
    while done < len(data):
        written = os.pwrite(descriptor, memoryview(data)[done:], offset + done)
        assert written > 0, "the kernel reports an error rather than writing nothing"
        done += written


def _without_zeros(offset: int, data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """The pieces of `data` that are left when aligned blocks of zeros are taken out, with their offsets."""
    view = memoryview(data).cast("B")
    kept = 0  # start of the piece not given out yet
    block = -offset % HOLE_BYTES
    while block + HOLE_BYTES <= len(view):
        # The first byte decides nearly always; comparing bytes is a memcmp, comparing views is not.
        if view[block] == 0 and bytes(view[block : block + HOLE_BYTES]) == _ZEROS:
            if block > kept:
                yield offset + kept, view[kept:block]
            kept = block + HOLE_BYTES
        block += HOLE_BYTES
    if kept < len(view):
        yield offset + kept, view[kept:]


def _clear(descriptor: int, offset: int, length: int) -> None:
    size = os.fstat(descriptor).st_size
    if offset + length > size:
        os.ftruncate(descriptor, offset + length)
    length = min(length, size - offset)
    if length <= 0:
        return
    try:
        syscalls.punch_hole(descriptor, offset, length)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        for start in range(offset, offset + length, HOLE_BYTES):
            write_all(descriptor, _ZEROS[: min(HOLE_BYTES, offset + length - start)], start)
