"""Everything that a node's database and its write-ahead log write to their files, in order, with what was durable and
acknowledged when."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.crash import process
from tests.crash.cases import CASES, Case, Make, first_records
from tests.crash.lone import Lone, live
from tests.crash.points import Patch
from tests.crash.process import Gate
from tests.crash.syscalls import WRITES
from tests.crash.tracer import Call
from tests.memory import memory_directory

_VECTOR = struct.Struct("=QQ")
_AT_ARGUMENT = {"pwrite64": 3, "pwritev": 3, "pwritev2": 3}
SESSIONS = 3
STEPS = 14
SAID = "said"
FILES = ("data.mdb", "log.wal")


class Write(NamedTuple):
    """Bytes for a place in a file; `durable` where the call returned only when the disk had them."""

    file: str
    offset: int
    data: bytes
    durable: bool


class Sync(NamedTuple):
    """Everything written to the file before is durable from here on. `earlier` says how many events there were when it
    began."""

    file: str
    earlier: int


class Acknowledged(NamedTuple):
    """A client knows that the log has this many records."""

    records: int


class Marked(NamedTuple):
    """The note of whose database it is has its name."""


Event = Write | Sync | Acknowledged | Marked


class Recording(NamedTuple):
    """`log` has the records of the whole log, `elsewhere` the bytes that they only name; `marker` is the note's."""

    events: list[Event]
    log: list[bytes]
    elsewhere: dict[bytes, bytes]
    marker: bytes


class Recorder:
    """Sees the calls of a node."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self._begun: dict[int, tuple[int, int]] = {}
        """By thread: how many events there were, and the position in the file, when its call began."""

    def __call__(self, call: Call) -> bool:
        if call.name in WRITES or call.name in ("fdatasync", "fsync", "msync"):
            self._look(call)
        elif call.name.startswith("rename") and not call.before and self._is_marker(call):
            self._events.append(Marked())
        return False

    @staticmethod
    def _is_marker(call: Call) -> bool:
        to = call.arguments[1 if call.name == "rename" else 3]
        return call.read(to, 4096).split(b"\0")[0].endswith(b"/marker.json")

    def _look(self, call: Call) -> None:
        if call.before:
            self._begun[call.thread] = len(self._events), _position(call)
            return
        earlier, position = self._begun.pop(call.thread, (0, 0))
        assert call.result is not None
        path = call.path()
        file = path.rpartition("/")[2]
        if call.name in WRITES and path.startswith("pipe:"):
            self._acknowledge(call)
        elif file in FILES:
            assert call.name != "msync" and call.result >= 0, call
            if call.name in WRITES:
                offset = call.arguments[_AT_ARGUMENT[call.name]] if call.name in _AT_ARGUMENT else position
                durable = bool(call.flags() & os.O_DSYNC)
                self._events.append(Write(file, offset, _data(call), durable))
            else:
                self._events.append(Sync(file, earlier))

    def _acknowledge(self, call: Call) -> None:
        data = _data(call)
        if data[:1] == b"\x80":
            what, value = pickle.loads(data)
            if what == "acknowledged":
                self._events.append(Acknowledged(value))


def _position(call: Call) -> int:
    try:
        with open(f"/proc/{call.thread}/fdinfo/{call.arguments[0]}") as file:
            return int(file.readline().split()[1])
    except OSError:
        return 0


def _data(call: Call) -> bytes:
    """What a call has written."""
    assert call.result is not None
    if "v" not in call.name:
        return call.read(call.arguments[1], call.result)
    vectors = call.read(call.arguments[1], call.arguments[2] * _VECTOR.size)
    return b"".join(call.read(*vector) for vector in _VECTOR.iter_unpack(vectors))[: call.result]


def record(patch: Patch = lambda: None, seed: int = 0) -> Recording:
    """A node's first start, and some more, with operations of all kinds."""
    directory = Path(tempfile.mkdtemp(prefix="lddp-crash-", dir=memory_directory()))
    chance, events, elsewhere, log = Random(seed), list[Event](), dict[bytes, bytes](), list[bytes]()
    try:
        for session in range(SESSIONS):
            names = ["put-inline", *chance.sample(sorted(CASES), STEPS)]
            first = 1 + session * 100

            def body(gate: Gate, names: list[str] = names, first: int = first) -> None:
                patch()
                gate.arm()
                live(gate, directory, lambda lone: _work(gate, lone, names, first), elsewhere)

            process.run(body, Recorder(events))
            fresh, log = pickle.loads((directory / SAID).read_bytes())
            elsewhere.update(fresh)
        return Recording(events, log, elsewhere, (directory / "data" / "marker.json").read_bytes())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _work(gate: Gate, lone: Lone, names: Iterable[str], first: int) -> None:
    if first == 1:
        await _submit(gate, lone, first_records(Make(lone.directory, 0, lone.elsewhere)))
    for step, name in enumerate(names, first):
        case, make = CASES[name], Make(lone.directory, step, lone.elsewhere)
        before = [make.directory(), *case.before(make), make.put(b"big", 15_000), make.put(b"more", 9_000)]
        await asyncio.gather(_submit(gate, lone, before), _submit(gate, lone, _apart(lone, step)))
        await _operate(gate, lone, case, make)
        if step % 3 == 0:
            await lone.make_durable()
    # Too much for a pipe that nobody reads while this process is traced.
    (lone.directory / SAID).write_bytes(pickle.dumps((lone.elsewhere, lone.log())))


def _apart(lone: Lone, step: int) -> list:  # type: ignore[type-arg]
    """Another client's operations, at the same time."""
    make = Make(lone.directory, step + 5000, lone.elsewhere)
    return [make.directory(), *(make.put(b"f%d" % number, 100) for number in range(step % 20))]


async def _operate(gate: Gate, lone: Lone, case: Case, make: Make) -> None:
    for look in (*case.observed, case.operation):
        with lone.node.gateway.view() as view:
            records = look(make, view)
        await _submit(gate, lone, records)


async def _submit(gate: Gate, lone: Lone, records: list) -> None:  # type: ignore[type-arg]
    answers = await lone.submit(records)
    gate.tell("acknowledged", max(gsn for gsn, _ in answers))
