"""What the HTTP API needs of a node beyond what every door does: the Protocol that `lddp.node` implements, and the
tests' fake too. The rules of `lddp.access` hold here as well.

A `Document` is what JSON can say: str keys; str, int, float, bool, None, list and Document values. Bytes do not
occur in it; a name goes through `lddp.serving.paths.named`, which is lossless.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from lddp.access import Access
from lddp.config import WriteMode
from lddp.core.records import MigrationAction, OperationId, Outcome

Document = dict[str, Any]


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


class Backend(Access, Protocol):
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

    # -- FUSE mounts of this node, on its own machine

    def mounts(self) -> list[Document]:
        """rule, mountpoint, soft_timeout_s (None: hard), write_mode, passthrough (whether the kernel may read files by
        itself), why_no_passthrough (that was asked for; empty: there is, or nobody asked), calls (that are being
        served), queued (changes that are promised and not ordered yet)."""
        ...

    async def mount(
        self, rule: str, mountpoint: bytes, soft_s: float | None, mode: WriteMode, *, passthrough: bool = False
    ) -> Document:
        """Raises OperationError(ENOENT) for a rule that does not exist, UsageError for a mountpoint that cannot be one,
        ZoneError where the machine refuses."""
        ...

    async def unmount(self, mountpoint: bytes, *, lazily: bool) -> Document:
        """Commits what was written there first. Raises OperationError(ENOENT), and ZoneError(EBUSY) where programs use
        it, unless `lazily`."""
        ...

    # -- the log

    async def log(self, first: int, last: int, path: bytes, limit: int) -> tuple[list[Document], int]:
        """Records with first <= index <= last (0: the end) at or below `path` (empty: all), oldest first, and the index
        to go on from; 0: that was all. Each: index, kind, path, time_ns, errno and what else the kind has. There may be
        fewer than `limit`, or none, before the end: what is looked at is bounded too."""
        ...

    def subscribe(self, after: int) -> AsyncGenerator[list[Event], None]:
        """Events above GSN `after` (-1: only what is to come), then live; those of one GSN come in one list. Ends when
        the node stops. Raises OperationError(ESTALE), before its first wait, where the log no longer holds `after` + 1,
        and later rather than leaving a gap for a reader that is too slow. Closed with `aclose`."""
        ...
