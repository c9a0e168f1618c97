"""Objects that operations made and that are in the source as the log has them: nobody had a reason to report them, so
the log does not know them by their identity.

Where a program gives such an object another name, no event says what its first one is, and a look at the second finds
an object that the log has never heard of. Without more it would be one of its own, and the first name would keep what
it has for ever. So whenever an unknown object has several names, these places are looked at too; and a place that is
found to have an object which was met so before is looked at then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from itertools import islice

from lddp.core.namespace import Inode
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
        self._met: set[bytes] = set()
        """Identities of unknown objects with several names whose reports are on their way."""
        self._ended: deque[Collection[bytes]] = deque()

    def add(self, view: View, number: int, handle: bytes) -> bool:
        """The source has this object for the inode; whether it may have been met under another name, too."""
        self._numbers[number] = None
        inode = view.inode(number)
        is_known = inode is not None and bool(view.by_identity(inode.rule, handle))
        return is_known or handle in self._met

    def meet(self, identities: Collection[bytes]) -> None:
        """Unknown objects with several names are being reported."""
        self._met.update(identities)

    def end(self, identities: Collection[bytes]) -> None:
        """They are in the log, or never will be."""
        if identities:
            self._ended.append(identities)

    def forget_ended(self) -> None:
        """To be called before the view is opened by which is added."""
        while self._ended:
            self._met.difference_update(self._ended.popleft())

    def report_surplus(self, view: View, again: Work) -> None:
        """Has the oldest looked at where there are too many."""
        for number in list(islice(self._numbers, max(0, len(self._numbers) - NAMELESS_MAX))):
            self._numbers.pop(number, None)
            inode = _nameless(view, number)
            for parent, name in () if inode is None else view.links(inode):
                again.names.setdefault(parent, set()).add(name)

    def report_among(self, view: View, zone: SourceZone, identities: Collection[bytes], again: Work) -> None:
        """Has those looked at that are among these objects of the source."""
        for number in list(self._numbers):
            inode = _nameless(view, number)
            if inode is None:
                self._numbers.pop(number, None)
                continue
            for (parent, name), path in zip(view.links(inode), view.paths(inode), strict=True):
                if _handle(zone, path) in identities:
                    again.names.setdefault(parent, set()).add(name)


def _nameless(view: View, number: int) -> Inode | None:
    """None where it is gone, or known by now."""
    inode = view.inode(number)
    return None if inode is None or inode.identity else inode


def _handle(zone: SourceZone, path: bytes) -> bytes:
    try:
        return zone.status(path).handle
    except OSError:
        return b""  # it is just being moved or removed, and of that an event tells
