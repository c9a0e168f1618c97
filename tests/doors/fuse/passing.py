"""The kernel's side of passthrough, for tests without a mount: which opens it takes, and what it reads by itself."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from lddp.doors.fuse import protocol
from lddp.doors.fuse.backing import Backing

_TOGETHER = protocol.FOPEN_PASSTHROUGH | protocol.FOPEN_DIRECT_IO


class FakeBacking(Backing):
    """A filesystem whose files can be clones: they are copied. `held` are files, by their inodes, that are mapped;
    `refuses` is the errno of what the kernel will not do."""

    def __init__(self) -> None:
        self.files: dict[int, int] = {}
        self.held: set[int] = set()
        self.clean = True
        self.refuses = 0
        self.clones = 0
        self.asked = 0
        """How often it was asked what is on the disk."""
        self.notices: list[bytes] = []
        """What the kernel was told without asking."""
        self._last = 0

    def open(self, descriptor: int) -> int:
        self._refuse()
        self._last += 1
        self.files[self._last] = os.dup(descriptor)
        return self._last

    def close(self, number: int) -> None:
        os.close(self.files.pop(number))

    def is_held(self, descriptor: int) -> bool:
        return os.fstat(descriptor).st_ino in self.held

    def is_clean(self, descriptor: int) -> bool:
        self.asked += 1
        return self.clean

    def clone(self, source: int, target: int) -> None:
        self._refuse()
        self.clones += 1
        size = os.fstat(source).st_size
        os.pwrite(target, os.pread(source, size, 0), 0)

    def end(self) -> None:
        """The mount is gone."""
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files.clear()

    def _refuse(self) -> None:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))


class Opened(NamedTuple):
    """One open file of the kernel. `backing` is a descriptor, -1 where it asks."""

    node: int
    backing: int


class Modes:
    """Which opens Linux takes (fs/fuse/iomode.c): an inode is cached or passed, with one backing file."""

    def __init__(self, backing: FakeBacking | None = None) -> None:
        self.backing = backing
        self._passed: dict[int, tuple[int, int]] = {}
        """Of an inode: its backing file's number, and how many handles."""
        self._cached: dict[int, int] = {}
        self._open: set[int] = set()

    def opened(self, node: int, flags: int, number: int) -> Opened:
        """OSError(EIO) as the program would see it."""
        if not flags & protocol.FOPEN_PASSTHROUGH:
            if node in self._passed:
                raise OSError(errno.EIO, "cached while it is passed")
            self._cached[node] = self._cached.get(node, 0) + 1
            return Opened(node, -1)
        before, handles = self._passed.get(node, (number, 0))
        known = self.backing is not None and number in self.backing.files
        if flags & ~_TOGETHER or node in self._cached or before != number or not known:
            raise OSError(errno.EIO, f"passed with {flags:#x} and file {number}")
        assert self.backing is not None
        self._passed[node] = number, handles + 1
        opened = Opened(node, os.dup(self.backing.files[number]))
        self._open.add(opened.backing)
        return opened

    def released(self, opened: Opened) -> None:
        if opened.backing < 0:
            self._cached[opened.node] -= 1
            if not self._cached[opened.node]:
                del self._cached[opened.node]
            return
        os.close(opened.backing)
        self._open.remove(opened.backing)
        number, handles = self._passed.pop(opened.node)
        if handles > 1:
            self._passed[opened.node] = number, handles - 1

    def end(self) -> None:
        """The mount is gone, and whoever had files open there."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()
