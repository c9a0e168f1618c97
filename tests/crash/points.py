"""A node is killed at every system call between a record's submission and its durable projection, and started again.

Each step is one process: it starts on what the kill before has left, brings the zone up to date, tells what is there,
does again what may not have been acknowledged, prepares the next operation, and dies in it, one call later than the
step before. So what was acknowledged at any step is looked at again in all that follow.

scripts/crash points --case rename-chain --points 17
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from lddp.core.codec import encode
from lddp.core.records import Observation, Record
from lddp.core.view import View
from tests.crash import process
from tests.crash.cases import Case, Make, first_records
from tests.crash.expected import Fold, describe_files, differences
from tests.crash.lone import Lone, live
from tests.crash.process import Broken, Gate, Told
from tests.crash.syscalls import WRITES, changes
from tests.crash.tracer import Call
from tests.memory import memory_directory

DATABASE = "/data.mdb"
LIVES = 16
"""How often a node is killed in one directory: every life has more to look at."""


class Result(NamedTuple):
    """What became of one case. `failures` say how to repeat them."""

    case: str
    points: int
    failures: list[str]


class Killer:
    """Ends a process at the `at`-th moment before or after a call that changes something; 0: never."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.seen = 0
        self.where = "at the end"

    def __call__(self, call: Call) -> bool:
        if not changes(call.name, call.arguments) or (call.name in WRITES and not self._counts(call)):
            return False
        self.seen += 1
        if self.seen != self._left:
            return False
        self.where = f"{'before' if call.before else 'after'} {call.name}"
        return True

    @staticmethod
    def _counts(call: Call) -> bool:
        """Whether this is a write to a file. Nothing happens between one to the database and the call before it."""
        return call.is_to_a_file() and not (call.before and call.path().endswith(DATABASE))


class Step(NamedTuple):
    """What one process does. `unsure` is the batch that the one before may not have got an answer to."""

    number: int
    unsure: list[Record]
    act: bool
    known: int
    """How many records of the log are known."""


Patch = Callable[[], None]
"""What makes a mutant of the node."""


class Chain:
    """One case in a directory of its own. `patch` is run in each process before its node is made."""

    def __init__(self, case: Case, directory: Path, patch: Patch = lambda: None) -> None:
        self._case = case
        self._directory = directory
        self._patch = patch
        self._elsewhere: dict[bytes, bytes] = {}
        self._fold = Fold(self._elsewhere)
        self._unsure: list[Record] = []
        self._acknowledged = False
        self._steps = 0

    def kill(self, at: int) -> tuple[bool, str]:
        """Looks at what is there, and dies in the next operation at point `at` (0: after all of it). Whether it died
        there, and where that was. AssertionError or Broken where something is not as it must be."""
        return self._run(at, act=True)

    def look(self) -> None:
        """Looks at what is there, and no more."""
        self._run(0, act=False)

    def kill_again(self, at: int) -> tuple[bool, str]:
        """Dies at point `at` of starting on what is there, with nothing else to do."""
        killer = Killer(at)

        def body(gate: Gate) -> None:
            self._patch()
            gate.arm()
            live(gate, self._directory, Lone.settle, self._elsewhere, workers=self._case.workers)

        told = process.run(body, killer)
        return told.killed, killer.where

    def _run(self, at: int, *, act: bool) -> tuple[bool, str]:
        self._steps += 1
        step = Step(self._steps, self._unsure, act, self._fold.gsn)
        # The bytes of the coming records are needed here too.
        make = Make(self._directory, step.number, self._elsewhere)
        killer = Killer(at)
        told = process.run(lambda gate: self._live(gate, step, make), killer)
        self._judge_start(told)
        if not act:
            return False, ""
        records, fresh = told.one("operation")
        self._elsewhere.update(fresh)
        self._fold.take(told.one("prepared"))
        self._unsure = records
        self._acknowledged = bool(told.of("acknowledged"))
        assert told.killed or self._acknowledged
        return told.killed, killer.where

    # -- in the process ---------------------------------------------------------------------------------------------

    def _live(self, gate: Gate, step: Step, make: Make) -> None:
        self._patch()
        live(
            gate,
            self._directory,
            lambda lone: _work(gate, lone, self._case, step, make, self._fold.places()),
            self._elsewhere,
            workers=self._case.workers,
        )

    # -- judging ----------------------------------------------------------------------------------------------------

    def _judge_start(self, told: Told) -> None:
        """Nothing acknowledged is lost, nothing is there twice, and the zone is what the log says."""
        fold = self._fold
        found: dict[str, Any] = told.one("found")
        assert found["before"] == fold.log, "the log that was there is not there any more"
        fold.take(found["log"])
        present = {fold.log.index(encode(record)) for record in self._unsure if encode(record) in fold.log}
        if self._acknowledged:
            assert len(present) == len(self._unsure), "an acknowledged record is not in the log"
        _judge(fold, found)
        repeated = told.one("repeated")
        fold.take(repeated["log"])
        for record, (gsn, outcome) in zip(self._unsure, repeated["answers"], strict=True):
            if not isinstance(record, Observation):
                assert gsn == fold.first[record.id], f"{type(record).__name__} took effect at {gsn} again"
                assert outcome == fold.outcome(gsn), (record, outcome)
        _judge(fold, repeated)


