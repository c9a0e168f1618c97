"""One open file of a mount, and one open of it.

All opens of an inode share one File. It reads from the zone's own file (`base`) until somebody writes, or the kernel is
to read by itself (`passthrough.py`); then from a private copy (`staged`), which every open of the mount sees at once
and nobody else before it is committed.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lddp.access import OpenFile
from lddp.doors.fuse.dirty import Dirty
from lddp.doors.fuse.errors import Opened

if TYPE_CHECKING:
    from lddp.doors.fuse.streaming import Stream

_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


class File:
    """One inode that is open. `digest` names the content in the log that `base` has, or that `staged` was made from or
    committed as; empty where that is not known. `became` is told by number of what the file has from the log then.
    `size` and `mtime_ns` are what stat shows while there is a copy."""

    def __init__(self, number: int, became: Callable[[int, bytes], None]) -> None:
        self.number = number
        self._became = became
        self.opens = 0
        self.base: OpenFile | None = None
        self.staged = -1
        self.is_in_memory = False
        """Whether no disk has the copy."""
        self.is_clone = False
        """Whether the copy shares its blocks with the zone's file, so that keeping it costs nothing."""
        self.passes = False
        """Whether the kernel reads the copy by itself: then it stays this one, whatever comes to be in it."""
        self.mirror = -1
        """What the copy would have without stores to its mappings, while there may be such."""
        self.has_stores = False
        """Whether some of what the log is still to learn may be such stores."""
        self.is_known = False
        """Whether there are bytes to read: `base`, `staged`, or none because the file is empty."""
        self.digest = b""
        self.size = 0
        self.mtime_ns = 0
        self.changed_ns = 0
        """When the copy was changed last."""
        self.dirty = Dirty(0)
        self.stream: Stream | None = None
        """What of `dirty` is on its way to the zones already."""
        self.is_committing = False
        self.was_committed = False
        """Whether something was, since it was opened by somebody alone."""
        self.is_stale = False
        """Whether the log has another content since, from elsewhere."""
        self.is_told = False
        """Whether the kernel is being told to forget its bytes, and waits for who reads or writes them."""
        self.is_orphan = False
        """Whether it had no name when that was looked for last, so that no bytes could come from elsewhere."""
        self.lock = asyncio.Lock()
        """Held while bytes are changed, copied or replaced."""
        self.commits = asyncio.Lock()
        """Held while what was written goes into the log, and while a name of the file goes."""

    @property
    def descriptor(self) -> int:
        """Of its bytes; -1 where it is empty."""
        if self.staged >= 0:
            return self.staged
        return -1 if self.base is None else self.base.descriptor

    @property
    def is_ahead(self) -> bool:
        """Whether the log is still to learn what it has."""
        return self.dirty.touched or self.is_committing

    def is_intact(self) -> bool:
        if self.is_orphan:
            return True
        if self.is_stale and not self.is_ahead:
            return False
        return self.staged >= 0 or self.base is None or self.base.is_intact()

    def read_at_once(self, offset: int, size: int) -> bytes | None:
        """Bytes that are in memory already; None where a thread has to wait for them."""
        descriptor = self.descriptor
        size = max(0, min(size, self.size - offset))
        if descriptor < 0 or not size:
            return b"" if self.is_known and self.is_intact() else None
        data = bytearray(size)
        try:
            count = os.preadv(descriptor, [data], offset, 0 if self.is_in_memory else os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            return None
        return bytes(data) if count == size and self.is_intact() else None

    def end_stream(self) -> None:
        """What was sent before its commit is not wanted any more."""
        if self.stream is not None:
            self.stream.task.cancel()
            self.stream = None

    def drop(self) -> None:
        """Lets go of its bytes."""
        self.end_stream()
        if self.base is not None:
            self.base.close()
            self.base = None
        if self.staged >= 0:
            os.close(self.staged)
            self.staged = -1
        self.drop_mirror()
        self.is_known = self.is_stale = self.is_clone = self.is_in_memory = False

    def drop_mirror(self) -> None:
        if self.mirror >= 0:
            os.close(self.mirror)
            self.mirror = -1

    def become_empty(self, digest: bytes) -> None:
        if self.passes:
            self.cut(0)
        else:
            self.drop()
        self.become(digest, 0)

    def become(self, digest: bytes, size: int) -> None:
        """It has the bytes of the log."""
        self.end_stream()
        self.has_stores = False
        self.digest, self.size, self.is_known, self.is_stale = digest, size, True, False
        self.dirty = Dirty(size)
        self._became(self.number, digest)

    # -- changes of the copy ------------------------------------------------------------------------------------------

    @property
    def copies(self) -> list[int]:
        """The copy, and its mirror if there is one."""
        return [self.staged] if self.mirror < 0 else [self.staged, self.mirror]

    def put(self, offset: int, data: memoryview) -> int:
        """How many bytes were written; OSError where not even one."""
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self.staged, data[done:], offset + done)
            except OSError:
                if not done:
                    raise
                break
        if self.mirror >= 0:
            os.pwrite(self.mirror, data[:done], offset)
        return done

    def cut(self, size: int) -> None:
        for copy in self.copies:
            os.ftruncate(copy, size)


@dataclass(frozen=True, slots=True)
class Handle:
    file: File
    flags: int
    opened: Opened
    has_made: bool = False
    """Whether this open has made the file."""
    passes: bool = False
    """Whether the kernel has it open in passthrough mode."""

    @property
    def writes(self) -> bool:
        """Whether it may have changed something, be it by opening it: O_TRUNC of who only reads cuts as well."""
        return bool(self.flags & _CHANGING)
