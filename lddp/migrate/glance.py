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
        self._ways: dict[bytes, bool] = {}

    def over(self, again: Work) -> None:
        """Adds names to the round's work; what the source's files have not followed yet is left to `again`."""
        for operated, gsn in self._work.operated.items():
            number, path = operated
            inode = self._view.inode(number)
            paths = {path, path.rpartition(b"/")[0]}
            if path.startswith(b"/"):
                if inode is None or inode.kind is not Kind.DIRECTORY:
                    continue
                directory = self._view.path(inode)
                paths = {(directory + path).lstrip(b"/"), directory}
            elif inode is not None:
                if inode.kind is not Kind.DIRECTORY:
                    gsn = max(gsn, inode.version)
                paths.update(self._view.paths(inode))
            if gsn > self._as_of or any(map(self._settling, paths)):
                again.operated[operated] = gsn
            else:
                for one in sorted(paths):
                    self._at(one)
                if not all(map(self._is_way, paths)):
                    again.operated[operated] = gsn  # what it met is in another directory than the log has there

    def _is_way(self, path: bytes) -> bool:
        """Whether the directory that a path is in is the one that the log has there, as far as it knows them. If not,
        the way is looked at."""
        above = path.rpartition(b"/")[0]
        new: list[bytes] = []
        while above and above not in self._ways:
            new.append(above)
            above = above.rpartition(b"/")[0]
        is_way = self._ways.get(above, True)
        for directory in reversed(new):
            is_way = self._ways[directory] = is_way and self._is_known(directory)
        return is_way

    def _is_known(self, path: bytes) -> bool:
        parent, reached = self._view.descend(self._rule.root, path)
        name = reached.rpartition(b"/")[2]
        inode = self._view.inode(self._view.child(parent, name)) if reached == path else None
        if inode is None or not inode.identity:
            return True  # a look at it tells, and leads to one at what is in it
        try:
            if self._zone.status(path).handle == inode.identity:
                return True
        except OSError:
            pass  # it is gone, or is just being moved: the look says so
        self._work.names.setdefault(parent, set()).add(name)
        return False

    def _at(self, path: bytes) -> None:
        parent, reached = self._view.descend(self._rule.root, path)
        name = reached.rpartition(b"/")[2]
        child = self._view.inode(self._view.child(parent, name) if name else parent)
        if not self._is_as_told(child, reached):
            self._work.names.setdefault(parent, set()).add(name)

    def _is_as_told(self, child: Inode | None, path: bytes) -> bool:
        """What is nowhere to be seen, and what cannot be told, counts as not there: a look says why."""
        try:
            status = self._zone.status(path)
            xattrs = self._zone.xattrs(path)
        except OSError:
            return child is None
        if child is None or (child.identity and child.identity != status.handle):
            return False
        if child.kind is not Kind.DIRECTORY and not child.identity:
            is_met = self._nameless.add(self._view, child.number, status.handle)
            if is_met or status.links != child.nlink:
                return False  # another name of it would be taken for another object
        owner = (child.uid, child.gid) if self._zone.gives_owners else (status.uid, status.gid)
        mode = status.mode if child.kind is Kind.SYMLINK else child.mode
        size = child.size if child.kind is Kind.FILE else status.size
        told = (child.kind, mode, *owner, size, child.mtime_ns, child.xattrs)
        return told == (status.kind, status.mode, status.uid, status.gid, status.size, status.mtime_ns, xattrs)
