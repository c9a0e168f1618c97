"""What operations did in the source's files, compared with the log.

An operation is carried out by path. A program may have moved or removed what the log has there, and that may not be in
the log yet: then the operation has changed another object, or none. Of what this node does itself no event tells; so
every place is glanced at, and the directory above it, and looked at where it is not as the log has it. A directory's
time is put right later than what is in it.
"""

from __future__ import annotations

from collections.abc import Callable

from lddp.core.namespace import Inode
from lddp.core.records import Kind
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.migrate.dirty import Work
from lddp.migrate.look import SourceZone
from lddp.migrate.nameless import Nameless
from lddp.ports import Status


class Glance:
    """One round's glances. `settling`: whether a directory's time is still to be put right."""

    def __init__(
        self,
        zone: SourceZone,
        view: View,
        rule: Rule,
        as_of: int,
        settling: Callable[[bytes], bool],
        work: Work,
        nameless: Nameless,
    ) -> None:
        self._zone = zone
        self._view = view
        self._rule = rule
        self._as_of = as_of
        self._settling = settling
        self._work = work
        self._nameless = nameless

    def over(self, again: Work) -> None:
        """Adds names to the round's work; what the source's files have not followed yet is left to `again`."""
        for operated, gsn in self._work.operated.items():
            number, path = operated
            inode = self._view.inode(number)
            paths = {path, path.rpartition(b"/")[0]}
            if inode is not None:
                if inode.kind is not Kind.DIRECTORY:
                    gsn = max(gsn, inode.version)
                paths.update(self._view.paths(inode))
            if gsn > self._as_of or any(map(self._settling, paths)):
                again.operated[operated] = gsn
            else:
                for one in sorted(paths):
                    self._at(one)

    def _at(self, path: bytes) -> None:
        parent, reached = self._view.descend(self._rule.root, path)
        name = reached.rpartition(b"/")[2]
        child = self._view.inode(self._view.child(parent, name) if name else parent)
        if not _is_as_told(child, _status(self._zone, reached)):
            self._work.names.setdefault(parent, set()).add(name)
        elif child is not None and child.kind is not Kind.DIRECTORY and not child.identity:
            self._nameless.add(child.number)


def _status(zone: SourceZone, path: bytes) -> Status | None:
    """None where nothing is, or nothing that can be told: a look says why."""
    try:
        return zone.status(path)
    except OSError:
        return None


def _is_as_told(child: Inode | None, status: Status | None) -> bool:
    if child is None or status is None:
        return child is None and status is None
    if child.kind is not status.kind or (child.identity and child.identity != status.handle):
        return False
    if child.kind is not Kind.DIRECTORY and not child.identity and status.links != child.nlink:
        return False  # another name of it would be taken for another object
    if child.kind not in (Kind.FILE, Kind.DIRECTORY):
        return True
    is_sized = child.kind is Kind.DIRECTORY or child.size == status.size
    return is_sized and (child.mode, child.mtime_ns) == (status.mode, status.mtime_ns)
