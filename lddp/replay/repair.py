"""Brings single paths of a zone back to what the namespace says, where a comparison found them different.

Somebody changed the zone behind lddp's back, or its machine lost power. What is to be done is worked out and carried
out while the files are as the view says and nothing else changes them; the bytes are fetched in between.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from lddp.core import effects as e
from lddp.core.namespace import Inode
from lddp.core.records import Content, Kind
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.ports import ContentStore, Status, ZoneFilesystem
from lddp.replay.carrier import Carrier
from lddp.replay.existing import file_digest

_log = logging.getLogger(__name__)


class Mend(NamedTuple):
    """What brings one inode back, good while its version is still this one."""

    inode: int
    version: int
    effects: tuple[e.Effect, ...]

    @property
    def content(self) -> Content | None:
        """The bytes that it needs."""
        return next((effect.content for effect in self.effects if isinstance(effect, e.PutFileEffect)), None)


def plan_repair(view: View, rule: Rule, zone: ZoneFilesystem, paths: Iterable[bytes]) -> list[Mend]:
    """What has to be done at these paths of the rule's tree, in an order in which it can be done."""
    mends: dict[int, Mend] = {}
    for path in sorted(paths):
        found = view.find(rule.path + b"/" + path if path else rule.path)
        waiting = [(found[1], path)] if found is not None and found[1] is not None else []
        while waiting:
            inode, here = waiting.pop()
            status = _status(zone, here)
            for mend in _mends(view, zone, inode, here, status):
                mends.setdefault(mend.inode, mend)
            if inode.kind is Kind.DIRECTORY and (status is None or status.kind is not Kind.DIRECTORY):
                waiting += reversed(_children(view, inode, here))
    return list(mends.values())


def carry_repair(view: View, carrier: Carrier, store: ContentStore, mends: Iterable[Mend]) -> list[bytes]:
    """Carries out what is still right and has its bytes; the paths that were mended."""
    mended: list[bytes] = []
    for mend in mends:
        inode = view.inode(mend.inode)
        if inode is None or inode.version != mend.version:
            continue
        content = mend.content
        source = store.open(content) if content is not None else None
        if content is not None and source is None:
            continue
        for effect in mend.effects:
            carrier.carry(effect, source if isinstance(effect, e.PutFileEffect) else None)
        mended.append(view.path(inode))
    return mended


def _children(view: View, directory: Inode, path: bytes) -> list[tuple[Inode, bytes]]:
    children: list[tuple[Inode, bytes]] = []
    for name, number in view.list(directory.number):
        child = view.inode(number)
        assert child is not None, "an entry names an inode"
        children.append((child, path + b"/" + name if path else name))
    return children


def _mends(view: View, zone: ZoneFilesystem, inode: Inode, path: bytes, status: Status | None) -> list[Mend]:
    """Of one inode, without what is in a directory."""
    same = status is not None and status.kind is inode.kind and _has_attributes(zone, path, status, inode)
    if inode.kind is Kind.DIRECTORY:
        return [] if same else [_mend(inode, e.MakeDirectoryEffect(inode.number, path, inode.attributes))]
    first, *others = view.paths(inode)
    links = [e.LinkEffect(inode.number, first, other) for other in others]
    if inode.kind is not Kind.FILE:
        if same and _has_its_names(view, zone, inode, status) and _has_its_target(zone, path, inode):
            return []
        node = e.MakeNodeEffect(inode.number, first, inode.kind, inode.attributes, inode.target, inode.rdev)
        return [_mend(inode, node, *links)]
    if inode.content is None:
        return []
    if _is_whole(view, zone, inode, inode.content, status):
        effect = e.SetAttributesEffect(inode.number, path, inode.kind, inode.attributes)
        return [] if same else [_mend(inode, effect)]
    put = e.PutFileEffect(inode.number, first, inode.attributes, inode.content, False)
    return [_mend(inode, put, *links)]


def _mend(inode: Inode, *effects: e.Effect) -> Mend:
    return Mend(inode.number, inode.version, effects)


def _status(zone: ZoneFilesystem, path: bytes) -> Status | None:
    try:
        return zone.status(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _has_attributes(zone: ZoneFilesystem, path: bytes, status: Status, inode: Inode) -> bool:
    found = (status.mode, status.uid, status.gid, status.mtime_ns)
    return found == inode.attributes[:4] and zone.xattrs(path) == inode.xattrs


def _has_its_names(view: View, zone: ZoneFilesystem, inode: Inode, status: Status | None) -> bool:
    """Whether the object has exactly the names that the namespace says."""
    if status is None or status.links != inode.nlink:
        return False
    others = [_status(zone, path) for path in view.paths(inode)]
    return all(other is not None and other.inode == status.inode for other in others)


def _has_its_target(zone: ZoneFilesystem, path: bytes, inode: Inode) -> bool:
    return inode.kind is not Kind.SYMLINK or zone.read_link(path)[1] == inode.target


def _is_whole(view: View, zone: ZoneFilesystem, inode: Inode, content: Content, status: Status | None) -> bool:
    """Whether the file has its bytes and exactly its names, so that only attributes can differ."""
    if status is None or status.kind is not Kind.FILE or status.size != inode.size:
        return False
    if not _has_its_names(view, zone, inode, status):
        return False
    return not content.sealed or file_digest(zone, view.path(inode)) == content.digest
