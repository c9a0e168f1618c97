"""Small histories on few names, and what becomes of them when the power goes: after every change of the zone, and once
more while the zone is brought back.

A history is told in steps of one line, as `rename a d/x`: so a failure can be read, and can be told again. What is
before it is durable.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from lddp.core.machine import StateMachine
from lddp.core.records import (
    Append,
    Record,
    RemoveDirectory,
    Rename,
    RenameFlag,
    SetAttributes,
    Symlink,
    Truncate,
    Write,
)
from lddp.core.tables import Tables
from lddp.errors import StorageError
from lddp.replay import outbox
from lddp.replay import progress as progress_module
from lddp.replay import rewind as rewind_module
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from lddp.replay.progress import Progress
from lddp.replay.projector import Projector
from lddp.replay.retained import Retained
from tests.core.support import TARGET, content, create_rule
from tests.core.zone import Zone
from tests.fakes.memory import MemoryKeyValue
from tests.fakes.power import PowerZone
from tests.fakes.zone import Inode
from tests.replay.bench import RULE, Killed, Strict, Time, describe_model, describe_zone, walk
from tests.replay.campaign import comparable
from tests.replay.contents import Contents
from tests.replay.mortal import MortalFiles
from tests.replay.test_projector import Records

ROUNDS_MAX = 200
STEPS_MAX = 11
MORE_CUTS = 5
"""Cuts that leave any part, mostly of a process that ended on its way."""
NAMES = ("a", "b", "d", "e", "g", "x", "d/e", "d/x", "e/d", "e/x", "g/x", "d/e/x")
DIRECTORIES = ("d", "e", "g", "d/e", "e/d")
_OPERATIONS = (
    *("rename",) * 8,
    *("exchange", "mkdir", "unlink", "put") * 2,
    *("link", "rmdir", "write", "append", "symlink", "mode", "truncate"),
)
EVENTS = ("kill", "checkpoint", "refused")


class Story(NamedTuple):
    """What is durable, and what comes after it, of each at most `most` steps. Every `batch` steps are ordered
    together."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    batch: int = 1
    most: int = STEPS_MAX


def record_of(make: Records, step: str) -> Record:
    what, path, to = (*step.encode().split(b" "), b"")[:3]
    data = content(b"%s %d" % (path, make.count))
    records: dict[bytes, Callable[[], Record]] = {
        b"put": lambda: make.put(path, b"%s %d" % (path, make.count)),
        b"mkdir": lambda: make.directory(path),
        b"unlink": lambda: make.unlink(path),
        b"link": lambda: make.link(path, to),
        b"rename": lambda: make.rename(path, to),
        b"exchange": lambda: Rename(*make.head(path), b"/data/" + to, RenameFlag.EXCHANGE),
        b"rmdir": lambda: RemoveDirectory(*make.head(path)),
        b"symlink": lambda: Symlink(*make.head(path), b"target", 0, 0),
        b"write": lambda: Write(*make.head(path), 1, data),
        b"append": lambda: Append(*make.head(path), data),
        b"truncate": lambda: Truncate(*make.head(path), 2),
        b"mode": lambda: SetAttributes(*make.head(path), 0o600 + make.count % 8),
    }
    return records[what]()


def steps_of(story: Sequence[str]) -> list[str]:
    """`changed a` stands for a file whose bytes nobody but the zone has."""
    found: list[str] = []
    for step in story:
        what, _, path = step.partition(" ")
        found += [f"put {path}", f"append {path}"] if what == "changed" else [step]
    return found


