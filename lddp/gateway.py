"""The only way a record enters the log, and the only way its outcome comes back.

`submit` gives a record to consensus and resolves when this node has folded it durably. What was submitted and not seen
again (a leader died, a message was lost) is submitted again with the same id; the state machine takes it once. `apply`
is the fold, called by consensus; `folded` is called once entries have been folded, `committed` once that is durable.

Who asks for an outcome `early` learns it when it is folded: the record is durable on a majority by then, and its
outcome follows from the log. `latest` shows it at once, and so do all doors. It is not in this node's database yet, but
in this node's log: a start folds it again, once it hears what of the log is agreed (`settled`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from lddp.consensus.member import RaftMember
from lddp.consensus.waiters import Waiters
from lddp.core.codec import decode, encode
from lddp.core.limits import ENTRY_BYTES_MAX
from lddp.core.machine import StateMachine, read_gsn
from lddp.core.namespace import NUMBER
from lddp.core.records import OperationId, Outcome, Record
from lddp.core.tables import Table, Tables
from lddp.core.view import View, Viewing
from lddp.errors import (
    FormatError,
    LddpError,
    NewerFormatError,
    OutcomeUnknownError,
    StorageError,
    UnavailableError,
)
from lddp.ports import Clock, KeyValue, Random
from lddp.replay import outbox

_log = logging.getLogger(__name__)
RESUBMIT_AFTER_S = 1.0
RESUBMIT_AFTER_S_MAX = 8.0
WAITING_MAX = 100_000
NO_ZONE = -1
NOT_SETTLED = "this node has not learned yet what of its log was agreed on before its start (is a majority up?)"
OWN_RECORDS_MAX = 16_384
RESENT_BYTES_MAX = ENTRY_BYTES_MAX // 4


class Applied(NamedTuple):
    """A record's place in the log and what was decided about it; for a retry, those of the first try."""

    gsn: int
    outcome: Outcome


class _Waiter(NamedTuple):
    future: asyncio.Future[Applied]
    data: bytes
    since: float
    early: bool


