"""What a source says of an object, as reports and the namespace have it."""

from __future__ import annotations

import os

from lddp.core.namespace import Inode
from lddp.core.records import Attributes, Content, InodeReport, Kind
from lddp.ports import Status


def report_of(
    inode: Inode, found: os.stat_result, xattrs: tuple[tuple[bytes, bytes], ...], content: Content | None
) -> InodeReport:
    attributes = attributes_of(found, xattrs)
    return InodeReport(inode.number, attributes, found.st_size, content, b"", found.st_ctime_ns)


def is_known(inode: Inode | None, report: InodeReport) -> bool:
    """Whether the namespace says all of it already, and nothing has changed since it was seen like that: by its stamp,
    no look in between can have seen anything else."""
    if inode is None or inode.pending or inode.content is None or report.content is None:
        return False
    attributes = Attributes(inode.mode, inode.uid, inode.gid, inode.mtime_ns, inode.xattrs)
    same = (inode.content.digest, inode.size, inode.stamp) == (report.content.digest, report.size, report.stamp)
    return same and inode.content.sealed and attributes == report.attributes


def is_unchanged(child: Inode, status: Status) -> bool:
    """Whether an object is the one that the namespace knows, as it was last seen."""
    return (
        child.identity == status.handle
        and child.stamp == status.ctime_ns
        and child.mtime_ns == status.mtime_ns
        and (child.kind is not Kind.FILE or child.size == status.size)
    )


def is_same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def attributes_of(found: os.stat_result, xattrs: tuple[tuple[bytes, bytes], ...]) -> Attributes:
    return Attributes(found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns, xattrs)
