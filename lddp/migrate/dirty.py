"""What the source's changes make necessary to look at again."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

RETRY_S_FIRST = 0.01
RETRY_S_MAX = 5.0


STRAYS = 0
OPERATED = -1
"""These stand for all strays, and for all that operations changed, where inodes are told by number."""
WHOLE = b"/"
"""In the place of a name: the directory is to be compared as a whole, or the file to be read; with a number behind it,
unless the file is the inode of that number."""


class Work(NamedTuple):
    """What one round looks at: names by directory, directories to compare as a whole, single files; by identity the
    names in directories that the log does not know; and what operations changed, with the GSN: inodes and paths, or
    directories and names, which begin with a slash."""

    names: dict[int, set[bytes]]
    compare: set[int]
    files: set[int]
    strays: dict[bytes, set[bytes]]
    operated: dict[tuple[int, bytes], int]

    def __bool__(self) -> bool:
        return any(self)


class Dirty:
    """Collects what is to be looked at. Inodes are namespace numbers; the empty name means a directory itself."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.names: dict[int, set[bytes]] = {}
        self.written: dict[int, set[bytes]] = {}
        """Some of `names`: whatever files have them are to be read, once nothing that was seen of the directory before
        is on its way to the log."""
        self.compare: set[int] = set()
        self.files: set[int] = set()
        self.strays: dict[bytes, set[bytes]] = {}
        self.operated: dict[tuple[int, bytes], int] = {}
        self._not_before: dict[int, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        return bool(self.names or self.written or self.compare or self.files or self.strays or self.operated)

    def __len__(self) -> int:
        names = sum(map(len, self.names.values())) + sum(map(len, self.written.values()))
        return names + len(self.compare) + len(self.files) + len(self.strays) + len(self.operated)

    def has_other_than(self, numbers: Collection[int]) -> bool:
        """Whether anything is to be looked at but these inodes, which cannot be read; a stray may be below one."""
        if self.operated or self.written or (self.strays and not numbers):
            return True
        return any(number not in numbers for work in (self.names, self.compare, self.files) for number in work)

    def add_name(self, directory: int, name: bytes) -> None:
        self.names.setdefault(directory, set()).add(name)

    def add_written(self, directory: int, name: bytes) -> None:
        """Something changed a file by this name, and need not have moved a time of it; nobody knows which file."""
        self.add_name(directory, name)
        self.written.setdefault(directory, set()).add(name)

    def add_stray(self, identity: bytes, name: bytes) -> None:
        """Something happened to an object that the log does not know; `name` as for `add_name`, or WHOLE."""
        self.strays.setdefault(identity, set()).add(name)

    def add_operated(self, number: int, path: bytes, gsn: int) -> None:
        """An operation changes an inode, or what is at a path, in the source's files too."""
        self.operated[number, path] = gsn

    def add_operated_name(self, directory: int, name: bytes, gsn: int) -> None:
        """An operation changes what is at a name in a directory, wherever that is when it is looked at."""
        self.operated[directory, b"/" + name] = gsn

    def take(self, busy: set[int]) -> Work:
        """Everything that may be looked at now; the rest stays."""
        now = self._monotonic()

        def free(number: int) -> bool:
            return number not in busy and self.is_due(number, now)

        names = {number: self.names.pop(number) for number in [n for n in self.names if free(n)]}
        compare = {number for number in self.compare if free(number)}
        files = {number for number in self.files if free(number)}
        self.compare -= compare
        self.files -= files
        strays: dict[bytes, set[bytes]] = {}
        operated: dict[tuple[int, bytes], int] = {}
        if free(STRAYS):
            strays, self.strays = self.strays, strays
        if free(OPERATED):
            operated, self.operated = self.operated, operated
        return Work(names, compare, files, strays, operated)

    def put_back(self, work: Work) -> None:
        for number, names in work.names.items():
            self.names.setdefault(number, set()).update(names)
        self.compare |= work.compare
        self.files |= work.files
        for identity, names in work.strays.items():
            self.strays.setdefault(identity, set()).update(names)
        self.operated = {**work.operated, **self.operated}

    # -- patience ---------------------------------------------------------------------------------------------------

    def postpone(self, number: int) -> None:
        """The inode could not be looked at: later, and each time later still."""
        wait = min(self._not_before.get(number, (0.0, RETRY_S_FIRST / 2))[1] * 2, RETRY_S_MAX)
        self._not_before[number] = (self._monotonic() + wait, wait)

    def settled(self, number: int) -> None:
        self._not_before.pop(number, None)

    def is_postponed(self, number: int) -> bool:
        """Whether it has been looked at, without success so far."""
        return number in self._not_before

    def is_due(self, number: int, now: float) -> bool:
        due = self._not_before.get(number)
        return due is None or due[0] <= now

    def next_due(self, since: float) -> float | None:
        """Seconds until something may be looked at that could not at the time `since`; None where there is nothing."""
        due = min((due for due, _ in self._not_before.values() if due > since), default=None)
        return None if due is None else max(0.0, due - self._monotonic())
