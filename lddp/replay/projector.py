"""Brings this zone's filesystem along the log.

Reads effects from the outbox in log order, carries them out in a thread, and lets an effect wait whose bytes are not
here yet, with those that conflict with it, while the rest goes on. A filesystem that refuses (full, read-only, no
permission) stops the projection of this node; the reason is in `stopped`, the log goes on, and the same effect is tried
again until it succeeds. A checkpoint makes what was done durable and then forgets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from lddp.core import effects as e
from lddp.core.tables import Tables
from lddp.core.view import View
from lddp.errors import LddpError, UnavailableError, errno_name, quoted
from lddp.ports import Clock, ContentSource, ContentStore, KeyValue, Sleep
from lddp.replay import outbox
from lddp.replay.among_programs import rewind_among_programs
from lddp.replay.awaited import is_name_to_come, is_replaced_later
from lddp.replay.batches import Batches, Ready
from lddp.replay.carrier import Carrier
from lddp.replay.checkpoints import BATCH_EFFECTS, Checkpoints
from lddp.replay.conflicts import Blocked
from lddp.replay.fetches import Fetches
from lddp.replay.lasting import at_lasting_path
from lddp.replay.notes import keep_notes
from lddp.replay.outbox import Item
from lddp.replay.places import path_of
from lddp.replay.progress import Progress
from lddp.replay.rewind import rewind

T = TypeVar("T")
_log = logging.getLogger(__name__)
BLOCKED_MAX = 20_000
OFFERED_MAX = 16_384
CHECKPOINT_S = 5.0
RETRY_S = 1.0
RETRY_SHARE = 4.0
"""Pause between two looks at what waits, as a multiple of the time that a look took."""


class Projector(Checkpoints):
    """`carriers` holds this zone's tree of every rule; `holders` names the nodes to ask for bytes; `transact` runs a
    change in consensus' next transaction."""

    def __init__(
        self,
        environment: KeyValue,
        transact: Callable[[Callable[[Tables], None]], asyncio.Future[None]],
        carriers: Mapping[int, Carrier],
        store: ContentStore,
        holders: Callable[[int], Sequence[str]],
        progress: Progress,
        clock: Clock,
        executor: Executor,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(environment, transact, carriers, store, progress, clock, executor)
        self._sleep = sleep
        with environment.read() as tables:
            self._gsn = self._offered_after = View(tables).gsn
        self._batches = Batches(carriers, progress, self._boot)
        self.readings = self._batches.readings
        self._offered: deque[Item] = deque()
        self._fetches = Fetches(store, holders, sleep, self._fetch_ended)
        self._moved = asyncio.Condition()
        self._retry_waiting = False
        self._retry_at = 0.0
        self._exclusive: list[tuple[Callable[[View], Any], asyncio.Future[Any]]] = []
        self._stopped = ""

    def offer(self, items: list[Item], gsn: int) -> None:
        """Effects that have just been put into the outbox, up to GSN `gsn`: while this zone keeps up, they need not be
        read back."""
        if len(self._offered) + len(items) > OFFERED_MAX:
            self._offered.clear()
            self._offered_after = gsn
        else:
            self._offered.extend(items)
        self._gsn = gsn

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def stopped(self) -> str:
        """What this zone's disk refuses, so that it does not project, in whole or in part; empty while it does."""
        return self._stopped or self._fetches.problem

    def poke(self, _gsn: int = 0) -> None:
        """There may be more to do."""
        self._wake.set()

    def is_projected(self, gsn: int, path: bytes = b"") -> bool:
        """Whether the effects of record `gsn` have been carried out, whatever earlier ones wait for, but for what is to
        come to the `path` in the namespace by which it named something."""
        if gsn > self._scanned or any(order[0] == gsn for order in self._waiting):
            return False
        if not path or not self._waiting:
            return True
        with self._environment.read() as tables:
            before = [item for order, item in self._waiting.items() if order[0] < gsn]
            return not is_name_to_come(View(tables), path, before)

    async def wait(self, gsn: int, timeout_s: float, path: bytes = b"") -> None:
        """Until `is_projected`. UnavailableError after the time."""
        await self._until(lambda: self.is_projected(gsn, path), gsn, timeout_s)

    async def wait_through(self, gsn: int, timeout_s: float) -> None:
        """Until every effect up to `gsn` has been carried out."""
        await self._until(lambda: self.projected >= gsn, gsn, timeout_s)

    async def _until(self, condition: Callable[[], bool], gsn: int, timeout_s: float) -> None:
        if condition():
            return
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(condition)
        except TimeoutError:
            reason = self.stopped or f"it is at {self.projected}"
            raise UnavailableError(f"this zone was not at {gsn} after {timeout_s:g} s: {reason}") from None

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Projects until cancelled."""
        self._recover()
        recalling = asyncio.get_running_loop().create_task(self._recall_expected())
        recalling.add_done_callback(lambda _: self.poke())
        self._batches.inherit(self._traced, self.retained, self._moves.noted, self._moves.again)
        if not self._boot_is_noted:
            await self._note_boot(self._boot)
        try:
            while True:
                self._wake.clear()
                if recalling.done():
                    recalling.result()  # what it could not read ends this node, and not only its memory
                busy = await self._step()
                await self._tell()
                late = self._clock.monotonic() - self._checkpointed > CHECKPOINT_S
                try:
                    if self._background is not None and self._background.done():
                        await self._end_background()
                    if self._wanted and not busy:
                        await self._checkpoint()
                        self._stopped = ""
                    elif late:
                        await self._start_background()
                    if self._exclusive and not busy:
                        await self._run_exclusive()
                except OSError as error:
                    await self._refused(error, "a checkpoint")
                    self._wake.set()
                if not busy:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(CHECKPOINT_S if self._is_dirty() else None):
                            await self._wake.wait()
        finally:
            recalling.cancel()
            self._fetches.cancel()
            if self._background is not None:
                self._background.cancel()
                await asyncio.wait([self._background])

    async def exclusively(self, job: Callable[[View], T]) -> T:
        """Runs a job in the carrying thread at a moment when the files are as its View says, and while nothing else
        changes them."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._exclusive.append((job, future))
        self._wake.set()
        return await future

    async def _run_exclusive(self) -> None:
        loop = asyncio.get_running_loop()
        if not await self._settle_directories():
            return
        with self._environment.read() as tables:
            view = View(tables)
            if self._waiting or view.gsn != self._scanned:
                return
            waiting, self._exclusive = self._exclusive, []
            for job, future in waiting:
                try:
                    result = await loop.run_in_executor(self._executor, job, view)
                except (OSError, LddpError) as error:
                    if not future.done():
                        future.set_exception(error)
                else:
                    if not future.done():
                        future.set_result(result)

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def _step(self) -> bool:
        """Carries out what can be; whether there is more to do at once."""
        await self._rewind_trees()
        retried = False
        if self._waiting and (not self._fetches or (self._retry_waiting and self._clock.monotonic() > self._retry_at)):
            self._retry_waiting = False
            began = self._clock.monotonic()
            retried = await self._retry()
            # Looking at all that waits costs more the more it is: not after every single fetch.
            now = self._clock.monotonic()
            self._retry_at = now + RETRY_SHARE * (now - began)
        if len(self._waiting) >= BLOCKED_MAX:
            return retried
        items, gsn = self._next_items()
        if items:
            fresh = [at_lasting_path(item, self._lasting) for item in items if item.order not in self._done]
            ready = self._plan(fresh, self._waiting.values())
            await self._carry(ready)
            self._cursor = items[-1].order
        full = len(items) == BATCH_EFFECTS
        self._scanned = self._cursor[0] - 1 if full else max(gsn, self._scanned)
        if self.retained is not None and not self._waiting:
            self.retained.expected.reached(self._scanned)
        return full or retried

    def _next_items(self) -> tuple[list[Item], int]:
        """The next effects in log order, and the GSN that the log had reached then."""
        while self._offered and self._offered[0].order <= self._cursor:
            self._offered.popleft()
        if self._scanned >= self._offered_after:
            count = min(len(self._offered), BATCH_EFFECTS)
            items = [self._offered.popleft() for _ in range(count)]
            return items, self._gsn
        with self._environment.read() as tables:
            gsn = View(tables).gsn
            items = outbox.read(tables, self._cursor, BATCH_EFFECTS)
        return items, gsn

    def _plan(
        self, items: list[Item], behind: Iterable[Item], is_unneeded: Callable[[Item], bool] = lambda _item: False
    ) -> list[Ready]:
        """Splits into what can be done now, in order, and what waits, if only for something `behind` which it is. Of
        what has no bytes here, `is_unneeded` says whether they need not come."""
        self._hand_over()
        blocked = Blocked()
        for item in behind:
            blocked.add(item.rule, item.effect)
        ready: list[Ready] = []
        for item in items:
            effect = item.effect
            is_open = item.rule in self._carriers
            if not is_open or item.rule in self._boot.rules:
                if is_open or self.awaits(item.rule):
                    blocked.add(item.rule, effect)
                    self._waiting[item.order] = item
                else:
                    self._waiting.pop(item.order, None)  # the rule was removed meanwhile
                continue
            if blocked and blocked.hits(item.rule, effect):
                blocked.add(item.rule, effect)
                self._waiting[item.order] = item
                continue
            source: ContentSource | None = None
            if isinstance(effect, e.PutFileEffect | e.WriteEffect):
                source = self._store.open(effect.content, waits=False)
                if source is not None and self.retained is not None and self.retained.concerns(effect):
                    self.retained.hold(item)
                if source is None and not is_unneeded(item):
                    blocked.add(item.rule, effect)
                    self._waiting[item.order] = item
                    self._fetches.begin(item, functools.partial(self._is_needed, item))
                    continue
            ready.append((item, source))
        return ready

    async def _carry(self, ready: list[Ready]) -> None:
        """Carries effects out in order, however long the filesystem refuses."""
        loop = asyncio.get_running_loop()
        while ready:
            await self._make_room(min(len(ready), BATCH_EFFECTS))
            batch = await self._prepare(ready[:BATCH_EFFECTS])
            done, error = await loop.run_in_executor(self._executor, self._batches.carry, batch)
            for item, source in ready[:done]:
                self._done.add(item.order)
                self._waiting.pop(item.order, None)
                if source is not None:
                    self._release(item)
            ready = ready[done:]
            if error is None:
                self._stopped = ""
            elif isinstance(error, UnavailableError):
                # Another file was made of the same bytes meanwhile, and took them.
                ready = self._plan([item for item, _ in ready], self._earlier(ready[0][0]))
            elif self._is_in_vain(ready[0], error):
                item, _ = ready[0]
                ready[0] = item, None
                self._release(item)
            # A directory that somebody else has made since `_prepare` looked is looked at again.
            elif not (isinstance(error, FileExistsError) and isinstance(ready[0][0].effect, e.MakeDirectoryEffect)):
                await self._refused(error, quoted(path_of(ready[0][0].effect)))

    def _is_in_vain(self, ready: Ready, error: OSError) -> bool:
        """Whether a disk is too full for bytes that the log replaces or removes later, perhaps for that reason."""
        item, source = ready
        if source is None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return False
        with self._environment.read() as tables:
            return self._replaces_later(View(tables), item)

    async def _prepare(self, batch: list[Ready]) -> list[Ready]:
        """The first ones of a batch, which may be carried out now: what moves objects says first which."""
        loop = asyncio.get_running_loop()
        while self._moves.concern(batch):
            try:
                prepared = await loop.run_in_executor(self._executor, self._moves.prepare, batch)
                if not prepared.checkpoint:
                    if prepared.notes:
                        await self._transact(functools.partial(keep_notes, notes=prepared.notes, roots=prepared.roots))
                    return batch[: prepared.number]
                await self._make_durable()
            except OSError as error:
                await self._refused(error, "what is to be moved or made")
        return batch

    async def _rewind_trees(self) -> None:
        """After a power cut: brings back what was moved since the last checkpoint, before anything else is done."""
        loop = asyncio.get_running_loop()
        for rule, tree in [(rule, self._carriers[rule]) for rule in self._boot.rules if rule in self._carriers]:
            bring, again = rewind, self._moves.again.get(rule)
            if again is not None:
                again.unwatched = tree.unwatched
                bring = functools.partial(rewind_among_programs, again=again)
            try:
                await loop.run_in_executor(self._executor, bring, tree.zone, self._read_past(rule))
                await self._sync(rule, tree)
            except OSError as error:
                await self._refused(error, "a tree after a power cut")
                self._wake.set()
                return
            await self._note_rewound(rule)
            self._stopped = ""

    async def _make_room(self, count: int) -> None:
        """Until so many marks can be made."""
        while self._progress.room < count:
            try:
                await self._make_durable()
            except OSError as error:
                await self._refused(error, "a checkpoint")

    async def _refused(self, error: OSError, where: str) -> None:
        """Says what the filesystem does not let this zone do, and pauses."""
        reason = f"{errno_name(error.errno or 0)} at {where}: {error.strerror or error}"
        if reason != self._stopped:
            _log.error("this zone has stopped projecting: %s; it goes on by itself once that is mended", reason)
        self._stopped = reason
        await self._tell()
        await self._sleep(RETRY_S)

    def _release(self, item: Item) -> None:
        """The bytes of an effect that was carried out are in the zone's own file now."""
        assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect), "other effects bring no bytes"
        content = item.effect.content
        if self.retained is not None and self.retained.concerns(item.effect):
            self.retained.used(item)
        elif content.pack:
            self._packs[content.pack] = max(item.order[0], self._packs.get(content.pack, 0))
        elif content.inline is None and content.size:
            self._store.release(content)

    # -- waiting for bytes ------------------------------------------------------------------------------------------

    def _fetch_ended(self) -> None:
        self._retry_waiting = True
        self._wake.set()

    def _is_needed(self, item: Item) -> bool:
        """Whether the bytes that an effect waits for are to come: not where the log replaces or removes them later.
        What it only changes in part needs them."""
        if item.order not in self._waiting:
            return False
        with self._environment.read() as tables:
            return not self._replaces_later(View(tables), item)

    def _replaces_later(self, view: View, item: Item) -> bool:
        return is_replaced_later(view, item, self._waiting.values())

    async def _retry(self) -> bool:
        """Looks again at everything that waits, in order."""
        items = [self._waiting[order] for order in sorted(self._waiting)]
        with self._environment.read() as tables:
            view = View(tables)
            ready = self._plan(items, (), lambda item: self._replaces_later(view, item))
        if ready:
            await self._carry(ready)
        return bool(ready)
