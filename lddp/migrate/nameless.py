"""Objects that operations made and that are in the source as the log has them: nobody had a reason to report them, so
the log does not know them by their identity.

Where a program gives such an object another name, no event says what its first one is, and a look at the second finds
an object that the log has never heard of. Without more it would be one of its own, and the first name would keep what
it has for ever. So whenever an unknown object has several names, these places are looked at too.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from lddp.core.view import View
from lddp.migrate.dirty import Work
from lddp.migrate.look import SourceZone

NAMELESS_MAX = 100_000
"""So many are remembered. The oldest of more are reported, which gives them their identity."""


class Nameless:
    """Remembers them for one source, as long as its observer runs: it begins with a look at everything. Threads may
    share it."""

    def __init__(self) -> None:
        self._numbers: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: int) -> None:
        self._numbers[number] = None

    def report_surplus(self, view: View, again: Work) -> None:
        """Has the oldest looked at where there are too many."""
        for number in list(islice(self._numbers, max(0, len(self._numbers) - NAMELESS_MAX))):
            self._numbers.pop(number, None)
            for parent, name in _names(view, number):
                again.names.setdefault(parent, set()).add(name)

    def report_among(self, view: View, zone: SourceZone, identities: Collection[bytes], again: Work) -> None:
        """Has those looked at that are among these objects of the source."""
        for number in list(self._numbers):
            places = _names(view, number)
            if not places:
                self._numbers.pop(number, None)
            for parent, name in places:
                if _handle(view, zone, parent, name) in identities:
                    again.names.setdefault(parent, set()).add(name)


def _names(view: View, number: int) -> list[tuple[int, bytes]]:
    """None where it is gone, or known by now."""
    inode = view.inode(number)
    return [] if inode is None or inode.identity else list(view.links(inode))


def _handle(view: View, zone: SourceZone, parent: int, name: bytes) -> bytes:
    directory = view.inode(parent)
    if directory is None:
        return b""
    above = view.path(directory)
    try:
        return zone.status(above + b"/" + name if above else name).handle
    except OSError:
        return b""  # it is just being moved or removed, and of that an event tells
