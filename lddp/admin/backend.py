"""What the HTTP API needs of a node: the Protocol that `lddp.node` implements and that the tests' fake implements too.

Rules for an implementation:

- All coroutines may be cancelled at any `await` without harm: a request whose client went away is cancelled. A record
  already submitted stays submitted.
- Refusals are raised as `LddpError`s. What the state machine decided about a record is not raised but returned, as the
  errno of its `Outcome`, because a batch has many.
- Indexes are GSNs. `bytes` paths are absolute in the global namespace, checked for form (`lddp.admin.paths`).
- A `Document` is what JSON can say: str keys; str, int, float, bool, None, list and Document values. Bytes do not
  occur in it; a name goes through `lddp.admin.paths.named`, which is lossless.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lddp.core.records import Content, Kind, MigrationAction, OperationId, Outcome, Record, Xattrs

Document = dict[str, Any]


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


class Event(NamedTuple):
    """One line of the event stream; several may have the same GSN."""

    gsn: int
    kind: str
    """`operation`, `observation`, `rule`, `migration`, `receipt`, `barrier`, `leader` or `zone`."""
    data: Document


class Metric(NamedTuple):
    """One time series, named and labelled as Prometheus does: base units, counters end in `_total`."""

    name: str
    kind: str
    """`counter` or `gauge`."""
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


class MemberRequest(NamedTuple):
    zone: str
    local_path: bytes
    observe_only: bool


class RuleRequest(NamedTuple):
    """A rule as an operator asks for it. `source` is the name of the zone that has data already, or empty."""

    name: str
    path: bytes
    source: str
    members: tuple[MemberRequest, ...]
    options: Mapping[str, Any]


class ContentWriter(Protocol):
    """Takes one content as it streams. After `commit`, one of `abort` and `used` says what became of it; neither where
    nobody knows whether a record names it."""

    async def write(self, data: bytes) -> None:
        """Takes the next bytes; returns when there is room for more, so memory stays bounded."""
        ...

    async def commit(self) -> Content:
        """The content, as durable as the rule of its path asks for, ready to be named in a record."""
        ...

    async def abort(self) -> None:
        """Drops it, also after a `commit` whose content no record will name. Never raises for a cause that `write` or
        `commit` already raised."""
        ...

    def used(self) -> None:
        """A record that took effect names it."""
        ...


class Backend(Protocol):
    # -- what this node is and sees

    def status(self) -> Document:
        """At least: node, ecosystem, role, zone (name or null), leader (name or null), term, state
        (`leader|follower|candidate`), log {first, last, commit, applied, projected}, lag {entries, bytes},
        rules [{name, digest, pending, ...}], disk {free_bytes}, problems [one-line texts]."""
        ...

    def readiness(self) -> str:
        """Why this node is not ready for clients; empty when it is: it knows a leader, has applied what was committed
        when it started, and its zone projects."""
        ...

    def nodes(self) -> list[Document]:
        """All nodes, this one included: name, role, zone, address, http, connected, leader, projected."""
        ...

    def metrics(self) -> Iterable[Metric]: ...

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
        self, records: Sequence[Record], timeout_s: float, *, visible: bool = True
    ) -> list[tuple[int, Outcome]]:
        """As `submit` for each, in this order in the log, answers in the same order; without `visible`, once they are
        ordered, durable on a majority and folded here, whatever the zone's files show by then. Calls that start one
        after the other enter the log in that order while the leader stays."""
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

    # -- rules, migrations, receipts: ElsewhereError at a witness, which does not fold what the log says of them

    def zones(self) -> dict[str, int]: ...

    def rules(self) -> list[Document]: ...

    def rule(self, name: str) -> Document | None:
        """name, path, source, members [{zone, local_path, observe_only}], options, digest, created_at_index."""
        ...

    async def create_rule(self, request: RuleRequest, id: OperationId, timeout_s: float) -> tuple[int, Outcome]:
        """Raises UsageError for a zone that does not exist, and for local paths that no zone should be given."""
        ...

    async def change_rule(
        self, name: str, options: Mapping[str, Any], id: OperationId, timeout_s: float
    ) -> tuple[int, Outcome]:
        """Replaces the rule's options."""
        ...

    async def remove_rule(self, name: str, id: OperationId, timeout_s: float) -> tuple[int, Outcome]:
        """The rule's files stay where they are in every zone."""
        ...

    def migrations(self) -> list[Document]: ...

    def migration(self, rule: str) -> Document | None:
        """id (the rule's name), rule, state, detail, and CONTRACT's progress fields."""
        ...

    async def change_migration(
        self, rule: str, action: MigrationAction, id: OperationId, timeout_s: float
    ) -> tuple[int, Outcome]:
        """Returns once the action is ordered; what it sets in motion (a scan, the check before COMPLETE) goes on."""
        ...

    def receipts(self, rule: str) -> list[Document]:
        """Newest first; of all rules where `rule` is empty. Each: id, rule, index, holds, zones [{zone, digest,
        directories, files, bytes}], differences where known."""
        ...

    def receipt(self, id: int) -> Document | None: ...

    # -- the log

    def log(self, first: int, last: int, path: bytes, limit: int) -> list[Document]:
        """Records with first <= index <= last (0: the end) at or below `path` (empty: all), oldest first. Each: index,
        kind, path, time_ns, errno and what else the kind has."""
        ...

    def subscribe(self, after: int) -> AsyncGenerator[list[Event], None]:
        """Events above GSN `after` (-1: only what is to come), then live; those of one GSN come in one list. Ends when
        the node stops. Raises OperationError(ESTALE), before its first wait, where the log no longer holds `after` + 1;
        and UnavailableError rather than leaving a gap for a reader that is too slow. Closed with `aclose`."""
        ...
