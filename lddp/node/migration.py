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

from lddp.core.namespace import Totals
from lddp.core.records import Barrier, ChangeMigration, MigrationAction, Receipt
from lddp.core.rules import Rule
from lddp.doors.intake import Intake
from lddp.doors.watch import FanotifyWatcher, Watcher, open_watcher
from lddp.errors import LddpError, UnavailableError
from lddp.gateway import Gateway
from lddp.migrate.observer import Observer
from lddp.migrate.verify import Finding
from lddp.ports import KeyValue
from lddp.zones.posix import PosixZone

_log = logging.getLogger(__name__)
VERIFY_ROUNDS = 5
RETRY_S = 1.0
_ACTIVE = ("running", "live")

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
        writers: set[int],
    ) -> None:
        self._gateway = gateway
        self._environment = environment
        self.rule = rule
        self._zone = zone
        self._make_observer = make_observer
        self._survey = survey
        self._writers = writers
        """Processes of other nodes on this host, kept up to date: they write their own zones, never the source."""
        self.observer: Observer | None = None
        self.watcher: Watcher | None = None
        self.intake: Intake | None = None
        self.findings: dict[int, Finding | str] = {}
        self.verifying = False
        self._complete = asyncio.Event()
        self._changed = asyncio.Event()
        self.problem = ""

    def state_changed(self) -> None:
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
        member = self.rule.member(self._gateway.zone)
        assert member is not None, "the source of a rule is a member of it"
        root_path = member.local_path
        observer = self._make_observer(self.rule, self._zone)
        with self._gateway.view() as view:
            root = view.inode(self.rule.root)
        watcher = await open_watcher(root_path)
        if isinstance(watcher, FanotifyWatcher):
            self._writers.add(os.getpid())
            watcher.ignored_processes = self._writers
        handle = self._zone.status(b"").handle
        intake = Intake(self._gateway, self.rule, handle, watcher, observer)
        observer.changes = watcher
        if root is not None and not root.pending:
            observer.scrub()
        self.observer, self.watcher, self.intake = observer, watcher, intake
        self.problem = ""
        tasks = [
            asyncio.create_task(observer.run()),
            asyncio.create_task(intake.run()),
            asyncio.create_task(self._lead()),
            asyncio.create_task(self._until_inactive()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await watcher.stop()
            self.observer = self.watcher = self.intake = None

    async def _until_inactive(self) -> None:
        while self.state() in _ACTIVE:
            self._changed.clear()
            await self._changed.wait()

    async def _lead(self) -> None:
        """From running to live, and from there to the end when it is asked for."""
        assert self.observer is not None
        await self.observer.drained()
        if self.state() == "running":
            await self._change(MigrationAction.LIVE, "")
        while True:
            await self._complete.wait()
            self._complete.clear()
            await self._finish()

    async def _change(self, action: MigrationAction, detail: str) -> None:
        record = ChangeMigration(self._gateway.next_id(), self._gateway.clock.time_ns(), self.rule.name, action, detail)
        await self._gateway.submit(record)

    async def _finish(self) -> None:
        """Compares all zones at a barrier, again while the source goes on changing; then the receipt."""
        assert self.observer is not None
        self.verifying = True
        try:
            for _ in range(VERIFY_ROUNDS):
                await self.observer.drained()
                if self.observer.failures:
                    await self._change(MigrationAction.FAIL, f"{len(self.observer.failures)} paths cannot be read")
                    return
                barrier = Barrier(self._gateway.next_id(), self._gateway.clock.time_ns(), self.rule.name)
                applied = await self._gateway.submit(barrier)
                self.findings = await self._survey(self.rule, applied.gsn)
                if self._agrees():
                    await self._receipt(applied.gsn)
                    await self._change(MigrationAction.COMPLETE, "")
                    return
            await self._change(MigrationAction.FAIL, self._disagreement())
        except UnavailableError as error:
            _log.warning("verification waits: %s", error)
            self._complete.set()
            await asyncio.sleep(RETRY_S)
        finally:
            self.verifying = False

    def _agrees(self) -> bool:
        findings = list(self.findings.values())
        for finding in findings:
            if isinstance(finding, str):
                raise UnavailableError(finding)
        totals = {finding.total for finding in findings if isinstance(finding, Finding)}
        clean = all(isinstance(finding, Finding) and not finding.difference_count for finding in findings)
        return clean and len(totals) == 1

    def _disagreement(self) -> str:
        count = sum(f.difference_count for f in self.findings.values() if isinstance(f, Finding))
        return f"the zones differ in {count} places"

    async def _receipt(self, gsn: int) -> None:
        findings = tuple(
            finding.of_zone(zone) for zone, finding in sorted(self.findings.items()) if isinstance(finding, Finding)
        )
        record = Receipt(self._gateway.next_id(), self._gateway.clock.time_ns(), self.rule.name, gsn, findings)
        with contextlib.suppress(TimeoutError):
            await self._gateway.submit(record)
