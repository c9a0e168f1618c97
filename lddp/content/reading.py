"""One pass over an open file, in order, with its holes left out and hashed in the same pass if wanted."""

from __future__ import annotations

import os

from blake3 import blake3

from lddp.content.disk import HOLE_STEP_BYTES, STEP_BYTES, ZEROS, next_data


class SequentialRead:
    """Blocking; used by one thread at a time. `offset` is how far it has come."""

    def __init__(self, descriptor: int, offset: int, size: int, *, hashing: bool) -> None:
        assert not (hashing and offset), "a digest is of all bytes"
        self._descriptor = descriptor
        self._size = size
        self._hash = blake3() if hashing else None
        self._data_begin = self._data_end = offset
        self.offset = offset

    def next(self) -> tuple[int, bytes] | None:
        """(offset, bytes) of the next piece; (offset, no bytes) where a hole that ends there was passed. None at the
        end: `offset` is less than the size then where the file is shorter."""
        if self.offset >= self._size:
            return None
        if self.offset >= self._data_end:
            self._data_begin, self._data_end = next_data(self._descriptor, self.offset, self._size)
            if self._data_begin == self._size:  # a hole and the end of a shorter file look alike
                self._size = min(self._size, os.fstat(self._descriptor).st_size)
                self._data_begin = self._data_end = max(self.offset, self._size)
        if self.offset < self._data_begin:
            return self._pass_hole(), b""
        data = os.pread(self._descriptor, min(STEP_BYTES, self._data_end - self.offset), self.offset)
        if not data:
            return None
        if self._hash is not None:
            self._hash.update(data)
        self.offset += len(data)
        return self.offset - len(data), data

    def _pass_hole(self) -> int:
        end = min(self._data_begin, self.offset + HOLE_STEP_BYTES)
        if self._hash is not None:
            for at in range(self.offset, end, len(ZEROS)):
                self._hash.update(ZEROS[: end - at])
        self.offset = end
        return end

    def digest(self) -> bytes:
        """Of all bytes passed."""
        assert self._hash is not None
        return self._hash.digest()
