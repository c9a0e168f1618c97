"""The merge rule: how what the source zone saw enters the namespace.

Everything reported carries `as_of`, the GSN the source had been brought to before it looked. Where the namespace
already holds something newer, the live change wins and that part of the observation is void; the observer is told, and
looks again. Objects are recognised by their identity in the source zone, so that a new name of a known object is a
rename or a hard link, and nothing is copied twice.

Order within one observation: entries of all directories (directories among them first, again while that makes
progress), then absences, then the attributes of the directories, then single inodes. So an object that one directory
lost and another gained is moved, not destroyed.
"""

from __future__ import annotations

from lddp.core import effects as e
from lddp.core.namespace import ATTRIBUTES_UNKNOWN, Inode, Namespace
from lddp.core.records import (
    Attributes,
    Content,
    DirectoryReport,
    InodeReport,
    Kind,
    Observation,
    ObservedEntry,
    Outcome,
)
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


class _Merge:
    """One observation on its way into the namespace."""

    def __init__(self, namespace: Namespace, rule: Rule, record: Observation, gsn: int) -> None:
        self._names = namespace
        self._rule = rule
        self._record = record
        self._gsn = gsn
        self._made = 0
        self._scope = e.Scope(but=record.zone)
        self._parked: dict[int, Inode] = {}
        self._named = {entry.identity for report in record.directories for entry in report.entries}
        self._refused: set[bytes] = set()
        """Identities of entries that were void: their objects are not destroyed by this observation."""
        self.void: set[int] = set()
        self.effects: list[e.ScopedEffect] = []

    def run(self) -> None:
        reports = [report for report in self._record.directories if self._is_directory(report)]
        self._take_directories(reports)
        for report in reports:
            self._take_files(report)
        for report in reports:
            for name in report.absent:
                self._take_absence(report, name)
        for inode in self._parked.values():
            self._emit(e.RemoveEffect(inode.number, b"", inode.kind is Kind.DIRECTORY))
            self._destroy(inode)
        for report in reports:
            self._finish_directory(report)
        for single in self._record.inodes:
            self._take_inode(single)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _emit(self, effect: e.Effect) -> None:
        self.effects.append(e.ScopedEffect(self._rule.number, self._scope, effect))

    def _is_directory(self, report: DirectoryReport) -> bool:
        inode = self._names.get(report.inode)
        if inode is None or inode.kind is not Kind.DIRECTORY or inode.rule != self._rule.number:
            self.void.add(report.inode)
            return False
        return True

    def _before(self, inode: Inode) -> int:
        """The inode's version before this record."""
        return self._names.prior.get(inode.number, inode.version)

    def _is_newer(self, inode: Inode) -> bool:
        return self._before(inode) > self._record.as_of

    def _path(self, inode: Inode) -> bytes:
        return self._names.path_of(inode.parent, inode.name) if inode.name else b""

    def _attached(self, directory: int) -> bool:
        """Whether a directory hangs below the rule's root, not in a parked or destroyed subtree."""
        root = self._rule.root
        while directory != root:
            inode = self._names.get(directory)
            if inode is None or inode.nlink == 0:
                return False
            directory = inode.parent
        return True

    # -- entries ----------------------------------------------------------------------------------------------------

    def _take_files(self, report: DirectoryReport) -> None:
        """Places everything but directories. The first listing of an empty directory, which is most of a scan, needs no
        look at what its names stood for before."""
        parent = self._names.get(report.inode)
        if parent is None or not self._attached(report.inode):
            for entry in report.entries:
                if entry.kind is not Kind.DIRECTORY:
                    self._refuse(report, entry)
            return
        fresh = self._is_fresh(report, parent)
        by_identity, rule = self._names.by_identity, self._rule.number
        for entry in report.entries:
            if entry.kind is Kind.DIRECTORY:
                continue
            if fresh and by_identity(rule, entry.identity) is None:
                self._make(parent, entry)
            else:
                self._take_entry(report, parent, entry)

    def _is_fresh(self, report: DirectoryReport, parent: Inode) -> bool:
        """Whether a pending directory has no entry but the directories that this record has just placed."""
        if not parent.pending or len({entry.name for entry in report.entries}) != len(report.entries):
            return False
        return all(gsn == self._gsn for _, _, gsn in self._names.entries(parent.number))

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

    def _refuse(self, report: DirectoryReport, entry: ObservedEntry) -> None:
        self.void.add(report.inode)
        self._refused.add(entry.identity)

    def _try_directory(self, report: DirectoryReport, entry: ObservedEntry) -> bool:
        parent = self._names.get(report.inode)
        if parent is None or not self._attached(report.inode):
            return False
        return self._take_entry(report, parent, entry)

    def _take_entry(self, report: DirectoryReport, parent: Inode, entry: ObservedEntry) -> bool:
        """False where the entry would put a directory into itself: it may be possible later in this record."""
        names = self._names
        found = names.lookup(parent.number, entry.name)
        if found is not None and found[1] > self._record.as_of and found[1] != self._gsn:
            if not self._agrees(found[0], entry):
                self._refuse(report, entry)
            else:
                self._take_attributes(names.must(found[0]), entry)
            return True
        if found is None and not parent.pending and self._is_newer(parent):
            self._refuse(report, entry)
            return True
        here = names.must(found[0]) if found is not None and found[0] else None
        inode = self._recognise(entry, here)
        if inode is not None and inode is here:
            self._take_attributes(inode, entry)
            return True
        if inode is not None and inode.kind is Kind.DIRECTORY and names.is_inside(parent.number, inode.number):
            return False
        self._place(parent, entry, here, inode)
        return True

    def _agrees(self, number: int, entry: ObservedEntry) -> bool:
        inode = self._names.get(number) if number else None
        return inode is not None and inode.identity == entry.identity

    def _recognise(self, entry: ObservedEntry, here: Inode | None) -> Inode | None:
        """The known inode that the entry stands for, or None where it is new."""
        inode = self._names.by_identity(self._rule.number, entry.identity)
        if inode is not None:
            if inode.kind is entry.kind:
                return inode
            self._names.edit(inode)
            self._names.set_identity(inode, b"")
        if here is not None and here.kind is entry.kind and not here.identity:
            self._names.edit(here)
            self._names.set_identity(here, entry.identity)
            return here
        return None

    def _place(self, parent: Inode, entry: ObservedEntry, here: Inode | None, inode: Inode | None) -> None:
        """Makes the entry's name stand for its object, whatever stood there before."""
        names, gsn = self._names, self._gsn
        if here is not None:
            self._displace(parent, entry.name, here)
        if not parent.pending:
            names.edit(parent)
            parent.version = gsn
        if inode is None:
            self._make(parent, entry)
            return
        to = names.path_of(parent.number, entry.name)
        if inode.number in self._parked:
            del self._parked[inode.number]
            names.link(parent, entry.name, inode, gsn)
            if inode.visible:
                self._emit(e.UnparkEffect(inode.number, to))
        elif inode.kind is Kind.DIRECTORY:
            old = self._path(inode)
            above = names.must(inode.parent)
            self._unlink(above, inode.name, inode)
            names.link(parent, entry.name, inode, gsn)
            self._emit(e.RenameEffect(inode.number, old, to, True))
        else:
            if inode.visible and inode.nlink:
                self._emit(e.LinkEffect(inode.number, self._path(inode), to))
            names.link(parent, entry.name, inode, gsn)
        inode.version = gsn
        self._take_attributes(inode, entry)

    def _unlink(self, parent: Inode, name: bytes, child: Inode) -> None:
        self._names.unlink(parent, name, child, self._gsn, tombstone=False)
        if not parent.pending:
            self._names.edit(parent)
            parent.version = self._gsn

    def _displace(self, parent: Inode, name: bytes, here: Inode) -> None:
        """Another object takes this name. The old one waits aside if this observation names it elsewhere."""
        path = self._names.path_of(parent.number, name)
        self._unlink(parent, name, here)
        if here.nlink:
            here.version = self._gsn
        elif here.identity and here.identity in self._named:
            self._parked[here.number] = here
            if here.visible:
                self._emit(e.ParkEffect(here.number, path))
        else:
            if here.visible:
                self._emit(e.RemoveEffect(here.number, path, here.kind is Kind.DIRECTORY))
            self._destroy(here)

    def _make(self, parent: Inode, entry: ObservedEntry) -> None:
        kind = entry.kind
        pending = kind is Kind.DIRECTORY or (kind is Kind.FILE and entry.content is None)
        size = len(entry.target) if kind is Kind.SYMLINK else entry.size if kind is Kind.FILE else 0
        if entry.content is not None:
            size = entry.content.size
        inode = Inode(
            (self._gsn << 16) | self._made,
            self._rule.number,
            kind,
            *entry.attributes,
            size=size,
            content=entry.content if kind is Kind.FILE else None,
            target=entry.target,
            rdev=entry.rdev,
            version=self._gsn,
            pending=pending,
            identity=entry.identity,
            stamp=entry.stamp,
        )
        self._made += 1
        self._names.add(inode)
        self._names.link(parent, entry.name, inode, self._gsn)
        self._emit_made(inode)

    def _emit_made(self, inode: Inode) -> None:
        path = self._path(inode)
        match inode.kind:
            case Kind.DIRECTORY:
                self._emit(e.MakeDirectoryEffect(inode.number, path, inode.attributes))
            case Kind.FILE:
                if inode.content is not None:
                    self._emit(e.PutFileEffect(inode.number, path, inode.attributes, inode.content, True))
            case kind:
                effect = e.MakeNodeEffect(inode.number, path, kind, inode.attributes, inode.target, inode.rdev)
                self._emit(effect)

    # -- absences ---------------------------------------------------------------------------------------------------

    def _take_absence(self, report: DirectoryReport, name: bytes) -> None:
        parent = self._names.get(report.inode)
        if parent is None or not self._attached(report.inode):
            self.void.add(report.inode)
            return
        found = self._names.lookup(parent.number, name)
        if found is None or found[0] == 0:
            return
        inode = self._names.must(found[0])
        if found[1] > self._record.as_of or (inode.identity and inode.identity in self._refused):
            if found[1] != self._gsn:
                self.void.add(report.inode)
            return
        path = self._names.path_of(parent.number, name)
        self._unlink(parent, name, inode)
        if inode.visible:
            self._emit(e.RemoveEffect(inode.number, path, inode.kind is Kind.DIRECTORY))
        if inode.nlink:
            inode.version = self._gsn
        else:
            self._destroy(inode)

    def _destroy(self, inode: Inode) -> None:
        """An inode without a name, and everything below it."""
        waiting = [inode]
        while waiting:
            gone = waiting.pop()
            if gone.kind is Kind.DIRECTORY:
                self._names.forget_tombstones(gone)
                for name, number, _ in list(self._names.entries(gone.number)):
                    child = self._names.must(number)
                    self._names.unlink(gone, name, child, self._gsn, tombstone=False)
                    if child.nlink == 0:
                        waiting.append(child)
                    else:
                        child.version = self._gsn
            self._names.drop(gone)

    # -- attributes and contents ------------------------------------------------------------------------------------

    def _finish_directory(self, report: DirectoryReport) -> None:
        directory = self._names.get(report.inode)
        if directory is None:
            self.void.add(report.inode)
            return
        if report.complete and directory.pending:
            self._names.set_pending(directory, False)
            self._names.forget_tombstones(directory)
        if report.attributes is not None and self._attached(report.inode):
            single = InodeReport(report.inode, report.attributes, 0, None, b"", report.stamp)
            self._take_report(directory, single)

    def _take_inode(self, report: InodeReport) -> None:
        inode = self._names.get(report.inode)
        if inode is None or inode.rule != self._rule.number or inode.kind is Kind.DIRECTORY:
            self.void.add(report.inode)
            return
        self._take_report(inode, report)

    def _take_attributes(self, inode: Inode, entry: ObservedEntry) -> None:
        report = InodeReport(inode.number, entry.attributes, entry.size, entry.content, entry.target, entry.stamp)
        self._take_report(inode, report)

    def _take_report(self, inode: Inode, report: InodeReport) -> None:
        """Attributes and content of an existing inode, unless the log holds something newer."""
        new_content = report.content if inode.kind is Kind.FILE else None
        stale = self._is_stale(inode, report)
        attributes = report.attributes
        if inode.kind is Kind.FILE and new_content is None:
            attributes = attributes._replace(mtime_ns=inode.mtime_ns)
        replaced = new_content is not None and (inode.content is None or inode.content.digest != new_content.digest)
        differs = replaced or attributes != inode.attributes
        known = new_content is not None and inode.pending
        if (differs or stale or known) and self._is_newer(inode):
            self.void.add(inode.number)
            return
        if stale:
            self._names.set_pending(inode, True)
        if known:
            self._names.set_pending(inode, False)
        if inode.stamp != report.stamp and not stale:
            self._names.edit(inode)
            inode.stamp = report.stamp
        if differs:
            self._change(inode, attributes, new_content if replaced else None)
        elif stale or known:
            inode.version = self._gsn

    @staticmethod
    def _is_stale(inode: Inode, report: InodeReport) -> bool:
        """Whether a report without bytes shows that the bytes that the log knows are old."""
        if inode.kind is not Kind.FILE or report.content is not None or inode.pending:
            return False
        return report.size != inode.size or report.attributes.mtime_ns != inode.mtime_ns

    def _change(self, inode: Inode, attributes: Attributes, content: Content | None) -> None:
        self._names.edit(inode)
        inode.mode, inode.uid, inode.gid, inode.mtime_ns, inode.xattrs = attributes
        inode.version = self._gsn
        assert inode.mode != ATTRIBUTES_UNKNOWN
        if content is None:
            if inode.visible:
                effect = e.SetAttributesEffect(inode.number, self._path(inode), inode.kind, inode.attributes)
                self._emit(effect)
            return
        first = inode.content is None
        inode.content, inode.size = content, content.size
        self._emit(e.PutFileEffect(inode.number, self._path(inode), inode.attributes, content, first))
        names = self._names.names(inode)
        for parent, name in names[1:]:
            self._emit(e.LinkEffect(inode.number, self._path(inode), self._names.path_of(parent, name)))