class Prompt(ThreadPoolExecutor):
    """Does its work at once."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it, as in a thread
            future.set_exception(error)
        return future


class FallibleZone(PowerZone):
    """Ends the process before a change when `changes_left` is used up."""

    changes_left = -1

    def walk(self) -> list[tuple[bytes, Inode]]:
        return walk(self)

    def _enter(self, method: str, *paths: bytes, changes: bool = True) -> None:
        if changes and self._replaying is None and self._recording is not None:
            if self.changes_left == 0:
                raise Killed
            self.changes_left -= 1
        super()._enter(method, *paths, changes=changes)


AnyZone = FallibleZone | MortalFiles


class Machine:
    """One machine: its database, its zone, and the process on it, over several boots. `boots` counts those of all."""

    def __init__(
        self, path: str, prompt: Prompt, boots: Iterator[int], zone: AnyZone | None = None, *, is_shared: bool = False
    ) -> None:
        self._path = path
        self._is_shared = is_shared
        self._prompt = prompt
        self._boots = boots
        self._boot = next(boots)
        self._environment = MemoryKeyValue()
        with self._environment.read() as tables:
            self._machine = StateMachine(tables)
        self.zone = FallibleZone() if zone is None else zone
        if isinstance(self.zone, FallibleZone):
            self.zone.tears_attributes = not is_shared
        self.model = Zone(TARGET, RULE)
        self._contents = Contents()
        self._time = Time()
        self._task: asyncio.Task[None] | None = None
        self._make = Records()
        self._gsn = 0

    def begin(self) -> None:
        self._start()
        self._submit(create_rule())

    def twin(self) -> Machine:
        """The same machine at the moment at which its power goes."""
        assert isinstance(self.zone, FallibleZone)
        other = Machine(self._path, self._prompt, self._boots, self.zone.twin(), is_shared=self._is_shared)
        other._environment, other.model = self._environment.copy(), self.model
        other._gsn = self._gsn
        return other

    def _start(self) -> None:
        progress_module.boot_id = lambda: b"%036d" % self._boot
        self._progress = Progress(self._path)
        self.carrier = Carrier(self.zone, OnExisting.OVERWRITE, is_shared=self._is_shared)
        self.projector = Projector(
            self._environment,
            self._transact,
            {RULE: self.carrier},
            self._contents,
            lambda _rule: [],
            self._progress,
            self._time,
            self._prompt,
            sleep=lambda _seconds: asyncio.sleep(0),
        )
        projector = self.projector
        with self._environment.read() as tables:
            projector.retained = retained = Retained(self._contents, lambda _rule: projector.durable, tables)
        self._contents.is_expected = retained.expected.has
        self._task = asyncio.get_running_loop().create_task(projector.run())

    def _transact(self, change: Callable[[Tables], None]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._environment.write() as tables:
            change(tables)
        future.set_result(None)
        return future

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._progress.close()
            self._task = None

    def _submit(self, record: Record) -> bool:
        with self._environment.write() as tables:
            self._machine.bind(tables)
            outcome, effects = self._machine.apply(record)
            items = outbox.append(tables, self._machine.gsn, TARGET, effects)
            self._machine.flush()
        self._gsn = self._machine.gsn
        self.model.apply_all(list(effects))
        assert self.projector.retained is not None
        self.projector.retained.expected.expect(items)
        self.projector.offer(items, self._machine.gsn)
        self.projector.poke()
        return outcome.errno == 0

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Until it is so; Killed where the process ended before."""
        assert self._task is not None
        for _ in range(ROUNDS_MAX):
            if condition():
                return
            if self._task.done():
                try:
                    self._task.result()
                except StorageError as error:  # its zone could not write
                    raise Killed from error
            await asyncio.sleep(0)
        raise AssertionError(f"it never ends: {self.projector.stopped} {self.projector._waiting}")

    async def carried(self) -> None:
        await self._until(lambda: self.projector.projected >= self._gsn)

    async def settled(self) -> None:
        await self.carried()
        checkpoint = asyncio.get_running_loop().create_task(self.projector.checkpoint())
        try:
            await self._until(checkpoint.done)
        finally:
            checkpoint.cancel()
            await asyncio.gather(checkpoint, return_exceptions=True)

    async def play(self, steps: Sequence[str], batch: int, most: int = STEPS_MAX) -> list[str]:
        """Carries steps out, and leaves out what is not possible; the ones that were taken, at most `most`."""
        taken: list[str] = []
        waiting = 0
        for step in steps:
            if len(taken) == most:
                break
            if step in EVENTS:
                await self._befall(step)
                taken.append(step)
            elif self._submit(record_of(self._make, step)):
                taken.append(step)
                waiting += 1
            if waiting >= batch:
                waiting = 0
                await self.carried()
        await self.carried()
        return taken

    async def _befall(self, event: str) -> None:
        await self.carried()
        if event == "kill":
            await self.end()
            self._start()
            return
        if event == "refused":
            self.zone.fail(5, method="sync", times=1)
        self._time.now += 1000.0
        self.projector.poke()
        for _ in range(5):
            await asyncio.sleep(0)
        self.zone.heal()
        assert self._task is not None
        if event == "refused" and self._task.done():
            assert isinstance(self._task.exception(), StorageError)
            await self.end()  # which makes somebody start it again
            self._start()
        await self.carried()

    async def boot(self, random: Random, prefix: int | None, changes_max: int = -1) -> None:
        """Power goes and comes back. With `changes_max` the process ends after so many changes of its zone."""
        assert isinstance(self.zone, FallibleZone)
        await self.end()
        self.zone.changes_left = -1
        self.zone.cut(random, prefix)
        self.zone.changes_left = changes_max
        self.again()

    def lose_power(self, random: Random, prefix: int | None) -> None:
        """Power goes; the process has ended before."""
        assert isinstance(self.zone, FallibleZone)
        self.zone.cut(random, prefix)

    def again(self) -> None:
        """The machine starts."""
        self._boot = next(self._boots)
        self._start()

    def assert_equal(self) -> None:
        found, wanted = comparable(describe_zone(self.zone.walk())), comparable(describe_model(self.model))
        differing = [
            f"{path!r}: {found.get(path)}, not {wanted.get(path)}"
            for path in sorted(found.keys() | wanted.keys())
            if found.get(path) != wanted.get(path)
        ]
        assert not differing, "\n".join(["the zone is not the namespace:", *differing])
        assert not self.zone.parked, f"parked: {self.zone.parked}"
        assert not self.carrier.drift, f"drift: {self.carrier.drift}"
        with self._environment.read() as tables:
            assert outbox.count_after(tables, (0, 0), 1) == 0, "the outbox keeps what is durable"


