"""Objects that something changed and that the log does not know by their identity.

An operation makes an object of the log before the source has one: its identity is only known once the source has
reported it. When a program changes such an object, or what is in such a directory, the kernel is asked where it is, and
its name there is looked at: the report gives it its identity, and then it can be looked into. What programs made is
listed as a whole, or reported with its bytes, when its own name is looked at; it is a stray no longer then, either.
"""

from __future__ import annotations

from collections.abc import Set

from lddp.core.namespace import Inode
from lddp.core.records import Kind, Observation
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.migrate.dirty import WHOLE, Work
from lddp.migrate.look import SourceZone
from lddp.migrate.options import Exclusion
from lddp.replay.unwatched import Source, Taken


class OwnChanges:
    """What this node has done itself and no event tells of, for as long as its observer runs."""

    def __init__(self, unwatched: Source) -> None:
        self._unwatched = unwatched
        unwatched.take()  # what was done before is found by a look at everything
        self._late: Set[tuple[bytes, int]] = frozenset()

    def take(self, view: View, as_of: int) -> Taken:
        """All but files that have not followed the log yet: a report would be void."""
        taken = self._unwatched.take()
        files = self._late | taken.files
        inodes = {number: view.inode(number) for _, number in files}
        late = {number for number, inode in inodes.items() if inode is not None and inode.version > as_of}
        self._late = {(identity, number) for identity, number in files if number in late}
        return taken._replace(files=files - self._late)


class Strays:
    """Finds the strays of one round's work. What is found is added to `work`, what must wait to `again`."""

    def __init__(self, zone: SourceZone, view: View, rule: Rule, exclusion: Exclusion, work: Work, again: Work) -> None:
        self._zone = zone
        self._view = view
        self._rule = rule
        self._exclusion = exclusion
        self._work = work
        self._again = again

    def find(self) -> None:
        for identity, names in self._work.strays.items():
            number = self._view.by_identity(self._rule.number, identity)
            if number:
                self._look_into(number, names)
            elif self._look_for(identity):
                self._again.strays.setdefault(identity, set()).update(names)

    def take(self, unwatched: Taken) -> frozenset[bytes]:
        """What this node has done itself and no event tells of; the identities of files that it has changed under names
        that are not in the log. They may be on their way to it with what they had before."""
        for (identity, directory), names in unwatched.places.items():
            if not self._is_where_the_log_has_it(identity, directory):
                number = self._view.by_identity(self._rule.number, identity)
                looked = self._work.names.setdefault(number, set()) if number else None
                (self._again.strays.setdefault(identity, set()) if looked is None else looked).update(names)
        for path in unwatched.paths:
            self._look_at(path)
        changed: set[bytes] = set()
        for identity, number in unwatched.files:
            inode = self._view.inode(number)
            if inode is None or not self._is_named(inode, identity):
                changed.add(identity)
                is_it = inode is not None and inode.identity == identity
                self._again.strays.setdefault(identity, set()).add(WHOLE + b"%d" % number if is_it else WHOLE)
        return frozenset(changed)

    def _is_where_the_log_has_it(self, identity: bytes, path: bytes) -> bool:
        """Whether a directory is the one of this path, as far as the log knows. What is in that is glanced at."""
        parent, reached = self._view.descend(self._rule.root, path)
        number = self._view.child(parent, path.rpartition(b"/")[2]) if reached == path else 0
        inode = self._view.inode(number) if number else None
        if inode is None or inode.identity:
            return inode is not None and inode.identity == identity
        try:
            return self._zone.status(path).handle == identity
        except OSError:
            return False

    def _is_named(self, inode: Inode, identity: bytes) -> bool:
        """Whether the log knows all names of a file: what it changes is the log's to say then."""
        try:
            found = [self._zone.status(path) for path in self._view.paths(inode)]
        except OSError:
            return False  # one of them is just being moved or removed
        return all(status.handle == identity and status.links == len(found) for status in found)

    def _look_at(self, path: bytes) -> None:
        parent, reached = self._view.descend(self._rule.root, path)
        self._work.names.setdefault(parent, set()).add(reached.rpartition(b"/")[2])

    def _look_into(self, number: int, names: set[bytes]) -> None:
        """It has been reported since it changed: what is in it need not have been."""
        inode = self._view.inode(number)
        if inode is None:
            return
        marks = {name for name in names if name.startswith(WHOLE)}
        if inode.kind is Kind.DIRECTORY:
            self._work.compare.update({number} if marks else ())
            self._work.names.setdefault(number, set()).update(names - marks)
        elif marks - {WHOLE + b"%d" % number}:
            self._work.files.update({number} if inode.kind is Kind.FILE else ())
            for parent, name in self._view.links(inode) if inode.kind is not Kind.FILE else ():
                self._work.names.setdefault(parent, set()).add(name)

    def _look_for(self, identity: bytes) -> bool:
        """Has the name looked at by which the object is to be seen now; False where it is none of ours."""
        try:
            path = self._zone.locate(identity)
            if path is None:
                return self._zone.alive(identity) is None and self._look_at_all()
            status = self._zone.status(path)
        except OSError:
            return True  # it is just being moved or removed, or the kernel was short of memory
        if (
            not path
            or status.kind is None
            or self._exclusion.hides(path, status.kind)
            or self._exclusion.excludes(path, status, lambda _: self._has_name(path))
        ):
            return False
        self._look_at(path)
        return True

    def _has_name(self, path: bytes) -> bool:
        """Whether the log has something at a path. It may be this object, which an operation has made."""
        parent, reached = self._view.descend(self._rule.root, path)
        return reached == path and self._view.child(parent, path.rpartition(b"/")[2]) != 0

    def _look_at_all(self) -> bool:
        """Without the kernel's help it may be any directory that has no identity yet; False where there is none."""
        found = False
        waiting = [self._rule.root]
        while waiting:
            parent = waiting.pop()
            for name, number in self._view.list(parent):
                child = self._view.inode(number)
                if child is None or child.kind is not Kind.DIRECTORY:
                    continue
                waiting.append(number)
                if not child.identity:
                    found = True
                    self._work.names.setdefault(parent, set()).add(name)
        return found


def directories_in(view: View, rule: Rule, record: Observation) -> dict[bytes, int]:
    """Directories that an observation names, by their identity, with the inode that the log has for each (0: none).
    Nothing where operations make none."""
    if rule.observe_only:
        return {}
    found = [entry for report in record.directories for entry in report.entries if entry.kind is Kind.DIRECTORY]
    return {entry.identity: view.by_identity(rule.number, entry.identity) for entry in found}


def taken_for_others(view: View, rule: Rule, before: dict[bytes, int]) -> set[int]:
    """Those of the directories that the log has taken, by their place, for such as operations had made. It knows what
    those should have; another one may have come to the place meanwhile, and then it has something else."""
    now = {identity: view.by_identity(rule.number, identity) for identity in before}
    inodes = [view.inode(number) for identity, number in now.items() if number != before[identity]]
    return {inode.number for inode in inodes if inode is not None and not inode.pending}
