"""The pipelined mode: changes of metadata are promised, queued, and ordered behind the back of who asked for them.

A call is answered by the speculation (speculation.py) and its operation put at the end of one queue. The queue goes
into the log in batches, one after the other; within a batch each record is to be refused unless the one before it was
done (`lddp.core.records.Guarded`). So what the log has of a mount's work is always the beginning of the queue, also
after a crash, a change of leaders or a refusal.

Where another zone came in between, the rest of the queue is asked again of the namespace as it is now. What is refused
then is an error of the inodes concerned (errors.py), which `fsync` and `close` report.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from lddp.core import records as r
from lddp.core import sessions
from lddp.core.codec import encode
from lddp.core.machine import read_gsn
from lddp.core.namespace import Inode
from lddp.core.records import Content, OperationId, Outcome, Record
from lddp.core.tables import Tables
from lddp.doors.fuse.errors import Errors
from lddp.doors.fuse.gate import Gate, RoomGate
from lddp.doors.fuse.ground import Ground, Patience, Top
from lddp.doors.fuse.later import Later
from lddp.doors.fuse.ordering import Orders, refused
from lddp.doors.fuse.queued import Queued, meaning
from lddp.doors.fuse.speculation import FIRST, FIRST_INODE, GONE, Speculation, guarded
from lddp.doors.fuse.waiting import Waiting

_log = logging.getLogger(__name__)
QUEUED_MAX = 4096
QUEUED_BYTES_MAX = 16 << 20
BATCH_MAX = 512
BATCH_BYTES_MAX = 2 << 20
GATHER_S_MIN = 0.1
GATHER_S_MAX = 0.25
GATHER_TURNS = 3
"""How long a batch is gathered while nobody waits for it: so many times as long as the last one took to be ordered.
The node cannot answer the kernel while it orders and folds a batch, and each has its cost on every node."""
SETTLED_MAX = 4096
"""After so many the speculation is made again, over what the log has of them."""


class Pipeline:
    """The queue of one mount."""

    def __init__(self, ground: Ground, top: Top, patience: Patience, errors: Errors) -> None:
        self.ground = ground
        self._top = top
        self._patience = patience
        self._errors = errors
        self.orders = Orders(ground, top, Patience())
        """What is promised is not given up while the node runs."""
        self.speculation = Speculation(top.path)
        self.gate: Gate = RoomGate(self._room)
        self.is_known: Callable[[int], bool] = bool
        """Whether the kernel or an open file has a number of the mount."""
        self.changed: Callable[[set[int]], None] = _tell_nobody
        """Told of inodes that are otherwise than was promised."""
        self.contested: set[int] = set()
        """What may be otherwise than the kernel was told, whoever changed it last."""
        self.writers: WeakValueDictionary[int, Later] = WeakValueDictionary()
        """By the identity of the content that they have given."""
        self._queue: deque[Queued] = deque()
        self._bytes = 0
        self._makers: dict[int, Queued] = {}
        self._folds: list[tuple[int, int, set[int]]] = []
        """(after, to, inodes touched) of what was folded since it was looked at last."""
        self._gsn = ground.applied()
        self._settled = 0
        self._is_moved = self._is_stale = False
        self._waiting = Waiting()
        self._sender: asyncio.Task[None] | None = None
        self._gather_s = GATHER_S_MIN
        self._pressed = asyncio.Event()
        self._late: set[asyncio.Task[None]] = set()
        self._is_broken = self._is_closed = False
        ground.follow(self._folded)

    def __len__(self) -> int:
        return len(self._queue)

    # -- promises -----------------------------------------------------------------------------------------------------

    async def promise(self, records: Sequence[Record]) -> list[Outcome]:
        """Outcomes, as far as the log will agree. Nothing is awaited before they are queued."""
        if self._is_broken:
            raise refused(errno.EIO)
        outcomes: list[Outcome] = []
        for record in records:
            outcome = self._ask(record)
            if outcome.errno == errno.EAGAIN:  # what is below a directory of the source that is not listed yet
                assert isinstance(record, r.Operation)
                await self.barrier()
                if later := self.writers.get(id(getattr(record, "content", None))):
                    later.is_asked_for = True
                real = meaning(record, self.speculation.aliases.to_real)
                (outcome,) = await self.orders.in_time(real, self._patience.soft_s)
            outcomes.append(outcome)
        return outcomes

    def _ask(self, record: Record) -> Outcome:
        assert not isinstance(record, r.Guarded | r.Observation | r.Control), "a mount asks for operations"
        content = getattr(record, "content", None)
        size = len(encode(record)) + (0 if content is None or content.inline is not None else content.size)
        with self.ground.view() as view:
            self.catch_up(view.tables)
            if not self._queue:
                self.speculation.start()  # of what was refused at once nobody has followed what became
            queued, outcome = self.speculation.ask(view.tables, record, size)
        if queued is not None:
            if (later := self.writers.pop(id(content), None)) is not None:
                later.is_queued = True
                queued.writers.append(later)
            self._append(queued)
        return outcome

    def _append(self, queued: Queued) -> None:
        self._bytes += queued.size
        if not (self._queue and self._queue[-1].takes_in(queued)):
            if queued.made:
                self._makers[queued.made] = queued
            self._queue.append(queued)
        if self._is_enough:
            self._pressed.set()
        self._start()

    def committed(self, content: Content, later: Later) -> None:
        self.writers[id(content)] = later

    async def _room(self) -> None:
        """Returns when one more may be queued."""
        while len(self._queue) >= QUEUED_MAX or self._bytes >= QUEUED_BYTES_MAX:
            await self._until(self._queue[0].number)

    async def barrier(self) -> None:
        """Returns when everything that is queued now is durable on a majority, or was refused. OSError(EIO) where the
        node has failed, and after the time of a soft mount; what is queued stays so then."""
        if self._queue:
            await self._until(self._queue[-1].number)

    async def until_certain(self, number: int) -> bool:
        found = any(number in queued.touched or number in queued.concerned for queued in self._queue)
        if found:
            await self.barrier()
        return found

    async def _until(self, number: int) -> None:
        if self._is_broken:
            raise refused(errno.EIO)
        self._pressed.set()
        try:
            await self._waiting.until(number, self._patience.soft_s)
        except TimeoutError:
            raise refused(errno.EIO) from None

    # -- what the log says --------------------------------------------------------------------------------------------

    def _folded(self, numbers: set[int]) -> None:
        """Called after each fold, with the inodes that it has touched."""
        before, self._gsn = self._gsn, self.ground.applied()
        if not self._queue:
            self._contest(set(map(self.speculation.aliases.to_shown, numbers)))
            return  # the namespace is shown as it is
        self._folds.append((before, self._gsn, set(numbers)))
        self._is_moved = True
        # At once, so that who is told of the inodes next knows what they are called here.
        with self.ground.view() as view:
            self._look(view.tables)

    def catch_up(self, tables: Tables) -> None:
        """Brings the queue to where this transaction is."""
        self._look(tables)
        if self._is_stale or self._settled > SETTLED_MAX:
            self._again(tables)
            self._forget_numbers()
            self._seen()

    def _look(self, tables: Tables) -> None:
        """Finds out what of the queue is in the log, and whether the rest is still to be believed."""
        if not self._is_moved:
            return
        self._is_moved = False
        while self._queue and self._queue[0].is_sent:
            found = sessions.recall(tables, self._queue[0].record.id)
            if found is None or found[1].errno:
                break
            self.orders.remember(found[0])
            self._settle(found[1])
        gsn = read_gsn(tables)
        self._look_at_folds(gsn)
        self._seen()

    def _seen(self) -> None:
        """The queue is what it was found to be."""
        if not self._queue:
            self.speculation.start()  # from here on the log is believed
            self._is_stale, self._settled = False, 0
            self._forget_numbers()
        self._waiting.passed(self._queue[0].number if self._queue else self.speculation.number + 1)

    def _settle(self, outcome: Outcome) -> None:
        """The first of the queue was done."""
        queued = self._queue.popleft()
        self._bytes -= queued.size
        self._settled += 1
        self._is_stale = self._is_stale or bool(queued.refused)
        if queued.made:
            self._makers.pop(queued.made, None)
            self.speculation.aliases.add(queued.made, outcome.inode)
        for writer in queued.writers:
            writer.was_ordered()

    def _look_at_folds(self, gsn: int) -> None:
        """Whether there was anything that this mount has not asked for."""
        own, left = self.orders.own, []
        for fold in self._folds:
            after, to, numbers = fold
            if to > gsn:
                left.append(fold)
            elif not all(number in own for number in range(after + 1, to + 1)):
                self._contest(set(map(self.speculation.aliases.to_shown, numbers)))
                self._is_stale = self._is_stale or self.speculation.is_touched(numbers)
        self._folds = left

    def _contest(self, numbers: set[int]) -> None:
        self.contested.update(number for number in numbers if self.is_known(number))

    def _again(self, tables: Tables) -> None:
        """Asks for everything that is queued once more, over what the log has brought meanwhile."""
        self._is_stale, self._settled = False, 0
        waiting, self._queue = self._queue, deque()
        for queued in self.speculation.all_again(tables, waiting):
            if queued.is_over:
                self._refuse(queued)
            else:
                self._queue.append(queued)

    def _refuse(self, queued: Queued) -> None:
        """What was promised does not come to be."""
        self._bytes -= queued.size
        self._makers.pop(queued.made, None)
        for writer in queued.writers:
            self._later(writer.was_refused())
        concerned = queued.concerned
        self._contest(concerned | queued.touched)
        self.changed(concerned | queued.touched)
        number = errno.ENOENT if queued.refused == GONE else queued.refused
        if queued.refused == GONE and queued.is_in_place and self._was_made(queued.spots[0].at):
            return  # another zone has removed it, after that or before: it is the same
        self._errors.add(concerned, number)
        kind, path = type(queued.record).__name__, os.fsdecode(queued.record.path)
        text = "%s of %s was promised in the mount of %s, and is refused: %s"
        _log.error(text, kind, path, self._top.name, os.strerror(number))

    def _was_made(self, number: int) -> bool:
        return number < FIRST_INODE or number in self.speculation.aliases.real

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _forget_numbers(self) -> None:
        aliases = self.speculation.aliases
        if aliases.are_many:
            used = {number for queued in self._queue for number in queued.concerned}
            aliases.keep(lambda number: number in used or self.is_known(number))

    def is_own(self, inode: Inode, seen: int) -> bool:
        if inode.number in self.contested:
            return False
        return inode.version >= FIRST or (inode.version > seen and inode.version in self.orders.own)

    # -- into the log -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send())
            self._sender.add_done_callback(self._sent)

    async def _send(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await self._gather()
            batch = self._batch()
            if batch is None:
                if not self._queue:
                    return
                await self._queue[0].spread()
                self._is_stale = self._is_stale or any(queued.failed for queued in self._queue)
                continue
            began = clock()
            self._answered(batch[0], await self.orders.answers(batch[1]))
            self._gather_s = min(GATHER_S_MAX, max(GATHER_S_MIN, GATHER_TURNS * (clock() - began)))

    async def _gather(self) -> None:
        """Until somebody waits for what is queued, or it is enough for a batch, or for a while."""
        self._pressed.clear()
        if self._queue and not self._waiting and not self._is_enough:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._gather_s):
                    await self._pressed.wait()

    @property
    def _is_enough(self) -> bool:
        return len(self._queue) >= BATCH_MAX or self._bytes >= BATCH_BYTES_MAX

    def _batch(self) -> tuple[list[Queued], list[Record]] | None:
        """The beginning of the queue, as records; everything that was sent before has been decided. None where nothing
        is queued, or the first one's bytes are on their way."""
        with self.ground.view() as view:
            self.catch_up(view.tables)
        chosen: list[Queued] = []
        records: list[Record] = []
        size = 0
        for queued in self._queue:
            size += queued.size
            is_full = chosen and (len(chosen) >= BATCH_MAX or size > BATCH_BYTES_MAX)
            if is_full or not queued.is_spread:
                break
            if queued.was_sent:
                queued.record = queued.with_id(self.ground.next_id())
            queued.is_sent = queued.was_sent = True
            records.append(guarded(queued, queued.record, chosen[-1] if chosen else None, self._reference))
            chosen.append(queued)
        return (chosen, records) if chosen else None

    def _reference(self, number: int) -> int:
        real = self.speculation.aliases.real.get(number)
        if real is not None:
            return real
        if number < FIRST_INODE:
            return number
        return -self._makers[number].record.id.sequence

    def _answered(self, batch: list[Queued], answers: Iterable[tuple[int, Outcome]]) -> None:
        """The log has decided a batch. Who was refused, or came after one that was, is asked again."""
        by_id: dict[OperationId, Outcome] = {}
        for queued, (gsn, outcome) in zip(batch, answers, strict=True):
            by_id[queued.record.id] = outcome
            self.orders.remember(gsn)
        self._is_moved = True
        with self.ground.view() as view:
            self.catch_up(view.tables)
        while self._queue and self._queue[0].is_sent and not by_id[self._queue[0].record.id].errno:
            self._settle(by_id[self._queue[0].record.id])
        for queued in self._queue:
            if not queued.is_sent:
                break
            queued.is_sent = False
            queued.decided = by_id[queued.record.id].errno
            queued.tries += queued.decided != errno.ECANCELED
            self._is_stale = True
        self._is_moved = True
        with self.ground.view() as view:
            self.catch_up(view.tables)

    def _sent(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            if self._queue and not task.cancelled():
                self._start()
            return
        _log.critical("the queue of the mount of %s is stuck: %s", self._top.name, error, exc_info=error)
        self._is_broken = True
        self._waiting.fail(refused(errno.EIO))

    async def close(self) -> None:
        """Whatever is queued still is lost, and said to be."""
        if self._is_closed:
            return
        self._is_closed = True
        self.ground.unfollow(self._folded)
        # First of all: where bytes are given up, nothing that is queued behind them may go without them.
        if self._sender is not None and not self._sender.done():
            self._sender.cancel()
            await asyncio.wait([self._sender])
        for writer in [*self.writers.values(), *(writer for queued in self._queue for writer in queued.writers)]:
            await writer.stop()
        if self._late:
            await asyncio.wait([*self._late])
        if self._queue:
            _log.error("%d changes in the mount of %s were not ordered and are lost", len(self._queue), self._top.name)


def _tell_nobody(numbers: set[int]) -> None:
    """Where nothing is mounted."""
