"""Bytes from a client of this node, hashed as they stream into the store."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from blake3 import blake3

from lddp.content.arrival import Arrival
from lddp.content.disk import STEP_BYTES
from lddp.core.limits import FILE_BYTES_MAX, INLINE_BYTES_MAX
from lddp.core.records import Content
from lddp.errors import LimitError


class Publish(Protocol):
    def __call__(self, arrival: Arrival, digest: bytes, *, durable: bool) -> None: ...


class BlobWriter:
    """Blocking; used by one thread at a time. Leaves nothing behind unless `commit` returned.

    Nothing touches the disk before more than `INLINE_BYTES_MAX` bytes have come.
    """

    def __init__(self, arrival: Callable[[], Arrival], publish: Publish) -> None:
        self._make_arrival = arrival
        self._publish = publish
        self._arrival: Arrival | None = None
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._open = True
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        assert self._open, "write after commit or abort"
        if self.size + len(data) > FILE_BYTES_MAX:
            raise LimitError(f"a file has {FILE_BYTES_MAX} bytes at most; write less")
        if data:
            self._pieces.append(bytes(data))
            self._buffered += len(data)
            self.size += len(data)
            if self._buffered >= STEP_BYTES:
                self._flush()

    def skip(self, size: int) -> None:
        """`size` zeros, which take no room on the disk."""
        assert self._open and size >= 0
        self._flush()
        self.size += size
        assert self._arrival is not None
        while not self._arrival.skip(self.size):
            pass

    @property
    def written(self) -> int:
        """How many of its bytes are in the file."""
        return 0 if self._arrival is None else self._arrival.offset

    @property
    def descriptor(self) -> int:
        """Of the file, for as long as it is not committed; there has to be one."""
        assert self._arrival is not None
        return self._arrival.descriptor

    def rewrite(self, offset: int, data: bytes | memoryview) -> None:
        """Other bytes in the place of some that were written."""
        assert self._open and offset + len(data) <= self.size
        self._flush()
        assert self._arrival is not None
        self._arrival.rewrite(offset, [data])

    def _flush(self) -> None:
        if self._arrival is None:
            self._arrival = self._make_arrival()
        pieces, self._pieces = self._pieces, []
        self._buffered = 0
        self._arrival.write(pieces)

    def seal(self) -> bytes:
        """The digest of a large one: all bytes have been written."""
        assert self._open and self._arrival is not None
        self._flush()
        return self._arrival.seal()

    def commit(self, sync: bool) -> Content:
        """The content, which the store has from now on; durable with `sync`. A small one is inline, and no file."""
        assert self._open, "commit after commit or abort"
        if self._arrival is None and self.size <= INLINE_BYTES_MAX:
            self._open = False
            data = b"".join(self._pieces)
            return Content(blake3(data).digest(), len(data), inline=data)
        try:
            self._flush()
            assert self._arrival is not None and self._arrival.offset == self.size
            digest = self._arrival.seal()
            self._publish(self._arrival, digest, durable=sync)
        except BaseException:
            self.abort()
            raise
        self._open = False
        return Content(digest, self.size)

    def abort(self) -> None:
        """Forgets all that was written. Harmless after commit or abort."""
        if self._open and self._arrival is not None:
            self._arrival.discard()
        self._open = False
        self._pieces = []

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
