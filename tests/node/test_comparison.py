"""When a comparison at the end of a migration counts against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lddp.core.records import (
    ChangeMigration,
    DirectoryReport,
    MigrationAction,
    Observation,
    ObservedEntry,
    Put,
    Receipt,
    Record,
    Write,
)
from lddp.core.rules import Rule
from lddp.core.values import Attributes, Kind
from lddp.migrate.look import Failure
from lddp.migrate.observer import Counters
from lddp.migrate.verify import Finding
from lddp.node import migration
from lddp.node.migration import SOURCE_IS_BUSY, MigrationDriver
from lddp.node.neighbours import Neighbours
from lddp.submissions import Applied
from tests.core.support import SOURCE, TARGET, Ledger, content, create_rule, operation_id
from tests.node.test_driver import FakeEnvironment, FakeGateway, FakeObserver

ZONES = (SOURCE, TARGET)


class LogGateway(FakeGateway):
    """Everything is ordered at once."""

    async def submit(self, record: Record) -> Applied:  # type: ignore[override]
        self.submitted.append(record)
        outcome, _ = self.ledger.apply(record)
        return Applied(self.ledger.gsn, outcome)


class Watched(FakeObserver):
    """What is to be looked at again is looked at when it is waited for; `readable` says whether the directory that
    could not be read can be by now."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.counters = Counters()
        self.failures = self.backlog.failures
        self.unreadable = ledger.view.child(ledger.machine.rules[1].root, b"d")
        self.readable: Callable[[], bool] = lambda: True
        self.looked_at: set[int] = set()

    async def drained(self) -> None:
        work = self.backlog.take_dirty()
        self.looked_at |= work.files
        self.backlog.busy.clear()
        if self.unreadable in work.names and not self.readable():
            self.fail()

    def fail(self) -> None:
        """Again and again, so that it is not tried for a long time."""
        for _ in range(12):
            self.backlog.fail(self.unreadable, b"d", 13)
        self.dirty.add_name(self.unreadable, b"name")