def _judge(fold: Fold, found: dict[str, Any]) -> None:
    assert found["gsn"] == fold.gsn, "the state is not that of the log"
    assert found["digests"] == fold.digests(), "the state's digest is not that of the log"
    lines = differences(fold.describe(), found["files"])
    assert not lines, "\n".join(["the zone is not what the log says:", *lines])
    assert not found["parked"], found["parked"]
    assert not found["drift"], found["drift"]


async def _work(gate: Gate, lone: Lone, case: Case, step: Step, make: Make, places: list[bytes]) -> None:
    """The life of one step; `places` are the trees to be described."""
    await lone.settle()
    log = lone.log()
    gate.tell("found", {**state(lone, places), "before": log[: step.known], "log": log[step.known :]})
    answers = await lone.submit(step.unsure) if step.unsure else []
    await lone.settle()
    gate.tell("repeated", {**state(lone, places), "answers": answers, "log": lone.log()[len(log) :]})
    if not step.act:
        return
    length = len(lone.log())
    known = set(lone.elsewhere)
    await _prepare(lone, case, make)
    with lone.node.gateway.view() as view:
        records = case.operation(make, view)
    fresh = {key: lone.elsewhere[key] for key in lone.elsewhere.keys() - known}
    gate.tell("operation", (records, fresh))
    gate.tell("prepared", lone.log()[length:])
    gate.arm()
    await lone.submit(records)
    gate.tell("acknowledged")
    await lone.make_durable()


async def _prepare(lone: Lone, case: Case, make: Make) -> None:
    if make.step == 1:
        await lone.submit_done(first_records(make))
    await lone.submit_done([make.directory(), *case.before(make)])
    for look in case.observed:
        with lone.node.gateway.view() as view:
            records = look(make, view)
        await lone.submit_done(records)
    await lone.settle()


def state(lone: Lone, places: list[bytes] | None) -> dict[str, Any]:
    """What is in the database and on the disk now; with None, files are not looked at."""
    node = lone.node
    with node.environment.read() as tables:
        view = View(tables)
        gsn, digests = view.gsn, {rule.number: view.digest(rule.number) for rule in view.rules()}
        roots = [member.local_path for rule in view.rules() for member in rule.members if member.zone == 2]
    return {
        "gsn": gsn,
        "digests": digests,
        "files": {} if places is None else {place: describe_files(place) for place in {*places, *roots}},
        "parked": [path.name for path in node.config.staging_directory.glob("rule-*/parked/*")],
        "drift": [path for carrier in node.trees.carriers.values() for path in carrier.drift],
    }


# -- whole cases ------------------------------------------------------------------------------------------------------


@contextmanager
def chain(case: Case, patch: Patch = lambda: None, inside: Path | None = None) -> Iterator[Chain]:
    """In a directory that is gone afterwards, below `inside` or where temporary files are."""
    directory = Path(tempfile.mkdtemp(prefix="lddp-crash-", dir=inside))
    try:
        yield Chain(case, directory, patch)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(case: Case, points: Iterable[int] | None = None, patch: Patch = lambda: None) -> Result:
    """Kills at these points one after the other, or at all that there are. Ends at the first failure. In memory where
    that is possible: a kill takes nothing from a filesystem of either kind. Starts that are killed are on a disk."""
    done, last, where = 0, 0, "nowhere"
    waiting = count(1) if points is None else iter(points)
    while part := list(islice(waiting, LIVES)):
        with chain(case, patch, memory_directory()) as links:
            try:
                for at in part:
                    killed, there = links.kill(at)
                    last, where = at, there
                    done += killed
                    if not killed:
                        break
                links.look()
            except (AssertionError, Broken) as error:
                repeat = f"scripts/crash points --case {case.name} --points {part[0]}-{max(last, part[0])}"
                return Result(case.name, done, [f"{case.name}, killed at point {last}, {where}: {error}\n  {repeat}"])
        if not killed:
            break
    return Result(case.name, done, [])


def run_twice(case: Case, first: int, again: Iterable[int], patch: Patch = lambda: None) -> Result:
    """Kills at point `first` of the operation, and then at these points of the start that follows."""
    done, where = 0, ""
    with chain(case, patch) as links:
        try:
            for at in again:
                _, there = links.kill(first)
                killed, second = links.kill_again(at)
                where = f"{first}, {there}, and {at} of the next start, {second}"
                done += killed
                if not killed:
                    break
            links.look()
        except (AssertionError, Broken) as error:
            repeat = f"scripts/crash again --case {case.name} --points {first}"
            return Result(case.name, done, [f"{case.name}, killed at point {where}: {error}\n  {repeat}"])
    return Result(case.name, done, [])
