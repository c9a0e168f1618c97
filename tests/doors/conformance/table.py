"""What each door cannot express, with the reason, and how it shows an errno where it has words of its own.

A step that needs something of this table is done through the HTTP API instead, so that the trees can be compared; on a
plain directory, which nothing stands in for, it is left out. Nothing else is ever left out.
"""

from __future__ import annotations

import errno as e

from lddp.config import WriteMode
from lddp.doors.webhdfs import remote
from lddp.doors.webhdfs.remote import JavaClass
from tests.doors.conformance.steps import (
    Append,
    List,
    Mkdir,
    Need,
    Put,
    Read,
    Remove,
    Rename,
    SetMode,
    SetXattr,
    Stat,
    Step,
    Symlink,
    Truncate,
)

NS_IN_MS = 1_000_000
HTTP, FSSPEC, WEBHDFS, CLI, FUSE, DIRECTORY = "http", "fsspec", "webhdfs", "cli", "fuse", "directory"
PIPELINED = "fuse-pipelined"
MOUNTS = {WriteMode.SYNC: FUSE, WriteMode.PIPELINED: PIPELINED}

_KERNEL = {
    Need.CONDITION: "a file has no version there",
    Need.DOTS: "the kernel resolves them before any filesystem sees the path",
    Need.LONG_PATH: "no system call takes more than 4,096 bytes",
    Need.NUL: "it ends a path for the kernel",
    Need.RULE: "the directory is the whole world there",
    Need.UNFOLLOWED: "the kernel follows symlinks on the way",
}
"""For what goes through system calls: a plain directory, a mount."""

CANNOT: dict[str, dict[Need, str]] = {
    HTTP: {},
    FSSPEC: {
        Need.APPEND_EXISTING: "mode `a` makes the file where there is none",
        Need.CONDITION: "fsspec has no versions",
        Need.EXCHANGE: "fsspec has no such call",
        Need.LINK: "fsspec has no such call",
        Need.LIST_NO_FILE: "`ls` of a file is the file",
        Need.LARGE_XATTR: "fsspec has no such call",
        Need.MODE: "fsspec has no such call",
        Need.MODE_OF_NEW: "fsspec has no such call",
        Need.NANOSECONDS: "fsspec has no such call",
        Need.ONTO_DIRECTORY: "`mv` moves into a directory",
        Need.ONTO_ITSELF: "`mv` looks whether the two are the same, and then does nothing",
        Need.PATTERN: "`mv` takes patterns",
        Need.REPLACE_NOTHING: "`mv` replaces",
        Need.SET_ID: "fsspec has no such call",
        Need.SYMLINK: "fsspec has no such call",
        Need.TIMES: "`touch` sets the present time only",
        Need.TRUNCATE: "fsspec has no such call",
        Need.TRUNCATE_UP: "fsspec has no such call",
        Need.UNLINK: "`rm_file` removes empty directories too",
        Need.WRITE_AT: "files are written as a whole",
        Need.XATTR: "fsspec has no such call",
    },
    WEBHDFS: {
        Need.CONDITION: "files have no versions in HDFS",
        Need.DIRECTORY_ALONE: "MKDIRS makes what is above, and does nothing where the directory is",
        Need.EXCHANGE: "HDFS has no such operation",
        Need.LINK: "HDFS has no hard links",
        Need.LARGE_XATTR: "values are in URLs, which have 8 KiB",
        Need.LIST_NO_FILE: "LISTSTATUS of a file is the file",
        Need.NANOSECONDS: "HDFS has milliseconds since the epoch",
        Need.ONTO_ITSELF: "RENAME to the same name is an error in HDFS",
        Need.SET_ID: "HDFS has no such bits",
        Need.TRUNCATE_UP: "TRUNCATE only shortens",
        Need.UNLINK: "DELETE removes empty directories too",
        Need.UNLINK_DIRECTORY: "DELETE removes files too",
        Need.WRITE_AT: "files of HDFS grow at their end only",
    },
    CLI: {
        Need.APPEND: "there is no command for it",
        Need.APPEND_EXISTING: "there is no command for it",
        Need.FILE_AS_ROOT: "`lddp put` puts into what ends with a slash",
        Need.LINK: "there is no command for it",
        Need.LARGE_XATTR: "there is no command for it",
        Need.LIST_NO_FILE: "`lddp ls` of a file is the file",
        Need.MODE: "there is no command for it",
        Need.NANOSECONDS: "there is no command for it",
        Need.NUL: "it ends an argument of a command",
        Need.ONTO_DIRECTORY: "`lddp mv` moves into a directory",
        Need.SET_ID: "there is no command for it",
        Need.SYMLINK: "there is no command for it",
        Need.TIMES: "there is no command for it",
        Need.TRUNCATE: "there is no command for it",
        Need.TRUNCATE_UP: "there is no command for it",
        Need.UNLINK: "`lddp rm` removes empty directories too",
        Need.UNLINK_DIRECTORY: "`lddp rm` removes files too",
        Need.WRITE_AT: "there is no command for it",
        Need.XATTR: "there is no command for it",
    },
    FUSE: _KERNEL,
    PIPELINED: _KERNEL | {Need.EXCLUSIVE_ANYWHERE: "other zones are heard of at the barrier"},
    DIRECTORY: _KERNEL,
}

_IO = frozenset({remote.IO})
_ILLEGAL = frozenset({remote.ILLEGAL_ARGUMENT})
_NOT_FOUND = frozenset({remote.NOT_FOUND})
_EXISTS = frozenset({remote.EXISTS})
_OR_ROOT = frozenset({remote.ILLEGAL_ARGUMENT, remote.ACCESS})
"""A path that is none, and the root, which nobody may change in HDFS."""

HADOOP: dict[tuple[type[Step], int], frozenset[JavaClass]] = {
    (Append, e.EISDIR): _NOT_FOUND,
    (Append, e.ENOTDIR): _NOT_FOUND,
    (List, e.ENOTDIR): _NOT_FOUND,
    (Mkdir, e.EINVAL): _OR_ROOT,
    (Put, e.EINVAL): _OR_ROOT,
    (Put, e.EISDIR): _EXISTS,
    (Read, e.ENOTDIR): _NOT_FOUND,
    (Remove, e.EINVAL): _OR_ROOT,
    (Rename, e.EINVAL): _OR_ROOT | _IO,
    (Rename, e.EISDIR): _IO,
    (Rename, e.ENOENT): _NOT_FOUND | _IO,
    (Rename, e.ENOTDIR): frozenset({remote.IO, remote.NO_DIRECTORY, remote.NOT_FOUND}),
    (Rename, e.ENOTEMPTY): _IO,
    (SetMode, e.EINVAL): _OR_ROOT,
    (SetXattr, e.EEXIST): _IO,
    (Stat, e.ENOTDIR): _NOT_FOUND,
    (Symlink, e.ENAMETOOLONG): _ILLEGAL | frozenset({remote.TOO_LONG}),
    (Truncate, e.EISDIR): _NOT_FOUND,
}
"""Hadoop's exceptions where they are not those of `remote.BY_ERRNO`: HDFS says them so."""
