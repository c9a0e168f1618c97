"""Drives the migration of one rule at its source: watches, scans, follows changes, and proves the end.

The state is in the log; this only brings about what the state says. A node that takes over after a crash reads the
state and goes on from the pending inodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial

from lddp.core.namespace import Totals
from lddp.core.records import Barrier, ChangeMigration, MigrationAction, Receipt
from lddp.core.rules import Rule
from lddp.doors.intake import Intake
from lddp.doors.watch import FanotifyWatcher, Watcher, open_watcher
from lddp.errors import LddpError, UnavailableError
from lddp.gateway import Gateway
from lddp.migrate.observer import Observer
from lddp.migrate.verify import Finding
from lddp.node.neighbours import Neighbours
from lddp.ports import KeyValue
from lddp.replay import outbox
from lddp.replay.outbox import Item
from lddp.zones.posix import PosixZone

_log = logging.getLogger(__name__)
STRIKES_MAX = 4
"""How often the zones may differ, one time after the other, while the source holds still."""
QUIET_S = 0.5
QUIET_S_MAX = 10.0
RETRY_S = 1.0
LOGGED_MAX = 20
EFFECTS_MAX = 1_000_000
SOURCE_IS_BUSY = "the source keeps changing; it is compared as soon as it holds still"
_ACTIVE = ("running", "live")
ENDED = ("completed", "aborted", "failed", "stopped")
"""What these ended must be asked for again."""

Survey = Callable[[Rule, int], Awaitable[dict[int, Finding | str]]]
"""(rule, GSN) -> what each member zone found in its files once it was at that GSN, or why it could not."""


class MigrationDriver:
    """One rule whose source is this node's zone."""

    def __init__(
        self,
        gateway: Gateway,
        environment: KeyValue,
        rule: Rule,
        zone: PosixZone,
        make_observer: Callable[[Rule, PosixZone], Observer],
        survey: Survey,
        neighbours: Neighbours,
    ) -> None:
        self._gateway = gateway
        self._environment = environment
        self.rule = rule
        self._zone = zone
        self._make_observer = make_observer
        self._survey = survey
        self._neighbours = neighbours
        self.observer: Observer | None = None
        self.watcher: Watcher | None = None
        self.intake: Intake | None = None
        self.findings: dict[int, Finding | str] = {}
        self.verifying = False
        self._complete = asyncio.Event()
        self._changed = asyncio.Event()
        self.problem = ""
        self._outdated = False
        self._quiet_s = QUIET_S

    def follow(self, rule: Rule) -> None:
        """The log has moved on: `rule` is what it says now. Other options take effect at once."""
        if rule != self.rule:
            self.rule, self._outdated = rule, True
        # Here, before anybody can hear of the end and begin something new.
        if self._complete.is_set() and self.state() in ENDED:
            self._complete.clear()
        self._changed.set()

    def complete(self) -> None:
        """Somebody asks for the end: drain, compare, write the receipt."""
        self._complete.set()

    def state(self) -> str:
        with self._gateway.view() as view:
            migration = view.migration(self.rule.number)
        return "" if migration is None else migration.state

    def totals(self) -> Totals:
        with self._gateway.view() as view:
            return view.totals(self.rule.number)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            if self.state() in _ACTIVE:
                try:
                    await self._active()
                except LddpError as error:
                    self.problem = str(error)
                    _log.error("the migration of rule %s waits: %s", self.rule.name, error)
                    await asyncio.sleep(RETRY_S)
            else:
                await self._changed.wait()

    async def _active(self) -> None:
        """Observes as long as the state asks for it."""
        self._outdated = False
        member = self.rule.member(self._gateway.zone)
        assert member is not None, "the source of a rule is a member of it"
        root_path = member.local_path
        observer = self._make_observer(self.rule, self._zone)
        watcher = await open_watcher(root_path)
        if isinstance(watcher, FanotifyWatcher):
            self._neighbours.processes.add(os.getpid())
            watcher.ignored_processes = self._neighbours.processes
            self._neighbours.on_scratch.append(watcher.leave_out)
            for directory in self._neighbours.scratch:
                watcher.leave_out(directory)
        tasks: list[asyncio.Task[None]] = []
        note = partial(self._note_operations, observer)
        self._gateway.on_effects.append(note)
        try:
            await self._catch_up(observer)
            handle = self._zone.status(b"").handle
            intake = Intake(self._gateway, self.rule, handle, watcher, observer)
            observer.changes = watcher
            self.observer, self.watcher, self.intake = observer, watcher, intake
            self.problem = ""
            parts = (observer.run(), intake.run(), self._lead(), self._until_inactive())
            tasks += [asyncio.create_task(part) for part in parts]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                # Also where this is cancelled once more: the kernel would keep events for nobody, without a limit.
                self._gateway.on_effects.remove(note)
                if isinstance(watcher, FanotifyWatcher):
                    self._neighbours.on_scratch.remove(watcher.leave_out)
                await watcher.stop()
                self.observer = self.watcher = self.intake = None

    def doubt(self, number: int) -> None:
        """A file, perhaps of this rule, does not have the bytes that its times promise: it is read again."""
        if self.observer is not None:
            self.observer.doubt(number)

    def _note_operations(self, observer: Observer, items: list[Item], _gsn: int) -> None:
        """Operations have changed what the source's files follow in their time."""
        if self.rule.observe_only:
            return
        with self._gateway.view() as view:
            for item in items:
                effect, gsn = item.effect, item.order[0]
                if item.rule != self.rule.number:
                    continue
                for path in {getattr(effect, "path", b""), getattr(effect, "to", b"")} - {b""}:
                    observer.dirty.add_operated(effect.inode, path, gsn)
                    parent, reached = view.descend(self.rule.root, path)
                    if reached == path:
                        # A program may have moved the directory: then the path leads elsewhere, and soon in the log.
                        observer.dirty.add_operated_name(parent, path.rpartition(b"/")[2], gsn)

    async def _catch_up(self, observer: Observer) -> None:
        """What changed while nobody watched is found by comparing every listed directory; first everything that an
        earlier start of this node reported must be in the log, or its directories would be left out."""
        await self._gateway.submit(Barrier(self._gateway.next_id(), self._gateway.clock.time_ns(), self.rule.name))
        if not self.rule.observe_only:
            # What an earlier start of this node had not made durable, it may do again: over what programs did since.
            with self._environment.read() as tables:
                self._note_operations(observer, outbox.read(tables, (0, 0), EFFECTS_MAX), 0)
        observer.scrub()

    async def _until_inactive(self) -> None:
        while self.state() in _ACTIVE and not self._outdated:
            self._changed.clear()
            await self._changed.wait()

    async def _lead(self) -> None:
        """From running to live, and from there to the end when it is asked for."""
        assert self.observer is not None
        await self.observer.scanned()
        if self.state() == "running":
            await self._change(MigrationAction.LIVE, "")
        while self.state() in _ACTIVE:
            await self._complete.wait()  # and still set while the end is sought: this may be cancelled and begun anew
            await self._finish()

    async def _change(self, action: MigrationAction, detail: str) -> None:
        record = ChangeMigration(self._gateway.next_id(), self._gateway.clock.time_ns(), self.rule.name, action, detail)
        await self._gateway.submit(record)

    async def _finish(self) -> None:
        """Compares all zones at a barrier, again while the source goes on changing; then the receipt."""
        self.verifying = True
        try:
            await self._agree()
            self.problem = ""
        except UnavailableError as error:
            self.problem = f"verification waits: {error}"
            _log.warning("%s", self.problem)
            await asyncio.sleep(RETRY_S)
        finally:
            self.verifying = False

    async def _agree(self) -> None:
        """Compares until all is equal, or so often different that it has failed."""
        strikes, self._quiet_s = 0, QUIET_S
        while strikes < STRIKES_MAX:
            strikes = strikes + 1 if await self._compare() else 0
            if self.state() not in _ACTIVE:
                return
        await self._change(MigrationAction.FAIL, self._disagreement())

    async def _compare(self) -> bool:
        """One comparison. Completes the migration where all agrees; otherwise whether they differ though the source
        held still. What differs is looked at again."""
        observer = self.observer
        assert observer is not None
        await observer.drained()
        observer.backlog.forget_the_gone()
        changes = observer.counters.changes
        began = self._gateway.clock.monotonic()
        barrier = Barrier(self._gateway.next_id(), self._gateway.clock.time_ns(), self.rule.name)
        applied = await self._gateway.submit(barrier)
        self.findings = await self._survey(self.rule, applied.gsn)
        agree = self._agrees()
        # Every zone has answered, and whoever sees what comes of it sees no problem of before.
        self.problem = ""
        if agree and not observer.failures:
            await self._receipt(applied.gsn)
            await self._change(MigrationAction.COMPLETE, "")
            return False
        await observer.drained()
        if observer.counters.changes != changes or not self._same_state():
            self.problem = SOURCE_IS_BUSY
            await self._quiet(self._gateway.clock.monotonic() - began)
            return False
        self._look_again()
        await asyncio.sleep(RETRY_S)
        return True

    async def _quiet(self, comparison_s: float) -> None:
        """Until nothing has changed the source for a while: longer each time, because a comparison that is disturbed
        was for nothing, but no longer than a comparison takes."""
        assert self.observer is not None
        clock = self._gateway.clock
        quiet_s = min(self._quiet_s, max(QUIET_S, comparison_s))
        self._quiet_s = min(self._quiet_s * 2, QUIET_S_MAX)
        since, changes = clock.monotonic(), self.observer.counters.changes
        while clock.monotonic() - since < quiet_s:
            await asyncio.sleep(QUIET_S)
            await self.observer.drained()
            if self.observer.counters.changes != changes:
                since, changes = clock.monotonic(), self.observer.counters.changes

    def _same_state(self) -> bool:
        """Whether all zones were compared with the same state of the namespace."""
        return len({f.namespace_digest for f in self.findings.values() if isinstance(f, Finding)}) == 1

    def _look_again(self) -> None:
        """What the source has otherwise than the log, though no change of it was seen."""
        finding = self.findings[self._gateway.zone]
        assert self.observer is not None and isinstance(finding, Finding)
        for zone, found in self.findings.items():
            if isinstance(found, Finding):
                for path, what in found.differences[:LOGGED_MAX]:
                    _log.error("zone %d: %r: the %s is not what the log says", zone, path, what)
        self.observer.backlog.distrust([*(path for path, _ in finding.differences), *finding.extraneous])

    def _agrees(self) -> bool:
        findings = list(self.findings.values())
        for finding in findings:
            if isinstance(finding, str):
                raise UnavailableError(finding)
        totals = {finding.total for finding in findings if isinstance(finding, Finding)}
        clean = all(isinstance(finding, Finding) and not finding.difference_count for finding in findings)
        return clean and len(totals) == 1

    def _disagreement(self) -> str:
        if self.observer is not None and self.observer.failures:
            return f"{len(self.observer.failures)} paths cannot be read"
        count = sum(f.difference_count for f in self.findings.values() if isinstance(f, Finding))
        return f"the zones differ in {count} places"

    async def _receipt(self, gsn: int) -> None:
        findings = tuple(
            finding.of_zone(zone) for zone, finding in sorted(self.findings.items()) if isinstance(finding, Finding)
        )
        record = Receipt(self._gateway.next_id(), self._gateway.clock.time_ns(), self.rule.name, gsn, findings)
        with contextlib.suppress(TimeoutError):
            await self._gateway.submit(record)
