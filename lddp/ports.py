"""The edges of lddp as Protocols: production adapters and the tests' fakes implement the same ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, Self

from lddp.core.records import Attributes, Content, Kind
from lddp.core.tables import Table, Tables
from lddp.errors import LddpError


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...


class Random(Protocol):
    def uniform(self, low: float, high: float) -> float: ...

    def token(self, size: int) -> bytes: ...


class WriteAheadLog(Protocol):
    """What is durable before the next write transaction, at less cost than one, and void after it: its owner stores
    the name of an era in each of its write transactions, and appends under the name that it stored last."""

    def create(self) -> None:
        """Makes it anew, empty. For an owner whose database has no era yet; never for another, because what was
        promised may be in it. Raises StorageError."""
        ...

    def begin(self) -> bytes:
        """The name of a new era, which has not been one before."""
        ...

    def append(self, era: bytes, data: bytes) -> bool:
        """Durable when it returns; False, and nothing done, where there is no room. A new era begins empty, and its
        first append ends the one before: the transaction that stores its name must have committed. Raises
        StorageError, after which the owner must stop."""
        ...

    def read(self, era: bytes) -> list[bytes]:
        """What was appended in this era, in order, at a start; the next append follows it. What was not durable yet
        may be there or not. Raises CorruptError where something durable is missing, StorageError."""
        ...


class KeyValue(Protocol):
    """A node's database. One write transaction at a time; it is durable when the context ends without an exception,
    and undone when it ends with one. A read transaction sees the last committed state."""

    @property
    def wal(self) -> WriteAheadLog: ...

    def write(self) -> AbstractContextManager[Tables]: ...

    def read(self) -> AbstractContextManager[Tables]: ...


class Status(NamedTuple):
    """What a zone's filesystem says of one object. Sizes in bytes, times in nanoseconds since the epoch.

    `handle` names the object itself, across renames and not reused after deletion (type and bytes of the kernel's
    file handle where there is one). `mode` is the twelve permission bits.
    """

    kind: Kind | None
    """None for a socket."""
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    links: int
    rdev: int
    handle: bytes


class Takeable(Protocol):
    """A file of a content's bytes that may become the zone's."""

    path: str

    def moving(self) -> AbstractContextManager[bool]:
        """Around the move alone. True where the file may still be moved: nobody needs it, and no other comes to be
        there, until the end."""
        ...


class ContentSource(Protocol):
    """Bytes of one content at this node, ready to be put in place."""

    size: int

    def to_take(self) -> Takeable | None:
        """A file on the zone's own filesystem that holds exactly these bytes and may be moved away, or None."""
        ...

    def open_to_clone(self) -> int | None:
        """A descriptor, for the caller to close, of a file of exactly these bytes, or None."""
        ...

    def chunks(self) -> Iterator[tuple[int, bytes | memoryview]]:
        """(offset, bytes) in ascending order; what is left out is zeros. Raises CorruptError where the bytes do not
        have the promised digest, before the last chunk is given out."""
        ...


