"""Reports on their way into observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lddp.core.codec import size_of
from lddp.core.limits import OBSERVATION_ITEMS_MAX
from lddp.core.records import DirectoryReport, InodeReport
from lddp.migrate.portions import PORTION_BYTES, PORTION_ENTRIES, Pack, split

FIRST_ENTRIES = 256


class Shipment(NamedTuple):
    """Reports that go into one observation, with the bytes that must be on their way before."""

    as_of: int
    directories: tuple[DirectoryReport, ...]
    inodes: tuple[InodeReport, ...]
    pack: Pack


Emit = Callable[[Shipment], None]


class Growth:
    """How large a shipment gets: small at first, so that the other zones soon have something to do, then ever larger,
    because each one costs a round of the log. Threads may share it: a step that is lost does no harm."""

    def __init__(self) -> None:
        self.entries = FIRST_ENTRIES

    @property
    def bytes(self) -> int:
        return PORTION_BYTES * self.entries // PORTION_ENTRIES

    def step(self) -> None:
        self.entries = min(self.entries * 2, PORTION_ENTRIES)


class Batch:
    """Gathers reports until they fill a shipment. In one there is `room` for so many bytes of reports, of which each
    entry and each file takes less."""

    def __init__(self, as_of: int, emit: Emit, token: Callable[[int], bytes], growth: Growth, room: int) -> None:
        self._as_of = as_of
        self._emit = emit
        self._token = token
        self._growth = growth
        self._room = room
        self.pack = Pack(token(16))
        """For the bytes of what is looked at next. What is added may have bytes in one that has just been shipped."""
        self._directories: list[DirectoryReport] = []
        self._inodes: list[InodeReport] = []
        self._items = 0
        self._size = 0

    def add(self, report: DirectoryReport) -> None:
        """Part of a listing. Ships what has become full."""
        for part, size in split(report, self._room):
            self._gather(part, size)
            self._ship_full()

    def add_file(self, report: InodeReport) -> None:
        size = size_of(report)
        self._make_room(1, size)
        self._inodes.append(report)
        self._items += 1
        self._size += size
        self._ship_full()

    def add_all(self, reports: list[DirectoryReport]) -> None:
        """Entries of all before absences of any, also where they do not fit into one shipment."""
        items, sizes = sum(map(_items_of, reports)), list(map(size_of, reports))
        if items + self._items <= 2 * PORTION_ENTRIES and sum(sizes) <= self._room:
            self._make_room(items, sum(sizes))
            for report, size in zip(reports, sizes, strict=True):
                self._gather(report, size)
            return
        for report in reports:
            self.add(report._replace(absent=()))
        for report in reports:
            if report.absent:
                self.add(report._replace(entries=(), attributes=None))

    def _gather(self, report: DirectoryReport, size: int) -> None:
        items = _items_of(report)
        self._make_room(items, size)
        self._directories.append(report)
        self._items += items
        self._size += size

    def _make_room(self, items: int, size: int) -> None:
        if self._size + size > self._room or self._items + items > OBSERVATION_ITEMS_MAX:
            self.ship()

    def _ship_full(self) -> None:
        """A shipment is full before there is no room: what comes next should find its bytes in the same pack."""
        growth = self._growth
        is_full = self._items >= growth.entries or max(self._size, self.pack.size) >= growth.bytes
        if is_full or self._size >= self._room // 2:
            self.ship()

    def ship(self) -> None:
        """Sends off what has been gathered."""
        if self._directories or self._inodes:
            self._emit(Shipment(self._as_of, tuple(self._directories), tuple(self._inodes), self.pack))
            self._growth.step()
            self.pack = Pack(self._token(16))
            self._directories, self._inodes, self._items, self._size = [], [], 0, 0


def _items_of(report: DirectoryReport) -> int:
    return 1 + len(report.entries) + len(report.absent)
