"""A write-ahead log of one file beside a node's database: one sync where a write transaction of LMDB takes two.

It holds only what came since the database's last write transaction of its owner. Each such transaction begins a new
*era*, whose number it stores; the log then starts again at the file's beginning, over what it no longer needs. So
nothing is ever cut off, and nothing has to be written to empty it: frames of another era are not believed.

A frame is a header (era, number in the era, bytes, checksum), the data, and zeros up to the next block. Blocks are not
shared, so that what is durable is never written again in the same era, and a torn write damages nothing but itself.
The file has its full size from the beginning: no write changes what the filesystem says of it.
"""

from __future__ import annotations

import os
import struct

from blake3 import blake3

from lddp.errors import StorageError

BLOCK_BYTES = 4096
WAL_BYTES = 1 << 20
APPEND_BYTES_MAX = 256 << 10
"""Beyond that, writing the data once into the database costs less than writing it twice."""
_HEADER = struct.Struct(">QII")
_CHECKSUM_BYTES = 16
_HEAD_BYTES = _HEADER.size + _CHECKSUM_BYTES
_ZEROS = memoryview(bytes(BLOCK_BYTES))


class WriteAheadLog:
    """The file at `path`, made where it is not there; `made` says so. Implements `ports.WriteAheadLog`."""

    def __init__(self, path: str, *, size: int = WAL_BYTES) -> None:
        """`size` in bytes, a multiple of BLOCK_BYTES. Raises OSError."""
        assert size % BLOCK_BYTES == 0
        self._path = path
        self._size = size
        self._era = -1
        self._number = 0
        self._offset = 0
        self.made = not os.path.exists(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_DSYNC, 0o600)
        try:
            self._fill()
        except BaseException:
            os.close(self._file)
            raise

    def _fill(self) -> None:
        there = os.fstat(self._file).st_size
        if there < self._size:
            os.pwrite(self._file, bytes(self._size - there), there)
            os.fsync(self._file)
        if self.made:
            directory = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def append(self, era: int, data: bytes) -> bool:
        """`ports.WriteAheadLog.append`. Raises StorageError where the disk refuses; then nothing is known of the
        frame, and the node must stop."""
        if era != self._era:
            self._era, self._number, self._offset = era, 0, 0
        room = -(-(_HEAD_BYTES + len(data)) // BLOCK_BYTES) * BLOCK_BYTES
        if len(data) > APPEND_BYTES_MAX or self._offset + room > self._size:
            return False
        head = _HEADER.pack(era, self._number, len(data))
        padding = _ZEROS[: room - _HEAD_BYTES - len(data)]
        try:
            written = os.pwritev(self._file, [head, _checksum(head, data), data, padding], self._offset)
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}; free space or check the disk") from error
        if written != room:
            raise StorageError(f"{self._path}: {written} of {room} bytes were written; free space or check the disk")
        self._number += 1
        self._offset += room
        return True

    def read(self, era: int) -> list[bytes]:
        """`ports.WriteAheadLog.read`."""
        frames: list[bytes] = []
        offset = 0
        while offset < self._size:
            head = os.pread(self._file, _HEAD_BYTES, offset)
            if len(head) < _HEAD_BYTES:
                break
            found_era, number, length = _HEADER.unpack_from(head)
            if (found_era, number) != (era, len(frames)) or length > APPEND_BYTES_MAX:
                break
            data = os.pread(self._file, length, offset + _HEAD_BYTES)
            if _checksum(head[: _HEADER.size], data) != head[_HEADER.size :]:
                break
            frames.append(data)
            offset += -(-(_HEAD_BYTES + length) // BLOCK_BYTES) * BLOCK_BYTES
        return frames

    def close(self) -> None:
        os.close(self._file)


def _checksum(head: bytes, data: bytes) -> bytes:
    checksum = blake3(head)
    checksum.update(data)
    return checksum.digest(_CHECKSUM_BYTES)
