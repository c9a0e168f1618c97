"""What must hold at every step of a simulation, and what must hold when it has come to rest."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgpack
from blake3 import blake3

from lddp.consensus.wire import Appended, Message, Vote
from lddp.core.codec import decode
from lddp.core.machine import StateMachine
from lddp.core.records import (
    Content,
    Kind,
    Observation,
    OperationId,
    Outcome,
    Record,
    Remove,
    RemoveDirectory,
    Rename,
    Unlink,
)
from lddp.core.tables import Table, Tables
from lddp.core.view import View
from lddp.submissions import Applied
from tests.core.support import tree
from tests.fakes.tables import DictTables
from tests.fakes.zone import FakeZone, Inode
from tests.sim.loop import SimulatedLoop

if TYPE_CHECKING:
    from tests.sim.node import Machine, Node

_LAST = b"simulator: last folded entry"
REPLICATED = tuple(table for table in Table if list(Table).index(table) < list(Table).index(Table.LOG))
Row = tuple[Any, ...]


class Violation(Exception):
    """Something that must hold does not. `counts` are the faults injected until then."""

    counts: dict[str, int]

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.counts = {}


@dataclass
class Call:
    """One operation of a client, from its first attempt to its first answer."""

    record: Record
    began: float
    ended: float = 0.0
    applied: Applied | None = None

    @property
    def id(self) -> OperationId:
        return self.record.id


class Checks:
    """`entries` are the records of every log entry that anybody has folded, in order."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.entries: dict[int, tuple[bytes, ...]] = {}
        self.violation = ""
        self.trace = ""
        self.calls: list[Call] = []
        self.reads = 0
        self._digests: dict[tuple[int, int], tuple[bytes, str]] = {}
        self._acknowledged = 0

    def fail(self, what: str, error: BaseException | None = None) -> None:
        """The first violation counts; the simulation ends at once."""
        if not self.violation:
            self._loop.stopped = True
            self.violation = what
            self.trace = "" if error is None else "".join(traceback.format_exception(error))

    # -- at every step ----------------------------------------------------------------------------------------------

    def folds(self, node: Node, tables: Tables, index: int, records: Sequence[bytes]) -> None:
        """Every node folds the same entries, each once, none left out."""
        last = int.from_bytes(tables.get(Table.LOCAL, _LAST) or b"", "big")
        if index <= last:
            self.fail(f"{node.name} folds entry {index} after {last}")
        if any(between in self.entries for between in range(last + 1, index)):
            self.fail(f"{node.name} folds entry {index} after {last} and leaves some out")
        if self.entries.setdefault(index, tuple(records)) != tuple(records):
            self.fail(f"{node.name} folds another entry {index} than others")
        tables.put(Table.LOCAL, _LAST, index.to_bytes(8, "big"))

    def committed(self, node: Node) -> None:
        """State digests are equal at equal GSN."""
        if node.witness:
            return
        machine = node.gateway.machine
        for number, rule in machine.rules.items():
            digest = machine.digest(rule.name)
            known, name = self._digests.setdefault((machine.gsn, number), (digest, node.name))
            if known != digest:
                self.fail(f"{node.name} and {name} have different states of rule {number} at {machine.gsn}")

    def leaves(self, machine: Machine, peer: str, message: Message) -> None:
        """What a message promises is on the disk when it leaves: a vote, or entries that are said to be there."""
        if not isinstance(message, Vote) and not (isinstance(message, Appended) and message.matched):
            return
        with machine.stored.read() as tables:
            _, *kept_term_and_vote, _, _, _, last, _, era = msgpack.unpackb(tables.get(Table.RAFT, b"state") or b"")
        for frame in machine.stored.wal.read(era):
            first, entries = msgpack.unpackb(frame)
            last = first + len(entries) - 1
        if isinstance(message, Vote):
            kept = tuple(kept_term_and_vote)
            if kept[0] <= message.term and kept != (message.term, peer):  # a later term rules another vote out too
                self.fail(f"{machine.name} votes for {peer} in term {message.term}, and has {kept} on its disk")
        elif last < message.next - 1:
            self.fail(f"{machine.name} says that it has entry {message.next - 1}, and has {last} on its disk")

    def acknowledged(self, call: Call, applied: Applied, now: float) -> None:
        if call.applied is None:
            call.ended, call.applied = now, applied
            self._acknowledged = max(self._acknowledged, applied.gsn)
        elif call.applied != applied:
            self.fail(f"{call.id} was answered with {call.applied} and with {applied}")

    @property
    def acknowledged_gsn(self) -> int:
        """Every read point asked for from now on must cover it."""
        return self._acknowledged

    def read(self, name: str, expected: int, gsn: int) -> None:
        self.reads += 1
        if gsn < expected:
            self.fail(f"a read point at {name} is {gsn}, and {expected} was acknowledged before it was asked for")

    # -- at rest ----------------------------------------------------------------------------------------------------

    def records(self) -> list[bytes]:
        return [record for index in sorted(self.entries) for record in self.entries[index]]

    def check_history(self) -> None:
        """Nothing acknowledged is lost, and the order of the log is one in which it can have happened."""
        records = self.records()
        answered = [call for call in self.calls if call.applied is not None]
        for call in answered:
            assert call.applied is not None
            gsn = call.applied.gsn
            if not 0 < gsn <= len(records) or decode(records[gsn - 1]).id != call.id:
                raise Violation(f"{call.id} was acknowledged at {gsn} and is not there")
        ends = sorted((call.ended, call.applied.gsn) for call in answered if call.applied is not None)
        at = highest = 0
        for call in sorted(answered, key=lambda call: call.began):
            while at < len(ends) and ends[at][0] < call.began:
                highest = max(highest, ends[at][1])
                at += 1
            assert call.applied is not None
            if call.applied.gsn < highest:
                raise Violation(f"{call.id} began after another had ended at {highest} and is at {call.applied.gsn}")

    def _check_answers(self, records: Sequence[Record], outcomes: Sequence[Outcome]) -> None:
        """By what the log gives."""
        decided: dict[OperationId, int] = {}
        for gsn, record in enumerate(records, 1):
            decided.setdefault(record.id, gsn)
        for call in self.calls:
            if call.applied is None:
                continue
            gsn, outcome = call.applied
            if decided.get(call.id) != gsn:
                raise Violation(f"{call.id} was acknowledged at {gsn}, and is at {decided.get(call.id)}")
            if outcomes[gsn - 1] != outcome:
                raise Violation(f"{call.id} was answered {outcome}, and is {outcomes[gsn - 1]}")

    def check_states(self, machines: Sequence[Machine]) -> None:
        """Every node's state is what the log gives when it is folded in one go, each outcome is that of its id, and a
        retry is told where it first took effect."""
        fresh = DictTables()
        folded = StateMachine(fresh)
        merges = Merges(folded, fresh)
        records = [decode(data) for data in self.records()]
        outcomes: list[Outcome] = [merges.apply(record) for record in records]
        folded.flush()
        self._check_answers(records, outcomes)
        wanted = fresh.snapshot()
        for machine in machines:
            assert machine.node is not None
            if machine.node.witness:
                continue
            with machine.node.environment.read() as tables:
                for table in REPLICATED:
                    rows, right = dict(tables.scan(table)), wanted.get(table, {})
                    if rows != right:
                        key = min(key for key in rows.keys() | right.keys() if rows.get(key) != right.get(key))
                        raise Violation(
                            f"table {table} of {machine.name} is not what the log gives: "
                            f"{key!r} is {rows.get(key)!r}, should be {right.get(key)!r}"
                        )


