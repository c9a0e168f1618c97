"""Checkpoints: what a zone has carried out becomes durable, and its effects are forgotten."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import Any, NamedTuple

import msgpack

from lddp.content.disk import finished
from lddp.core import effects as e
from lddp.core.namespace import DENTRY
from lddp.core.tables import Table, Tables
from lddp.core.view import View
from lddp.errors import StorageError, errno_name
from lddp.ports import Clock, ContentStore, KeyValue
from lddp.replay import outbox
from lddp.replay.again import read_again
from lddp.replay.carrier import Carrier
from lddp.replay.expected import read_expected
from lddp.replay.lasting import lasting_paths
from lddp.replay.moves import Moves
from lddp.replay.notes import (
    Boot,
    forget_notes,
    forget_orders,
    is_noted,
    note_boot,
    note_stand_ins,
    noted_orders,
    read_boot,
    read_notes,
)
from lddp.replay.outbox import Item
from lddp.replay.past import Past, read_past
from lddp.replay.progress import Order, Progress
from lddp.replay.retained import Retained
from lddp.replay.settling import directory_attributes, set_directories
from lddp.replay.touched import follow

BATCH_EFFECTS = 4096
_PROJECTED = b"projected"
_TOUCHED = b"touched"
_WITHHELD = b"withheld"
_TRACED = b"traced"


class Traces(NamedTuple):
    """What a carrier has to know of what was carried out before it was there."""

    touched: set[bytes]
    withheld: set[int]


def read_projected(tables: Tables) -> tuple[int, int]:
    """Place in the log up to which the zone is durably projected."""
    data = tables.get(Table.LOCAL, _PROJECTED)
    return (0, 0) if data is None else DENTRY.unpack(data)


async def _at_once() -> None:
    return


class Checkpoints:
    """What a projector has done since the last checkpoint, and how it becomes durable."""

    def __init__(
        self,
        environment: KeyValue,
        transact: Callable[[Callable[[Tables], None]], asyncio.Future[None]],
        carriers: Mapping[int, Carrier],
        store: ContentStore,
        progress: Progress,
        clock: Clock,
        executor: Executor,
    ) -> None:
        self._environment = environment
        self._transact = transact
        self._carriers = carriers
        self._store = store
        self._progress = progress
        self._clock = clock
        self._executor = executor
        with environment.read() as tables:
            self._cursor = read_projected(tables)
            self._boot = read_boot(tables, progress)
            self._boot_is_noted = is_noted(tables, self._boot) and not progress.has_lost
        self.durable = self._cursor[0]
        """GSN up to which every effect has been carried out and would survive a power cut."""
        self._moves = Moves(carriers, self._is_left)
        self._scanned = 0
        self._waiting: dict[tuple[int, int], Item] = {}
        self._done = set(progress.done)
        self._traced: set[Order] = set()
        """Effects beyond the last checkpoint before this start that its `touched` knows of."""
        self.awaits: Callable[[int], bool] = lambda _rule: False
        """Whether a rule without a carrier will have one, once its tree can be opened: its effects wait for that."""
        self.folded_again: Callable[[], Awaitable[None]] = _at_once
        """Returns when all has been folded again that an earlier process had folded."""
        self._keeps_durable = False
        """Whether the outbox has effects yet that an earlier process made durable and could not forget any more."""
        self._inherited: dict[Order, int] = {}
        """Effects that an earlier process carried out since the last checkpoint, and their rules."""
        self._lasting: dict[Order, bytes] = {}
        """Paths to be used in the place of those that effects have."""
        self._traces: dict[int, Traces] = {}
        """From before this start, of rules whose tree is not open yet."""
        self._checkpointed = clock.monotonic()
        self._wanted: list[asyncio.Future[None]] = []
        self._packs: dict[bytes, int] = {}
        self._background: asyncio.Task[int] | None = None
        self._wake = asyncio.Event()

    @property
    def retained(self) -> Retained | None:
        """What other zones may still ask for; None: nothing is kept for them."""
        return self._moves.retained

    @retained.setter
    def retained(self, retained: Retained) -> None:
        self._moves.retained = retained

    async def _recall_expected(self) -> None:
        """Meanwhile any bytes may be expected."""
        if self.retained is not None:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._executor, read_expected, self._environment, self._cursor)
            await self.folded_again()
            self.retained.expected.recalled(found)

    @property
    def projected(self) -> int:
        """GSN up to which every effect has been carried out."""
        return min(self._scanned, min(self._waiting)[0] - 1) if self._waiting else self._scanned

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the files and writes that wait, for their bytes or behind something else."""
        effects = (item.effect for item in self._waiting.values())
        return sum(effect.content.size for effect in effects if isinstance(effect, e.PutFileEffect | e.WriteEffect))

    def _earlier(self, item: Item) -> list[Item]:
        return [waiting for order, waiting in self._waiting.items() if order < item.order]

    async def checkpoint(self) -> None:
        """Returns when everything carried out before this call is durable, directory times included."""
        wanted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted.append(wanted)
        self._wake.set()
        await wanted

    def _is_dirty(self) -> bool:
        self._hand_over()
        return bool(self._done) or self._keeps_durable or any(carrier.touched for carrier in self._carriers.values())

    async def _checkpoint(self) -> None:
        """Makes everything carried out so far durable, then forgets its effects. Who waits is told once directories
        have their times too, which needs a moment at which this zone is up to date."""
        self._checkpointed = self._clock.monotonic()
        wanted, self._wanted = self._wanted, []
        settled = True
        try:
            if self._is_dirty():
                settled = await self._settle_directories()
                await self._make_durable()
        except OSError:
            self._wanted = wanted + self._wanted
            raise
        if not settled:
            self._wanted = wanted + self._wanted
            return
        for future in wanted:
            if not future.done():
                future.set_result(None)

    async def _make_durable(self) -> None:
        """Waits for a checkpoint under way, then makes one while nothing is carried out."""
        await self._end_background()
        self._forget(await self._sync_through(*self._snapshot()))

    async def _start_background(self) -> None:
        """A checkpoint beside the projection: syncing a filesystem can take long, and nobody should wait for it."""
        self._checkpointed = self._clock.monotonic()
        if self._is_dirty() and self._background is None:
            await self._settle_directories()
            self._background = asyncio.get_running_loop().create_task(self._sync_through(*self._snapshot()))

    async def _end_background(self) -> None:
        background, self._background = self._background, None
        if background is not None:
            self._forget(await background)

    def _snapshot(self) -> tuple[int, dict[bytes, bytes]]:
        """GSN through which a sync makes everything durable, and what the next start has to know of this moment:
        directories that do not have their times yet, files that are withheld, contents that others may ask for."""
        self._hand_over()
        self._moves.checkpoint_begins()
        touched = {rule: sorted(traces.touched) for rule, traces in self._traces.items()}
        withheld = {rule: sorted(traces.withheld) for rule, traces in self._traces.items()}
        for rule, carrier in self._carriers.items():
            self._forget_gone(carrier)
            touched[rule] = sorted(carrier.touched)
            withheld[rule] = sorted(carrier.withheld)
        self._inherited = {order: rule for order, rule in self._inherited.items() if self._is_closed(rule)}
        through = max(self.durable, min([self.projected, *(gsn - 1 for gsn, _ in self._inherited)]))
        traced = sorted(order for order in self._done if order[0] > through and order not in self._inherited)
        rows = {_TOUCHED: touched, _WITHHELD: withheld, _TRACED: traced}
        snapshot: dict[bytes, bytes] = {key: msgpack.packb(row) for key, row in rows.items()}
        if self.retained is not None:
            self.retained.expected.reached(self.projected)
            snapshot |= self.retained.snapshot()
        return through, snapshot

    def _is_closed(self, rule: int) -> bool:
        """Whether the rule has a tree that cannot be opened, nor synced, yet."""
        return rule not in self._carriers and self.awaits(rule)

    def _forget_gone(self, carrier: Carrier) -> None:
        """A withheld file for which nothing waits is gone from the log: otherwise the bytes that replace those that
        were passed over would be waiting."""
        if carrier.withheld:
            with self._environment.read() as tables:
                if View(tables).gsn == self._scanned:
                    carrier.withheld &= {item.effect.inode for item in self._waiting.values()}

    async def _sync_through(self, through: int, snapshot: dict[bytes, bytes]) -> int:
        """Everything carried out up to GSN `through` becomes durable and leaves the outbox."""
        for rule, carrier in list(self._carriers.items()):
            await self._sync(rule, carrier)

        def note(tables: Tables) -> None:
            forget_notes(tables, through)
            tables.put(Table.LOCAL, _PROJECTED, DENTRY.pack(through, 0xFFFFFFFF))
            for key, value in snapshot.items():
                if tables.get(Table.LOCAL, key) != value:
                    tables.put(Table.LOCAL, key, value)

        left = True

        def discard(tables: Tables) -> None:
            nonlocal left
            left = outbox.discard(tables, through) == outbox.DISCARDED_AT_ONCE

        await self._transact(note)
        while left:
            await self._transact(discard)
        return through

    def _forget(self, through: int) -> None:
        """A checkpoint is done. To be called while nothing is being carried out: the marks are made anew."""
        self.durable = through
        self._moves.checkpoint_ends()
        self._keeps_durable = False
        self._done = {order for order in self._done if order[0] > through}
        self._progress.reset(self._done)
        for pack in [pack for pack, gsn in self._packs.items() if gsn <= through]:
            del self._packs[pack]
            self._store.release_pack(pack)

    async def _note_boot(self, boot: Boot) -> None:
        await self._transact(functools.partial(note_boot, boot=boot))
        self._boot = boot
        if self._progress.has_lost:
            self._progress.lost(False)

    def _is_left(self, rule: int) -> bool:
        """Whether programs have no business in the tree of a rule any more, because its migration is completed."""
        with self._environment.read() as tables:
            migration = View(tables).migration(rule)
        return migration is not None and migration.state == "completed"

    def _read_past(self, rule: int) -> Past:
        """What was done in a rule's tree since the last checkpoint, or was about to be."""
        with self._environment.read() as tables:
            return read_past(tables, read_projected(tables), rule, self._traced)

    async def _note_rewound(self, rule: int) -> None:
        """A tree has the names of the last checkpoint again, durably: what is noted of it from before is no more so."""
        boot, again = self._boot.without(rule), self._moves.again.get(rule)
        with self._environment.read() as tables:
            orders = noted_orders(tables, rule)

        def note(tables: Tables) -> None:
            note_boot(tables, boot)
            if again is None:
                forget_orders(tables, orders)
            else:
                note_stand_ins(tables, rule, again.stand_ins)
            touched = {
                **_read(tables, _TOUCHED, {}),
                rule: sorted(_read_sets(tables, _TOUCHED).get(rule, set()) | {b""}),
            }
            tables.put(Table.LOCAL, _TOUCHED, msgpack.packb(touched))

        # In the root things may have been for a while; in other directories only what is carried out again anyway.
        self._carriers[rule].touched.add(b"")
        await self._transact(note)
        self._moves.forget(orders)
        self._boot = boot

    def _recover(self) -> None:
        """Works out what the carriers have to know of what was carried out before this start."""
        with self._environment.read() as tables:
            touched, withheld = (_read_sets(tables, key) for key in (_TOUCHED, _WITHHELD))
            for rule in touched.keys() | withheld.keys():
                self._traces[rule] = Traces(touched.get(rule, set()), withheld.get(rule, set()))
            self._traced = {(gsn, ordinal) for gsn, ordinal in _read(tables, _TRACED, [])}
            self._done |= self._traced
            oldest = outbox.read(tables, (0, 0), 1)
            self._keeps_durable = bool(oldest) and oldest[0].order[0] <= self.durable
            if self._boot.repeated_through > self.durable:
                self._lasting = lasting_paths(tables, self._cursor, self._done)
            notes = read_notes(tables)
            self._moves.noted = {order: note for order, note in notes.items() if order not in self._done}
            self._moves.again = read_again(tables, self._cursor, notes)
            place = self._cursor
            while self._done and (items := outbox.read(tables, place, BATCH_EFFECTS)):
                for item in items:
                    if item.order in self._done:
                        self._retrace(item)
                        self._moves.recall(item, notes.get(item.order))
                place = items[-1].order
            rules = {rule.number for rule in View(tables).rules()}
        self._traces = {rule: traces for rule, traces in self._traces.items() if rule in rules}
        self._hand_over()

    def _retrace(self, item: Item) -> None:
        """An effect that was carried out after the last checkpoint, or before it and out of order."""
        traces = self._traces.setdefault(item.rule, Traces(set(), set()))
        if item.order not in self._traced:
            self._inherited[item.order] = item.rule
            follow(traces.touched, item.effect)
            if item.order in self._progress.withheld:
                traces.withheld.add(item.effect.inode)
                return
            traces.withheld.discard(item.effect.inode)
        if self.retained is not None:
            self.retained.recall(item)

    def _hand_over(self) -> None:
        """Gives carriers what is kept for them."""
        for rule in self._traces.keys() & self._carriers.keys():
            traces = self._traces.pop(rule)
            self._carriers[rule].touched |= traces.touched
            self._carriers[rule].withheld |= traces.withheld

    async def _sync(self, rule: int, carrier: Carrier) -> None:
        """Makes a tree durable. StorageError where it cannot be: the kernel has dropped what it could not write, and
        says so once, so another try would tell nothing. All since the last checkpoint is carried out again by the next
        process, as after a power cut."""

        def sync() -> None:
            try:
                carrier.zone.sync()
            except OSError:
                self._progress.lost(True)
                raise

        try:
            # Whoever is cancelled hears of its end, too: nobody else is told of what was lost.
            await finished(asyncio.get_running_loop().run_in_executor(None, sync))
        except OSError as error:
            reason = f"{errno_name(error.errno or 0)}: {error.strerror or error}"
            message = f"the filesystem of rule {rule} did not write all that it had taken ({reason})"
            raise StorageError(f"{message}; mend it and start this node again: it does that once more") from error

    async def _settle_directories(self) -> bool:
        """Gives every directory whose entries were changed the modification time that the namespace says. False where
        the log is ahead of the zone: then paths may mean other directories, and it is done later."""
        self._hand_over()
        loop = asyncio.get_running_loop()
        settled = True
        for rule, carrier in self._carriers.items():
            if not carrier.touched:
                continue
            with self._environment.read() as tables:
                view = View(tables)
                if self._waiting or view.gsn != self._scanned:
                    settled = False
                    continue
                wanted = directory_attributes(view, rule, carrier.touched, is_source=carrier.is_shared)
            await loop.run_in_executor(self._executor, set_directories, carrier, wanted)
            carrier.touched = set()
        return settled


def _read(tables: Tables, key: bytes, default: Any) -> Any:
    data = tables.get(Table.LOCAL, key)
    return default if data is None else msgpack.unpackb(data, strict_map_key=False)


def _read_sets(tables: Tables, key: bytes) -> dict[int, set[Any]]:
    return {rule: set(values) for rule, values in _read(tables, key, {}).items()}
