"""What the watcher's events make of a tree that the log knows in part."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lddp.core.records import Attributes, DirectoryReport, Kind, MakeDirectory, Observation, ObservedEntry
from lddp.core.view import View
from lddp.doors.intake import Intake
from lddp.doors.watch import Batch, Event, Flag
from lddp.migrate.dirty import WHOLE, Dirty
from tests.core.support import SOURCE, Ledger, create_rule, operation_id

ROOT, KNOWN, MADE = b"\x01root", b"\x01known", b"\x01made"


def kernel(identity: bytes) -> bytes:
    """A handle as the kernel gives it."""
    return identity[0].to_bytes(4, "little") + identity[1:]


class FakeGateway:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @contextmanager
    def view(self) -> Iterator[View]:
        yield self._ledger.view


class FakeWatcher:
    """Gives one batch, and then waits for ever."""

    def __init__(self, batch: Batch) -> None:
        self._batches = [batch]

    async def batch(self) -> Batch:
        if not self._batches:
            await asyncio.Event().wait()
        return self._batches.pop()


class FakeObserver:
    def __init__(self) -> None:
        self.dirty = Dirty(lambda: 0.0)
        self.changed: set[bytes] = set()
        self.noticed = asyncio.Event()

    def note_changed(self, identity: bytes) -> None:
        self.changed.add(identity)

    async def notice(self) -> None:
        self.noticed.set()


async def taken(*events: Event, observe_only: bool) -> Dirty:
    """What is dirty after these events. The log knows a directory `known`, and `made` by an operation alone."""
    ledger, numbers = Ledger(), itertools.count(1)
    ledger.apply(create_rule(source=SOURCE, observe_only=observe_only))
    rule = ledger.machine.rules[1]
    attributes = Attributes(0o755, 0, 0, 1)
    known = ObservedEntry(b"known", KNOWN, Kind.DIRECTORY, attributes)
    report = DirectoryReport(rule.root, (known,), (), True, attributes)
    ledger.apply(Observation(operation_id(next(numbers)), SOURCE, ledger.gsn, 1, (report,), ()))
    if not observe_only:
        outcome, _ = ledger.apply(MakeDirectory(operation_id(next(numbers)), SOURCE, 1, b"/data/made", 0o755, 0, 0))
        assert not outcome.errno
    observer, gateway = FakeObserver(), FakeGateway(ledger)
    watcher: Any = FakeWatcher(list(events))
    intake = Intake(gateway, rule, ROOT, watcher, observer)  # type: ignore[arg-type]
    running = asyncio.create_task(intake.run())
    await observer.noticed.wait()
    running.cancel()
    assert observer.changed == {_identity(event.target) for event in events if event.target}
    return observer.dirty


def _identity(handle: bytes) -> bytes:
    return handle[:1] + handle[4:]


async def test_a_change_in_a_directory_that_an_operation_made_is_not_dropped() -> None:
    """The log knows the directory, but not by its handle."""
    event = Event(kernel(MADE), b"new", kernel(b"\x01new"), Flag.CREATED)
    dirty = await taken(event, observe_only=False)
    assert dirty.strays == {MADE: {b"new"}, b"\x01new": {b""}}
    assert not dirty.names


async def test_a_directory_that_is_to_be_listed_is_compared_once_it_is_known() -> None:
    dirty = await taken(Event(kernel(MADE), b"", b"", Flag.LIST | Flag.IS_DIRECTORY), observe_only=False)
    assert dirty.strays == {MADE: {b"", WHOLE}}


async def test_a_rename_between_a_known_directory_and_one_that_an_operation_made() -> None:
    event = Event(kernel(KNOWN), b"old", b"", Flag.MOVED, kernel(MADE), b"new")
    dirty = await taken(event, observe_only=False)
    assert dirty.strays == {MADE: {b"new"}}
    assert list(dirty.names.values()) == [{b"old"}]


@pytest.mark.parametrize("flags", [Flag.CREATED, Flag.MODIFIED, Flag.ATTRIBUTES])
async def test_in_a_source_that_is_only_observed_what_is_unknown_is_still_to_be_listed(flags: Flag) -> None:
    dirty = await taken(Event(kernel(MADE), b"new", kernel(b"\x01new"), flags), observe_only=True)
    assert not dirty
