"""Errors of what was promised and then refused, until those who asked for it have been told (as errseq_t of Linux:
`Documentation/core-api/errseq.rst`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

KEPT_MAX = 65_536


@dataclass(slots=True)
class _Error:
    number: int
    sequence: int
    is_seen: bool = False


@dataclass(slots=True)
class Opened:
    """An open of an inode, and what it has been told."""

    number: int
    since: int


class Errors:
    """The latest error of each inode. Every open file or directory is told once of each error since it was opened, and
    of an older one that nobody has been told of."""

    def __init__(self) -> None:
        self._errors: OrderedDict[int, _Error] = OrderedDict()
        self._sequence = 0

    def add(self, inodes: Iterable[int], number: int) -> None:
        """All of these inodes have the error."""
        self._sequence += 1
        for inode in inodes:
            self._errors[inode] = _Error(number, self._sequence)
            self._errors.move_to_end(inode)
        while len(self._errors) > KEPT_MAX:
            self._errors.popitem(last=False)

    def open(self, inode: int) -> Opened:
        error = self._errors.get(inode)
        return Opened(inode, self._sequence if error is None or error.is_seen else error.sequence - 1)

    def look(self, opened: Opened) -> int:
        """An errno that this open has not been told yet, or 0."""
        error = self._errors.get(opened.number)
        if error is None or error.sequence <= opened.since:
            return 0
        error.is_seen = True
        opened.since = error.sequence
        return error.number
