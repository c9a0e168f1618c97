"""The only way a record enters the log, and the only way its outcome comes back.

`submit` gives a record to consensus and resolves when this node has folded it durably; `submissions` has what becomes
of it until then. `apply` is the fold, called by consensus; `folded` is called once entries have been folded,
`committed` once that is durable.

Who asks for an outcome `early` learns it when it is folded: the record is durable on a majority by then, and its
outcome follows from the log. `latest` shows it at once, and so do all doors. It is not in this node's database yet, but
in this node's log: a start folds it again, once it hears what of the log is agreed (`settled`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from lddp.consensus.waiters import Waiters
from lddp.core.codec import UNREADABLE, decode
from lddp.core.machine import StateMachine, read_gsn
from lddp.core.namespace import NUMBER
from lddp.core.tables import Table, Tables
from lddp.core.view import View, Viewing
from lddp.errors import NewerFormatError, StorageError, UnavailableError
from lddp.ports import Clock, KeyValue, Random
from lddp.replay import outbox
from lddp.submissions import WAITING_MAX, Applied, Submissions

_log = logging.getLogger(__name__)
NO_ZONE = -1
NOT_SETTLED = "this node has not learned yet what of its log was agreed on before its start (is a majority up?)"


class Gateway(Submissions):
    """Submits records of this node and folds the log. `zone` is this node's zone number; a witness has NO_ZONE and
    counts records without folding them."""

    def __init__(self, environment: KeyValue, zone: int, clock: Clock, random: Random, witness: bool = False) -> None:
        super().__init__(clock, random)
        self.zone = zone
        self._environment = environment
        self._witness = witness
        self._gsn_waiters = Waiters(WAITING_MAX)
        self._settled = asyncio.Event()
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

    async def stop(self) -> None:
        await super().stop()
        for waiting in self._gsn_waiters.take_all():
            waiting.cancel()

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
        except UNREADABLE as error:
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
            self._came_back(record.id, waiter, Applied(machine.decided, outcome))

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
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            raise UnavailableError(f"this node is at {self.gsn}, not at {gsn}, after {timeout_s:g} s") from None

    async def barrier(self, timeout_s: float) -> int:
        """A GSN such that this node's state holds everything acknowledged anywhere before the call."""
        deadline = self.clock.monotonic() + timeout_s
        index = await self.member.barrier(timeout_s)
        await self.member.wait_applied(index, max(0.0, deadline - self.clock.monotonic()))
        return self.gsn
