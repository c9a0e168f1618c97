"""A write-ahead log of one file beside a node's database: one sync where a write transaction of LMDB takes two.

It holds only what came since its owner's last write transaction of the database. Each such transaction begins a new
*era*: it stores the era's name, random bytes that were never used before. The log then starts again at the file's
beginning, over what it no longer needs. So nothing is ever cut off, nothing has to be written to empty it, and a
database and a log that do not belong together share nothing.

A frame is a header (number in the era, bytes, checksum), the data, and zeros up to the next block. The era's name is
the checksum's key: nobody who only chooses data can make a frame. Blocks are not shared, so that what is durable is
never written again in the same era, and a torn write damages nothing but itself. The file has its full size from the
beginning: no write changes what the filesystem says of it.
"""

from __future__ import annotations

import os
import struct

from blake3 import blake3

from lddp.errors import CorruptError, StorageError

BLOCK_BYTES = 4096
WAL_BYTES = 1 << 20
APPEND_BYTES_MAX = 256 << 10
"""Beyond that, writing the data once into the database costs less than writing it twice."""
ERA_BYTES = 32
_HEADER = struct.Struct(">II")
_CHECKSUM_BYTES = 24
HEAD_BYTES = _HEADER.size + _CHECKSUM_BYTES
_ZEROS = memoryview(bytes(BLOCK_BYTES))


class WriteAheadLog:
    """The file at `path`. Implements `ports.WriteAheadLog`."""

    def __init__(self, path: str, *, size: int = WAL_BYTES) -> None:
        """`size` in bytes, a multiple of BLOCK_BYTES. Nothing is made or opened yet."""
        assert size % BLOCK_BYTES == 0
        self._path = path
        self._size = size
        self._file = -1
        self._go_to(b"")

    def _go_to(self, era: bytes, number: int = 0, offset: int = 0) -> None:
        self._era, self._number, self._offset = era, number, offset

    def create(self) -> None:
        """`ports.WriteAheadLog.create`."""
        try:
            self._open(os.O_CREAT)
            written = os.pwrite(self._file, bytes(self._size), 0)
            if written != self._size:
                raise StorageError(f"{self._path}: {written} of {self._size} bytes were written; free some space")
            os.fsync(self._file)
            directory = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}; the node needs it, check space and rights") from error

    def _open(self, flags: int = 0) -> None:
        if self._file < 0:
            self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_DSYNC | flags, 0o600)

    def begin(self) -> bytes:
        """`ports.WriteAheadLog.begin`."""
        return os.urandom(ERA_BYTES)

    def append(self, era: bytes, data: bytes) -> bool:
        """`ports.WriteAheadLog.append`. Raises StorageError where the disk refuses; then nothing is known of the
        frame, and the node must stop."""
        if era != self._era:
            self._go_to(era)
        room = _blocks(len(data))
        if len(data) > APPEND_BYTES_MAX or self._offset + room > self._size:
            return False
        head = _HEADER.pack(self._number, len(data))
        padding = _ZEROS[: room - HEAD_BYTES - len(data)]
        try:
            written = os.pwritev(self._file, [head, _checksum(era, head, data), data, padding], self._offset)
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}; free space or check the disk") from error
        if written != room:
            raise StorageError(f"{self._path}: {written} of {room} bytes were written; free space or check the disk")
        self._go_to(era, self._number + 1, self._offset + room)
        return True

    def read(self, era: bytes) -> list[bytes]:
        """`ports.WriteAheadLog.read`. Raises CorruptError where the file is gone, cut short or damaged."""
        try:
            self._open()
            file = os.pread(self._file, self._size, 0)
        except FileNotFoundError as error:
            raise CorruptError(f"{self._path} is gone, with what the node had promised; restore this node") from error
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}; check disk and rights") from error
        if len(file) < self._size:
            raise CorruptError(f"{self._path} has {len(file)} of {self._size} bytes; restore this node")
        frames: list[bytes] = []
        offset = 0
        while offset < self._size:
            found = _frame(era, file, offset)
            if found is None or found[0] != len(frames):
                break
            frames.append(found[1])
            offset += _blocks(len(found[1]))
        for behind in range(offset, self._size, BLOCK_BYTES):
            # Frames are written one after the other, each synced: none can be whole behind one that is torn.
            if _frame(era, file, behind) is not None:
                raise CorruptError(f"{self._path} is damaged at byte {offset}; restore this node")
        self._go_to(era, len(frames), offset)
        return frames

    def close(self) -> None:
        """A second call does nothing."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _blocks(size: int) -> int:
    """Bytes that a frame of so much data takes."""
    return -(-(HEAD_BYTES + size) // BLOCK_BYTES) * BLOCK_BYTES


def _frame(era: bytes, file: bytes, offset: int) -> tuple[int, bytes] | None:
    """(number, data) of the whole frame of this era that begins there."""
    number, length = _HEADER.unpack_from(file, offset)
    begin = offset + HEAD_BYTES
    if length > APPEND_BYTES_MAX or begin + length > len(file):
        return None
    head, data = file[offset : offset + _HEADER.size], file[begin : begin + length]
    return (number, data) if _checksum(era, head, data) == file[offset + _HEADER.size : begin] else None


def _checksum(era: bytes, head: bytes, data: bytes) -> bytes:
    checksum = blake3(head, key=era)
    checksum.update(data)
    return checksum.digest(_CHECKSUM_BYTES)
