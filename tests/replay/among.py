"""Small histories at a tree that a program changes, too: before the power goes, and once more before the node starts
again. Whatever the recovery does, what the program has made stays: every file has the bytes that it had, and a name."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import NamedTuple

from lddp.core.records import Attributes, Kind
from tests.fakes.zone import Bytes, Inode
from tests.replay.small import NAMES, FallibleZone, Killed, Machine, Stage, Story, walk

TIME_NS = 77_000
"""Of the program's files: the log gives none of these."""


class Program:
    """What it does, in words, and what is to be there afterwards."""

    def __init__(self, zone: FallibleZone, random: Random) -> None:
        self._zone = zone
        self._random = random
        self.done: list[str] = []
        self._count = 0

    def act(self, times: int) -> None:
        for _ in range(times):
            what = self._random.choice(["make", "make", "write", "mkdir", "move", "move", "remove"])
            try:
                getattr(self, f"_{what}")(*self._random.sample(self._paths(), 2))
            except OSError:
                continue  # not possible there

    def _paths(self) -> list[bytes]:
        return sorted({*(path.encode() for path in NAMES), *(path for path, _ in walk(self._zone) if path)})

    def _attributes(self, mode: int) -> Attributes:
        self._count += 1
        return Attributes(mode, 0, 0, TIME_NS + self._count)

    def _make(self, path: bytes, _other: bytes) -> None:
        if self._zone.status(path.rpartition(b"/")[0]).kind is not Kind.DIRECTORY or self._is_directory(path):
            return
        attributes = self._attributes(0o644)
        self._zone.put_file(path, attributes, Bytes(b"program's %d" % attributes.mtime_ns))
        self.done.append(f"make {path!r}")

    def _write(self, path: bytes, _other: bytes) -> None:
        status, attributes = self._zone.status(path), self._attributes(0o644)
        if status.kind is Kind.FILE and status.mtime_ns >= TIME_NS:
            data = b"program's %d" % attributes.mtime_ns
            self._zone.write(path, 0, Bytes(data), max(status.size, len(data)), attributes)
            self.done.append(f"write {path!r}")

    def _mkdir(self, path: bytes, _other: bytes) -> None:
        if not self._is_there(path):
            self._zone.make_directory(path, self._attributes(0o755))
            self.done.append(f"mkdir {path!r}")

    def _move(self, path: bytes, other: bytes) -> None:
        if self._is_there(path) and not self._is_there(other):
            self._zone.rename(path, other)
            self.done.append(f"move {path!r} {other!r}")

    def _remove(self, path: bytes, _other: bytes) -> None:
        if self._is_there(path) and not (self._is_directory(path) and self._zone.list(path)):
            self._zone.remove(path)
            self.done.append(f"remove {path!r}")

    def _is_there(self, path: bytes) -> bool:
        return any(found == path for found, _ in walk(self._zone))

    def _is_directory(self, path: bytes) -> bool:
        return any(found == path and inode.kind is Kind.DIRECTORY for found, inode in walk(self._zone))


class Outcome(NamedTuple):
    """`failure` is empty where nothing of the program was lost."""

    files: int
    """Of the program, that were there when the node started again."""
    failure: str = ""


def programs_files(zone: FallibleZone) -> dict[int, Inode]:
    return {
        inode.number: inode
        for _, inode in walk(zone)
        if inode.kind is Kind.FILE and inode.attributes.mtime_ns >= TIME_NS
    }


async def play_among(stage: Stage, story: Story, seed: int) -> Outcome:
    """The program does something once all of the story is carried out, and before the next start; then the power goes
    once more, in the middle of that start or not."""
    random = Random(f"among {seed}")
    machine, _, _ = await stage.played(story)
    zone = machine.zone
    assert isinstance(zone, FallibleZone)
    zone.changes_left = -1
    program = Program(zone, random)
    program.act(random.randrange(6))
    machine.lose_power(random, None if random.random() < 0.5 else len(zone.changes))
    program.act(random.randrange(6))
    zone.sync()
    wanted = {number: bytes(inode.data) for number, inode in programs_files(zone).items()}
    zone.changes_left = random.choice([-1, random.randrange(12)])
    machine.again()
    try:
        try:
            await machine.settled()
        except Killed:
            await machine.boot(random, len(zone.changes))
            await machine.settled()
        failure = _lost(machine, wanted)
    except (AssertionError, LookupError, OSError) as error:
        failure = f"{type(error).__name__} {error}"
    finally:
        await machine.end()
    return Outcome(len(wanted), f"seed {seed}: {failure}, {program.done}, {story}" if failure else "")


def _lost(machine: Machine, wanted: dict[int, bytes]) -> str:
    zone = machine.zone
    assert isinstance(zone, FallibleZone)
    found = {number: bytes(inode.data) for number, inode in programs_files(zone).items()}
    lost = [number for number, data in wanted.items() if found.get(number) != data]
    if lost:
        return f"lost or changed: {[(number, wanted[number], found.get(number)) for number in lost]}"
    return f"parked: {sorted(zone.parked)}" if zone.parked else ""


def play(directory: Path, story: Story, seed: int) -> Outcome:
    stage = Stage(directory, is_shared=True)
    outcome: Outcome = stage.run(lambda: play_among(stage, story, seed))
    return outcome
