"""The part of the merge rule that concerns one inode: its attributes and its bytes."""

from __future__ import annotations

from lddp.core import effects as e
from lddp.core.namespace import ATTRIBUTES_UNKNOWN, Inode, Namespace
from lddp.core.records import Attributes, Content, InodeReport, Kind, Observation, ObservedEntry
from lddp.core.rules import Rule


class Facts:
    """Takes what one observation says of existing inodes. `void` and `effects` collect what comes of it."""

    def __init__(self, namespace: Namespace, rule: Rule, record: Observation, gsn: int) -> None:
        self.names = namespace
        self.rule = rule
        self.record = record
        self.gsn = gsn
        self.void: set[int] = set()
        self.effects: list[e.ScopedEffect] = []
        self._scope = e.Scope(but=record.zone)

    def emit(self, effect: e.Effect) -> None:
        self.effects.append(e.ScopedEffect(self.rule.number, self._scope, effect))

    def is_newer(self, inode: Inode) -> bool:
        """Whether an earlier record than this one touched the inode after the source looked."""
        before = self.names.prior.get(inode.number)
        return (inode.version if before is None else before[0]) > self.record.as_of

    def has_lost_names(self, directory: Inode) -> bool:
        """Whether an earlier record than this one took a name from the directory after the source looked."""
        before = self.names.prior.get(directory.number)
        return (directory.removed if before is None else before[1]) > self.record.as_of

    def path(self, inode: Inode) -> bytes:
        return self.names.path_of(inode.parent, inode.name) if inode.name else b""

    def touch(self, inode: Inode) -> None:
        """This record says something about the inode, if only that it is still as it was: an older look loses."""
        self.names.edit(inode)
        inode.version = self.gsn

    def changed(self, entry: ObservedEntry) -> set[int]:
        """Number of the known object of an entry that is void, unless it was last seen as it is. It is looked at
        itself: it may lose this name before that is looked at again, and have others."""
        inode = self.names.by_identity(self.rule.number, entry.identity)
        return set() if inode is None or inode.stamp == entry.stamp else {inode.number}

    def take(self, inode: Inode, report: InodeReport) -> None:
        """Attributes and content of an existing inode, unless the log holds something newer."""
        content = report.content if inode.kind is Kind.FILE else None
        stale = _is_stale(inode, report)
        attributes = report.attributes
        if inode.kind is Kind.FILE and content is None:
            attributes = attributes._replace(mtime_ns=inode.mtime_ns)
        replaced = content is not None and (inode.content is None or inode.content.digest != content.digest)
        differs = replaced or attributes != inode.attributes
        known = content is not None and inode.pending
        if self.is_newer(inode):
            if differs or stale or known:
                self.void.add(inode.number)
            return
        self.touch(inode)
        if stale:
            self.names.set_pending(inode, True)
        else:
            inode.stamp = report.stamp
        if known:
            self.names.set_pending(inode, False)
        if differs:
            self._change(inode, attributes, content if replaced else None)

    def _change(self, inode: Inode, attributes: Attributes, content: Content | None) -> None:
        inode.mode, inode.uid, inode.gid, inode.mtime_ns, inode.xattrs = attributes
        assert inode.mode != ATTRIBUTES_UNKNOWN
        if content is None:
            if inode.visible:
                self.emit(e.SetAttributesEffect(inode.number, self.path(inode), inode.kind, inode.attributes))
            return
        first = inode.content is None
        inode.content, inode.size = content, content.size
        self.emit(e.PutFileEffect(inode.number, self.path(inode), inode.attributes, content, first))
        for parent, name in self.names.names(inode)[1:]:
            self.emit(e.LinkEffect(inode.number, self.path(inode), self.names.path_of(parent, name)))


def may_be(inode: Inode, entry: ObservedEntry) -> bool:
    """Whether nothing differs that an object keeps as long as it is there."""
    return (inode.kind, inode.target, inode.rdev) == (entry.kind, entry.target, entry.rdev)


def replaces_at_once(entry: ObservedEntry, inode: Inode | None, here: Inode) -> bool:
    """Whether putting the new object in place takes the old one's name away at once, in every zone."""
    if here.kind is Kind.DIRECTORY or entry.kind is Kind.DIRECTORY:
        return False
    if inode is not None:
        return inode.visible
    return entry.kind is not Kind.FILE or entry.content is not None


def _is_stale(inode: Inode, report: InodeReport) -> bool:
    """Whether a report without bytes shows that the bytes that the log knows are old."""
    if inode.kind is not Kind.FILE or report.content is not None or inode.pending:
        return False
    return report.size != inode.size or report.attributes.mtime_ns != inode.mtime_ns
