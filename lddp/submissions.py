"""What a node has submitted and has not seen again: who waits for it, and what of it is submitted again.

A leader dies, or a message is lost: nobody tells. What has no outcome yet is submitted again with the same id, to a new
leader at once, to the same one when it seems to be lost; the state machine takes it once.

It remembers outcomes for some time only, and a node may have been cut off for longer. So nothing is submitted again
before this node has folded all that was agreed on when it asked: what was sent before is in there by then, or was sent
to a leader that cannot bring it into the log any more (`Forward`), or is on its way to the same one still.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from lddp.consensus.member import RaftMember
from lddp.core.codec import encode
from lddp.core.limits import ENTRY_BYTES_MAX, SESSION_WINDOW_RECORDS
from lddp.core.records import OperationId, Outcome, Record
from lddp.errors import OutcomeUnknownError, UnavailableError
from lddp.ports import Clock, Random

_log = logging.getLogger(__name__)
RESUBMIT_AFTER_S = 1.0
RESUBMIT_AFTER_S_MAX = 8.0
WAITING_MAX = 100_000
OWN_RECORDS_MAX = 16_384
RESENT_BYTES_MAX = ENTRY_BYTES_MAX // 4
BEHIND_RECORDS_MAX = SESSION_WINDOW_RECORDS // 4
"""How many records may have been folded while this node found out what was agreed on."""


class Applied(NamedTuple):
    """A record's place in the log and what was decided about it; for a retry, those of the first try."""

    gsn: int
    outcome: Outcome


class _Waiter(NamedTuple):
    future: asyncio.Future[Applied]
    data: bytes
    since: float
    early: bool
    batch: int
    """The number of the post: what was posted together is submitted again together."""


