"""A Raft member on asyncio: the replica's cycles, run when a message, a record, or a deadline asks for one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import inf
from typing import Any, TypeVar

from lddp.consensus.config import RaftConfig
from lddp.consensus.core import Role
from lddp.consensus.fold import Change
from lddp.consensus.incoming import Incoming
from lddp.consensus.notes import Notes, encode
from lddp.consensus.replica import Replica
from lddp.consensus.transport import Links
from lddp.consensus.waiters import Waiters
from lddp.consensus.wire import REGULAR, Message, decode_records
from lddp.core.tables import Tables
from lddp.errors import LimitError, UnavailableError, UsageError
from lddp.links.listener import Listener
from lddp.ports import Apply, Clock, KeyValue, Random

_T = TypeVar("_T")
_TIMER_S_MIN = 0.001
"""The loop counts in milliseconds: a shorter timer would fire at once, and too early, again and again."""

logger = logging.getLogger(__name__)


class RaftMember:
    """This node's place in the group that orders all records.

    The caller makes the listener, passes it here (None for a member without peers), calls `start` of this member,
    then `start` of the listener, so that no peer finds its channel missing. All methods are called on the event
    loop's thread. `failed` ends with the error that stopped this member: a node waits for it and exits.

    Lists of callbacks, all called on the loop:
      on_folded(first, last)      these entries are folded; they are durable on a majority, the fold is not yet
      on_committed(first, last)   the transaction that folded these entries has committed
      on_leader_change(name)      another member leads, or (None) none that is heard
      on_message(peer, message)   a dictionary sent by `send`; raises FormatError for one to be dropped (`Notes`)
    """

    def __init__(
        self,
        config: RaftConfig,
        environment: KeyValue,
        apply: Apply,
        *,
        clock: Clock,
        random: Random,
        listener: Listener | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._listener = listener
        self._links = Links(config, self, random)
        self._replica = Replica(config, environment, apply, clock=clock, random=random, outlet=self._links)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._wanted = False
        self._beginning: asyncio.Handle | None = None
        self._begun_early = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._incoming = Incoming()
        self._waiters = Waiters(config.waiters_max)
        self._reads: set[asyncio.Future[int]] = set()
        self._changes: set[asyncio.Future[Any]] = set()
        self._stopped = False
        self.failed: asyncio.Future[None]
        self.on_folded: list[Callable[[int, int], None]] = self._replica.on_folded
        self.on_committed: list[Callable[[int, int], None]] = self._replica.on_committed
        self.on_leader_change: list[Callable[[str | None], None]] = self._replica.on_leader_change
        notes = Notes()
        self.on_message: list[Callable[[str, dict[str, Any]], None]] = notes.receivers
        self._replica.on_note.append(notes.receive)
        self.on_committed.append(lambda _first, last: self._waiters.reached(last))

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Joins the group. Returns at once; a leader comes when a majority is there."""
        assert self._loop is None, "started twice"
        self._loop = asyncio.get_running_loop()
        self.failed = self._loop.create_future()
        self._links.start(self._listener)
        self._wake()

    async def stop(self) -> None:
        """Leaves. What was not acknowledged has an unknown outcome; all waiters are told."""
        self._guard(self._replica.fold.commit)  # the next start shows it without asking anybody
        self._end(UnavailableError(f"node {self._config.node} is stopping; ask another"))
        self._replica.close()
        await self._links.stop()

    # -- use --------------------------------------------------------------------------------------------------------

    def submit(self, records: Sequence[bytes]) -> None:
        """Queues records for ordering, here or at the leader: each at most once, and not surely. Who needs to know
        watches what is applied and submits again.

        Raises UnavailableError when the queue is full or the member has stopped, LimitError for a record that is too
        large.
        """
        self._require_running()
        record_bytes_max = self._config.record_bytes_max
        if any(len(record) > record_bytes_max for record in records):
            raise LimitError(f"a record is beyond the limit of {record_bytes_max} bytes; send content apart")
        if not self._replica.inbox.put(records):
            raise UnavailableError("too many operations wait to be ordered; try again later")
        self._wake()

    async def barrier(self, timeout_s: float) -> int:
        """A log index such that the state applied up to it holds everything that was acknowledged, anywhere, before
        this call (ReadIndex). Raises UnavailableError when no leader answers in time."""
        self._require_running()
        assert self._loop is not None
        point: asyncio.Future[int] = self._loop.create_future()
        number = self._replica.read_point(lambda index: None if point.done() else point.set_result(index))
        if number is None:
            raise UnavailableError("too many callers wait for a barrier; try again later")
        self._reads.add(point)
        self._wake()
        try:
            async with asyncio.timeout(timeout_s):
                return await point
        except TimeoutError as error:
            raise UnavailableError(f"no leader confirmed a read point within {timeout_s} s; try again") from error
        finally:
            self._reads.discard(point)
            self._replica.forget_read(number)

    def hurry(self) -> None:
        """What has been folded becomes durable with the next cycle: somebody waits for it."""
        self._require_running()
        self._replica.fold.hurry()
        self._wake()

    async def wait_applied(self, raft_index: int, timeout_s: float) -> None:
        """Returns once the entry at `raft_index` is folded and committed here. Raises UnavailableError when that
        does not happen in time."""
        self._require_running()
        if raft_index <= self.applied_index:
            return
        waiter = self._waiters.add(raft_index)
        if waiter is None:
            raise UnavailableError("too many callers wait for an index; try again later")
        if raft_index <= self._replica.journal.applied:
            self.hurry()  # it is folded already: nothing else asks for the transaction
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError as error:
            raise UnavailableError(f"index {raft_index} was not applied within {timeout_s} s; try again") from error

    def transact(self, change: Callable[[Tables], _T]) -> asyncio.Future[_T]:
        """Runs `change` in the next write transaction. The future ends after the commit, with its result or with the
        exception it raised; then nothing of it is written, and other changes may have been run twice."""
        self._require_running()
        assert self._loop is not None
        future: asyncio.Future[_T] = self._loop.create_future()
        self._changes.add(future)

        def done(result: _T, error: Exception | None) -> None:
            self._changes.discard(future)
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._replica.change(Change(change, done))
        self._wake()
        return future

    def compact(self, through_raft_index: int) -> None:
        """Drops log entries up to this index, or up to the margin below what is applied here. For indexes that all
        members have."""
        self._require_running()
        self._replica.compact(through_raft_index)
        self._wake()

    def send(self, peer: str, message: dict[str, Any]) -> None:
        """A small message to a peer, lost where there is no link or it is full. Raises LimitError."""
        self._require_running()
        self._links.send(peer, encode(message))

    def hand_over(self, peer: str) -> None:
        """As leader: asks `peer` to lead instead. Raises UnavailableError where it cannot; watch `leader`."""
        self._require_running()
        if not self._replica.hand_over(peer):
            raise UnavailableError(f"{peer} cannot take over now: this node does not lead, or {peer} is behind")

    def records_at(self, raft_index: int) -> list[bytes]:
        """The records of an applied entry, from `first_index` to `applied_index`; none for an entry without any.
        Raises UsageError for one outside of that."""
        journal = self._replica.journal
        if not journal.first <= raft_index <= journal.applied:
            raise UsageError(f"entry {raft_index} is not between {journal.first} and {journal.applied}")
        command, _, _ = journal.entry(raft_index)
        return decode_records(command[1:]) if command[0] == REGULAR else []

    # -- state ------------------------------------------------------------------------------------------------------

    def latest(self) -> AbstractContextManager[Tables]:
        """What has been folded so far, durably here or not (`Fold.latest`)."""
        return self._replica.fold.latest()

    @property
    def is_settled(self) -> bool:
        """Whether the state is as new as it was before this member's start (`Fold.is_settled`)."""
        return self._replica.fold.is_settled

    @property
    def leader(self) -> str | None:
        return self._replica.leader

    @property
    def role(self) -> Role:
        return self._replica.core.role

    @property
    def term(self) -> int:
        return self._replica.core.term

    @property
    def first_index(self) -> int:
        return self._replica.journal.first

    @property
    def last_index(self) -> int:
        return self._replica.journal.last

    @property
    def commit_index(self) -> int:
        return self._replica.journal.commit

    @property
    def applied_index(self) -> int:
        """Last entry whose fold is durable here."""
        return self._replica.fold.committed

    @property
    def connected_peers(self) -> frozenset[str]:
        return self._links.connected

    @property
    def pending_records(self) -> int:
        return len(self._replica.inbox)

    @property
    def sidelined(self) -> bool:
        """This member needs log entries that the leader has dropped: it needs another member's state."""
        return self._replica.sidelined

    @property
    def sidelined_peers(self) -> frozenset[str]:
        """As leader: the peers for which that is so."""
        return frozenset(self._replica.core.sidelined)

    # -- links ------------------------------------------------------------------------------------------------------

    def link_up(self, peer: str) -> None:
        self._guard(self._replica.link_up, peer)
        self._wake()

    def link_down(self, peer: str) -> None:
        self._guard(self._replica.link_down, peer)
        self._wake()

    def link_failed(self, peer: str, error: BaseException) -> None:
        """Nobody connects to the peer any more; a node that starts again does."""
        if not self._stopped:
            self._fail(error)

    def receive(self, peer: str, message: Message, size: int) -> asyncio.Future[None] | None:
        is_full = self._incoming.add(size)
        if self._replica.deliver(peer, message) or is_full:
            self._wake()
        return self._incoming.room(self._loop) if is_full and self._loop is not None else None

    def received(self) -> None:
        """The cycle that they asked for does not wait for the loop's next round. One a round: a link that always has
        more must not keep all others waiting."""
        if self._beginning is not None and self._loop is not None and not self._begun_early:
            self._begun_early = True
            self._loop.call_soon(self._round_over)
            self._beginning.cancel()
            self._begin()

    def _round_over(self) -> None:
        self._begun_early = False

    # -- cycles -----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        # Asked for during a cycle, for instance by a callback: another one follows it.
        self._wanted = True
        if not self._scheduled and not self._stopped and self._loop is not None:
            self._scheduled = True
            self._beginning = self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._beginning = None
        if self._stopped:
            return
        self._wanted = False
        sent_early = self._guard(self._replica.begin)
        self._incoming.taken()
        assert self._loop is not None
        if sent_early:
            self._loop.call_soon(self._finish)  # so that it leaves before the disk is waited for
        else:
            self._finish()

    def _finish(self) -> None:
        if self._stopped:
            return
        self._guard(self._replica.finish, bool(self._waiters))
        self._scheduled = False
        if self._stopped:
            return
        next_at = self._replica.next_at()
        if self._wanted or next_at == -inf:
            self._wake()
            return
        self._set_timer(next_at)

    def _set_timer(self, next_at: float) -> None:
        if self._timer is not None and self._timer_at <= next_at:
            # It fires too early and sets itself anew: cheaper than a new timer every cycle.
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if next_at < inf:
            assert self._loop is not None
            self._timer_at = next_at
            delay_s = max(_TIMER_S_MIN, next_at - self._clock.monotonic())
            self._timer = self._loop.call_later(delay_s, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._timer_at = inf
        next_at = self._replica.next_at()
        if next_at > self._clock.monotonic():
            self._set_timer(next_at)
        else:
            self._wake()

    def _guard(self, step: Callable[..., Any], *arguments: object) -> Any:
        """An exception in a step ends this member: its memory and its disk may differ from here on."""
        if self._stopped:
            return None
        try:
            return step(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever it is
            self._fail(error)
            return None

    def _fail(self, error: BaseException) -> None:
        logger.critical("node %s stops: %s", self._config.node, error, exc_info=error)
        self._end(UnavailableError(f"node {self._config.node} has stopped after an error; see its log"))
        if not self.failed.done():
            self.failed.set_exception(error)
            # Looked at by the node; not reported a second time where it is not.
            self.failed.exception()

    def _end(self, error: UnavailableError) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        waiting: list[asyncio.Future[Any]] = [*self._waiters.take_all(), *self._reads, *self._changes]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._changes.clear()
        self._incoming.end()

    def _require_running(self) -> None:
        if self._stopped or self._loop is None:
            raise UnavailableError(f"node {self._config.node} is not running; ask another")
