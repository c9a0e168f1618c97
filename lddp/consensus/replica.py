"""One Raft member without sockets, timers or waiting: the cycle.

A cycle is `begin`, then `finish`. `begin` delivers what arrived, then looks at elections, then appends the waiting
records as one entry, then lets PySyncObj tick; AppendEntries leave. `finish` makes one write transaction of all that
was decided (entries, term, vote, indexes, folded entries, changes of other parts), and only when it has committed do
answers and votes leave and callbacks run. What was folded may be left to a later cycle. Between the two the caller may
let the network send, nothing else.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import singledispatchmethod
from math import inf

from lddp.consensus.config import RaftConfig
from lddp.consensus.core import Core, Role
from lddp.consensus.election import Election
from lddp.consensus.fold import Change, Fold
from lddp.consensus.inbox import Inbox
from lddp.consensus.journal import RaftJournal
from lddp.consensus.pulse import Pulse
from lddp.consensus.reads import ReadPoints
from lddp.consensus.wire import (
    Append,
    Appended,
    Canvass,
    CanvassReply,
    Confirm,
    Confirmed,
    Forward,
    HandOver,
    Later,
    Message,
    Note,
    Outlet,
    ReadAnswer,
    ReadAsk,
    Sidelined,
    Vote,
    VoteRequest,
    encode_records,
)
from lddp.consensus.workload import Workload
from lddp.ports import Apply, Clock, KeyValue, Random

logger = logging.getLogger(__name__)


class Replica:
    """See the module's docstring. `on_folded(first, last)` runs when these entries have been folded, which are durable
    on a majority though their fold is not durable here yet; `on_committed(first, last)` when it is;
    `on_leader_change(name)` when another member, or none, leads; `on_note(peer, body)` for a message of the
    application. An exception from any method means that this member must stop."""

    def __init__(
        self, config: RaftConfig, keyvalue: KeyValue, apply: Apply, *, clock: Clock, random: Random, outlet: Outlet
    ) -> None:
        self._config = config
        self._clock = clock
        self._outlet = outlet
        self._held: list[tuple[str, Message]] = []
        self._incoming: deque[tuple[str, Message]] = deque()
        self._sent_early = False  # messages have left in this cycle before its transaction
        self._pressing = False  # among them is one that does not wait for company
        self.journal = RaftJournal(
            keyvalue, window_entries_max=config.window_entries_max, window_bytes_max=config.window_bytes_max
        )
        self.core = Core(
            node=config.node,
            peers=config.peers,
            journal=self.journal,
            clock=clock,
            command_bytes_max=config.command_bytes_max,
            flight_bytes_max=config.flight_bytes_max,
            leader_timeout_s=config.election_timeout_max_s,
            send_now=self._send_now,
            send_durable=lambda peer, message: self._held.append((peer, message)),
        )
        self.inbox = Inbox(records_max=config.pending_records_max, bytes_max=config.pending_bytes_max)
        self.fold = Fold(config, keyvalue, self.journal, apply, clock)
        self._election = Election(
            peers=len(config.peers),
            timeout_min_s=config.election_timeout_min_s,
            timeout_max_s=config.election_timeout_max_s,
            random=random,
            now=clock.monotonic(),
        )
        self._reads = ReadPoints(self.core, outlet, asks_max=config.waiters_max)
        self._leadership: tuple[int, str | None] = (0, None)
        self._pulse = Pulse(config)
        self._workload = Workload(config, self.core, outlet)
        self._forwarded = False  # the inbox holds records of a follower
        self._campaign, self._campaign_term = False, 0  # and the term for which it is, unless it is forced
        self._leader_lost = False
        self.leader: str | None = None
        self.sidelined = False
        """The leader has dropped entries that this member needs; it needs another member's state."""
        self.forwards_dropped = 0
        self.on_folded: list[Callable[[int, int], None]] = []
        self.on_committed: list[Callable[[int, int], None]] = []
        self.on_leader_change: list[Callable[[str | None], None]] = []
        self.on_note: list[Callable[[str, bytes], None]] = []

    # -- from outside, between cycles -------------------------------------------------------------------------------

    def link_up(self, peer: str) -> None:
        now = self._clock.monotonic()
        self.core.link_up(peer)
        self._reads.link_up(peer)
        if self.core.is_leader:
            self._pulse.beat(now)
        elif self.leader is None and len(self.core.linked) + 1 >= self.core.majority:
            self._election.hasten(now)

    def link_down(self, peer: str) -> None:
        self.core.link_down(peer)
        self._reads.link_down(peer)
        self._incoming = deque(item for item in self._incoming if item[0] != peer)
        if peer == self.core.leader:
            self._leader_lost = True
            self._election.lost_leader(self._clock.monotonic())

    def deliver(self, peer: str, message: Message) -> bool:
        """Queues a message for the next cycle; the caller bounds the queue by reading no more. Whether a cycle should
        come at once: all but news that a follower has what is committed anyway."""
        self._incoming.append((peer, message))
        self._pressing = self._pressing or not (type(message) is Appended and self._is_old_news(message))
        return self._pressing

    def _is_old_news(self, message: Appended) -> bool:
        core = self.core
        if not (message.matched and message.next - 1 <= core.commit and message.term == core.term):
            return False
        return core.is_leader and not core.throttled and not core.has_unsent

    def read_point(self, callback: Callable[[int], None]) -> int | None:
        """Asks the leader for an index to read at; None where too many ask. `forget_read` ends it."""
        return self._reads.own.add(callback)

    def forget_read(self, number: int) -> None:
        self._reads.own.drop(number)

    def change(self, change: Change) -> None:
        self.fold.changes.append(change)

    def compact(self, through: int) -> None:
        """Drops log entries up to `through` or up to the margin below what is durably folded, whichever is less."""
        through = min(through, self.fold.committed - self._config.compaction_margin)
        if through >= self.journal.first:
            self.journal.compact(through)

    def hand_over(self, peer: str) -> bool:
        """Asks an up-to-date follower to take over; False where this is not the leader or the peer is behind."""
        return self._workload.hand_over(peer, self._clock.monotonic())

    # -- the cycle --------------------------------------------------------------------------------------------------

    def begin(self) -> bool:
        """The first half; `finish` follows. Whether something was sent that should leave before the sync."""
        incoming, self._incoming, self._pressing, self._sent_early = self._incoming, deque(), False, False
        for peer, message in incoming:
            Replica._receiver_of(type(message))(self, message, peer)
        now = self._clock.monotonic()
        # Others may have agreed to it, and somebody else been elected, in messages that came at once.
        self._campaign = self._campaign and (self.core.forced or self._campaign_term == self.core.term + 1)
        self._canvass(now)
        if self.core.is_leader:
            self._workload.follow(now)
        proposed = self._propose(now)
        before = self.core.last
        self.core.tick(campaign=self._campaign)
        self._campaign = False
        if proposed and self.core.last == before:
            self.inbox.put_back(proposed)
        self._note_leadership(now)
        self._replicate(now)
        self._forward()
        self._reads.pump(self.leader)
        return self._sent_early

    def finish(self, hurry: bool = False) -> None:
        """With `hurry`, somebody waits for what has been folded to be durable."""
        folded = self.fold.fold()
        committed = self.fold.commit(hurry=hurry)
        if folded is not None:
            for callback in self.on_folded:
                callback(*folded)
        held, self._held = self._held, []
        for peer, message in held:
            # A later term of this same cycle may have cut off what an answer of an older one promised.
            if type(message) is not Appended or message.term == self.core.term:
                self._outlet.send(peer, message)
        self.fold.resolve()
        if committed is not None:
            for callback in self.on_committed:
                callback(*committed)

    def close(self) -> None:
        """What is not committed is forgotten; nothing may be called any more."""
        self.fold.close()

    def next_at(self) -> float:
        """When the next cycle is due if nothing happens before; a time in the past: at once."""
        paused_until = self._workload.paused_until if self.core.is_leader and len(self.inbox) else inf
        if self._pressing or paused_until <= self._clock.monotonic():
            return -inf
        if not self.core.is_leader:
            return min(self._election.deadline, self.fold.next_at)
        if not self._config.peers and self.core.last > self.core.commit:
            return -inf  # a majority of one needs nobody's answer
        return min(self._pulse.next_at, self.fold.next_at, paused_until)

    # -- parts of begin ---------------------------------------------------------------------------------------------

    def _canvass(self, now: float) -> None:
        if self._campaign or self.core.is_leader or not self._election.due(now):
            return
        self._leader_lost = True
        self._campaign_term = self.core.term + 1
        self._campaign = self._election.canvass(self._campaign_term, now)
        for peer in sorted(self.core.linked):
            self._outlet.send(peer, Canvass(self.core.term + 1, self.core.last, self.core.last_term))

    def _propose(self, now: float) -> list[bytes]:
        if not self.core.is_leader or not len(self.inbox) or self._campaign or now < self._workload.paused_until:
            return []
        cost = self.fold.cost
        records = self.inbox.take(records_max=cost.records_max, bytes_max=cost.bytes_max)
        self.core.propose(encode_records(records))
        self._workload.ordered(len(records))
        if self._forwarded:
            self._pulse.awaited = self.core.last + 1
            self._forwarded = len(self.inbox) > 0
        return records

    def _note_leadership(self, now: float) -> None:
        core = self.core
        before, self._leadership = self._leadership, (core.term, core.leader)
        if self._leadership != before:
            self._reads.abandon()
            self._pulse.forget()
            self._workload.forget()
            if core.role is Role.CANDIDATE:
                self._election.postpone(now)
            if core.is_leader:
                self._pulse.beat(now)
        leader = None if self._leader_lost and not core.is_leader else core.leader
        if leader != self.leader or (leader is not None and core.term != before[0]):
            self.leader = leader  # the same one in another term has forgotten what was sent to it
            if not self._workload.keeps(leader, now):
                self.inbox.clear()  # it may be done by now, or given up: who knows submits it again
            for changed in self.on_leader_change:
                changed(leader)

    def _replicate(self, now: float) -> None:
        core = self.core
        if not core.is_leader:
            self._pulse.rest()
            return
        if not self._pulse.is_due(now, core.commit) and not core.has_unsent:
            return
        core.replicate(probe=self._pulse.is_probing(now))
        for peer, first in core.sidelined.items():
            self._outlet.send(peer, Sidelined(core.term, first))
        self._pulse.sent(now, core.commit)

    def _forward(self) -> None:
        leader, config = self.leader, self._config
        if leader is None or self.core.is_leader or leader not in self.core.linked:
            return
        follows = False
        while len(self.inbox):
            records = self.inbox.take(records_max=config.entry_records_max, bytes_max=config.entry_bytes_max)
            self._send_now(leader, Forward(tuple(records), follows, self.core.term))
            follows = True

    def _send_now(self, peer: str, message: Message) -> None:
        self._sent_early = True
        self._outlet.send(peer, message)

    def _heard_leader(self) -> None:
        self._leader_lost = False
        self._campaign = self._campaign and self.core.forced
        self._election.heard_leader(self._clock.monotonic())

    # -- messages ---------------------------------------------------------------------------------------------------

    @singledispatchmethod
    def _receive(self, message: Message, peer: str) -> None:
        raise AssertionError(f"no receiver for {type(message).__name__}")

    _receiver_of = _receive.dispatcher.dispatch  # a call of `_receive` looks for it anew, and makes a function

    @_receive.register
    def _(self, message: Append, peer: str) -> None:
        if message.term < self.core.term:
            self._outlet.send(peer, Later(self.core.term))
            return
        self._heard_leader()
        self.sidelined = False
        self.core.receive_append(peer, message)

    @_receive.register
    def _(self, message: Appended, peer: str) -> None:
        self.core.observe_term(message.term)
        self.core.receive_appended(peer, message)

    @_receive.register
    def _(self, message: VoteRequest, peer: str) -> None:
        if message.term < self.core.term:
            self._outlet.send(peer, Later(self.core.term))
            return
        if not message.forced and (self.core.is_leader or self._election.hears_leader(self._clock.monotonic())):
            return
        held = len(self._held)
        self.core.receive_vote_request(peer, message)
        if len(self._held) > held:
            self._election.postpone(self._clock.monotonic())

    @_receive.register
    def _(self, message: Vote, peer: str) -> None:
        self.core.receive_vote(peer, message)

    @_receive.register
    def _(self, message: Canvass, peer: str) -> None:
        core, now = self.core, self._clock.monotonic()
        granted = (
            message.term > core.term
            and not core.is_leader
            and not self._election.hears_leader(now)
            and core.is_current(message.last, message.last_term)
        )
        if granted and self._election.canvassing and (message.last_term, message.last) == (core.last_term, core.last):
            # Two equal candidates at once would split the votes: the one with the smaller name goes first.
            granted = peer < self._config.node
        if granted:
            self._leader_lost = True
            self._election.postpone(now)
        self._outlet.send(peer, CanvassReply(message.term, core.term, granted))

    @_receive.register
    def _(self, message: CanvassReply, peer: str) -> None:
        if not message.granted:
            self.core.observe_term(message.term)
        elif message.asked_term == self.core.term + 1 and self._election.granted(peer, message.asked_term):
            self._campaign = True

    @_receive.register
    def _(self, message: Later, peer: str) -> None:
        self.core.observe_term(message.term)

    @_receive.register
    def _(self, message: HandOver, peer: str) -> None:
        if message.term == self.core.term and peer == self.core.leader:
            self._workload.was_given(self._clock.monotonic())
            self._campaign = self.core.forced = True

    @_receive.register
    def _(self, message: Sidelined, peer: str) -> None:
        if message.term != self.core.term or peer != self.core.leader:
            return
        self._heard_leader()
        if not self.sidelined:
            self.sidelined = True
            logger.error("%s has dropped log entries before %d; this node needs its state", peer, message.first)

    @_receive.register
    def _(self, message: Forward, peer: str) -> None:
        fitting = [record for record in message.records if len(record) <= self._config.entry_bytes_max]
        self._workload.came(peer, len(fitting))
        taken = self.core.leads(message.term) and self.inbox.put_forwarded(peer, fitting, follows=message.follows)
        self._forwarded = self._forwarded or (taken and bool(fitting))
        self.forwards_dropped += len(message.records) - (len(fitting) if taken else 0)

    @_receive.register
    def _(self, message: ReadAsk, peer: str) -> None:
        self._reads.asked(peer, message)

    @_receive.register
    def _(self, message: ReadAnswer, peer: str) -> None:
        self._reads.answered(message)

    @_receive.register
    def _(self, message: Confirm, peer: str) -> None:
        self.core.observe_term(message.term)  # whoever was away at the election may hear of its term by this first
        confirmed = message.term == self.core.term
        self._outlet.send(peer, Confirmed(message.term, message.number) if confirmed else Later(self.core.term))

    @_receive.register
    def _(self, message: Confirmed, peer: str) -> None:
        self._reads.confirmed(peer, message)

    @_receive.register
    def _(self, message: Note, peer: str) -> None:
        for noted in self.on_note:
            noted(peer, message.body)