class Merges:
    """Folds records, and sees to it that no observation brings back a name that an operation took away, or another
    observation said to be gone, after the source had looked."""

    def __init__(self, machine: StateMachine, tables: DictTables) -> None:
        self._machine = machine
        self._view = View(tables)
        self._removed: dict[tuple[int, bytes], int] = {}
        """GSN by directory and name."""

    def apply(self, record: Record) -> Outcome:
        self._machine.flush()
        match record:
            case Observation():
                return self._observe(record)
            case Unlink(path=path) | RemoveDirectory(path=path) | Remove(path=path) | Rename(path=path):
                place = self._place(path)
                outcome = self._machine.apply(record)[0]
                self._machine.flush()
                if place is not None and not outcome.errno and not self._view.child(*place):
                    self._removed[place] = self._machine.gsn
                return outcome
            case _:
                return self._machine.apply(record)[0]

    def _place(self, path: bytes) -> tuple[int, bytes] | None:
        above, _, name = path.rpartition(b"/")
        directory = self._view.resolve(above)
        return None if directory is None or not self._view.child(directory.number, name) else (directory.number, name)

    def _observe(self, record: Observation) -> Outcome:
        places = {(report.inode, entry.name) for report in record.directories for entry in report.entries}
        late = {place for place in places if self._removed.get(place, 0) > record.as_of}
        gone = [place for place in sorted(late) if not self._view.child(*place)]
        absent = {(report.inode, name) for report in record.directories for name in report.absent} - places
        there = [place for place in absent if self._view.child(*place)]
        outcome = self._machine.apply(record)[0]
        if gone or there:
            self._machine.flush()
        self._removed |= {place: self._machine.gsn for place in there if not self._view.child(*place)}
        for place in gone:
            if self._view.child(*place):
                raise Violation(f"an observation as of {record.as_of} brings {place} back, which was removed later")
        return outcome


