"""What this node has done in a tree that programs change, too, and that nobody would look at.

A watch leaves out what its own node does. The names that an operation gives are looked at after it; but a file that it
changes may have further names, and what has lost its place to a program gets a name that is in no operation.
"""

from __future__ import annotations

from collections.abc import Set
from threading import Lock
from typing import NamedTuple

UNWATCHED_MAX = 10_000
"""So many are remembered. Of more nothing is, but that they were lost."""


class Taken(NamedTuple):
    """Paths at which something is, and files with several names that were changed where they are: the handle, and the
    inode that was to be changed. `lost`: there was more than could be remembered."""

    paths: Set[bytes] = frozenset()
    files: Set[tuple[bytes, int]] = frozenset()
    lost: bool = False


class Unwatched:
    """Of one tree. Used from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._paths: set[bytes] = set()
        self._files: set[tuple[bytes, int]] = set()
        self._lost = False

    def add_path(self, path: bytes) -> None:
        """An empty one is none."""
        with self._lock:
            self._paths |= {path} - {b""}
            self._limit()

    def add_file(self, handle: bytes, inode: int) -> None:
        """An empty handle is none."""
        with self._lock:
            self._files |= {(handle, inode)} - {(b"", inode)}
            self._limit()

    def _limit(self) -> None:
        if len(self._paths) + len(self._files) > UNWATCHED_MAX:
            self._paths, self._files, self._lost = set(), set(), True

    def take(self) -> Taken:
        """All that was added since this was called last."""
        with self._lock:
            taken = Taken(self._paths, self._files, self._lost)
            self._paths, self._files, self._lost = set(), set(), False
        return taken
