"""Private copies of small files in memory: most files that are written are small, and closed soon.

A program is to hear from `write` that the disk is full, not from nobody: so there are none where room gets scarce.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lddp.doors.fuse.file import File

COPY_BYTES_MAX = 128 << 10
"""Less than what passthrough and streams begin with: these keep the copy that they have found."""
COPIES_MAX = 256
ROOM_BYTES_MIN = 256 << 20
"""Free on the disk where the copies would be otherwise."""


class Memory:
    """The copies of one mount that no disk has. `directory` is where the others are."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory
        self._path: Path | None = None
        self._files: set[File] = set()

    @staticmethod
    def fits(size: int) -> bool:
        """Whether a copy of so many bytes may be here."""
        return size <= COPY_BYTES_MAX

    def take(self, size: int) -> int:
        """The descriptor of an empty copy that is to have so many bytes; -1 where it has to be on the disk. `note` is
        told whose it is then."""
        if not self.fits(size) or not self._has_room():
            return -1
        try:
            return os.memfd_create("lddp", os.MFD_CLOEXEC)
        except OSError:
            return -1  # the disk may have what memory has not

    def note(self, file: File) -> None:
        self._files.add(file)

    def _has_room(self) -> bool:
        if len(self._files) >= COPIES_MAX:
            self._files = {file for file in self._files if file.is_in_memory}
        if len(self._files) >= COPIES_MAX:
            return False
        try:
            if self._path is None:
                self._path = self._directory()
            disk = os.statvfs(self._path)
        except OSError:
            self._path = None
            return False
        return disk.f_bavail * disk.f_frsize >= ROOM_BYTES_MIN
