"""The merge rule: how what the source zone saw enters the namespace.

Everything reported carries `as_of`, the GSN the source had been brought to before it looked. Where the namespace
already holds something newer, the live change wins and that part of the observation is void; the observer is told, and
looks again. What an observation says, even that nothing has changed, is as new as the observation, so that of two looks
that cross on their way the one that is ordered second is void where it contradicts the first.

Objects are recognised by their identity in the source zone, so that a new name of a known object is a rename or a hard
link, and nothing is copied twice. Order within one observation: entries of all directories (directories first, again
while that makes progress), then absences, then the attributes of the directories, then single inodes. So an object that
one directory lost and another gained is moved, not destroyed.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import itemgetter

from lddp.core import effects as e
from lddp.core.facts import Facts, may_be, replaces_at_once
from lddp.core.namespace import Inode, Namespace
from lddp.core.records import DirectoryReport, InodeReport, Kind, Observation, ObservedEntry, Outcome
from lddp.core.rules import Rule


class Observations:
    """Applies observations to a namespace."""

    def __init__(self, namespace: Namespace, rules: dict[int, Rule]) -> None:
        self._names = namespace
        self._rules = rules

    def apply(self, record: Observation, gsn: int) -> tuple[Outcome, list[e.ScopedEffect]]:
        """Outcome and effects. The outcome's `void` names the inodes to look at again."""
        rule = self._rules.get(record.rule)
        if rule is None or rule.source != record.zone:
            void = {report.inode for report in record.directories} | {report.inode for report in record.inodes}
            return Outcome(0, void=tuple(sorted(void))), []
        merge = _Merge(self._names, rule, record, gsn)
        merge.run()
        return Outcome(0, void=tuple(sorted(merge.void))), merge.effects


