"""The digest of a rule computed from a zone's real files: every name listed, every byte read, nothing remembered.

The walk goes down the namespace and the filesystem together. Leaves are built from what the filesystem says, with the
namespace's inode numbers in place of paths, so that zones that hold the same tree get the same sum.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from lddp.core.digest import dentry_leaf, inode_leaf, to_bytes
from lddp.core.namespace import Inode
from lddp.core.records import Kind, ZoneFinding
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.errors import errno_name
from lddp.migrate.listing import Found, join, listed
from lddp.migrate.options import Exclusion
from lddp.ports import Status, ZoneFilesystem
from lddp.replay.existing import digest_of
from lddp.zones.attributes import read_xattrs

LISTED_MAX = 1000
_COMPARED = (
    "mode",
    "owner",
    "group",
    "modification time",
    "extended attributes",
    "size",
    "bytes",
    "target",
    "rdev",
)


@dataclass(slots=True)
class Finding:
    """What a walk found. `differences` are (path, what differs) between the files and the namespace at GSN `gsn`;
    `extraneous` are paths that the namespace does not have. Both lists are cut at LISTED_MAX, the counts are not.
    `namespace_digest` is that of the namespace once the walk was over."""

    gsn: int
    namespace_digest: bytes
    total: int = 0
    directories: int = 0
    files: int = 0
    file_bytes: int = 0
    difference_count: int = 0
    differences: list[tuple[bytes, str]] = field(default_factory=list)
    extraneous_count: int = 0
    extraneous: list[bytes] = field(default_factory=list)
    repaired: int = 0
    """Paths that were found different before and have been mended."""

    def differ(self, path: bytes, what: str) -> None:
        self.difference_count += 1
        if len(self.differences) < LISTED_MAX:
            self.differences.append((path, what))

    def of_zone(self, zone: int) -> ZoneFinding:
        return ZoneFinding(zone, to_bytes(self.total), self.directories, self.files, self.file_bytes)


class Verifier:
    """Walks one rule's tree in one zone. Blocking; runs in a thread."""

    def __init__(self, zone: ZoneFilesystem, view: View, rule: Rule, exclusion: Exclusion, is_source: bool) -> None:
        self._zone = zone
        self._view = view
        self._rule = rule
        self._exclusion = exclusion
        self._is_source = is_source
        self._seen: dict[int, int] = {}
        """Filesystem inode of every namespace inode with several names."""
        self._owners: dict[tuple[int, int], int] = {}
        """Namespace inode of every filesystem inode with several names."""
        self.finding = Finding(view.gsn, view.digest(rule.number))

    def run(self) -> Finding:
        root = self._view.inode(self._rule.root)
        assert root is not None
        waiting: list[tuple[Inode, bytes]] = [(root, b"")]
        self._check_inode(root, b"", self._zone.status(b""))
        while waiting:
            directory, path = waiting.pop()
            waiting.extend(self._check_directory(directory, path))
        return self.finding

    def _check_directory(self, directory: Inode, path: bytes) -> list[tuple[Inode, bytes]]:
        finding = self.finding
        try:
            listing = self._listing(directory, path)
        except OSError as error:
            finding.differ(path, errno_name(error.errno or 0))
            return []
        below: list[tuple[Inode, bytes]] = []
        for name, number in self._view.list(directory.number):
            status = listing.pop(name, None)
            child = self._view.inode(number)
            assert child is not None
            child_path = join(path, name)
            if not child.visible and not self._is_source:
                finding.differ(child_path, "its bytes are not in the log yet")
                continue
            if status is None:
                finding.differ(child_path, "missing")
                continue
            if isinstance(status, OSError):
                finding.differ(child_path, errno_name(status.errno or 0))
                continue
            if status.kind is not child.kind:
                finding.differ(child_path, "another kind of object")
                continue
            finding.total += dentry_leaf(directory.number, name, number)
            self._check_inode(child, child_path, status)
            if child.kind is Kind.DIRECTORY:
                below.append((child, child_path))
        for name, status in listing.items():
            self._check_other(join(path, name), status)
        return below

    def _listing(self, directory: Inode, path: bytes) -> dict[bytes, Found]:
        """What the log has is looked at, whatever patterns say."""

        def passes_over(name: bytes, kind: Kind | None) -> bool:
            return self._exclusion.matches(join(path, name), kind) and not self._view.child(directory.number, name)

        with self._zone.open_directory(path) as opened:
            return dict(listed(opened, passes_over))

    def _check_other(self, path: bytes, status: Found) -> None:
        """What is at a name that the log does not have."""
        finding, what = self.finding, "name is not in the log"
        if isinstance(status, OSError):
            what = errno_name(status.errno or 0)
        elif status is None or status.kind is None or self._exclusion.excludes(path, status, self._is_in_log):
            return
        if self._is_source:
            finding.differ(path, what)
        else:
            finding.extraneous_count += 1
            if len(finding.extraneous) < LISTED_MAX:
                finding.extraneous.append(path)

    def _is_in_log(self, handle: bytes) -> bool:
        """Whether the observer follows an object of its zone whatever its size and age are."""
        return self._is_source and self._view.by_identity(self._rule.number, handle) != 0

    def _check_inode(self, inode: Inode, path: bytes, status: Status) -> None:
        """Adds the inode's leaf, as the filesystem has it, the first time it is met."""
        if inode.kind is not Kind.DIRECTORY:
            earlier = self._seen.get(inode.number)
            if earlier is not None:
                if earlier != status.inode:
                    self.finding.differ(path, "not the same file as its other names")
                return
            if inode.nlink > 1 or status.links > 1:
                self._seen[inode.number] = status.inode
            if status.links > 1:
                owner = self._owners.setdefault((status.device, status.inode), inode.number)
                if owner != inode.number:
                    self.finding.differ(path, "the same file as another name")
        try:
            self._add_leaf(inode, path, status)
        except OSError as error:
            self.finding.differ(path, errno_name(error.errno or 0))

    def _add_leaf(self, inode: Inode, path: bytes, status: Status) -> None:
        content, target, size = b"", b"", 0
        xattrs: tuple[tuple[bytes, bytes], ...]
        if inode.kind is Kind.FILE:
            descriptor = self._zone.open_read(path)
            try:
                content = digest_of(descriptor)
                size = os.fstat(descriptor).st_size
                xattrs = read_xattrs(descriptor)
            finally:
                os.close(descriptor)
            self.finding.files += 1
            self.finding.file_bytes += size
        else:
            xattrs = self._zone.xattrs(path)
            if inode.kind is Kind.SYMLINK:
                _, target = self._zone.read_link(path)
                size = len(target)
            elif inode.kind is Kind.DIRECTORY:
                self.finding.directories += 1
        rdev = status.rdev if inode.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) else 0
        found = (status.mode, status.uid, status.gid, status.mtime_ns, xattrs, size, content, target, rdev)
        self.finding.total += inode_leaf(inode.number, inode.kind, *found)
        self._compare(inode, path, found)

    def _compare(self, inode: Inode, path: bytes, found: tuple[object, ...]) -> None:
        known = inode.content
        digest = known.digest if known is not None else b""
        if known is not None and not known.sealed:
            digest = found[6]  # type: ignore[assignment]
        wanted = (*inode.attributes, inode.size, digest, inode.target, inode.rdev)
        for what, one, other in zip(_COMPARED, wanted, found, strict=True):
            if one != other:
                self.finding.differ(path, what)
