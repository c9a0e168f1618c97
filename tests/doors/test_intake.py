"""What the watcher's events make of a tree that the log knows in part."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lddp.core.records import Attributes, DirectoryReport, Kind, MakeDirectory, Observation, ObservedEntry
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.doors.intake import Intake
from lddp.doors.watch import Batch, Event, Flag
from lddp.migrate.backlog import Backlog, Round, numbers_of
from lddp.migrate.batch import Shipment
from lddp.migrate.dirty import WHOLE, Dirty
from lddp.ports import Status
from tests.core.support import SOURCE, Ledger, content, create_rule, operation_id
from tests.migrate.world import World

ROOT, KNOWN, FILE, MADE = b"\x01root", b"\x01known", b"\x01file", b"\x01made"


def kernel(identity: bytes) -> bytes:
    """A handle as the kernel gives it."""
    return identity[0].to_bytes(4, "little") + identity[1:]


class FakeGateway:
    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view

    @contextmanager
    def view(self) -> Iterator[View]:
        yield self._view()


class FakeWatcher:
    """Gives one batch, and then waits for ever."""

    def __init__(self, batch: Batch) -> None:
        self._batches = [batch]

    async def batch(self) -> Batch:
        if not self._batches:
            await asyncio.Event().wait()
        return self._batches.pop()


class FakeObserver:
    def __init__(self, dirty: Dirty) -> None:
        self.dirty = dirty
        self.changed: set[bytes] = set()
        self.noticed = asyncio.Event()

    def note_changed(self, identity: bytes) -> None:
        self.changed.add(identity)

    async def notice(self) -> None:
        self.noticed.set()


async def take(view: Callable[[], View], rule: Rule, dirty: Dirty, events: Sequence[Event]) -> set[bytes]:
    """Feeds events to an intake; identities of what it says has changed while it may be reported."""
    observer, watcher = FakeObserver(dirty), FakeWatcher(list(events))
    running = asyncio.create_task(Intake(FakeGateway(view), rule, ROOT, watcher, observer).run())  # type: ignore[arg-type]
    await observer.noticed.wait()
    running.cancel()
    return observer.changed


async def taken(*events: Event, observe_only: bool = True, by_name: Collection[bytes] = ()) -> Dirty:
    """What is dirty after these events. The log knows a directory `known`, a file `file`, and `made` by an operation
    alone; `by_name` are known to have changed though no event has them."""
    ledger, numbers = Ledger(), itertools.count(1)
    ledger.apply(create_rule(source=SOURCE, observe_only=observe_only))
    rule = ledger.machine.rules[1]
    attributes = Attributes(0o755, 0, 0, 1)
    known = ObservedEntry(b"known", KNOWN, Kind.DIRECTORY, attributes)
    file = ObservedEntry(b"file", FILE, Kind.FILE, attributes, 5, content(b"bytes"))
    report = DirectoryReport(rule.root, (known, file), (), True, attributes)
    ledger.apply(Observation(operation_id(next(numbers)), SOURCE, ledger.gsn, 1, (report,), ()))
    if not observe_only:
        outcome, _ = ledger.apply(MakeDirectory(operation_id(next(numbers)), SOURCE, 1, b"/data/made", 0o755, 0, 0))
        assert not outcome.errno
    dirty = Dirty(lambda: 0.0)
    changed = await take(lambda: ledger.view, rule, dirty, events)
    assert changed == {_identity(event.target) for event in events if event.target} | set(by_name)
    assert dirty.files <= {ledger.view.child(rule.root, b"file")}
    return dirty


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


@pytest.mark.parametrize("flags", [Flag.MODIFIED, Flag.CLOSED_WRITE, Flag.ATTRIBUTES, Flag.CREATED | Flag.MODIFIED])
async def test_a_file_that_was_changed_by_name_is_read_whatever_its_times_say(flags: Flag) -> None:
    dirty = await taken(Event(kernel(ROOT), b"file", b"", flags), by_name={FILE})
    assert len(dirty.files) == 1
    assert dirty.written == dirty.names and list(dirty.names.values()) == [{b"file"}]


@pytest.mark.parametrize("name", [b"new", b"known"])
async def test_so_is_what_has_the_name_when_it_is_looked_at(name: bytes) -> None:
    dirty = await taken(Event(kernel(ROOT), name, b"", Flag.MODIFIED))
    assert not dirty.files
    assert dirty.written == dirty.names and list(dirty.names.values()) == [{name}]


@pytest.mark.parametrize(
    "event",
    [
        Event(kernel(ROOT), b"file", b"", Flag.CREATED),
        Event(kernel(ROOT), b"file", b"", Flag.MOVED, kernel(ROOT), b"new"),
        Event(kernel(ROOT), b"new", kernel(b"\x01new"), Flag.MODIFIED),
        Event(kernel(ROOT), b"", b"", Flag.ATTRIBUTES | Flag.IS_DIRECTORY),
    ],
)
async def test_what_cannot_have_changed_bytes_of_a_known_file_makes_nobody_read_them(event: Event) -> None:
    dirty = await taken(event)
    assert dirty.names and not dirty.files and not dirty.written


class Coarse:
    """A source whose clock stands still: a file's times and size are those that it had when it was first looked at.
    Its watcher knows names alone."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(directory)
        self.world.scan()
        self.backlog = Backlog(self.world.environment, self.world.rule, lambda: 0.0)
        self._seen: dict[bytes, Status] = {}
        self._status = self.world.source_zone.status
        monkeypatch.setattr(self.world.source_zone, "status", self._as_seen)

    def _as_seen(self, path: bytes) -> Status:
        found = self._status(path)
        return found if found.kind is Kind.DIRECTORY else self._seen.setdefault(found.handle, found)

    def write(self, name: str, data: bytes) -> None:
        (self.world.source / name).write_bytes(data)

    async def tell(self, *events: tuple[str, Flag]) -> None:
        found = [Event(kernel(ROOT), os.fsencode(name), b"", flags) for name, flags in events]
        await take(self.world.view, self.world.rule, self.backlog.dirty, found)

    def look(self) -> tuple[Round, list[Shipment]]:
        """A round whose reports are on their way."""
        work, shipments = self.backlog.take_dirty(), list[Shipment]()
        this = self.backlog.begin(numbers_of(work))
        left = self.world.rounds.look(work, shipments.append)
        self.backlog.dirty.put_back(left.again)
        return this, shipments

    def fold(self, this: Round, shipments: list[Shipment]) -> None:
        for shipment in shipments:
            self.world.ship(shipment)
        self.backlog.end(this)

    def rest(self) -> None:
        while self.backlog.dirty:
            self.fold(*self.look())

    def copied(self, name: str) -> bytes:
        return (self.world.target / name).read_bytes()


