"""PySyncObj's Raft, held by the few places where it can be held. All its name-mangled members are touched here.

The faults closed here, by the numbers of the audit: 1 (the index of what to send next never goes back because of an
answer), 2 and 3 and 16 (messages with snapshots or chunks are neither sent nor taken), 6-8 and 9 (its compaction and
its way of applying are replaced by nothing), 10 (no membership changes of its own), 12 (its election timer never
fires by itself), 13 (a follower that disagrees is asked from its commit index on), 14 (answers belong to a term,
votes to a voter), 18 (nothing is applied by it, so nothing is applied again).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from math import inf
from types import ModuleType
from typing import Any

from lddp.consensus.audited import load_raft
from lddp.consensus.given import Name, Transport
from lddp.consensus.journal import InvariantError, RaftJournal
from lddp.consensus.wire import REGULAR, Append, Appended, Entry, Message, Vote, VoteRequest
from lddp.ports import Clock

_NEVER = 1 << 60

logger = logging.getLogger(__name__)


class Role(StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


_ROLES = (Role.FOLLOWER, Role.CANDIDATE, Role.LEADER)
"""By PySyncObj's numbers."""


class Core:
    """One member's Raft state machine. Not a coroutine, no timers: it moves when a method is called.

    `send_now(peer, message)` is for what may leave before this tick's transaction (AppendEntries), `send_durable` for
    what may leave only after it (answers and votes).
    """

    def __init__(
        self,
        *,
        node: str,
        peers: Iterable[str],
        journal: RaftJournal,
        clock: Clock,
        command_bytes_max: int,
        flight_bytes_max: int,
        leader_timeout_s: float,
        send_now: Callable[[str, Message], None],
        send_durable: Callable[[str, Message], None],
    ) -> None:
        self.journal = journal
        self.role = Role.FOLLOWER
        self.sidelined: dict[str, int] = {}
        """Peers that need entries which this leader has dropped -> first index they could be served from."""
        self.forced = False
        """The next election was asked for by the leader itself."""
        self._send_now = send_now
        self._send_durable = send_durable
        self._voters: set[str] = set()
        self._linked: set[str] = set()
        self._match: dict[str, int] = {}
        self._flight_bytes_max = flight_bytes_max
        self._flight: dict[str, deque[tuple[int, int]]] = {}
        self._flight_bytes: dict[str, int] = {}
        self.throttled: set[str] = set()
        module = load_raft(clock.monotonic, lambda _file: journal)
        self._nodes = {peer: module.Node(Name(peer)) for peer in peers}
        self._wire = Transport(self._sent)
        configuration = _configuration(module, command_bytes_max, leader_timeout_s, self._role_changed)
        self._raft = module.SyncObj(
            module.Node(Name(node)), list(self._nodes.values()), configuration, transport=self._wire
        )
        self._raft._SyncObj__doApplyCommand = lambda _command: None
        self._raft._SyncObj__tryLogCompaction = lambda: None
        self._raft._SyncObj__loadDumpFile = _refuse_dump
        # Committed entries are folded from the journal by us; for PySyncObj they are applied.
        self._raft._SyncObj__raftLastApplied = journal.commit

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self.role is Role.LEADER

    def leads(self, term: int) -> bool:
        return term == self.term and self.is_leader

    @property
    def leader(self) -> str | None:
        node = self._raft._getLeader()
        return None if node is None else str(node.id)

    @property
    def term(self) -> int:
        return int(self._raft.raftCurrentTerm)

    @property
    def last(self) -> int:
        return self.journal.last

    @property
    def last_term(self) -> int:
        return self.journal[-1][2]

    @property
    def commit(self) -> int:
        return self.journal.commit

    @property
    def commit_is_current(self) -> bool:
        """An entry of this term is committed: only then does a leader know what is (Raft paper, 8)."""
        return self.journal.term_at(self.commit) == self.term

    @property
    def linked(self) -> frozenset[str]:
        return frozenset(self._linked)

    @property
    def majority(self) -> int:
        return (len(self._nodes) + 1) // 2 + 1

    @property
    def has_unsent(self) -> bool:
        """As leader: a follower that can take more has not been sent all."""
        next_index = self._raft._SyncObj__raftNextIndex
        return self.is_leader and any(
            next_index[self._nodes[peer]] <= self.last
            for peer in self._linked
            if peer not in self.throttled and peer not in self.sidelined
        )

    def matched(self, peer: str) -> int:
        """As leader: the last index up to which the peer's log is known to agree."""
        return self._match.get(peer, 0)

    def is_current(self, last: int, last_term: int) -> bool:
        """A log that ends so is at least as new as ours (Raft paper, 5.4.1)."""
        return (last_term, last) >= (self.last_term, self.last)

    # -- driving ----------------------------------------------------------------------------------------------------

    def tick(self, *, campaign: bool = False) -> None:
        """Counts what is committed, steps down without a majority, appends what was proposed; with `campaign`, and
        only then, asks for votes."""
        self._raft._SyncObj__raftElectionDeadline = -inf if campaign else inf
        if campaign:
            self._voters.clear()
        self._raft.doTick(0)
        self.forced = False

    def propose(self, payload: bytes) -> None:
        """The next tick appends an entry with this payload if this member is still the leader."""
        self._raft._applyCommand(payload, None, REGULAR)

    def replicate(self, *, probe: bool = False) -> None:
        """As leader: sends every linked follower what it has not been sent, or a heartbeat. With `probe`, also those a
        heartbeat who have not acknowledged enough of what is on its way to them to be sent more: one that knows of a
        later term acknowledges nothing, and says so only when it is asked."""
        self._raft._SyncObj__sendAppendEntries()
        for peer in sorted(self.throttled & self._linked) if probe and self.is_leader else ():
            previous = self._flight[peer][0][0] - 1
            previous_term = self.journal.term_at(previous)
            if previous_term is not None:
                self._send_now(peer, Append(self.term, self.commit, previous, previous_term, ()))

    def link_up(self, peer: str) -> None:
        self._linked.add(peer)
        self.sidelined.pop(peer, None)
        self._clear_flight(peer)
        if self.is_leader:
            # What was on its way over the old link may be lost; what was answered is not.
            known = self._match.get(peer, 0)
            self._raft._SyncObj__raftNextIndex[self._nodes[peer]] = (known or self.last) + 1
        self._wire.connected(self._nodes[peer])

    def link_down(self, peer: str) -> None:
        self._linked.discard(peer)
        self._clear_flight(peer)
        self._wire.disconnected(self._nodes[peer])

    # -- messages received ------------------------------------------------------------------------------------------

    def observe_term(self, term: int) -> None:
        """A higher term exists: this member is not its leader, nor anybody's voter in it yet."""
        if term > self.term:
            # A request that asks for nothing: its log is older than any, so that the vote is not given.
            self._wire.received(None, {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1})

    def receive_append(self, peer: str, message: Append) -> None:
        """AppendEntries of a term that is not older than ours."""
        assert message.term >= self.term, "older terms are answered, not delivered"
        if message.term == self.term and self.leader not in (None, peer):
            raise InvariantError(f"{peer} and {self.leader} both lead term {message.term}")
        previous, previous_term, entries = self._without_known(message)
        self._wire.received(
            self._nodes[peer],
            {
                "type": "append_entries",
                "term": message.term,
                # Not beyond what this message proves equal: behind it may be entries that the leader does not have.
                "commit_index": min(message.commit, message.previous + len(message.entries)),
                "prevLogIdx": previous,
                "prevLogTerm": previous_term,
                "entries": entries,
            },
        )

    def receive_appended(self, peer: str, message: Appended) -> None:
        if not self.is_leader or message.term != self.term:
            return
        if message.matched and message.next > self.last + 1:
            logger.error("%s acknowledges index %d, beyond this leader's last %d", peer, message.next - 1, self.last)
            return
        node = self._nodes[peer]
        next_index = self._raft._SyncObj__raftNextIndex
        before = next_index[node]
        known = self._match.get(peer, 0)
        answer = {"type": "next_node_idx", "reset": False, "success": message.matched, "next_node_idx": message.next}
        if message.matched:
            self._match[peer] = max(known, message.next - 1)
            self._landed(peer, message.next - 1)
            self._wire.received(node, answer)
            next_index[node] = max(before, message.next)
        else:
            self._clear_flight(peer)
            again = max(known, min(message.commit, self.last)) + 1
            self._wire.received(node, {**answer, "reset": True, "next_node_idx": again})

    def receive_vote_request(self, peer: str, message: VoteRequest) -> None:
        self._wire.received(
            self._nodes[peer],
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last,
                "last_log_term": message.last_term,
            },
        )

    def receive_vote(self, peer: str, message: Vote) -> None:
        if self.role is not Role.CANDIDATE or message.term != self.term or peer in self._voters:
            return
        self._voters.add(peer)
        self._wire.received(self._nodes[peer], {"type": "response_vote", "term": message.term})

    # -- what PySyncObj sends ---------------------------------------------------------------------------------------

    def _sent(self, node: Any, message: dict[str, Any]) -> None:
        peer = str(node.id)
        match message["type"]:
            case "append_entries":
                self._sent_append(peer, message)
            case "next_node_idx":
                matched = bool(message["success"])
                answer = Appended(self.term, int(message["next_node_idx"]), matched, self.commit)
                self._send_durable(peer, answer)
            case "request_vote":
                request = VoteRequest(self.term, self.last, self.last_term, self.forced)
                self._send_durable(peer, request)
            case "response_vote":
                self._send_durable(peer, Vote(int(message["term"])))
            case "apply_command":
                # Leadership went between `propose` and the tick; the caller sees that nothing was appended.
                pass
            case unknown:
                raise InvariantError(f"PySyncObj sends a message of type {unknown}, which is not used here")

    def _sent_append(self, peer: str, message: dict[str, Any]) -> None:
        if "transmission" in message:
            raise InvariantError("PySyncObj chunks an entry although the batch holds the largest one")
        if "prevLogIdx" not in message:
            # It wants to send a snapshot, and would ask for one again and again: for it, the peer is gone.
            if peer not in self.sidelined:
                logger.error("%s needs log entries before %d, which are dropped", peer, self.journal.first)
            self.sidelined[peer] = self.journal.first
            self._wire.disconnected(self._nodes[peer])
            return
        entries: tuple[Entry, ...] = tuple(message["entries"])
        previous, previous_term = message["prevLogIdx"], message["prevLogTerm"]
        assert previous is not None, "nextIndex is never beyond the log's end"
        self._send_now(peer, Append(self.term, self.commit, previous, previous_term, entries))
        if not entries:
            return
        size = sum(len(entry[0]) for entry in entries)
        self._flight.setdefault(peer, deque()).append((entries[-1][1], size))
        self._flight_bytes[peer] = self._flight_bytes.get(peer, 0) + size
        if self._flight_bytes[peer] >= self._flight_bytes_max and peer not in self.throttled:
            # PySyncObj would send the whole rest of the log at once; it stops at a peer that is not connected.
            self.throttled.add(peer)
            self._wire.disconnected(self._nodes[peer])

    # -- inside -----------------------------------------------------------------------------------------------------

    def _without_known(self, message: Append) -> tuple[int, int, list[Entry]]:
        """The message without the leading entries that are here already, as (previous, its term, rest)."""
        previous, previous_term = message.previous, message.previous_term
        own_term = self.journal.term_at(previous)
        if own_term != previous_term:
            if own_term is not None and previous <= self.commit:
                raise InvariantError(
                    f"entry {previous} is committed here, and whoever leads term {message.term} has another"
                )
            return previous, previous_term, list(message.entries)
        known = 0
        for entry in message.entries:
            if self.journal.term_at(entry[1]) != entry[2]:
                break
            known += 1
            previous, previous_term = entry[1], entry[2]
        return previous, previous_term, list(message.entries[known:])

    def _role_changed(self, _old: int, new: int) -> None:
        self.role = _ROLES[new]
        self._match.clear()
        self.sidelined.clear()
        for peer in self._linked:
            self._clear_flight(peer)
            self._wire.connected(self._nodes[peer])

    def _landed(self, peer: str, index: int) -> None:
        flight = self._flight.get(peer)
        while flight and flight[0][0] <= index:
            self._flight_bytes[peer] -= flight.popleft()[1]
        if peer in self.throttled and self._flight_bytes[peer] * 2 <= self._flight_bytes_max:
            self._release(peer)

    def _clear_flight(self, peer: str) -> None:
        self._flight.pop(peer, None)
        self._flight_bytes.pop(peer, None)
        if peer in self.throttled:
            self._release(peer)

    def _release(self, peer: str) -> None:
        self.throttled.discard(peer)
        if peer in self._linked:
            self._wire.connected(self._nodes[peer])


def _configuration(
    module: ModuleType, command_bytes_max: int, leader_timeout_s: float, role_changed: Callable[[int, int], None]
) -> Any:
    return module.SyncObjConf(
        autoTick=False,
        commandsQueueSize=0,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        # Heartbeats and elections are timed by us; these only bound PySyncObj's loops.
        appendEntriesPeriod=0.25,
        raftMinTimeout=1.0,
        raftMaxTimeout=2.0,
        connectionTimeout=60.0,
        leaderFallbackTimeout=max(leader_timeout_s, 0.26),
        # Above the largest entry that the log may have, so that no entry is chunked.
        appendEntriesBatchSizeBytes=command_bytes_max + 1,
        logCompactionMinEntries=_NEVER,
        logCompactionMinTime=_NEVER,
        useFork=False,
        onStateChanged=role_changed,
    )


def _refuse_dump(*_: object, **__: object) -> None:
    raise InvariantError("PySyncObj wanted to load a snapshot")
