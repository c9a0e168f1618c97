"""What this node has done in a tree that programs change, too, and that nobody would look at.

A watch leaves out what its own node does, and an operation is carried out by path. The names that it gives are looked
at after it, where the log has them; but a program may have moved another directory there, and moved it on since. A file
that it changes may have further names. And what has lost its place to a program gets a name that is in no operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from threading import Lock
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")
UNWATCHED_MAX = 100_000
"""So many names and files are remembered. Of more nothing is, but that they were lost."""


class Taken(NamedTuple):
    """`places`: names in a directory, by the directory's handle and the path by which it was found. `paths`: at which
    something is. `files` with several names that were changed where they are: the handle, and the inode that was to be
    changed. `lost`: there was more than could be remembered."""

    places: Mapping[tuple[bytes, bytes], Set[bytes]] = MappingProxyType({})
    paths: Set[bytes] = frozenset()
    files: Set[tuple[bytes, int]] = frozenset()
    lost: bool = False


class Source(Protocol):
    """What an observer has of this."""

    def take(self) -> Taken:
        """All that was added since this was called last. Nothing is before it was called for the first time."""
        ...

    def end(self) -> None:
        """Nobody is going to take anything any more."""
        ...


class Unwatched:
    """Of one tree. Used from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.is_on = False
        """Whether anybody observes the tree."""
        self._forget()

    def _forget(self) -> None:
        self._places: dict[tuple[bytes, bytes], set[bytes]] = {}
        self._paths: set[bytes] = set()
        self._files: set[tuple[bytes, int]] = set()
        self._count = 0
        self._lost = False

    def add_place(self, handle: bytes, directory: bytes, name: bytes) -> None:
        """A name is given, taken or meant in a directory, which was found by its path."""
        with self._lock:
            self._add(self._places.setdefault((handle, directory), set()), name)

    def add_path(self, path: bytes) -> None:
        """An empty one is none."""
        with self._lock:
            if path:
                self._add(self._paths, path)

    def add_file(self, handle: bytes, inode: int) -> None:
        with self._lock:
            self._add(self._files, (handle, inode))

    def _add(self, known: set[T], new: T) -> None:
        if self.is_on and new not in known and not self._lost:
            known.add(new)
            self._count += 1
            if self._count > UNWATCHED_MAX:
                self._forget()
                self._lost = True

    def take(self) -> Taken:
        with self._lock:
            taken = Taken(self._places, self._paths, self._files, self._lost)
            self._forget()
            self.is_on = True
        return taken

    def end(self) -> None:
        with self._lock:
            self._forget()
            self.is_on = False
