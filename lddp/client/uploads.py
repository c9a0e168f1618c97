"""The bytes of a change, sent as often as it takes: from where they began, whoever takes them."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import AsyncIterable, AsyncIterator
from typing import IO, Any, Protocol

from lddp.client.options import Progress
from lddp.client.problems import file_error
from lddp.client.requests import Touch

CHUNK_BYTES = 256 * 1024
SPOOL_BYTES_MAX = 8 * 1024 * 1024
"""How much of a source that can be read once is kept in memory for another try; what is more is kept in a file."""


class Source(Protocol):
    """Bytes that can be read again from the start. `size` is None where it is known only at the end."""

    size: int | None

    async def read(self, offset: int) -> bytes:
        """The next bytes from `offset`, empty at the end. `offset` is 0, or where the bytes before ended."""
        ...

    def close(self) -> None: ...


Data = bytes | bytearray | memoryview | IO[bytes] | AsyncIterable[bytes]
"""Bytes, a file that is open for reading (from where it stands), or an asynchronous iterable of bytes."""


class Buffer:
    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self.size: int | None = len(self._data)

    async def read(self, offset: int) -> bytes:
        return bytes(self._data[offset : offset + CHUNK_BYTES])

    def close(self) -> None:
        return None


class File:
    """A file that can be sought, `size` bytes from where it stands. It stays open."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._begin = file.tell()
        self.size: int | None = size

    async def read(self, offset: int) -> bytes:
        return await asyncio.to_thread(self._read, offset)

    def _read(self, offset: int) -> bytes:
        assert self.size is not None
        self._file.seek(self._begin + offset)
        return self._file.read(min(CHUNK_BYTES, self.size - offset))

    def close(self) -> None:
        return None


class Stream:
    """What can be read once: what has come of it is kept until all is sent."""

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._pieces = aiter(pieces)
        self._spool = tempfile.SpooledTemporaryFile(SPOOL_BYTES_MAX)  # noqa: SIM115  # closed by `close`
        self._kept = 0
        self._lock = threading.Lock()
        self._next: asyncio.Task[None] | None = None
        self.size: int | None = None

    async def read(self, offset: int) -> bytes:
        if self._next is None and offset >= self._kept and self.size is None:
            self._next = asyncio.ensure_future(self._take())
        if self._next is not None:
            # A try that is given up must not take a piece with it.
            await asyncio.shield(self._next)
            self._next = None
        return await asyncio.to_thread(self._again, offset) if offset < self._kept else b""

    def _again(self, offset: int) -> bytes:
        with self._lock:
            self._spool.seek(offset)
            return self._spool.read(min(CHUNK_BYTES, self._kept - offset))

    async def _take(self) -> None:
        """Keeps the next piece, or notes the end."""
        try:
            while not (piece := await anext(self._pieces)):
                pass
        except StopAsyncIteration:
            self.size = self._kept
            return
        await asyncio.to_thread(self._keep, piece)
        self._kept += len(piece)

    def _keep(self, piece: bytes) -> None:
        with self._lock:
            self._spool.seek(self._kept)
            self._spool.write(piece)

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._spool.close()


async def _pieces_of(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield piece


def _size_of(file: IO[bytes]) -> int:
    """Bytes from where it stands. 0 also where they can only be counted, as of a pipe or a file of /proc."""
    if not file.seekable():
        return 0
    begin = file.tell()
    try:
        return max(0, file.seek(0, os.SEEK_END) - begin)
    except OSError:  # many files of /proc cannot be sought from their end
        return 0
    finally:
        file.seek(begin)


def source_of(data: Data) -> Source:
    """Raises TypeError for what is not `Data`."""
    if isinstance(data, bytes | bytearray | memoryview):
        return Buffer(data)
    if isinstance(data, AsyncIterable):
        return Stream(data)
    if hasattr(data, "read"):
        size = _size_of(data)
        return File(data, size) if size else Stream(_pieces_of(data))
    raise TypeError(f"bytes, a file or an asynchronous iterable of bytes can be sent, not {type(data).__name__}")


class Upload:
    """The body of a request, made anew for every try."""

    def __init__(self, source: Source, progress: Progress | None) -> None:
        self._source = source
        self._progress = progress
        self._failure: BaseException | None = None

    def failed(self) -> BaseException | None:
        """What the source raised, or that it ended too early."""
        return self._failure

    @property
    def headers(self) -> dict[str, str]:
        size = self._source.size
        return {} if size is None else {"Content-Length": str(size)}

    def body(self, touch: Touch) -> Any:
        return self._chunks(touch)

    async def _read(self, position: int) -> bytes:
        try:
            return await self._source.read(position)
        except Exception as error:
            self._failure = error
            raise

    async def _chunks(self, touch: Touch) -> AsyncIterator[bytes]:
        position = 0
        while chunk := await self._read(position):
            position += len(chunk)
            yield chunk
            touch(position)
            if self._progress is not None:
                self._progress(position, self._source.size)
        size = self._source.size
        if size is not None and position < size:
            # The node would wait for the rest.
            self._failure = file_error(errno.EIO, f"what is sent ended after {position} of {size} bytes; send it again")
            raise self._failure