class _Merge(Facts):
    """One observation on its way into the namespace."""

    def __init__(self, namespace: Namespace, rule: Rule, record: Observation, gsn: int) -> None:
        super().__init__(namespace, rule, record, gsn)
        self._made = 0
        self._parked: dict[int, Inode] = {}
        self._named = {entry.identity for report in record.directories for entry in report.entries}
        self._refused: set[bytes] = set()
        """Identities of entries that were void: their objects are not destroyed by this observation."""

    def run(self) -> None:
        reports = [report for report in self.record.directories if self._is_directory(report)]
        self._take_directories(reports)
        self._drop_parked((Kind.DIRECTORY,))
        for report in reports:
            self._take_files(report)
        for report in reports:
            for name in report.absent:
                self._take_absence(report, name)
        self._drop_parked(tuple(Kind))
        for report in reports:
            self._finish_directory(report)
        for single in self.record.inodes:
            self._take_inode(single)

    def _drop_parked(self, kinds: Collection[Kind]) -> None:
        """What was set aside and got no place goes, and is to be looked for where it was seen. Directories before
        files are placed, which may have names there."""
        for inode in [one for one in self._parked.values() if one.kind in kinds]:
            del self._parked[inode.number]
            if inode.visible:
                self.emit(e.RemoveEffect(inode.number, b"", inode.kind is Kind.DIRECTORY))
            if inode.nlink == 0:
                self.void.update(directory for directory, _ in self._places().get(inode.identity, ()))
                self._destroy(inode)

    def _places(self) -> dict[bytes, set[tuple[int, bytes]]]:
        """Where the observation says that each object is, by identity: (directory, name)."""
        places: dict[bytes, set[tuple[int, bytes]]] = {}
        for report in self.record.directories:
            for entry in report.entries:
                places.setdefault(entry.identity, set()).add((report.inode, entry.name))
        return places

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _is_directory(self, report: DirectoryReport) -> bool:
        inode = self.names.get(report.inode)
        if inode is None or inode.kind is not Kind.DIRECTORY or inode.rule != self.rule.number:
            self.void |= {report.inode}.union(*map(self.changed, report.entries))
            return False
        return True

    def _attached(self, directory: int) -> Inode | None:
        """The directory, if it hangs below the rule's root and not in a parked or destroyed subtree."""
        found = self.names.get(directory)
        number, root = directory, self.rule.root
        while number != root:
            inode = self.names.get(number)
            if inode is None or inode.nlink == 0:
                return None
            number = inode.parent
        return found

    def _refuse(self, report: DirectoryReport, entry: ObservedEntry) -> None:
        self.void |= {report.inode, *self.changed(entry)}
        self._refused.add(entry.identity)

    # -- entries ----------------------------------------------------------------------------------------------------

    def _take_directories(self, reports: list[DirectoryReport]) -> None:
        """Places directories; a move that must wait for another one is tried again while anything moves."""
        waiting = [(report, entry) for report in reports for entry in report.entries if entry.kind is Kind.DIRECTORY]
        while waiting:
            blocked = [(report, entry) for report, entry in waiting if not self._try_directory(report, entry)]
            if len(blocked) == len(waiting):
                for report, entry in blocked:
                    self._refuse(report, entry)
                return
            waiting = blocked

    def _try_directory(self, report: DirectoryReport, entry: ObservedEntry) -> bool:
        parent = self._attached(report.inode)
        return parent is not None and self._take_entry(report, parent, entry)

    def _take_files(self, report: DirectoryReport) -> None:
        """Places everything but directories. The first listing of an empty directory, which is most of a scan, needs no
        look at what its names stood for before."""
        parent = self._attached(report.inode)
        if parent is None:
            for entry in report.entries:
                if entry.kind is not Kind.DIRECTORY:
                    self._refuse(report, entry)
            return
        fresh = self._is_fresh(report, parent)
        by_identity, rule = self.names.by_identity, self.rule.number
        for entry in report.entries:
            if entry.kind is Kind.DIRECTORY:
                continue
            if fresh and by_identity(rule, entry.identity) is None:
                self._make(parent, entry)
            elif self.names.must(parent.number).nlink:
                self._take_entry(report, parent, entry)
            else:
                self._refuse(report, entry)

    def _is_fresh(self, report: DirectoryReport, parent: Inode) -> bool:
        """Whether a pending directory has no entry but the directories that this record has just placed."""
        if not parent.pending or len({entry.name for entry in report.entries}) != len(report.entries):
            return False
        return all(gsn == self.gsn for _, _, gsn in self.names.entries(parent.number))

    def _take_entry(self, report: DirectoryReport, parent: Inode, entry: ObservedEntry) -> bool:
        """False where the entry would put a directory into itself: it may be possible later in this record."""
        names, as_of = self.names, self.record.as_of
        found = names.lookup(parent.number, entry.name)
        here = names.must(found[0]) if found is not None and found[0] else None
        if found is not None and found[1] > as_of and found[1] != self.gsn:
            if here is not None and here.identity == entry.identity:
                self._take_attributes(here, entry)
            else:
                self._refuse(report, entry)
            return True
        if found is None and not parent.pending and self.has_lost_names(parent):
            self._refuse(report, entry)
            return True
        inode = self._recognise(entry, here)
        if inode is not here and self._is_outdated(here, inode):
            self._refuse(report, entry)
            return True
        if inode is not None and inode is here:
            names.confirm(parent, entry.name, inode, self.gsn)
            self._take_attributes(inode, entry)
            return True
        if inode is not None and inode.kind is Kind.DIRECTORY and names.is_inside(parent.number, inode.number):
            return False
        self._place(report, parent, entry, here, inode)
        return True

    def _is_outdated(self, here: Inode | None, inode: Inode | None) -> bool:
        """Whether the log moved the directory, or changed what stands in its place, after the source looked."""
        if here is not None and (self.is_newer(here) or here.identity in self._refused):
            return True
        if inode is None or inode.kind is not Kind.DIRECTORY or inode.nlink == 0:
            return False
        place = self.names.lookup(inode.parent, inode.name)
        return place is not None and place[1] > self.record.as_of and place[1] != self.gsn

    def _recognise(self, entry: ObservedEntry, here: Inode | None) -> Inode | None:
        """The known inode that the entry stands for, or None where it is new. An object that an operation made, and
        that the source has projected, gets its identity here."""
        inode = self.names.by_identity(self.rule.number, entry.identity)
        if inode is not None:
            if may_be(inode, entry):
                return inode
            self.names.edit(inode)
            self.names.set_identity(inode, b"")
        adopts = here is not None and may_be(here, entry) and not here.identity and not self.is_newer(here)
        if here is not None and adopts:
            self.names.edit(here)
            self.names.set_identity(here, entry.identity)
            return here
        return None

    def _place(
        self, report: DirectoryReport, parent: Inode, entry: ObservedEntry, here: Inode | None, inode: Inode | None
    ) -> None:
        """Makes the entry's name stand for its object, whatever stood there before."""
        names, gsn = self.names, self.gsn
        if here is not None:
            self._displace(parent, entry, here, inode)
        if not parent.pending:
            self.touch(parent)
        if inode is None:
            self._make(parent, entry, replaces=here is not None and here.visible)
            return
        to = names.path_of(parent.number, entry.name)
        if self._parked.pop(inode.number, None) is not None:
            kept = next((names.path_of(*name) for name in names.names(inode) if self._attached(name[0])), None)
            names.link(parent, entry.name, inode, gsn)
            if inode.visible and kept is None:
                self.emit(e.UnparkEffect(inode.number, to))
            elif kept is not None and inode.visible:
                # What waits aside may be an older object by now: under its other name, new bytes make a new one.
                self.emit(e.LinkEffect(inode.number, kept, to))
                self.emit(e.RemoveEffect(inode.number, b"", False))
        elif inode.kind is Kind.DIRECTORY:
            old = self.path(inode)
            self._unlink(names.must(inode.parent), inode.name, inode)
            names.link(parent, entry.name, inode, gsn)
            self.emit(e.RenameEffect(inode.number, old, to, True))
        else:
            if inode.visible and inode.nlink:
                self.emit(e.LinkEffect(inode.number, self.path(inode), to))
            names.link(parent, entry.name, inode, gsn)
        self._take_attributes(inode, entry)

    def _unlink(self, parent: Inode, name: bytes, child: Inode) -> None:
        """A directory that is not listed yet remembers that the name is gone."""
        self.names.unlink(parent, name, child, self.gsn, tombstone=parent.pending)
        if not parent.pending:
            self.touch(parent)

    def _displace(self, parent: Inode, entry: ObservedEntry, here: Inode, inode: Inode | None) -> None:
        """Another object takes this name. The old one waits aside if this observation names it elsewhere, and so does
        everything inside it that this observation names; but no directory once files are placed."""
        path = self.names.path_of(parent.number, entry.name)
        waits = here.nlink == 1 and here.identity != b"" and here.identity in self._named
        if here.kind is Kind.DIRECTORY:
            late = entry.kind is not Kind.DIRECTORY
            waits = waits and not late
            self._rescue(here, waits, late)
        self._unlink(parent, entry.name, here)
        if waits and here.number not in self._parked:
            self._parked[here.number] = here
            if here.visible:
                self.emit(e.ParkEffect(here.number, path))
        elif here.visible and not replaces_at_once(entry, inode, here):
            self.emit(e.RemoveEffect(here.number, path, here.kind is Kind.DIRECTORY))
        if here.nlink:
            self.touch(here)
        elif not waits:
            self._destroy(here)

    def _rescue(self, directory: Inode, waits: bool, late: bool) -> None:
        """Sets aside what this observation names and what is inside a directory that loses its place, the deepest
        first. Where the directory waits aside itself, files stay in it (the name elsewhere may be another of theirs),
        and so do directories that are named where they are: perhaps before this, and not to be placed again. `late`:
        directories get no places any more, and are to be looked for where they were seen."""
        found: list[tuple[int, bytes, Inode, int, bytes]] = []
        for identity, places in self._places().items():
            inode = self.names.by_identity(self.rule.number, identity)
            if inode is None or inode.number in self._parked:
                continue
            if late and inode.kind is Kind.DIRECTORY:
                if self.names.is_inside(inode.number, directory.number):
                    self.void.update(number for number, _ in places)
                continue
            if inode is directory:
                continue
            if waits and (inode.kind is not Kind.DIRECTORY or places == {(inode.parent, inode.name)}):
                continue
            for parent, name in self.names.names(inode):
                if self._attached(parent) is not None and self.names.is_inside(parent, directory.number):
                    path = self.names.path_of(parent, name)
                    found.append((-path.count(b"/"), path, inode, parent, name))
                    break
        for _, path, inode, parent, name in sorted(found, key=itemgetter(0, 1)):
            self._unlink(self.names.must(parent), name, inode)
            self._parked[inode.number] = inode
            if inode.visible:
                self.emit(e.ParkEffect(inode.number, path))

    def _make(self, parent: Inode, entry: ObservedEntry, *, replaces: bool = False) -> None:
        kind, content = entry.kind, entry.content
        size = len(entry.target) if kind is Kind.SYMLINK else entry.size if kind is Kind.FILE else 0
        inode = Inode(
            (self.gsn << 16) | self._made,
            self.rule.number,
            kind,
            *entry.attributes,
            size=size if content is None else content.size,
            content=content if kind is Kind.FILE else None,
            target=entry.target,
            rdev=entry.rdev,
            version=self.gsn,
            pending=kind is Kind.DIRECTORY or (kind is Kind.FILE and content is None),
            identity=entry.identity,
            stamp=entry.stamp,
        )
        self._made += 1
        self.names.add(inode)
        self.names.link(parent, entry.name, inode, self.gsn)
        path, number = self.names.path_of(parent.number, entry.name), inode.number
        if kind is Kind.DIRECTORY:
            self.emit(e.MakeDirectoryEffect(number, path, entry.attributes))
        elif kind is not Kind.FILE:
            self.emit(e.MakeNodeEffect(number, path, kind, entry.attributes, entry.target, entry.rdev))
        elif content is not None:
            self.emit(e.PutFileEffect(number, path, entry.attributes, content, True, replaces))

    # -- absences ---------------------------------------------------------------------------------------------------

    def _take_absence(self, report: DirectoryReport, name: bytes) -> None:
        parent = self._attached(report.inode)
        if parent is None:
            self.void.add(report.inode)
            return
        found = self.names.lookup(parent.number, name)
        if found is None or found[0] == 0:
            self._confirm_absence(parent, name, found)
            return
        if found[1] == self.gsn:
            return
        inode = self.names.must(found[0])
        if found[1] > self.record.as_of or self.is_newer(inode) or inode.identity in self._refused:
            self.void.add(report.inode)
            return
        path = self.names.path_of(parent.number, name)
        self._unlink(parent, name, inode)
        if inode.visible:
            self.emit(e.RemoveEffect(inode.number, path, inode.kind is Kind.DIRECTORY))
        if inode.nlink:
            self.touch(inode)
        else:
            self._destroy(inode)

    def _confirm_absence(self, parent: Inode, name: bytes, found: tuple[int, int] | None) -> None:
        if found is not None and found[1] > self.record.as_of:
            return
        if parent.pending:
            self.names.bury(parent, name, self.gsn)
        else:
            self.names.edit(parent)
            parent.removed = self.gsn

    def _destroy(self, inode: Inode) -> None:
        """An inode without a name, and everything below it."""
        waiting = [inode]
        while waiting:
            gone = waiting.pop()
            if gone.kind is Kind.DIRECTORY:
                self.names.forget_tombstones(gone)
                for name, number, _ in list(self.names.entries(gone.number)):
                    child = self.names.must(number)
                    self.names.unlink(gone, name, child, self.gsn, tombstone=False)
                    if child.nlink:
                        self.touch(child)
                    elif child.number not in self._parked:
                        waiting.append(child)
            self.names.drop(gone)

    # -- attributes -------------------------------------------------------------------------------------------------

    def _finish_directory(self, report: DirectoryReport) -> None:
        directory = self._attached(report.inode)
        if directory is None:
            self.void.add(report.inode)
            return
        if report.complete and directory.pending:
            self.names.set_pending(directory, False)
            self.names.forget_tombstones(directory)
        if report.attributes is not None:
            self.take(directory, InodeReport(report.inode, report.attributes, 0, None, b"", report.stamp))

    def _take_inode(self, report: InodeReport) -> None:
        inode = self.names.get(report.inode)
        if inode is None or inode.rule != self.rule.number or inode.kind is Kind.DIRECTORY:
            self.void.add(report.inode)
            return
        self.take(inode, report)

    def _take_attributes(self, inode: Inode, entry: ObservedEntry) -> None:
        report = InodeReport(inode.number, entry.attributes, entry.size, entry.content, entry.target, entry.stamp)
        self.take(inode, report)
