"""Places at which there has been a directory since the last checkpoint.

A directory that is made at such a place could not be told, after a power cut, from what stands there for the other one.
A place is a name in a directory, which is told by its handle, wherever that directory is moved.
"""

from __future__ import annotations

from lddp.replay.places import name_of

_Places = dict[tuple[int, bytes], set[bytes]]


class Vacated:
    """`directory` is the handle of the one that a path's last name is in; empty where it is not known: it may be any
    then."""

    def __init__(self) -> None:
        self._left: _Places = {}
        """Handles of directories, by rule and last name."""
        self._settling: _Places = {}
        """The same from before a checkpoint that is under way."""

    def checkpoint_begins(self) -> None:
        for key, directories in self._left.items():
            self._settling.setdefault(key, set()).update(directories)
        self._left.clear()

    def checkpoint_ends(self) -> None:
        self._settling.clear()

    def add(self, rule: int, path: bytes, directory: bytes) -> None:
        self._left.setdefault((rule, name_of(path)), set()).add(directory)

    def has_name(self, rule: int, path: bytes) -> bool:
        """Whether the last name of a path is one of theirs, in whatever directory."""
        key = rule, name_of(path)
        return key in self._left or key in self._settling

    def has(self, rule: int, path: bytes, directory: bytes) -> bool:
        key = rule, name_of(path)
        known = self._left.get(key, set()) | self._settling.get(key, set())
        return bool(known) and (not directory or directory in known or b"" in known)
