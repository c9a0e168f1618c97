"""What records and the namespace are made of."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """What an inode is. Sockets are not replicated."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    CHARACTER_DEVICE = 5
    BLOCK_DEVICE = 6


class RenameFlag(IntEnum):
    NONE = 0
    NOREPLACE = 1
    EXCHANGE = 2


class XattrFlag(IntEnum):
    NONE = 0
    CREATE = 1
    REPLACE = 2


class MigrationAction(IntEnum):
    CREATE = 1
    START = 2
    PAUSE = 3
    RESUME = 4
    STOP = 5
    LIVE = 6
    COMPLETE = 7
    ABORT = 8
    FAIL = 9
    RESET = 10


Xattrs = tuple[tuple[bytes, bytes], ...]
"""(name, value) pairs in ascending order of name."""


class Attributes(NamedTuple):
    """What every kind of inode has. `mode` is the twelve permission bits; `mtime_ns` is since the epoch."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Xattrs = ()


class Content(NamedTuple):
    """The bytes of one file version.

    `digest` is BLAKE3-256 of all bytes, unless `sealed` is false: then the file was changed in part, and `digest`
    is a chained identity of the changes, equal on all nodes but not the hash of the bytes. `inline` carries the
    bytes themselves when they are few. `pack` and `offset` say where in a pushed pack the bytes begin.
    """

    digest: bytes
    size: int
    inline: bytes | None = None
    pack: bytes = b""
    offset: int = 0
    sealed: bool = True


class OperationId(NamedTuple):
    """Names one request of one client for ever; a retry carries the same."""

    session: bytes
    sequence: int


class Outcome(NamedTuple):
    """What the state machine decided about a record: an errno (0: done), the inode concerned and its version.

    `void` lists, for an observation, the inodes of directories and files whose report was not taken, because the
    log already held something newer.
    """

    errno: int
    inode: int = 0
    version: int = 0
    void: tuple[int, ...] = ()


ANY_VERSION = -1
"""As `expected_version`: whatever is there, or nothing."""
NO_VERSION = 0
"""The name must be free."""
SOME_VERSION = -2
"""A file must be there, at any version."""
ANY_INODE = 0
"""As `expected_inode`: whatever the name stands for. No object has this number."""