class Submissions:
    """The half of `Gateway` that submits."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self.clock = clock
        self._session = random.token(12)
        self._sequence = 0
        self._batch = 0
        self._waiters: dict[OperationId, _Waiter] = {}
        """In the order in which they are submitted again."""
        self._sharing: dict[OperationId, int] = {}
        """How many callers wait for an operation, where it is more than one."""
        self._again: deque[OperationId] = deque()
        """What the leader is still to be given again."""
        self._other_leader = asyncio.Event()
        """Another leader has come, or none is heard."""
        self._lost_since = -inf
        """What was submitted no later than this may be lost."""
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
        self._member: RaftMember | None = None
        self._timer: asyncio.Task[None] | None = None

    def start(self, member: RaftMember) -> None:
        self._member = member
        member.on_leader_change.append(self._leader_changed)
        self._timer = asyncio.get_running_loop().create_task(self._resubmit_lost())

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

    @property
    def latest_gsn(self) -> int:
        """Of the last record that was folded."""
        raise NotImplementedError

    @property
    def member(self) -> RaftMember:
        assert self._member is not None, "the gateway has been started"
        return self._member

    # -- submitting -------------------------------------------------------------------------------------------------

    def next_id(self) -> OperationId:
        """An id that nobody else uses: this start of this node, and a counter."""
        self._sequence += 1
        return OperationId(self._session, self._sequence)

    def post(self, records: Sequence[Record], *, early: bool = False) -> list[asyncio.Future[Applied]]:
        """Submits records in this order and returns at once; each future resolves when this node has folded its
        record, durably unless asked for `early`. They are submitted again until then, or until `outcomes` gives them
        up. UnavailableError where too much is waiting already, FormatError and LimitError for what cannot be written;
        then nothing of it is taken."""
        waiters = self._waiters
        if len(waiters) + len(records) > WAITING_MAX:
            raise UnavailableError(f"{len(waiters)} records are waiting to be ordered: try again later")
        data: list[bytes] = []
        now = self.clock.monotonic()
        stale = now - RESUBMIT_AFTER_S  # what is older may have been done, and more than is remembered since
        for record in records:
            earlier = waiters.get(record.id)
            if earlier is None:
                data.append(encode(record))
            elif data and earlier.since < stale:
                raise UnavailableError("part of this has waited to be ordered for some time: try again later")
            elif data:
                data.append(earlier.data)  # must not come before what it stands behind here
        if data:
            # First: where something cannot be written or is refused, nothing of it waits to be submitted again.
            self.member.submit(data)
        self._batch += 1
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Applied]] = []
        for at, record in enumerate(records, len(data) - len(records)):  # at: in `data`; what comes before is shared
            earlier = waiters.get(record.id)
            if earlier is not None:
                futures.append(earlier.future)
                self._sharing[record.id] = self._sharing.get(record.id, 1) + 1
                if at >= 0:
                    del waiters[record.id]
                    earlier = earlier._replace(since=now, batch=self._batch)
                waiters[record.id] = earlier._replace(early=earlier.early and early)
                continue
            future: asyncio.Future[Applied] = loop.create_future()
            waiters[record.id] = _Waiter(future, data[at], now, early, self._batch)
            if len(self._own) < OWN_RECORDS_MAX:
                self._own[data[at]] = record
            futures.append(future)
        return futures

    async def submit(self, record: Record, timeout_s: float = 30.0) -> Applied:
        """One record's outcome. OutcomeUnknownError where it is not known in time: it may take effect later; a retry
        with the same id is safe."""
        (applied,) = await self.submit_many([record], timeout_s)
        return applied

    async def submit_many(
        self, records: Sequence[Record], timeout_s: float = 30.0, *, early: bool = False
    ) -> list[Applied]:
        """The outcomes of several records, ordered as given; `early`: see `post`."""
        return await self.outcomes(records, self.post(records, early=early), timeout_s)

    async def outcomes(
        self, records: Sequence[Record], futures: Sequence[asyncio.Future[Applied]], timeout_s: float
    ) -> list[Applied]:
        """What becomes of records that were posted, with the futures of that. OutcomeUnknownError as from `submit`. Who
        does not wait to the end, or is cancelled, lets all of them be: they are not submitted again."""
        try:
            async with asyncio.timeout(timeout_s):
                return [future.result() if future.done() else await asyncio.shield(future) for future in futures]
        except (TimeoutError, asyncio.CancelledError) as error:
            # All of them: a retry would stand behind those that stay.
            for record, future in zip(records, futures, strict=True):
                self._give_up(record.id, future)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise OutcomeUnknownError(
                f"no outcome within {timeout_s:g} s (is a majority of the nodes up?): ask again with the same id"
            ) from None

    def _give_up(self, operation: OperationId, future: asyncio.Future[Applied]) -> None:
        """One caller waits no longer; others may."""
        waiter = self._waiters.get(operation)
        if waiter is None or waiter.future is not future:
            return  # it has come back, and whoever waits now has asked anew
        others = self._sharing.pop(operation, 1) - 1
        if others == 0:
            del self._waiters[operation]
            self._own.pop(waiter.data, None)
        elif others > 1:
            self._sharing[operation] = others

    # -- what comes back --------------------------------------------------------------------------------------------

    def _came_back(self, operation: OperationId, waiter: _Waiter, applied: Applied) -> None:
        """Its record was folded; it is not among those that wait any more."""
        self._own.pop(waiter.data, None)  # still there where the same id came back with other bytes
        if self._sharing:
            self._sharing.pop(operation, None)
        self._folded_since = max(self._folded_since, waiter.since)
        done = self._early if waiter.early else self._done
        done.append((waiter.future, applied))

    def _tell(self, done: list[tuple[asyncio.Future[Applied], Applied]]) -> None:
        if done:
            self._folded_at = self.clock.monotonic()
            self._patience_s = RESUBMIT_AFTER_S
            if self._again:
                self._resubmit(self._again)
        for future, applied in done:
            if not future.done():
                future.set_result(applied)

    # -- submitting again -------------------------------------------------------------------------------------------

    def _leader_changed(self, leader: str | None) -> None:
        self._again.clear()
        self._other_leader.set()
        if leader is not None:
            self._lost_since = self.clock.monotonic()

    async def _resubmit_lost(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESUBMIT_AFTER_S):
                    await self._other_leader.wait()
            self._other_leader.clear()
            if self.member.leader is not None:
                await self._look_for_lost()

    async def _look_for_lost(self) -> None:
        lost = [operation for operation, waiter in self._waiters.items() if waiter.since <= self._lost_since]
        lost = lost or self._late()
        if lost and not await self._is_up_to_date():
            return
        self._lost_since = -inf
        chosen = set(lost)
        self._again = deque(operation for operation in self._waiters if operation in chosen)  # in the order of now
        self._resubmit(self._again)

    async def _is_up_to_date(self) -> bool:
        """Whether all is folded that was agreed on at the first ask, and hardly more has been agreed on since."""
        while True:
            before = self.latest_gsn
            try:
                index = await self.member.barrier(RESUBMIT_AFTER_S_MAX)
                await self.member.wait_applied(index, RESUBMIT_AFTER_S_MAX)
            except UnavailableError as error:
                _log.info("resubmitting waits: %s", error)
                return False
            if self._other_leader.is_set():
                return False
            if self.latest_gsn - before <= BEHIND_RECORDS_MAX:
                return True

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

    def _resubmit(self, operations: deque[OperationId]) -> None:
        """Submits the first of these, whole batches, and takes them out; where they are refused they stay the first."""
        part: list[OperationId] = []
        data: list[bytes] = []
        size = batch = 0
        while operations:
            waiter = self._waiters.get(operations[0])
            if waiter is not None:
                if size > RESENT_BYTES_MAX and waiter.batch != batch:
                    break
                part.append(operations[0])
                data.append(waiter.data)
                size += len(waiter.data)
                batch = waiter.batch
            operations.popleft()
        if not part:
            return
        try:
            self.member.submit(data)
        except UnavailableError as error:
            _log.info("resubmitting %d records waits: %s", len(part), error)
            operations.extendleft(reversed(part))
            return
        now = self.clock.monotonic()
        for operation in part:
            self._waiters[operation] = self._waiters[operation]._replace(since=now)
