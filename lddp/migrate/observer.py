"""The observer of a rule's source zone: scans what is pending, looks again at what changes, and submits what it sees.

One work list for both: the pending inodes of the namespace (so a scan survives any restart at the exact entry), and the
dirty names that the watcher adds. A change ahead of the scan is picked up when the scan gets there; a change behind it
is dirty and looked at at once. Whatever comes back void is looked at again. The source is drained when nothing is
pending, dirty or on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from lddp.content.push import Pusher
from lddp.core.namespace import Inode
from lddp.core.records import Content, InodeReport, Kind, Observation
from lddp.core.rules import Rule
from lddp.errors import UnavailableError
from lddp.gateway import Gateway
from lddp.migrate.backlog import DIRECTORIES, Backlog, numbers_of
from lddp.migrate.batch import Shipment
from lddp.migrate.look import Looker, Moved, SourceZone
from lddp.migrate.options import Exclusion
from lddp.migrate.pace import Pace
from lddp.migrate.portions import ROOM, Pack
from lddp.migrate.rounds import Leftover, Rounds
from lddp.migrate.seen import is_known, is_same, report_of
from lddp.migrate.strays import directories_in, taken_for_others
from lddp.ports import KeyValue
from lddp.replay.existing import digest_of
from lddp.replay.unwatched import Source, Unwatched
from lddp.submissions import Applied

_log = logging.getLogger(__name__)
SCAN_LANES = 2
LARGE_LANES = 2
DIRECTORIES_PER_JOB = 64
SHIPMENTS_MAX = 4
"""Observations of the scan on their way at once: bounds the bytes in memory to this many portions."""
SUBMIT_TIMEOUT_S = 600.0
CHANGED_MAX = 100_000


class Changes(Protocol):
    """What the observer needs of a watcher."""

    async def settle(self) -> None:
        """Returns when every change made before this call has been made dirty here."""
        ...


@dataclass(slots=True)
class Counters:
    """Since this node started. `changes` are names and files looked at because something changed them."""

    changes: int = 0
    observations: int = 0
    voids: int = 0
    excluded: set[bytes] = field(default_factory=set)
    skipped: set[bytes] = field(default_factory=set)


class Observer:
    """Observes one rule's tree in this node's zone. `peers` are the nodes whose zones need the bytes; `as_of` gives the
    GSN that this zone had been brought to, at most the one given, `settling` says of which directories this node has
    still to put the time right, and `unwatched` what else it has done since that was asked for. An observation has
    `room` for so many bytes of reports."""

    def __init__(
        self,
        gateway: Gateway,
        environment: KeyValue,
        zone: SourceZone,
        rule: Rule,
        exclusion: Exclusion,
        pusher: Pusher,
        peers: Sequence[str],
        as_of: Callable[[int], int],
        executor: Executor,
        keep_pack: Callable[[bytes, bytes], None],
        token: Callable[[int], bytes] = os.urandom,
        settling: Callable[[bytes], bool] = lambda _path: False,
        unwatched: Source | None = None,
        room: int = ROOM,
    ) -> None:
        self._gateway = gateway
        self._environment = environment
        self._zone = zone
        self.rule = rule
        self._exclusion = exclusion
        self._pusher = pusher
        self._peers = list(peers)
        self._as_of = as_of
        self._executor = executor
        self._keep_pack = keep_pack
        self._unwatched = unwatched or Unwatched()
        self._room = room
        self._rounds = Rounds(environment, zone, rule, exclusion, as_of, token, settling, self._unwatched, room)
        self.backlog = Backlog(environment, rule, gateway.clock.monotonic)
        self.dirty = self.backlog.dirty
        self.counters = Counters()
        self.pace = Pace(gateway.clock)
        self.failures = self.backlog.failures
        self._slots = threading.BoundedSemaphore(SHIPMENTS_MAX)
        self._changed = asyncio.Condition()
        self._stopping = threading.Event()
        self.changes: Changes | None = None
        self._changed_since: set[bytes] = set()

    # -- running ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Observes until cancelled."""
        self._gateway.on_applied.append(self._applied)
        try:
            async with asyncio.TaskGroup() as group:
                for lane in [self._scan_lane] * SCAN_LANES + [self._large_lane] * LARGE_LANES + [self._dirty_lane]:
                    group.create_task(lane())
        finally:
            self._stopping.set()
            self._unwatched.end()
            self._gateway.on_applied.remove(self._applied)

    def _applied(self, _gsn: int) -> None:
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def notice(self) -> None:
        """The watcher has made something dirty."""
        await self._notify()

    async def _pause(self, since: float) -> None:
        """Until something changes, or something is due that was not at the time `since`."""
        due = self.dirty.next_due(since)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(due + 0.001 if due is not None else None), self._changed:
                await self._changed.wait()

    def note_changed(self, identity: bytes) -> None:
        """Something changed. If it is just being reported, what was read of it may be old, and the inode that the event
        was taken for may be gone by the time it is looked at: it is looked at again once its report is in the log."""
        if self.backlog.jobs and len(self._changed_since) < CHANGED_MAX:
            self._changed_since.add(identity)
            if len(self._changed_since) == CHANGED_MAX:
                self.scrub()

    def doubt(self, number: int) -> None:
        """A file's bytes, if it is one of this rule, are read again whatever its times say."""
        if self.backlog.doubt(number):
            self._applied(0)

    def scrub(self) -> None:
        """Compares every listed directory with the source: what changed while nobody looked is found."""
        self.backlog.doubt_rounds()
        self.backlog.scrub()

    # -- is there anything left -------------------------------------------------------------------------------------

    async def scanned(self) -> None:
        """Until all that was there has been looked at once."""
        async with self._changed:
            await self._changed.wait_for(self.backlog.is_scanned)

    async def drained(self) -> None:
        """Until every change made to the source before this call is in the log."""
        if self.changes is not None:
            await self.changes.settle()
        async with self._changed:
            self._changed.notify_all()  # who made something dirty need not have said so
            await self._changed.wait_for(self.backlog.is_idle)

    # -- scanning ---------------------------------------------------------------------------------------------------

    async def _scan_lane(self) -> None:
        while True:
            now = self._gateway.clock.monotonic()
            numbers = self.backlog.take_pending(DIRECTORIES, DIRECTORIES_PER_JOB)
            if not numbers:
                await self._pause(now)
                continue
            await self._job(set(numbers), partial(self._rounds.scan, numbers))

    async def _job(self, numbers: set[int], job: Callable[[Callable[[Shipment], None]], Leftover]) -> None:
        """Runs a round in a thread, ships what it emits in order, and waits until all of it is folded."""
        loop = asyncio.get_running_loop()
        shipping: list[asyncio.Task[None]] = []
        before: asyncio.Future[None] = loop.create_future()
        before.set_result(None)
        this = self.backlog.begin(numbers)

        def launch(shipment: Shipment) -> None:
            nonlocal before
            self.backlog.reports(this, (report.inode for report in shipment.directories))
            posted: asyncio.Future[None] = loop.create_future()
            shipping.append(loop.create_task(self._ship(shipment, before, posted)))
            before = posted

        def emit(shipment: Shipment) -> None:
            while not self._slots.acquire(timeout=1.0):
                if self._stopping.is_set():
                    raise UnavailableError("the observer is stopping")
            loop.call_soon_threadsafe(launch, shipment)

        try:
            left = await loop.run_in_executor(self._executor, job, emit)
            if shipping:
                await asyncio.gather(*shipping)
            self._finish(numbers, left)
        finally:
            for task in shipping:
                task.cancel()
            await asyncio.gather(*shipping, return_exceptions=True)
            self.backlog.end(this)
            if not self.backlog.jobs:
                self._changed_since.clear()
            await self._notify()

    def _finish(self, numbers: set[int], left: Leftover) -> None:
        for number in numbers:
            self.backlog.forget_failure(number)
            if number not in left.postponed:
                self.dirty.settled(number)
        for number in left.postponed:
            self.dirty.postpone(number)
        for number, failure in left.failures:
            self.backlog.note_failure(number, failure)
        self.dirty.put_back(left.again)
        self._rounds.ended(left)
        for identity in left.changed:
            self.note_changed(identity)
        if left.lost:
            self.scrub()
        self.backlog.large |= left.large
        for known, found in ((self.counters.excluded, left.excluded), (self.counters.skipped, left.skipped)):
            known.update(found)

    async def _ship(self, shipment: Shipment, before: asyncio.Future[None], posted: asyncio.Future[None]) -> None:
        """Sends the bytes, then the observation behind the one before it, and waits for its outcome."""
        try:
            pack = shipment.pack
            if pack.size and self._peers:
                data = pack.bytes()
                self._keep_pack(pack.id, data)
                await self._pusher.push_pack(pack.id, data, False, self._peers)
            self.pace.passed(pack.size)
            record = Observation(
                self._gateway.next_id(),
                self._gateway.zone,
                shipment.as_of,
                self.rule.number,
                shipment.directories,
                shipment.inodes,
            )
            await before
            with self._gateway.view() as view:
                known = directories_in(view, self.rule, record)
            (future,) = self._gateway.post([record])
            posted.set_result(None)
            (applied,) = await self._gateway.outcomes([record], [future], SUBMIT_TIMEOUT_S)
            self._look_again(record, applied)
            with self._gateway.view() as view:
                self.dirty.compare |= taken_for_others(view, self.rule, known)
        finally:
            self._slots.release()
            if not posted.done():
                posted.set_result(None)

    def _look_again(self, record: Observation, applied: Applied) -> None:
        """What came back void is dirty again."""
        self.counters.observations += 1
        if self._changed_since:
            self._distrust_changed(record)
        void = set(applied.outcome.void)
        if not void:
            return
        self.counters.voids += len(void)
        for report in record.directories:
            if report.inode in void:
                names = {entry.name for entry in report.entries} | set(report.absent) | {b""}
                self.dirty.names.setdefault(report.inode, set()).update(names)
        # A directory may be in it twice: with what it has, and with what it has not.
        self.dirty.files |= void - {report.inode for report in record.directories}

    def _distrust_changed(self, record: Observation) -> None:
        """Objects that changed while their report was on its way; a file is read again even if no time of it moved."""
        with self._gateway.view() as view:
            for report in record.directories:
                for entry in report.entries:
                    if entry.identity in self._changed_since:
                        self.dirty.add_name(report.inode, entry.name)
                        number = view.by_identity(self.rule.number, entry.identity)
                        if number and entry.kind is Kind.FILE:
                            self.dirty.files.add(number)

    # -- changes ----------------------------------------------------------------------------------------------------

    async def _dirty_lane(self) -> None:
        while True:
            now, before = self._gateway.clock.monotonic(), len(self.dirty)
            work = self.backlog.take_dirty()
            if not work and len(self.dirty) != before:
                await self._notify()  # it was about what is gone: who waits for the end of it can go on
                continue
            if not work:
                await self._pause(now)
                continue
            self.counters.changes += self.backlog.changes_in(work)
            await self._job(numbers_of(work), partial(self._rounds.look, work))

    # -- large files ------------------------------------------------------------------------------------------------

    async def _large_lane(self) -> None:
        while True:
            now = self._gateway.clock.monotonic()
            number = self.backlog.take_large()
            if not number:
                await self._pause(now)
                continue
            try:
                await self._large_file(number)
            finally:
                self.backlog.busy.discard(number)
                await self._notify()

    async def _large_file(self, number: int) -> None:
        """One file's bytes, read as they are sent; small ones too, when they did not hold still in their listing."""
        loop = asyncio.get_running_loop()
        with self._gateway.view() as view:
            as_of = self._as_of(view.gsn)
            inode = view.inode(number)
            if inode is None or inode.kind is not Kind.FILE:
                return
            looker = Looker(self._zone, view, self._exclusion, Pack(b"\0" * 16), self._room)
            try:
                path, descriptor, before = looker.open_file(inode)
            except Moved:
                self.dirty.postpone(number)
                self.backlog.large.add(number)
                for parent, name in view.links(inode):
                    self.dirty.add_name(parent, name)
                return
            except OSError as error:
                self._fail(number, view.path(inode), error)
                return
        try:
            bare = await loop.run_in_executor(self._executor, looker.bare_report, inode, descriptor)
            content = await self._read(inode, descriptor, before)
            after = os.fstat(descriptor)
        except OSError as error:
            self._fail(number, path, error)
            return
        finally:
            os.close(descriptor)
        if content is None or not is_same(before, after):
            self.dirty.postpone(number)
            self.backlog.large.add(number)
            return
        self.backlog.forget_failure(number)
        self.dirty.settled(number)
        await self._report_file(as_of, report_of(inode, after, bare.attributes.xattrs, content))

    async def _read(self, inode: Inode, descriptor: int, found: os.stat_result) -> Content | None:
        """The file's content, on its way to the peers; None where it was not of one size."""
        known = inode.content
        if known is not None and (inode.size, inode.mtime_ns) == (found.st_size, found.st_mtime_ns):
            digest = await asyncio.get_running_loop().run_in_executor(self._executor, digest_of, descriptor)
            if digest == known.digest:
                return known
        with self.pace.reading(inode.number) as told:
            pushed = await self._pusher.push_file(descriptor, found.st_size, False, self._peers, told=told)
        if pushed.size != found.st_size:
            return None
        return Content(pushed.digest, pushed.size)

    async def _report_file(self, as_of: int, report: InodeReport) -> None:
        with self._gateway.view() as view:
            if is_known(view.inode(report.inode), report):
                return  # said again, it would have the report of its directory refused, if that was looked at before
        record = Observation(self._gateway.next_id(), self._gateway.zone, as_of, self.rule.number, (), (report,))
        applied = await self._gateway.submit(record, SUBMIT_TIMEOUT_S)
        self.counters.observations += 1
        if applied.outcome.void:
            self.counters.voids += 1
            self.backlog.large.add(report.inode)

    def _fail(self, number: int, path: bytes, error: OSError) -> None:
        self.backlog.fail(number, path, error.errno or 0)
        self.backlog.large.add(number)
