"""What the namespace has of an entry, as HDFS describes it."""

from __future__ import annotations

from typing import Any

from lddp.access import Entry
from lddp.core.records import Kind
from lddp.doors.webhdfs.identity import Users
from lddp.serving.paths import text_of

BLOCK_BYTES = 128 * 1024 * 1024
"""The size of HDFS's blocks by default. Files here have none; checksums and locations are as if they had."""
REPLICATION = 1
STICKY = 0o1000
_TYPES = {Kind.DIRECTORY: "DIRECTORY", Kind.SYMLINK: "SYMLINK"}
"""Everything else is a FILE; HDFS knows no fourth type."""


def octal(entry: Entry) -> str:
    """Permission bits and the sticky bit: HDFS has no set-id bits, and its clients refuse them."""
    return f"{entry.mode & 0o1777:o}"


def file_status(name: bytes, entry: Entry, users: Users) -> dict[str, Any]:
    """A FileStatus, with `name` below the path that was asked for (empty: that path itself). Times in milliseconds.
    Access times are not kept; `childrenNum` is left out for directories, where it is not known."""
    file = entry.kind not in (Kind.DIRECTORY, Kind.SYMLINK)
    status: dict[str, Any] = {
        "accessTime": 0,
        "blockSize": BLOCK_BYTES if file else 0,
        "fileId": entry.inode,
        "group": users.group(entry),
        "length": entry.size if entry.kind is Kind.FILE else 0,
        "modificationTime": entry.mtime_ns // 1_000_000,
        "owner": users.owner(entry),
        "pathSuffix": text_of(name),
        "permission": octal(entry),
        "replication": REPLICATION if file else 0,
        "storagePolicy": 0,
        "type": _TYPES.get(entry.kind, "FILE"),
    }
    if entry.kind is not Kind.DIRECTORY:
        status["childrenNum"] = 0
    if entry.kind is Kind.SYMLINK:
        status["symlink"] = text_of(entry.target)
    return status


def acl_status(entry: Entry, users: Users) -> dict[str, Any]:
    """An AclStatus without entries: what the permission bits say is all there is."""
    return {
        "entries": [],
        "group": users.group(entry),
        "owner": users.owner(entry),
        "permission": f"{entry.mode & 0o777:o}",
        "stickyBit": bool(entry.mode & STICKY),
    }