class OpenDirectory(Protocol):
    """A directory that is looked at as a whole, wherever it is moved meanwhile. A context: it is closed at the end."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def names(self) -> list[tuple[bytes, bool]]:
        """All names in ascending order, and whether each is one of a directory, as far as the listing says so."""
        ...

    def status(self, name: bytes) -> Status:
        """`ZoneFilesystem.status` of a name in it."""
        ...

    def open_read(self, name: bytes) -> int:
        """`ZoneFilesystem.open_read` of a name in it."""
        ...


class NewFile(NamedTuple):
    """A file to be put in place whole."""

    path: bytes
    attributes: Attributes
    source: ContentSource


class ZoneFilesystem(Protocol):
    """One zone's tree. Paths are bytes relative to the root of a rule's tree (`b""` is the root itself), of any
    length, and never lead outside of it. Blocking; called from threads made for it. Raises OSError subclasses as the
    kernel reports them."""

    def status(self, path: bytes) -> Status:
        """Without following a symlink at the end. FileNotFoundError, NotADirectoryError, ..."""
        ...

    def list(self, path: bytes) -> list[tuple[bytes, Status]]:
        """All entries of a directory in ascending order of name; one that vanishes meanwhile is left out."""
        ...

    def open_directory(self, path: bytes) -> OpenDirectory: ...

    def xattrs(self, path: bytes) -> tuple[tuple[bytes, bytes], ...]: ...

    def read_link(self, path: bytes) -> tuple[Status, bytes]:
        """A symlink and its target, both of one object, whatever else comes to the path meanwhile."""
        ...

    def open_read(self, path: bytes) -> int:
        """A descriptor of a regular file, opened without following symlinks and without changing its atime where
        permitted; the caller closes it."""
        ...

    def make_directory(self, path: bytes, attributes: Attributes, parked: bytes = b"") -> None:
        """Makes it, or gives an existing directory these attributes; another object in its place is removed. A
        directory that is parked under the name `parked` becomes it; EEXIST where there is another directory then."""
        ...

    def put_file(
        self, path: bytes, attributes: Attributes, source: ContentSource, *, look: bool = True
    ) -> Status | None:
        """Atomically makes `path` a new regular file with these bytes and attributes; its status with `look`."""
        ...

    def put_files(self, files: Sequence[NewFile]) -> tuple[int, OSError | LddpError | None]:
        """Puts files one after the other, each as `put_file` does, and faster where they are many and small. How many
        are in place now, and why the next one is not."""
        ...

    def make_node(self, path: bytes, kind: Kind, attributes: Attributes, target: bytes, rdev: int) -> Status: ...

    def link(self, path: bytes, to: bytes) -> None:
        """Atomically makes `to` a name of the file at `path`, replacing a non-directory there."""
        ...

    def rename(self, path: bytes, to: bytes) -> None:
        """Moves; whatever is at `to`, a full directory included, is out of the way afterwards."""
        ...

    def exchange(self, path: bytes, to: bytes) -> None: ...

    def park(self, path: bytes, name: bytes) -> None:
        """Moves an object out of the tree into the staging area under `name`."""
        ...

    def unpark(self, name: bytes, to: bytes) -> None: ...

    def make_parked(self, name: bytes) -> bytes:
        """Parks a new empty directory under `name`; its `Status.handle`. EEXIST where something is parked there."""
        ...

    def parked_handle(self, name: bytes) -> bytes:
        """`Status.handle` of what is parked under `name`; empty where nothing is."""
        ...

    def remove(self, path: bytes) -> None:
        """Removes a name, with everything below it if it is a directory. Absent is done."""
        ...

    def remove_parked(self, name: bytes) -> None: ...

    def set_attributes(self, path: bytes, kind: Kind, attributes: Attributes) -> bytes:
        """The handle of what it changed, where that is no directory and has several names; else nothing."""
        ...

    def write(self, path: bytes, offset: int, source: ContentSource, size: int, attributes: Attributes) -> bytes:
        """Writes the source's bytes at `offset` of the existing file, makes it `size` bytes long, sets attributes;
        returns what `set_attributes` does."""
        ...

    def truncate(self, path: bytes, size: int, attributes: Attributes) -> bytes:
        """Returns what `set_attributes` does."""
        ...

    def sync(self) -> None:
        """All that was done before is durable when it returns (syncfs)."""
        ...

    def free_bytes(self) -> int: ...


class ContentStore(Protocol):
    """The contents that this node holds apart from its zone's files, and the way to get others."""

    def open(self, content: Content, *, waits: bool = True) -> ContentSource | None:
        """The bytes if they are here, else None. Never blocks on the network; unless it `waits`, nor until a large file
        has been read: what has to be checked before it is believed is not here then, until it is fetched."""
        ...

    async def fetch(self, content: Content, inode: int, holders: Sequence[str]) -> None:
        """Brings the bytes here from any of the nodes named, resuming a broken transfer. Raises UnavailableError
        when none of them has them now."""
        ...

    def release(self, content: Content) -> None:
        """Drops a content that is not in a pack."""
        ...

    def release_pack(self, pack_id: bytes) -> None: ...


Apply = Callable[[Tables, int, Sequence[bytes]], bool]
"""(transaction, raft index, records of that entry): folds one committed entry into the state. Whether somebody waits
for the transaction to commit."""

Sleep = Callable[[float], Awaitable[None]]

__all__ = [
    "Apply",
    "Clock",
    "ContentSource",
    "ContentStore",
    "KeyValue",
    "NewFile",
    "OpenDirectory",
    "Random",
    "Sleep",
    "Status",
    "Table",
    "Tables",
    "ZoneFilesystem",
]
