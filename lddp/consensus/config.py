"""Settings of a Raft member. Every one says what it trades."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lddp.errors import ConfigError
from lddp.links.credentials import Credentials

ENTRY_BYTES_CEILING = 4 << 20
_RECORD_OVERHEAD_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    node: str
    """This member's name; never reused for another disk."""
    address: str
    """Where this member's listener is reached; for reports only, the listener is made by the caller."""
    peers: Mapping[str, str] = field(default_factory=dict)
    """name -> address of the other voters, witnesses included."""
    ecosystem: str
    credentials: Credentials | None = None
    """None where all addresses are `unix:`."""

    election_timeout_min_s: float = 0.5
    election_timeout_max_s: float = 1.0
    """A follower that heard nothing from the leader for a random time between them asks for votes. Shorter: writes
    flow again sooner after the leader's death. Longer: a stall or a slow network is not taken for a death. A link to
    the leader that breaks is noticed at once and does not wait for them."""
    heartbeat_s: float = 0.1
    """Between messages of an idle leader; under a third of the election timeout."""
    commit_notice_s: float = 0.002
    """How long a leader waits for a next entry to carry the news of a commit of its own records before it sends the
    news alone; up to four times as long where commits come one after the other. Longer costs followers freshness;
    shorter costs every lone write two more syncs."""

    follow_workload_s: float = 20.0
    """A leader that orders nearly all records for one other voter hands over to it, at most once in so many seconds; 0:
    never. Each of those records is two messages faster then; a hand-over stops all records for some milliseconds."""
    follow_look_s: float = 0.25
    follow_records_min: int = 12
    """How long a look at whose the records are takes, and how many are worth it. Two looks in a row count."""

    entry_bytes_max: int = 1 << 20
    """Bound of the records in one log entry together, and so of one record; the same on all members."""
    entry_bytes_ceiling: int = ENTRY_BYTES_CEILING
    """Bound of `entry_bytes_max` as it ever was on any member: the log may have entries of then."""
    entry_records_max: int = 1024
    """Records that one entry may carry: the unit between which heartbeats are possible; the same on all members."""
    apply_budget_s: float = 0.03
    """Time that applying entries may take before messages are looked at again."""
    fold_quiet_s: float = 0.004
    fold_delay_s: float = 0.05
    """What has been folded waits in memory to be written together, where nobody waits for it: until nothing more has
    come for the first of them, or for twice the last pause, and no longer than the second. Longer costs reads at this
    member freshness; shorter costs a client that sends write after write another transaction on every member."""
    pending_records_max: int = 65536
    pending_bytes_max: int = 64 << 20
    """Bounds of the records that wait for ordering at this member."""
    flight_bytes_max: int = 4 << 20
    """Entries on their way to one follower without an answer. Longer networks want more; memory wants less."""
    window_entries_max: int = 4096
    window_bytes_max: int = 16 << 20
    """Newest log entries kept in memory; older ones are read from the database."""
    compaction_margin: int = 1024
    """Applied entries that compaction always leaves, for followers that are a little behind."""
    waiters_max: int = 65536
    """Bound of callers that wait in `barrier` and `wait_applied`."""

    @property
    def record_bytes_max(self) -> int:
        """Bound of one record: it must fit into an entry, with what goes before it there."""
        return self.entry_bytes_max - _RECORD_OVERHEAD_BYTES

    @property
    def command_bytes_max(self) -> int:
        """Bound of an entry as it is in the log: its records, up to five bytes of msgpack before each, and its head."""
        return self.entry_bytes_ceiling + 5 * self.entry_records_max + 6

    def __post_init__(self) -> None:
        if self.node in self.peers:
            raise ConfigError(f"node {self.node!r} is its own peer; name only the others")
        if not 0 < self.election_timeout_min_s < self.election_timeout_max_s:
            raise ConfigError("election timeouts must be positive, and the minimum below the maximum")
        if not 0 < self.heartbeat_s * 3 < self.election_timeout_min_s:
            raise ConfigError("heartbeat_s must be under a third of election_timeout_min_s")
        if not 0 <= self.fold_quiet_s <= self.fold_delay_s:
            raise ConfigError("fold_quiet_s must not be beyond fold_delay_s")
        if self.follow_workload_s < 0 or self.follow_look_s <= 0:
            raise ConfigError("follow_workload_s must not be negative, and follow_look_s must be positive")
        if not 1024 <= self.entry_bytes_max <= self.entry_bytes_ceiling <= ENTRY_BYTES_CEILING:
            raise ConfigError("entry_bytes_max must be between 1 KiB and 4 MiB, and not beyond entry_bytes_ceiling")
        if self.flight_bytes_max < self.entry_bytes_max or self.pending_bytes_max < self.entry_bytes_max:
            raise ConfigError("flight_bytes_max and pending_bytes_max must hold at least one entry")
        counts = (self.entry_records_max, self.pending_records_max, self.window_entries_max, self.waiters_max)
        if min(*counts, self.compaction_margin) < 1:
            raise ConfigError("counts must be at least 1")
