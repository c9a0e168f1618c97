"""Files that are being read for clients while this zone's files are changed.

Most changes put another file in place, and who has the old one open goes on reading it. Writes and truncations change
the file itself: whoever reads it then has bytes of two versions, and must learn it.
"""

from __future__ import annotations

import threading


class Reading:
    """One open file. `torn` is set before the first byte of it is changed, and stays set."""

    __slots__ = ("inode", "torn")

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.torn = False


class Readings:
    """Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, set[Reading]] = {}

    def begin(self, inode: int) -> Reading:
        """To be called before the file is looked for."""
        reading = Reading(inode)
        with self._lock:
            self._open.setdefault(inode, set()).add(reading)
        return reading

    def end(self, reading: Reading) -> None:
        with self._lock:
            others = self._open[reading.inode]
            others.discard(reading)
            if not others:
                del self._open[reading.inode]

    def tear(self, inode: int) -> None:
        """The bytes of this file are about to be changed where they are."""
        if self._open:
            with self._lock:
                for reading in self._open.get(inode, ()):
                    reading.torn = True