class Played(NamedTuple):
    """`cuts` counts recoveries; `failure` is empty where every one of them was right."""

    story: Story
    cuts: int
    syncs: int
    failure: str = ""


class Stage:
    """Plays stories, one after the other, in one loop; at a shared tree, which programs change, too, if they do."""

    def __init__(self, directory: Path, *, is_shared: bool = False) -> None:
        self._is_shared = is_shared
        self._path = str(directory / "progress")
        self._prompt = Prompt()
        self._boots = itertools.count(1)

    async def played(self, story: Story, dies_at: int = -1) -> tuple[Machine, Story, int]:
        """With `dies_at`, everything is ordered at once, and the process ends at that change of the zone."""
        machine = self.machine()
        machine.begin()
        before = await machine.play(steps_of(story.before), 1, story.most)
        await machine.settled()
        syncs = machine.zone.syncs
        assert isinstance(machine.zone, FallibleZone)
        machine.zone.changes_left = dies_at
        batch = story.batch if dies_at < 0 else len(story.after) + 1
        try:
            after = await machine.play(story.after, batch, story.most)
        except Killed:
            after = list(story.after)
        finally:
            await machine.end()
        return machine, story._replace(before=tuple(before), after=tuple(after)), machine.zone.syncs - syncs

    async def play(self, story: Story, seed: int) -> Played:
        """A cut after each change of the zone and some where any part may be left; each of them followed by a second
        one."""
        random = Random(f"small {seed}")
        cuts = 0
        whole, taken, syncs = await self.played(story)
        assert isinstance(whole.zone, FallibleZone)
        changes = len(whole.zone.changes)
        for prefix in range(changes + 1 + MORE_CUTS):
            kept = prefix if prefix <= changes else None
            dies_at = -1 if kept is not None else random.randrange(changes + 1)
            machine = whole.twin() if kept is not None else (await self.played(taken, dies_at))[0]
            second = random.randrange(12) if prefix % 3 else -1
            where = f"ended at {dies_at}, cut after {kept} of {changes} changes, and once more {second} changes later"
            try:
                cuts += await self._recover(machine, Random(f"{seed} {prefix}"), kept, second)
                machine.assert_equal()
            except (AssertionError, LookupError, OSError) as error:
                return Played(taken, cuts, syncs, f"{where}: {type(error).__name__} {error}")
            finally:
                await machine.end()
        return Played(taken, cuts, syncs)

    async def _recover(self, machine: Machine, random: Random, prefix: int | None, second: int) -> int:
        await machine.boot(random, prefix, second)
        try:
            await machine.settled()
            return 1
        except Killed:
            assert isinstance(machine.zone, FallibleZone)
            await machine.boot(random, None if random.random() < 0.7 else len(machine.zone.changes))
        await machine.settled()
        return 2

    def machine(self, zone: AnyZone | None = None) -> Machine:
        return Machine(self._path, self._prompt, self._boots, zone, is_shared=self._is_shared)

    def run(self, work: Callable[[], Any]) -> Any:
        async def inner() -> Any:
            asyncio.get_running_loop().set_default_executor(self._prompt)
            return await work()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(progress_module, "MARKS_MAX", 512)
            patch.setattr(progress_module, "boot_id", progress_module.boot_id)
            patch.setattr(rewind_module, "_log", Strict())
            return asyncio.run(inner())