class Zones:
    """A live migration whose zones' files are as the log says, unless a test says otherwise."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ledger.apply(create_rule(source=SOURCE))
        attributes = Attributes(0o755, 0, 0, 1)
        self.rule = self.ledger.machine.rules[1]
        entry = ObservedEntry(b"d", b"\x01d", Kind.DIRECTORY, attributes)
        report = DirectoryReport(self.rule.root, (entry,), (), True, attributes)
        self.ledger.apply(Observation(operation_id(1), SOURCE, self.ledger.gsn, 1, (report,), ()))
        gateway: Any = LogGateway(self.ledger)
        unused: Any = None
        environment: Any = FakeEnvironment(self.ledger)
        self.driver = MigrationDriver(gateway, environment, self.rule, unused, unused, self._survey, Neighbours())
        self.observer = Watched(self.ledger)
        observer: Any = self.observer
        self.driver.observer = observer
        self.submitted = gateway.submitted
        self.differing = False
        self.surveys = 0
        self.while_comparing: Callable[[], None] = lambda: None
        self._operations = 10

    async def begin(self) -> None:
        for action in (MigrationAction.CREATE, MigrationAction.START, MigrationAction.LIVE):
            await self.driver._change(action, "")

    async def _survey(self, _rule: Rule, gsn: int) -> dict[int, Finding | str]:
        self.surveys += 1
        assert gsn == self.ledger.gsn
        self.while_comparing()
        return {zone: self.finding(zone) for zone in ZONES}

    def finding(self, zone: int) -> Finding:
        digest = self.ledger.view.digest(1)
        finding = Finding(self.ledger.gsn, digest, int.from_bytes(digest, "big"))
        if self.differing and zone == SOURCE:
            finding.differ(b"d", "modification time")
        return finding

    def operate(self) -> None:
        self._operations += 1
        name = b"/data/new %d" % self._operations
        self.ledger.apply(Put(operation_id(self._operations), SOURCE, 1, name, 0o644, 0, 0, content(b"bytes")))

    def change_in_part(self) -> int:
        """The number of a file that an operation has changed so, `file`."""
        head = (SOURCE, 1, b"/data/file")
        self.ledger.apply(Put(operation_id(11), *head, 0o644, 0, 0, content(b"bytes")))
        self.ledger.apply(Write(operation_id(12), *head, 0, content(b"part")))
        return self.ledger.view.child(self.rule.root, b"file")

    @property
    def details(self) -> list[str]:
        changes = [record for record in self.submitted if isinstance(record, ChangeMigration)]
        return [record.detail for record in changes if record.action is MigrationAction.FAIL]


@pytest.fixture
async def zones(monkeypatch: pytest.MonkeyPatch) -> Zones:
    monkeypatch.setattr(migration, "RETRY_S", 0.0)
    monkeypatch.setattr(migration, "QUIET_S", 0.0)
    zones = Zones()
    await zones.begin()
    return zones


async def test_what_could_not_be_read_once_is_tried_before_anything_is_compared(zones: Zones) -> None:
    zones.observer.fail()
    await zones.driver._agree()
    assert zones.driver.state() == "completed"
    assert zones.surveys == 1


async def test_what_becomes_readable_in_the_end_is_no_difference(zones: Zones) -> None:
    """A moment after it was found unreadable for the last time but one."""
    zones.observer.fail()
    zones.observer.readable = lambda: zones.surveys == migration.STRIKES_MAX - 1
    await zones.driver._agree()
    assert zones.driver.state() == "completed"


async def test_what_cannot_be_read_fails_the_migration_and_is_counted(zones: Zones) -> None:
    zones.observer.fail()
    zones.observer.readable = lambda: False
    await zones.driver._agree()
    assert zones.driver.state() == "failed"
    assert zones.details == ["1 paths cannot be read"]
    assert zones.surveys == migration.STRIKES_MAX
    assert zones.observer.failures == {zones.observer.unreadable: Failure(b"d", 13)}


async def test_a_difference_that_stays_fails_the_migration(zones: Zones) -> None:
    zones.differing = True
    await zones.driver._agree()
    assert zones.driver.state() == "failed"
    assert zones.details == ["the zones differ in 1 places"]


async def test_files_that_have_not_followed_what_was_ordered_meanwhile_do_not_differ(zones: Zones) -> None:
    """All zones looked at one state of the namespace, but not at that of the barrier: an operation came after it."""
    problems = []

    def operate() -> None:
        problems.append(zones.driver.problem)
        zones.differing = zones.surveys <= migration.STRIKES_MAX + 2
        if zones.differing:
            zones.operate()

    zones.while_comparing = operate
    await zones.driver._agree()
    assert zones.driver.state() == "completed"
    assert problems[1:] == [SOURCE_IS_BUSY] * (migration.STRIKES_MAX + 2)


async def test_a_receipt_names_a_state_that_was_compared(zones: Zones) -> None:
    """What was ordered during the comparison is in it: all zones had followed already."""
    zones.while_comparing = zones.operate
    await zones.driver._agree()
    (receipt,) = [record for record in zones.submitted if isinstance(record, Receipt)]
    operated = zones.ledger.records.index(receipt) - 1
    assert isinstance(zones.ledger.records[operated], Put)
    assert receipt.gsn == operated + 1
    assert {finding.digest for finding in receipt.findings} == {zones.ledger.view.digest(1)}


async def test_bytes_that_no_digest_tells_are_read_at_the_source(zones: Zones) -> None:
    """A file that was changed in part differs between the zones, and neither can know that it is the wrong one."""
    number, right = zones.change_in_part(), zones.finding

    def finding(zone: int) -> Finding:
        found = right(zone)
        found.total += zone == TARGET
        return found

    zones.finding = finding  # type: ignore[method-assign]
    await zones.driver._agree()
    assert zones.observer.looked_at == {number}
    assert zones.details == ["the zones have different bytes in files that were changed in part"]


async def test_a_zone_that_has_lost_a_file_that_was_changed_in_part_gets_it_from_the_source(zones: Zones) -> None:
    """No digest says what it is to fetch, until the source has read the file."""
    number, right = zones.change_in_part(), zones.finding

    def finding(zone: int) -> Finding:
        found = right(zone)
        if zone == TARGET and number not in zones.observer.looked_at:
            found.differ(b"file", "missing")
        return found

    zones.finding = finding  # type: ignore[method-assign]
    await zones.driver._agree()
    assert zones.driver.state() == "completed"
    assert zones.observer.looked_at == {number}