class Gateway:
    """Submits records of this node and folds the log. `zone` is this node's zone number; a witness has NO_ZONE and
    counts records without folding them."""

    def __init__(self, environment: KeyValue, zone: int, clock: Clock, random: Random, witness: bool = False) -> None:
        self.zone = zone
        self.clock = clock
        self._environment = environment
        self._witness = witness
        self._session = random.token(12)
        self._sequence = 0
        self._waiters: dict[OperationId, _Waiter] = {}
        self._sharing: dict[OperationId, int] = {}
        """How many callers wait for an operation, where it is more than one."""
        self._again: deque[OperationId] = deque()
        """What a new leader is still to be given again."""
        self._own: dict[bytes, Record] = {}
        """Records of this node by their bytes: they need not be decoded when they come back."""
        self._folded_since = 0.0
        """When the latest of this node's records that have come back was submitted."""
        self._folded_at = 0.0
        """When the last of them came back."""
        self._patience_s = RESUBMIT_AFTER_S
        self._done: list[tuple[asyncio.Future[Applied], Applied]] = []
        """Outcomes to be told once their fold is durable, and ..."""
        self._early: list[tuple[asyncio.Future[Applied], Applied]] = []
        """... those to be told before."""
        self._gsn_waiters = Waiters(WAITING_MAX)
        self._settled = asyncio.Event()
        self._member: RaftMember | None = None
        self._timer: asyncio.Task[None] | None = None
        self._items: list[outbox.Item] = []
        self._told_items = 0
        self.on_new_effects: list[Callable[[list[outbox.Item]], None]] = []
        """Called after each fold with the effects for this zone, before any outcome of theirs is told."""
        self.on_effects: list[Callable[[list[outbox.Item], int], None]] = []
        """Called after each commit with the effects for this zone that it put into the outbox, and the GSN reached."""
        self.on_applied: list[Callable[[int], None]] = []
        """Called with the GSN reached after each commit that folded records."""
        self.on_changed: list[Callable[[set[int]], None]] = []
        """Called after each fold with the numbers of the inodes that its records have touched, or taken away."""
        self._changed: set[int] = set()
        with environment.read() as tables:
            self.gsn = read_gsn(tables)
            self.machine = StateMachine(tables)

    def start(self, member: RaftMember) -> None:
        self._member = member
        member.on_leader_change.append(self._leader_changed)
        self._timer = asyncio.get_running_loop().create_task(self._resubmit_late())

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._timer
        for waiter in self._waiters.values():
            if not waiter.future.done():
                waiter.future.set_exception(OutcomeUnknownError("this node stopped; ask again with the same id"))
                # Whoever asked may be gone, or have been told by another record of the same batch.
                waiter.future.exception()
        self._waiters.clear()
        for waiting in self._gsn_waiters.take_all():
            waiting.cancel()

    @property
    def member(self) -> RaftMember:
        assert self._member is not None, "the gateway has been started"
        return self._member

    # -- the fold ---------------------------------------------------------------------------------------------------

    def apply(self, tables: Tables, raft_index: int, records: Sequence[bytes]) -> bool:
        """Folds one committed entry into tables whose changes are made durable together; whether somebody here waits
        for that."""
        machine = self.machine
        machine.bind(tables)
        first = machine.gsn + 1
        if self._witness:
            machine.gsn += len(records)
        else:
            for data in records:
                self._apply_one(machine, tables, data)
        machine.flush()
        if records:
            tables.put(Table.ENTRY_GSNS, NUMBER.pack(first), NUMBER.pack(raft_index))
        return bool(self._done) or self._gsn_waiters.have_reached(machine.gsn)

    def _apply_one(self, machine: StateMachine, tables: Tables, data: bytes) -> None:
        try:
            record = self._own.pop(data, None) or decode(data)
        except NewerFormatError as error:
            # Nodes that know it give it an effect: this one would not have the same state any more.
            raise StorageError(f"record {machine.gsn + 1} of the log: {error}") from error
        except FormatError as error:
            machine.gsn += 1
            _log.error("record %d of the log is not readable and has no effect: %s", machine.gsn, error)
            return
        outcome, effects = machine.apply(record)
        if self.on_changed:
            self._changed.update(machine.namespace.prior)
        if effects and self._is_member(machine, effects[0].rule):
            self._items += outbox.append(tables, machine.gsn, self.zone, effects)
        waiter = self._waiters.pop(record.id, None)
        if waiter is not None:
            if self._sharing:
                self._sharing.pop(record.id, None)
            self._folded_since = max(self._folded_since, waiter.since)
            done = self._early if waiter.early else self._done
            done.append((waiter.future, Applied(machine.decided, outcome)))

    def _is_member(self, machine: StateMachine, number: int) -> bool:
        """Whether this node's zone has a tree of the rule that a record's effects are about."""
        rule = machine.rules.get(number)
        return rule is not None and rule.member(self.zone) is not None

    def folded(self, _first: int, _last: int) -> None:
        """Entries have been folded, if not durably: outcomes asked for early become known."""
        fresh, self._told_items = self._items[self._told_items :], len(self._items)
        for expect in self.on_new_effects:
            expect(fresh)
        early, self._early = self._early, []
        self._tell(early)
        if self._changed:
            changed, self._changed = self._changed, set()
            for listener in self.on_changed:
                listener(changed)
        if self.member.is_settled:
            self._settled.set()

    def _tell(self, done: list[tuple[asyncio.Future[Applied], Applied]]) -> None:
        if done:
            self._folded_at = self.clock.monotonic()
            self._patience_s = RESUBMIT_AFTER_S
            if self._again:
                self._send_again()
        for future, applied in done:
            if not future.done():
                future.set_result(applied)

    def committed(self, _first: int, _last: int) -> None:
        """The transaction of the last folds is durable: outcomes become known."""
        self.gsn = self.machine.gsn
        done, self._done = self._done, []
        self._tell(done)
        items, self._items, self._told_items = self._items, [], 0
        for offer in self.on_effects:
            offer(items, self.gsn)
        for callback in self.on_applied:
            callback(self.gsn)
        self._gsn_waiters.reached(self.gsn)

    # -- submitting -------------------------------------------------------------------------------------------------

    def next_id(self) -> OperationId:
        """An id that nobody else uses: this start of this node, and a counter."""
        self._sequence += 1
        return OperationId(self._session, self._sequence)

    def post(self, records: Sequence[Record], *, early: bool = False) -> list[asyncio.Future[Applied]]:
        """Submits records in this order and returns at once; each future resolves when this node has folded its
        record, durably unless asked for `early`. UnavailableError where too much is waiting already."""
        if len(self._waiters) + len(records) > WAITING_MAX:
            raise UnavailableError(f"{len(self._waiters)} records are waiting to be ordered: try again later")
        loop, now = asyncio.get_running_loop(), self.clock.monotonic()
        futures: list[asyncio.Future[Applied]] = []
        data: list[bytes] = []
        fresh: list[OperationId] = []
        for record in records:
            earlier = self._waiters.get(record.id)
            if earlier is not None:
                self._waiters[record.id] = earlier._replace(early=earlier.early and early)
                self._sharing[record.id] = self._sharing.get(record.id, 1) + 1
                futures.append(earlier.future)
                continue
            encoded = encode(record)
            future: asyncio.Future[Applied] = loop.create_future()
            self._waiters[record.id] = _Waiter(future, encoded, now, early)
            if len(self._own) < OWN_RECORDS_MAX:
                self._own[encoded] = record
            futures.append(future)
            fresh.append(record.id)
            data.append(encoded)
        if data:
            try:
                self.member.submit(data)
            except LddpError:
                # Nothing of it was taken, the caller hears so: it must not be submitted again later.
                for operation in fresh:
                    self._forget(operation)
                raise
        return futures

    def _forget(self, operation: OperationId) -> None:
        waiter = self._waiters.pop(operation, None)
        if waiter is not None:
            self._own.pop(waiter.data, None)

    async def submit(self, record: Record, timeout_s: float = 30.0) -> Applied:
        """One record's outcome. OutcomeUnknownError where it is not known in time: it may take effect later; a retry
        with the same id is safe."""
        (future,) = self.post([record])
        return await self._await(record.id, future, timeout_s)

    async def submit_many(
        self, records: Sequence[Record], timeout_s: float = 30.0, *, early: bool = False
    ) -> list[Applied]:
        """The outcomes of several records, ordered as given; `early`: see `post`."""
        deadline = self.clock.monotonic() + timeout_s
        futures = self.post(records, early=early)
        return [
            await self._await(record.id, future, max(0.0, deadline - self.clock.monotonic()))
            for record, future in zip(records, futures, strict=True)
        ]

    async def _await(self, operation: OperationId, future: asyncio.Future[Applied], timeout_s: float) -> Applied:
        if future.done():
            return future.result()
        try:
            return await asyncio.wait_for(asyncio.shield(future), timeout_s)
        except TimeoutError:
            self._give_up(operation)
            raise OutcomeUnknownError(
                f"no outcome within {timeout_s:g} s (is a majority of the nodes up?): ask again with the same id"
            ) from None

    def _give_up(self, operation: OperationId) -> None:
        """One caller waits no longer; others may."""
        others = self._sharing.pop(operation, 1) - 1
        if others == 0:
            self._forget(operation)
        elif others > 1:
            self._sharing[operation] = others

    def _leader_changed(self, leader: str | None) -> None:
        if leader is not None:
            self._again = deque(self._waiters)
            self._send_again()

    def _send_again(self) -> None:
        """The next part of what a new leader is to be given; another one follows when something has come back."""
        part: list[OperationId] = []
        size = 0
        while self._again and size <= RESENT_BYTES_MAX:
            operation = self._again.popleft()
            waiter = self._waiters.get(operation)
            if waiter is not None:
                part.append(operation)
                size += len(waiter.data)
        if part:
            self._resubmit(part)

    async def _resubmit_late(self) -> None:
        while True:
            await asyncio.sleep(RESUBMIT_AFTER_S)
            late = self._late()
            if late and self.member.leader is not None:
                self._resubmit(late)

    def _late(self) -> list[OperationId]:
        """Records that were probably lost: a later one has come back before them, or none comes back any more. A leader
        that is only busy must not be given its work twice."""
        now = self.clock.monotonic()
        limit = now - RESUBMIT_AFTER_S
        stalled = now - self._patience_s
        if self._folded_at < stalled and any(waiter.since < stalled for waiter in self._waiters.values()):
            self._patience_s = min(self._patience_s * 2, RESUBMIT_AFTER_S_MAX)
            before = limit
        else:
            before = min(limit, self._folded_since)
        return [operation for operation, waiter in self._waiters.items() if waiter.since < before]

    def _resubmit(self, operations: list[OperationId]) -> None:
        batch: list[bytes] = []
        size, now = 0, self.clock.monotonic()
        for operation in operations:
            waiter = self._waiters[operation]
            self._waiters[operation] = waiter._replace(since=now)
            batch.append(waiter.data)
            size += len(waiter.data)
            if size > RESENT_BYTES_MAX:
                break
        try:
            self.member.submit(batch)
        except UnavailableError as error:
            _log.info("resubmitting %d records waits: %s", len(batch), error)

    # -- reading ----------------------------------------------------------------------------------------------------

    def view(self) -> AbstractContextManager[View]:
        """The state as of the last commit of this node."""
        return Viewing(self._environment.read())

    def latest(self) -> AbstractContextManager[View]:
        """The state as of the last fold, up to `latest_gsn`. Not to be kept across an await (`Fold.latest`)."""
        return Viewing(self._environment.read() if self._member is None else self._member.latest())

    @property
    def latest_gsn(self) -> int:
        return self.machine.gsn

    async def settled(self) -> None:
        """Until this node shows everything again that it had shown before its start."""
        if not self.member.is_settled:
            await self._settled.wait()

    async def wait(self, gsn: int, timeout_s: float) -> None:
        """Until this node has folded the log up to `gsn`. UnavailableError after the time, and where too many wait."""
        if self.gsn >= gsn:
            return
        future = self._gsn_waiters.add(gsn)
        if future is None:
            raise UnavailableError("too many callers wait for an index: try again later")
        if self.machine.gsn >= gsn:
            self.member.hurry()  # it is folded already: nothing else asks for the transaction
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise UnavailableError(f"this node is at {self.gsn}, not at {gsn}, after {timeout_s:g} s") from None

    async def barrier(self, timeout_s: float) -> int:
        """A GSN such that this node's state holds everything acknowledged anywhere before the call."""
        deadline = self.clock.monotonic() + timeout_s
        index = await self.member.barrier(timeout_s)
        await self.member.wait_applied(index, max(0.0, deadline - self.clock.monotonic()))
        return self.gsn