def make_story(seed: int) -> Story:
    """The same one for a seed, every time. It has steps that are not possible, which are left out."""
    random = Random(f"small story {seed}")
    before: list[str] = []
    for path in random.sample(DIRECTORIES, random.randrange(4)):
        before += [f"mkdir {path.rpartition('/')[0]}", f"mkdir {path}"] if "/" in path else [f"mkdir {path}"]
    for path in random.sample(NAMES, random.randrange(1, 4)):
        before.append(f"{random.choice(['changed', 'changed', 'changed', 'symlink'])} {path}")
    if random.random() < 0.4:
        before.append(f"link {random.choice(NAMES)} {random.choice(NAMES)}")
    after = [_step(random) for _ in range(random.randrange(12, 45))]
    if random.random() < 0.25:
        after.insert(random.randrange(len(after)), random.choice(EVENTS))
    return Story(tuple(dict.fromkeys(before)), tuple(after), random.choice([1, 1, 2, 3, 99]))


def _step(random: Random) -> str:
    what = random.choice(_OPERATIONS)
    if what in ("mkdir", "rmdir"):
        return f"{what} {random.choice(DIRECTORIES)}"
    if what in ("rename", "exchange", "link"):
        return f"{what} {' '.join(random.sample(NAMES, 2))}"
    return f"{what} {random.choice(NAMES)}"


async def shorten(story: Story, fails: Callable[[Story], Any]) -> Story:
    """The same failure with as few steps as possible."""
    found = story
    while True:
        for shorter in _shorter(found):
            if await fails(shorter):
                found = shorter
                break
        else:
            return found


def _shorter(story: Story) -> list[Story]:
    found = [story._replace(after=story.after[:at] + story.after[at + 1 :]) for at in range(len(story.after))]
    found += [story._replace(before=story.before[:at] + story.before[at + 1 :]) for at in range(len(story.before))]
    return found if story.batch == 1 else [story._replace(batch=1), *found]
