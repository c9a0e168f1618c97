"""Keeps the part of the database that is mapped into this process small.

LMDB reads through a map of its file. The kernel counts the mapped pages as the process's own (RSS) although they are
page cache; a node with a large database would look, and under a memory limit be treated, as if it leaked. Now and
then the map is dropped: the pages stay in the page cache and are mapped again by a minor fault when they are read.
"""

from __future__ import annotations

import ctypes
import os

RESIDENT_BYTES_MAX = 64 << 20
_COMMITS_BETWEEN_LOOKS = 4
_MADV_DONTNEED = 4
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Residency:
    """Watches the map of one file. The map must be shared and never written through (LMDB without WRITEMAP): only
    then does dropping it lose nothing."""

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        self._commits = 0
        self._madvise = ctypes.CDLL(None, use_errno=True).madvise
        self._madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def note_commit(self) -> None:
        """Called once a commit; looks every so often, because looking costs some microseconds."""
        self._commits += 1
        if self._commits % _COMMITS_BETWEEN_LOOKS == 0 and shared_resident_bytes() > RESIDENT_BYTES_MAX:
            self.drop()

    def drop(self) -> None:
        for start, size in self._maps():
            self._madvise(start, size, _MADV_DONTNEED)

    def _maps(self) -> list[tuple[int, int]]:
        found = []
        with open("/proc/self/maps") as maps:
            for line in maps:
                fields = line.split(None, 5)
                if len(fields) == 6 and fields[5].rstrip("\n") == self._path and fields[1][3] == "s":
                    start, end = (int(part, 16) for part in fields[0].split("-"))
                    found.append((start, end - start))
        return found


def shared_resident_bytes() -> int:
    """Bytes of mapped files that count as this process's memory."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[2]) * _PAGE_BYTES