# -- files ----------------------------------------------------------------------------------------------------------


def walk(zone: FakeZone) -> Iterator[tuple[bytes, Inode]]:
    """Every path of a zone with its object, directories before what is in them."""
    todo = [(b"", zone.root)]
    while todo:
        path, inode = todo.pop()
        yield path, inode
        todo += [(path + b"/" + name if path else name, child) for name, child in inode.entries.items()]


def _grouped(rows: Mapping[bytes, tuple[int, Row]]) -> dict[bytes, Row]:
    """Rows with the first name of each object in the place of its number: equal exactly where the links are."""
    firsts: dict[int, bytes] = {}
    for path in sorted(rows):
        firsts.setdefault(rows[path][0], path)
    return {path: (*row, firsts[number]) for path, (number, row) in rows.items()}


def zone_rows(zone: FakeZone) -> dict[bytes, Row]:
    rows: dict[bytes, tuple[int, Row]] = {}
    for path, inode in walk(zone):
        mode = 0o777 if inode.kind is Kind.SYMLINK else inode.attributes.mode
        content = content_of(inode) if inode.kind is Kind.FILE else None
        attributes = inode.attributes._replace(mode=mode)
        rows[path] = inode.number, (inode.kind, attributes, content, inode.target, inode.rdev)
    return _grouped(rows)


def namespace_rows(view: View, root: int) -> dict[bytes, Row]:
    rows: dict[bytes, tuple[int, Row]] = {}
    for path, inode in tree(view, root).items():
        content = identity_of(inode.content, inode.size) if inode.kind is Kind.FILE else None
        rows[path] = inode.number, (inode.kind, inode.attributes, content, inode.target, inode.rdev)
    return _grouped(rows)


def content_of(inode: Inode) -> tuple[int, bytes]:
    """Size and digest of a file's bytes."""
    return len(inode.data), blake3(bytes(inode.data)).digest()


def identity_of(content: Content | None, size: int) -> tuple[int, bytes | None]:
    """Size and digest; None for a digest that is not the hash of the bytes."""
    if content is None:
        return size, b""
    return size, content.digest if content.sealed else None


def difference(found: Mapping[bytes, Row], wanted: Mapping[bytes, Row]) -> str:
    """The first paths that are not as they should be, or nothing."""
    lines = []
    for path in sorted(found.keys() | wanted.keys()):
        one, other = found.get(path), wanted.get(path)
        if one is None or other is None or any(not _same(a, b) for a, b in zip(one, other, strict=True)):
            lines.append(f"{path!r} is {one}, should be {other}")
    return "\n".join(lines[:8])


def _same(found: object, wanted: object) -> bool:
    if isinstance(found, tuple) and isinstance(wanted, tuple) and len(found) == len(wanted) == 2:
        return found[0] == wanted[0] and (wanted[1] is None or found[1] == wanted[1])
    return found == wanted


def check_equal(zones: Mapping[str, FakeZone]) -> None:
    rows = {name: zone_rows(zone) for name, zone in zones.items()}
    for (one, found), (other, wanted) in pairwise(rows.items()):
        different = difference(found, wanted)
        if different:
            raise Violation(f"{one} is not {other}:\n{different}")
