"""Power cuts: a node's database and zone on a filesystem that loses all that it had not brought to its disk.

The kernel may have written back anything before. The filesystem is shut down at a random system call of the node,
mounted anew, and the node started in what it takes
for another boot of the machine.

scripts/crash cuts --of still --seeds 3
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from lddp.content import suspects
from lddp.core.codec import encode
from lddp.core.records import Observation, ObservedEntry, Record
from lddp.replay import progress
from tests.crash import process, volume
from tests.crash.cases import CASES, Make, first_records
from tests.crash.expected import Fold, differences
from tests.crash.lone import Lone, live
from tests.crash.points import Killer, Patch, Result, state
from tests.crash.process import Broken, Gate, Told
from tests.crash.tracer import Call
from tests.crash.volume import Volume

ROUNDS = 4
STEPS = 8
CALLS_MAX = 300
WRITE_BACKS_MAX = 3
MOVES = tuple(name for name in CASES if name.startswith(("rename", "exchange", "observe-m", "observe-c", "put-and")))
"""Cases after which a name stands for another object than at the last checkpoint."""
STILL = tuple(name for name in CASES if name not in MOVES)


class Settings(NamedTuple):
    """`cases` to choose from; `zone`: whether the files are looked at, too."""

    cases: tuple[str, ...]
    zone: bool


SETTINGS = {"still": Settings(STILL, True), "moves": Settings(MOVES, True), "database": Settings(tuple(CASES), False)}


class Power:
    """One machine's disk, and the node on it, over several boots."""

    def __init__(self, disk: Volume, outside: Path, seed: int, settings: Settings, patch: Patch) -> None:
        self._disk = disk
        self._directory = disk.mounted / "node"
        self._boot = outside / "boot_id"
        self._chance = Random(seed)
        self._settings = settings
        self._patch = patch
        self._elsewhere: dict[bytes, bytes] = {}
        self._fold = Fold(self._elsewhere)
        self._acknowledged: list[Record] = []
        self.boots = 0
        self.where = "nowhere"

    def live_and_cut(self) -> None:
        """Looks at what is there, and goes on until the power is cut."""
        names = tuple(self._chance.choices(self._settings.cases, k=STEPS))
        at = self._chance.randint(1, CALLS_MAX)
        killer = Killer(at)
        waiting = sorted(self._chance.sample(range(at), min(at, self._chance.randrange(WRITE_BACKS_MAX + 1))))

        def see(call: Call) -> bool:
            if not killer(call):
                if waiting and killer.seen >= waiting[0]:
                    waiting.pop(0)
                    self._disk.write_back()
                return False
            self._disk.cut()
            return True

        told = self._start(names, see)
        self.where = killer.where
        if not told.killed:
            self._disk.cut()
        self._disk.end()
        self._disk.begin()

    def look(self) -> None:
        self._start((), lambda _call: False)

    def _start(self, names: tuple[str, ...], see: Any) -> Told:
        self.boots += 1
        self._boot.write_text(f"{self.boots:036d}\n")

        def body(gate: Gate) -> None:
            _become(self._boot)
            self._patch()
            known, first = self._fold.gsn, self.boots * 100
            work = _Work(gate, self._fold.places(), names, known, first, self._settings.zone)
            live(gate, self._directory, work, self._elsewhere)

        told = process.run(body, see)
        self._judge(told.one("found"))
        for fresh in told.of("submitted"):
            self._elsewhere.update(fresh)
        self._acknowledged += [record for records in told.of("acknowledged") for record in records]
        return told

    def _judge(self, found: dict[str, Any]) -> None:
        fold, log = self._fold, found["log"]
        assert not found["survived"], "marks of another boot are believed"
        there = set(log)
        lost = [record for record in self._acknowledged if encode(record) not in there]
        assert not lost, f"{len(lost)} of {len(self._acknowledged)} acknowledged records are lost: {lost[:2]}"
        assert log[: fold.gsn] == fold.log, "the log is another one than that which was there at the last start"
        fold.take(log[fold.gsn :])
        assert found["gsn"] == fold.gsn
        assert found["digests"] == fold.digests(), "the state's digest is not that of the log"
        if self._settings.zone:
            # Nobody makes the files of a rule durable that is gone.
            lines = differences(fold.describe(left=False), found["files"])
            assert not lines, "\n".join(["the zone is not what the log says:", *lines])
            assert not found["parked"], found["parked"]


def _become(boot: Path) -> None:
    """The machine has another boot id from here on, in this process."""
    identity = boot.read_bytes().strip().ljust(36)[:36]
    progress.boot_id = lambda: identity
    suspects.BOOT_ID_PATH = str(boot)


class _Work(NamedTuple):
    """The life of a node between two cuts."""

    gate: Gate
    places: list[bytes]
    names: tuple[str, ...]
    known: int
    first: int
    zone: bool

    async def __call__(self, lone: Lone) -> None:
        survived = lone.node.progress.survived
        if self.zone:
            await lone.settle()
        else:
            await lone.node.gateway.barrier(30.0)
        found = state(lone, self.places if self.zone else None)
        self.gate.tell("found", {**found, "survived": survived, "log": lone.log()})
        if not self.names:
            return
        self.gate.arm()
        if not self.known:
            await self._submit(lone, first_records(Make(lone.directory, 0, lone.elsewhere)))
        for step, name in enumerate(self.names, self.first):
            await self._operate(lone, name, Make(lone.directory, step, lone.elsewhere))
            if step % 4 == 2:
                await lone.make_durable()

    async def _operate(self, lone: Lone, name: str, make: Make) -> None:
        case = CASES[name]
        await self._submit(lone, [make.directory(), *case.before(make)])
        for look in (*case.observed, case.operation):
            with lone.node.gateway.view() as view:
                records = look(make, view)
            await self._submit(lone, records)

    async def _submit(self, lone: Lone, records: list[Record]) -> None:
        # Told before: the records may be in the log although nobody hears so, and what they name must be known.
        contents = [getattr(record, "content", None) for record in records]
        contents += [entry.content for record in records for entry in _entries(record)]
        names = {content.digest for content in contents if content is not None} & lone.elsewhere.keys()
        self.gate.tell("submitted", {name: lone.elsewhere[name] for name in names})
        await lone.submit(records)
        self.gate.tell("acknowledged", records)


def _entries(record: Record) -> list[ObservedEntry]:
    directories = record.directories if isinstance(record, Observation) else ()
    return [entry for report in directories for entry in report.entries]


@contextmanager
def _power(seed: int, settings: Settings, patch: Patch) -> Iterator[Power]:
    with tempfile.TemporaryDirectory(prefix="lddp-crash-") as name, Volume(Path(name)) as disk:
        yield Power(disk, Path(name), seed, settings, patch)


def run(seed: int, of: str = "still", patch: Patch = lambda: None) -> Result:
    """Some cuts of one machine's power, at calls by chance, with settings `of`."""
    with _power(seed, SETTINGS[of], patch) as power:
        try:
            for _ in range(ROUNDS):
                power.live_and_cut()
            power.look()
        except (AssertionError, Broken) as error:
            what = f"seed {seed}, boot {power.boots}, after a cut {power.where}: {error}"
            what += f"\n  scripts/crash cuts --of {of} --seeds {seed}"
            return Result(f"cuts of seed {seed}", power.boots - 1, [what])
    return Result(f"cuts of seed {seed}", ROUNDS, [])


def obstacle() -> str:
    """Why there can be no cuts here."""
    with tempfile.TemporaryDirectory(prefix="lddp-crash-") as name:
        return volume.obstacle(Path(name))
