"""What a disk may hold of a node's database when its power fails, built from what was written, and opened.

Durable is what a completed sync covers. Of what was written since, the disk may have any part: each write whole, in
sectors, or not at all, in any order.

scripts/crash images --seeds 17
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from blake3 import blake3

from lddp.consensus.journal import RaftJournal
from lddp.consensus.wire import REGULAR, decode_records
from lddp.core.tables import Table, Tables
from lddp.core.view import View
from lddp.replay import outbox
from lddp.replay.checkpoints import read_projected
from lddp.storage.environment import Environment
from tests.crash.expected import Fold
from tests.crash.lone import ECOSYSTEM, HERE, NAME
from tests.crash.points import Patch, Result
from tests.crash.process import Broken, Gate
from tests.crash.process import run as run_apart
from tests.crash.stream import FILES, Acknowledged, Event, Marked, Recording, Sync, Write, record
from tests.fakes.tables import DictTables
from tests.memory import memory_directory

STATE = tuple(table for table in Table if list(Table).index(table) < list(Table).index(Table.LOG))
"""The tables of the replicated state."""
SECTORS = (512, 4096)
MAP_BYTES = 1 << 30
BEGINNING = 60


class Truth(NamedTuple):
    """What the log makes: by GSN, the state's rows in one hash; and the rows of the outbox."""

    log: list[bytes]
    states: list[bytes]
    effects: dict[bytes, bytes]


class Image(NamedTuple):
    """The bytes of each file that must be there; how it was made, and what it must hold."""

    files: dict[str, bytes]
    made: str
    marked: bool
    acknowledged: int


def build(events: Sequence[Event], seed: int) -> Image:
    """An image after some of the events, by chance."""
    chance = Random(seed)
    # More often near the beginning, where the database is being made.
    end = chance.randrange(1 + (BEGINNING if seed % 8 == 0 else len(events)))
    keep = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    torn = chance.choice((0, 0, *SECTORS))
    return _image(events, end, chance, keep, torn)


def prefix(events: Sequence[Event], end: int) -> Image:
    """The image after so many events of a disk that has nothing but what it was told to sync."""
    return _image(events, end, Random(0), 0.0, 0)


def _image(events: Sequence[Event], end: int, chance: Random, keep: float, torn: int) -> Image:
    covered = dict.fromkeys(FILES, 0)
    for event in events[:end]:
        if isinstance(event, Sync):
            covered[event.file] = max(covered[event.file], event.earlier)
    files: dict[str, bytearray] = {}
    # Also of a write during which the power fails, the disk may have a part.
    for number, event in enumerate(events[: end + 1]):
        if not isinstance(event, Write):
            continue
        data = files.setdefault(event.file, bytearray())
        if number < covered[event.file] or (event.durable and number < end):
            _place(data, event.offset, event.data)
        elif torn:
            for at in range(0, len(event.data), torn):
                if chance.random() < keep:
                    _place(data, event.offset + at, event.data[at : at + torn])
        elif chance.random() < keep:
            _place(data, event.offset, event.data)
    acknowledged = [event.records for event in events[:end] if isinstance(event, Acknowledged)]
    marked = any(isinstance(event, Marked) for event in events[:end])
    made = f"{end} of {len(events)} events, {max(covered.values())} covered, {keep:g} kept, torn at {torn}"
    return Image({name: bytes(data) for name, data in files.items()}, made, marked, max(acknowledged, default=0))


