"""What every door needs of a node: the Protocol that `lddp.node` implements and that the tests' fake implements too.

Rules for an implementation:

- All coroutines may be cancelled at any `await` without harm: a request whose client went away is cancelled. A record
  already submitted stays submitted.
- Refusals are raised as `LddpError`s. What the state machine decided about a record is not raised but returned, as the
  errno of its `Outcome`, because a batch has many.
- Indexes are GSNs. `bytes` paths are absolute in the global namespace, checked for form (`lddp.serving.paths`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lddp.core.records import Content, Kind, OperationId, Outcome, Record, Xattrs
from lddp.errors import OperationError, quoted


class Entry(NamedTuple):
    """One inode of the namespace as this node has applied it. `size` in bytes, `mtime_ns` since the epoch."""

    kind: Kind
    inode: int
    version: int
    """The GSN of the last record that touched the inode; the ETag."""
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    links: int
    pending: bool
    """Content (of a file) or listing (of a directory) is not in the log yet."""
    digest: bytes = b""
    """BLAKE3 of a file's bytes, where it is known and sealed."""
    target: bytes = b""
    rdev: int = 0
    xattrs: Xattrs = ()


def _always() -> bool:
    return True


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file of this node's own zone, opened for reading; the receiver calls `close`."""

    descriptor: int
    entry: Entry
    index: int
    """A GSN at which the path was this entry."""
    is_intact: Callable[[], bool] = _always
    """Whether all that has been read so far are bytes of the entry's version: to be asked after each read."""
    released: Callable[[], None] = _nothing

    def close(self) -> None:
        os.close(self.descriptor)
        self.released()


class ContentWriter(Protocol):
    """Takes one content as it streams. After `commit`, one of `abort` and `used` says what became of it; neither where
    nobody knows whether a record names it."""

    async def write(self, data: bytes) -> None:
        """Takes the next bytes; returns when there is room for more, so memory stays bounded."""
        ...

    async def rewrite(self, offset: int, data: bytes) -> None:
        """Takes other bytes in the place of some that it has."""
        ...

    async def seal(self) -> Content:
        """The content, at this node alone so far: all bytes have been written. `commit` is still to come."""
        ...

    async def commit(self) -> Content:
        """The content, as durable as the rule of its path asks for, ready to be named in a record. After `seal` it may
        be called again where it raised UnavailableError."""
        ...

    async def abort(self) -> None:
        """Drops it, also after a `commit` whose content no record will name. Never raises for a cause that `write` or
        `commit` already raised."""
        ...

    def used(self) -> None:
        """A record that took effect names it."""
        ...


Decided = Callable[[Sequence[tuple[int, Outcome]]], None]


class Access(Protocol):
    # -- what this node is

    def applied(self) -> int:
        """The last GSN that this node's namespace shows."""
        ...

    def zone_number(self) -> int:
        """The zone that submits through this node; -1 for a witness."""
        ...

    def time_ns(self) -> int:
        """Nanoseconds since the epoch, from the node's Clock."""
        ...

    # -- records

    def next_id(self) -> OperationId:
        """A fresh id, for a client that brought none."""
        ...

    async def submit(self, record: Record, timeout_s: float) -> tuple[int, Outcome]:
        """Orders one record: (GSN, what was decided), after this node's zone shows it. Raises UnavailableError where
        it surely did not happen, OutcomeUnknownError where the same record may be submitted again."""
        ...

    async def submit_many(
        self, records: Sequence[Record], timeout_s: float, *, visible: bool = True, decided: Decided | None = None
    ) -> list[tuple[int, Outcome]]:
        """As `submit` for each, in this order in the log, answers in the same order; without `visible`, once they are
        ordered, durable on a majority and folded here, whatever the zone's files show by then. Calls that start one
        after the other enter the log in that order while the leader stays. `decided` is told the answers as soon as
        they are known, which is before the zone's files show them."""
        ...

    async def barrier(self, timeout_s: float) -> int:
        """A linearizable read point: an index that everything acknowledged before the call is at or below, and that
        this node has applied."""
        ...

    async def wait(self, index: int, timeout_s: float) -> None:
        """Returns once this node's filesystem shows `index` (a witness: once applied)."""
        ...

    # -- the namespace and its files: ElsewhereError from all of these at a witness

    def entry(self, path: bytes) -> Entry | None:
        """The entry at `path` without following links; None where there is none. `b"/"` is the root."""
        ...

    def listing(self, path: bytes, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        """Up to `limit` entries of a directory whose names are above `after`, in ascending order. Raises
        OperationError(ENOENT or ENOTDIR)."""
        ...

    async def open_file(self, path: bytes) -> OpenFile:
        """The file with the bytes that `path` had at the version and index of what is returned. Raises
        OperationError(ENOENT, EISDIR, EINVAL for other kinds), ElsewhereError where this node owns no zone of the rule
        or has not these bytes, UnavailableError where the path changes too fast."""
        ...

    def content_writer(self, path: bytes, size: int | None) -> ContentWriter:
        """For bytes that a record at `path` will name; `size` where the client told it. Raises OperationError(ENOENT)
        outside of all rules."""
        ...


def last_existing(access: Access, parts: Sequence[bytes]) -> tuple[int, Entry | None]:
    """How many of a path's components, from the first one on, lead to something, and to what; 0 and the root where not
    even the first does. Whatever exists has all of its ancestors, so it is found by halving the way."""
    exists, missing = 0, len(parts) + 1
    last = access.entry(b"/")
    while missing - exists > 1:
        middle = (exists + missing) // 2
        entry = access.entry(b"/" + b"/".join(parts[:middle]))
        if entry is None:
            missing = middle
        else:
            exists, last = middle, entry
    return exists, last


def missing(access: Access, path: bytes) -> OperationError:
    """What to say of a path that has no entry: ENOTDIR where something on the way is no directory, as the state machine
    says of changes there, else ENOENT."""
    parts = path[1:].split(b"/")
    exists, last = last_existing(access, parts)
    if last is not None and last.kind is not Kind.DIRECTORY and exists < len(parts):
        above = b"/" + b"/".join(parts[:exists])
        return OperationError(errno.ENOTDIR, f"{quoted(above)} is not a directory, so nothing is below it")
    return OperationError(errno.ENOENT, f"{quoted(path)} does not exist here; check the path, or wait for its index")