@pytest.fixture
def coarse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coarse]:
    made = Coarse(tmp_path, monkeypatch)
    yield made
    made.world.close()


async def test_bytes_written_twice_in_one_tick_of_the_clock_are_read_again(coarse: Coarse) -> None:
    coarse.write("a", b"once")
    await coarse.tell(("a", Flag.CREATED | Flag.MODIFIED))
    coarse.rest()
    coarse.write("a", b"more")
    await coarse.tell(("a", Flag.MODIFIED))
    coarse.rest()
    assert coarse.copied("a") == b"more"


@pytest.mark.parametrize("before", ["nothing", "another file"])
async def test_so_are_those_of_a_file_that_is_on_its_way_to_the_log(coarse: Coarse, before: str) -> None:
    """The log has nothing by its name yet, or another file."""
    if before == "another file":
        coarse.write("a", b"first")
        await coarse.tell(("a", Flag.CREATED | Flag.MODIFIED))
        coarse.rest()
    coarse.write("b", b"once")
    os.rename(coarse.world.source / "b", coarse.world.source / "a")
    await coarse.tell(("a", Flag.MOVED))
    on_its_way = coarse.look()
    coarse.write("a", b"more")
    await coarse.tell(("a", Flag.MODIFIED))
    coarse.fold(*coarse.look())  # which has to leave the name alone
    coarse.fold(*on_its_way)
    coarse.rest()
    assert coarse.copied("a") == b"more"


async def test_so_are_those_of_a_file_that_has_lost_the_name_since_and_has_another(coarse: Coarse) -> None:
    """That it has lost it is on its way to the log when the watcher tells of the writing."""
    coarse.write("a", b"once")
    os.link(coarse.world.source / "a", coarse.world.source / "other")
    await coarse.tell(("a", Flag.CREATED | Flag.MODIFIED), ("other", Flag.CREATED))
    coarse.rest()
    coarse.write("a", b"more")
    (coarse.world.source / "a").unlink()
    coarse.backlog.dirty.add_name(coarse.world.rule.root, b"a")
    on_its_way = coarse.look()
    await coarse.tell(("a", Flag.MODIFIED), ("a", Flag.REMOVED))
    coarse.fold(*on_its_way)
    coarse.rest()
    assert not (coarse.world.target / "a").exists()
    assert coarse.copied("other") == b"more"


async def test_a_file_that_was_changed_by_name_is_read_once(coarse: Coarse, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse.write("a", b"once")
    await coarse.tell(("a", Flag.CREATED | Flag.MODIFIED))
    coarse.rest()
    monkeypatch.undo()
    coarse.write("a", b"and more")
    await coarse.tell(("a", Flag.MODIFIED), ("a", Flag.CLOSED_WRITE))
    this, (shipment,) = coarse.look()
    assert [entry.name for report in shipment.directories for entry in report.entries] == [b"a"]
    assert not shipment.inodes
    coarse.fold(this, [shipment])
    assert coarse.copied("a") == b"and more" and not coarse.backlog.dirty
