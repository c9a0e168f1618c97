"""Which effects have been carried out since the last checkpoint, kept where a killed process leaves it.

A memory-mapped file: a mark made before a kill is in the page cache and there for the next start. After a power cut it
may be wrong in either direction, so it names the boot it was made in and counts only within that boot.
"""

from __future__ import annotations

import mmap
import os
import struct

from lddp.replay.outbox import KEY

_HEADER = struct.Struct(">8s36sQI")
_MAGIC = b"lddpprg1"
MARKS_MAX = 65_536
"""Marks between two checkpoints; the file grows by what is done beyond a checkpoint already."""


def boot_id() -> bytes:
    """The kernel's name for this boot (36 bytes), or zeros where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().strip().ljust(36)[:36]
    except OSError:
        return bytes(36)


class Progress:
    """Marks of effects done. `survived` says whether the marks found at opening are from this boot."""

    def __init__(self, path: str) -> None:
        size = _HEADER.size + MARKS_MAX * KEY.size
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(descriptor).st_size
            fresh = found < size or (found - _HEADER.size) % KEY.size != 0
            size = size if fresh else found
            if fresh:
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        magic, boot, gsn, ordinal = _HEADER.unpack_from(self._map)
        self.survived = not fresh and magic == _MAGIC and boot == boot_id()
        self.done: set[tuple[int, int]] = set()
        self.base = (gsn, ordinal) if self.survived else (0, 0)
        if self.survived:
            self._load()
        self._position = _HEADER.size + KEY.size * len(self.done)
        if not self.survived:
            self.reset((0, 0), set())

    def _load(self) -> None:
        for position in range(_HEADER.size, len(self._map), KEY.size):
            order = KEY.unpack_from(self._map, position)
            if order == (0, 0):
                break
            self.done.add(order)

    @property
    def room(self) -> int:
        return (len(self._map) - self._position) // KEY.size

    def mark(self, order: tuple[int, int]) -> None:
        """Effect `order` has been carried out."""
        KEY.pack_into(self._map, self._position, *order)
        self._position += KEY.size

    def reset(self, base: tuple[int, int], keep: set[tuple[int, int]]) -> None:
        """Everything up to `base` is durable and out of the outbox; `keep` are effects beyond it that are done too."""
        wanted = _HEADER.size + KEY.size * (len(keep) + MARKS_MAX)
        if wanted > len(self._map):
            self._map.resize(wanted)
        self._map[_HEADER.size :] = bytes(len(self._map) - _HEADER.size)
        _HEADER.pack_into(self._map, 0, _MAGIC, boot_id(), *base)
        self.base, self.done = base, set(keep)
        self._position = _HEADER.size
        for order in sorted(keep):
            self.mark(order)

    def close(self) -> None:
        self._map.close()
