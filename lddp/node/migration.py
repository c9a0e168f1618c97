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
from dataclasses import replace
from functools import partial

from lddp.core.namespace import Totals
from lddp.core.records import Barrier, ChangeMigration, MigrationAction, Receipt
from lddp.core.rules import Rule
from lddp.doors.intake import Intake
from lddp.doors.watch import FanotifyWatcher, Watcher, open_watcher
from lddp.errors import LddpError, UnavailableError
from lddp.gateway import Gateway
from lddp.migrate.observer import Observer
from lddp.migrate.options import MigrationOptions
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
UNSEEN = "the zones have different bytes in files that were changed in part"
_ACTIVE = ("running", "live")
ENDED = ("completed", "aborted", "failed", "stopped")
"""What these ended must be asked for again."""

Survey = Callable[[Rule, int], Awaitable[dict[int, Finding | str]]]
"""(rule, GSN) -> what each member zone found in its files once it was at that GSN, or why it could not."""


def _at_any_pace(rule: Rule) -> Rule:
    options = replace(MigrationOptions.from_bytes(rule.options), bandwidth=0)
    return rule._replace(options=options.to_bytes())


def _expected(raised: Exception) -> LddpError | None:
    """The error of lddp that was raised, if need be the first by several tasks at once; None where any is another."""
    while isinstance(raised, ExceptionGroup):
        if raised.split(LddpError)[1] is not None:
            return None
        raised = raised.exceptions[0]
    return raised if isinstance(raised, LddpError) else None


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
        self.zone = zone
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
        """The log has moved on: `rule` is what it says now. Other options take effect at once; for another bandwidth
        nothing has to be looked at again."""
        if rule != self.rule:
            self._outdated |= _at_any_pace(rule) != _at_any_pace(self.rule)
            self.rule = rule
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
                except (LddpError, ExceptionGroup) as raised:
                    error = _expected(raised)
                    if error is None:
                        raise
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
        observer = self._make_observer(self.rule, self.zone)
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
            handle = self.zone.status(b"").handle
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
        strikes, wrong, self._quiet_s = 0, "", QUIET_S
        while strikes < STRIKES_MAX:
            wrong = await self._compare()
            strikes = strikes + 1 if wrong else 0
            if self.state() not in _ACTIVE:
                return
        await self._change(MigrationAction.FAIL, wrong)

    async def _compare(self) -> str:
        """One comparison. Completes the migration where all agrees; otherwise what differs though the source held
        still, which is looked at again. Nothing where it did not."""
        observer = self.observer
        assert observer is not None
        observer.backlog.try_failed()
        await observer.drained()
        observer.backlog.forget_the_gone()
        changes, digest = observer.counters.changes, self._digest()
        began = self._gateway.clock.monotonic()
        barrier = Barrier(self._gateway.next_id(), self._gateway.clock.time_ns(), self.rule.name)
        applied = await self._gateway.submit(barrier)
        self.findings = await self._survey(self.rule, applied.gsn)
        wrong = self._disagreement()
        # Every zone has answered, and whoever sees what comes of it sees no problem of before.
        self.problem = ""
        if not wrong:
            await self._receipt()
            await self._change(MigrationAction.COMPLETE, "")
            return ""
        await observer.drained()
        if observer.counters.changes != changes or not self._held_still(digest):
            self.problem = SOURCE_IS_BUSY
            await self._quiet(self._gateway.clock.monotonic() - began)
            return ""
        self._look_again()
        await asyncio.sleep(RETRY_S)
        return wrong

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

    def _digest(self) -> bytes:
        with self._gateway.view() as view:
            return view.digest(self.rule.number)

    def _held_still(self, digest: bytes) -> bool:
        """Whether all zones were compared with one state of the namespace, which had this digest before the barrier:
        of what was ordered after that, files may have been compared that had not followed it yet."""
        return {digest} == {finding.namespace_digest for finding in self._found()}

    def _found(self) -> list[Finding]:
        """UnavailableError where a zone could not look."""
        for finding in self.findings.values():
            if isinstance(finding, str):
                raise UnavailableError(finding)
        return [finding for finding in self.findings.values() if isinstance(finding, Finding)]

    def _look_again(self) -> None:
        """What the source has otherwise than the log, though no change of it was seen."""
        finding = self.findings[self._gateway.zone]
        assert self.observer is not None and isinstance(finding, Finding)
        for zone, found in self.findings.items():
            if isinstance(found, Finding):
                for path, what in found.differences[:LOGGED_MAX]:
                    _log.error("zone %d: %r: the %s is not what the log says", zone, path, what)
        self.observer.backlog.distrust([*(path for path, _ in finding.differences), *finding.extraneous])
        unseen = self._differ_unseen()
        if unseen:
            _log.error("rule %s: %s", self.rule.name, UNSEEN)
        if unseen or any(found.difference_count for found in self._found()):
            # A zone that has lost such a file cannot have it made again from what the log says of its bytes.
            self.observer.backlog.doubt_unsealed()

    def _disagreement(self) -> str:
        """What is not as it must be; empty where all zones have what the log says, and it has all."""
        assert self.observer is not None
        count = sum(finding.difference_count for finding in self._found())
        failed = self.observer.backlog.failed
        if failed:
            return f"{len(failed)} paths cannot be read"
        if count:
            return f"the zones differ in {count} places"
        return UNSEEN if self._differ_unseen() else ""

    def _differ_unseen(self) -> bool:
        """Whether each zone has what the log says, as far as it says it, and they differ all the same."""
        found = self._found()
        return len({finding.total for finding in found}) > 1 and not any(one.difference_count for one in found)

    async def _receipt(self) -> None:
        """Its GSN is one at which the log had what was found."""
        gsn = max(finding.gsn for finding in self._found())
        findings = tuple(
            finding.of_zone(zone) for zone, finding in sorted(self.findings.items()) if isinstance(finding, Finding)
        )
        record = Receipt(self._gateway.next_id(), self._gateway.clock.time_ns(), self.rule.name, gsn, findings)
        with contextlib.suppress(TimeoutError):
            await self._gateway.submit(record)