def _place(data: bytearray, offset: int, piece: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


def truth(recording: Recording) -> Truth:
    fold = Fold(recording.elsewhere)
    states, effects = [digest(fold.tables)], DictTables()
    for data in recording.log:
        fold.take([data])
        states.append(digest(fold.tables))
        scoped = fold.ledger.effects[-1]
        rules = fold.ledger.machine.rules
        if scoped and scoped[0].rule in rules and rules[scoped[0].rule].member(HERE) is not None:
            outbox.append(effects, fold.gsn, HERE, scoped)
    return Truth(recording.log, states, dict(effects.scan(Table.EFFECTS)))


def digest(tables: Tables) -> bytes:
    """Of every row of the replicated state, but for the GSN alone where nothing was folded."""
    found = blake3()
    for table in STATE:
        for key, value in tables.scan(table):
            for part in (table.value.encode(), key, value):
                found.update(len(part).to_bytes(4, "big") + part)
    return found.digest()


def check(directory: Path, image: Image, known: Truth, marker: bytes) -> None:
    """Opens the image as a node does. AssertionError or an error of ours where it does not hold what it must."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, data in image.files.items():
        (directory / name).write_bytes(data)
    if image.marked:
        (directory / "marker.json").write_bytes(marker)
    with Environment.open(str(directory), ecosystem=ECOSYSTEM, node=NAME, map_size=MAP_BYTES) as environment:
        journal = RaftJournal(environment)
        records: list[bytes] = []
        applied = 0
        for index in range(journal.first, journal.last + 1):
            command, _, _ = journal.entry(index)
            if command[0] == REGULAR:
                records += decode_records(command[1:])
            if index == journal.applied:
                applied = len(records)
        assert len(records) >= image.acknowledged, f"{image.acknowledged} records acknowledged, {len(records)} there"
        assert records == known.log[: len(records)], "the log is another one"
        with environment.read() as tables:
            _check_state(tables, known, applied)


def _check_state(tables: Tables, known: Truth, applied: int) -> None:
    gsn = View(tables).gsn
    assert gsn == applied, f"the state is at {gsn}, the log says {applied}"
    if gsn:
        assert digest(tables) == known.states[gsn], f"the state at {gsn} is not the fold of the log"
    projected = read_projected(tables)[0]
    start, stop = outbox.KEY.pack(projected + 1, 0), outbox.KEY.pack(gsn + 1, 0)
    wanted = {key: value for key, value in known.effects.items() if start <= key < stop}
    there = dict(tables.scan(Table.EFFECTS, start))
    assert there == wanted, f"the outbox between {projected} and {gsn} is another one"
    behind = dict(tables.scan(Table.EFFECTS, b"", start))
    assert behind.items() <= known.effects.items(), f"the outbox before {projected}, not emptied yet, is another one"


def run(seeds: Iterable[int], patch: Patch = lambda: None) -> Result:
    """Builds and opens an image for each seed."""
    recording = record(patch)
    return _open_all(recording, "images", ((seed, build(recording.events, seed)) for seed in seeds))


def run_prefixes(ends: Iterable[int], patch: Patch = lambda: None) -> Result:
    """Opens the image after each of these numbers of events; after every one where none is given."""
    events = (recording := record(patch)).events
    all_ends = list(ends) or range(len(events) + 1)
    return _open_all(recording, "prefixes", ((end, prefix(events, end)) for end in all_ends))


def _open_all(recording: Recording, kind: str, images: Iterable[tuple[int, Image]]) -> Result:
    known = truth(recording)
    directory = Path(tempfile.mkdtemp(prefix="lddp-crash-", dir=memory_directory()))
    done, failures = 0, []
    try:
        for number, image in images:
            done += 1
            if wrong := _check_apart(directory / "data", image, known, recording.marker):
                repeat = f"scripts/crash {kind} --seeds {number}"
                failures.append(f"{kind} {number} ({image.made}): {wrong}\n  {repeat}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Result(f"{kind} of {len(recording.events)} events", done, failures)


def _check_apart(directory: Path, image: Image, known: Truth, marker: bytes) -> str:
    """What is wrong with an image, empty where nothing is. In a process of its own: LMDB ends the one in which it finds
    a file that cannot be."""

    def body(gate: Gate) -> None:
        try:
            check(directory, image, known, marker)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
            gate.tell("wrong", repr(error))

    try:
        return "".join(run_apart(body).of("wrong"))
    except Broken as error:
        return str(error)
