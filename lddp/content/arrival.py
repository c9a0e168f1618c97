"""A content on its way in: a file that grows in order and is hashed as it grows. It has no name in the store until
it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from blake3 import blake3

from lddp.content.disk import HOLE_STEP_BYTES, STEP_BYTES, ZEROS, WriteBack, next_data, write_at
from lddp.errors import FormatError

HANDED_STEP_BYTES = 16 * 1024 * 1024
NO_KERNEL_COPY = frozenset((errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS))


class Arrival:
    """Blocking; used by one thread at a time. `offset` is how far the bytes have come and were hashed."""

    def __init__(self, path: str, *, resume: bool = False, durable: bool = False) -> None:
        """Opens a new file, or with `resume` the one that an earlier attempt left; `catch_up` before writing.
        `durable`: it is to be synced at its end, and goes to the disk as it grows."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if resume else os.O_EXCL)
        self.path = path
        self.descriptor = os.open(path, flags, 0o600)
        self.offset = 0
        self.found_bytes = os.fstat(self.descriptor).st_size
        self._hash = blake3()
        self._is_rewritten = False
        self._write_back = WriteBack() if durable else None
        self._kernel_copies = True

    def catch_up(self) -> bool:
        """Hashes some more of what an earlier attempt left; True when done."""
        end = min(self.found_bytes, self.offset + HOLE_STEP_BYTES)
        while self.offset < end:
            data, stop = next_data(self.descriptor, self.offset, end)
            self._hash_zeros(data)
            while self.offset < stop:
                read = os.pread(self.descriptor, min(STEP_BYTES, stop - self.offset), self.offset)
                assert read, "a part shrank while it was open"
                self._hash.update(read)
                self.offset += len(read)
        return self.offset >= self.found_bytes

    def start_again(self) -> None:
        os.ftruncate(self.descriptor, 0)
        self.offset = self.found_bytes = 0
        self._hash = blake3()
        self._is_rewritten = False

    def _hash_zeros(self, end: int) -> None:
        while self.offset < end:
            size = min(len(ZEROS), end - self.offset)
            self._hash.update(ZEROS[:size])
            self.offset += size

    def skip(self, offset: int) -> bool:
        """Counts what lies before `offset` as zeros; True when it is reached. False: so many that the caller should
        look up before it calls again."""
        if offset < self.offset:
            raise FormatError(f"bytes at {offset} again, after {self.offset}; the transfer begins anew")
        self._hash_zeros(min(offset, self.offset + HOLE_STEP_BYTES))
        return self.offset == offset

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Appends at `offset`."""
        end = write_at(self.descriptor, self.offset, pieces)
        for piece in pieces:
            self._hash.update(piece)
        self.offset = end
        if self._write_back is not None:
            self._write_back.reached(self.descriptor, end)

    def rewrite(self, offset: int, pieces: Sequence[bytes | memoryview]) -> None:
        """Puts other bytes in the place of some that have come. All are hashed again at the end."""
        if offset + sum(map(len, pieces)) > self.offset:
            raise FormatError(f"bytes at {offset} again, of which only {self.offset} have come")
        self._is_rewritten = True
        write_at(self.descriptor, offset, pieces)

    def take_from(self, descriptor: int, end: int) -> bool:
        """Copies some more of another file, up to `end`, inside the kernel and hashes what came out of it; True when
        done, also where the other file ends early."""
        begin, stop = next_data(descriptor, self.offset, end)
        if begin > self.offset:
            self.skip(min(begin, self.offset + HOLE_STEP_BYTES))
            return self.offset >= end
        stop = min(stop, self.offset + HANDED_STEP_BYTES)
        while self.offset < stop:
            wanted = min(STEP_BYTES, stop - self.offset)
            copied = self._copy(descriptor, wanted)
            if not copied:
                return True
            self._hash.update(os.pread(self.descriptor, copied, self.offset))
            self.offset += copied
        return self.offset >= end

    def _copy(self, descriptor: int, size: int) -> int:
        if self._kernel_copies:
            try:
                return os.copy_file_range(descriptor, self.descriptor, size, self.offset, self.offset)
            except OSError as error:
                if error.errno not in NO_KERNEL_COPY:
                    raise
                self._kernel_copies = False
        return write_at(self.descriptor, self.offset, [os.pread(descriptor, size, self.offset)]) - self.offset

    def seal(self) -> bytes:
        """Gives the file its length, which ends behind the last data if it ends in a hole; the digest of all."""
        os.ftruncate(self.descriptor, self.offset)
        if self._is_rewritten:
            self.found_bytes, self.offset, self._hash = self.offset, 0, blake3()
            while not self.catch_up():
                pass
            self._is_rewritten = False
        return self._hash.digest()

    def close(self) -> None:
        # Also where closing fails the number is free, and may be another file's by the next time.
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def discard(self) -> None:
        """Closes and removes it, unless it was published meanwhile."""
        try:
            self.close()
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
