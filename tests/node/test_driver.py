"""What the driver of a migration does when its node has started anew, and when operations change the source's files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lddp.core import effects as e
from lddp.core.records import (
    Attributes,
    ChangeMigration,
    DirectoryReport,
    Kind,
    MigrationAction,
    Observation,
    ObservedEntry,
    Record,
)
from lddp.core.view import View
from lddp.errors import LimitError, UnavailableError
from lddp.migrate.backlog import Backlog
from lddp.node import migration as module
from lddp.node.migration import MigrationDriver
from lddp.node.neighbours import Neighbours
from lddp.node.system import SystemClock
from lddp.replay import outbox
from lddp.replay.outbox import Item
from tests.core.support import SOURCE, Ledger, create_rule, operation_id
from tests.fakes.tables import DictTables


class FakeGateway:
    """Takes records, and shows what the ledger has."""

    clock = SystemClock()
    zone = SOURCE

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.submitted: list[Record] = []

    def next_id(self) -> Any:
        return operation_id(len(self.submitted), b"node")

    async def submit(self, record: Record) -> None:
        self.submitted.append(record)

    @contextmanager
    def view(self) -> Iterator[View]:
        yield self.ledger.view


class FakeEnvironment:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @contextmanager
    def read(self) -> Iterator[DictTables]:
        yield self._ledger.tables


class FakeObserver:
    """A backlog without anybody who works on it."""

    def __init__(self, ledger: Ledger) -> None:
        environment: Any = FakeEnvironment(ledger)
        self.backlog = Backlog(environment, ledger.machine.rules[1], lambda: 0.0)
        self.dirty = self.backlog.dirty
        self.scrub = self.backlog.scrub


def half_scanned() -> Ledger:
    """The top of the tree is only listed in part, and a directory in it as a whole: large ones take many records."""
    ledger = Ledger()
    ledger.apply(create_rule(source=SOURCE))
    rule, attributes = ledger.machine.rules[1], Attributes(0o755, 0, 0, 1)
    first = ObservedEntry(b"first", b"\x01first", Kind.DIRECTORY, attributes)
    for sequence, report in enumerate(
        (
            lambda: DirectoryReport(rule.root, (first,), (), False, None),
            lambda: DirectoryReport(ledger.view.child(rule.root, b"first"), (), (), True, attributes),
        ),
        1,
    ):
        ledger.apply(Observation(operation_id(sequence), SOURCE, ledger.gsn, 1, (report(),), ()))
    return ledger


def driver_of(ledger: Ledger) -> MigrationDriver:
    gateway: Any = FakeGateway(ledger)
    environment: Any = FakeEnvironment(ledger)
    unused: Any = None
    return MigrationDriver(gateway, environment, ledger.machine.rules[1], unused, unused, unused, Neighbours())


async def test_a_start_in_the_middle_of_the_scan_compares_what_was_listed_before() -> None:
    ledger = half_scanned()
    rule = ledger.machine.rules[1]
    observer: Any = FakeObserver(ledger)
    await driver_of(ledger)._catch_up(observer)
    assert observer.dirty.compare == {ledger.view.child(rule.root, b"first")}


async def test_what_operations_change_is_noted() -> None:
    ledger = half_scanned()
    observer: Any = FakeObserver(ledger)
    items = [
        Item((8, 0), 1, e.RenameEffect(5, b"a", b"b", False)),
        Item((9, 0), 1, e.RemoveEffect(6, b"c", False)),
        Item((9, 1), 1, e.ParkEffect(7, b"d")),
        Item((9, 2), 1, e.UnparkEffect(7, b"e")),
        Item((9, 3), 2, e.RemoveEffect(6, b"of another rule", False)),
    ]
    driver_of(ledger)._note_operations(observer, items, 9)
    top = ledger.machine.rules[1].root
    inodes = {(5, b"a"): 8, (5, b"b"): 8, (6, b"c"): 9, (7, b"d"): 9, (7, b"e"): 9}
    names = {(top, b"/" + path): gsn for (_, path), gsn in inodes.items()}
    assert observer.dirty.operated == inodes | names
    assert not observer.backlog.is_idle()


async def test_a_start_glances_at_what_is_done_again() -> None:
    ledger = half_scanned()
    outbox.append(ledger.tables, 9, SOURCE, [e.ScopedEffect(1, e.Scope(), e.RemoveEffect(6, b"c", False))])
    observer: Any = FakeObserver(ledger)
    await driver_of(ledger)._catch_up(observer)
    assert observer.dirty.operated == {(6, b"c"): 9, (ledger.machine.rules[1].root, b"/c"): 9}


class Failing(MigrationDriver):
    """Observes for a moment: then its tasks end with these errors, as an observer's do."""

    def __init__(self, *errors: Exception) -> None:
        ledger = half_scanned()
        ledger.apply(ChangeMigration(operation_id(1, b"admin"), 1, "data", MigrationAction.CREATE))
        ledger.apply(ChangeMigration(operation_id(2, b"admin"), 1, "data", MigrationAction.START))
        unused: Any = None
        super().__init__(
            FakeGateway(ledger),  # type: ignore[arg-type]
            FakeEnvironment(ledger),  # type: ignore[arg-type]
            ledger.machine.rules[1],
            unused,
            unused,
            unused,
            Neighbours(),
        )
        self._errors = list(errors)
        self.again = asyncio.Event()

    async def _active(self) -> None:
        if not self._errors:
            self.again.set()
            await asyncio.Event().wait()
        errors, self._errors = self._errors, []
        raise ExceptionGroup("unhandled errors in a TaskGroup", errors)


async def test_errors_of_lddp_in_several_tasks_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    first = ExceptionGroup("nested", [LimitError("too large")])
    driver = Failing(first, UnavailableError("the observer is stopping"))
    running = asyncio.create_task(driver.run())
    async with asyncio.timeout(10):
        await driver.again.wait()
    assert driver.problem == "too large"
    running.cancel()


async def test_another_error_among_them_is_not() -> None:
    driver = Failing(LimitError("too large"), ValueError("a fault"))
    with pytest.raises(ExceptionGroup, match="unhandled"):
        await driver.run()
