"""One random history, carried out by production code on a zone in memory while bytes come late or never, the process is
killed, the machine loses its power, both are started again, syncs take their time and the tree is opened late. In the
end the zone is the namespace."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lddp.core import effects as e
from lddp.core.machine import StateMachine
from lddp.core.records import Attributes, Kind, Record
from lddp.core.tables import Tables
from lddp.core.view import View
from lddp.errors import StorageError, UnavailableError
from lddp.replay import checkpoints as checkpoints_module
from lddp.replay import outbox
from lddp.replay import progress as progress_module
from lddp.replay import projector as projector_module
from lddp.replay import rewind as rewind_module
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from lddp.replay.progress import Progress
from lddp.replay.retained import Retained
from tests.core.support import TARGET, with_bytes
from tests.core.zone import Thing, Zone, paths_of
from tests.crash.volume import Volume
from tests.fakes.memory import MemoryKeyValue
from tests.fakes.zone import Inode
from tests.replay.bench import PATIENCE_S, RULE, Inline, Strict, Time, Wait, describe_model, describe_zone
from tests.replay.contents import Contents
from tests.replay.histories import make_history
from tests.replay.mortal import Death, MortalCarrier, MortalFiles, MortalZone, Slow, Told, WatchedProjector, brief

ROUNDS_MAX = 400


class Campaign:
    """`happened` tells what was done, for who reads a failure."""

    def __init__(self, directory: Path, seed: int, real: bool, volume: Volume | None = None) -> None:
        self.random = Random(f"campaign {seed}")
        self.history = make_history(seed)
        self.path = str(directory / f"progress-{seed}")
        self.environment = MemoryKeyValue()
        with self.environment.read() as tables:
            self.machine = StateMachine(tables)
        self.death = Death()
        self.volume = volume
        self.has_power = True
        self.files = directory / str(seed) if volume is None else volume.mounted / str(seed)
        self.zone = MortalFiles(self.death, self.files) if real else MortalZone(self.death)
        self.model = Zone(TARGET, RULE)
        self.contents = Contents()
        self.time = Time()
        self.slow = Slow()
        self.told = Told()
        self.happened = self.told.happened
        self.items: list[outbox.Item] = []
        self.kills = 0
        self.compared = 0
        self.looked = 0
        self.task: asyncio.Task[None] | None = None
        self.others: list[asyncio.Task[Any]] = []
        self.comparing: asyncio.Task[None] | None = None
        self.policy = self.random.choice([OnExisting.OVERWRITE, OnExisting.SKIP_IDENTICAL])
        self.may_be_late = self.random.random() < 0.3
        self.killing = self.random.choice([0.0, 0.02, 0.1])
        self.cutting = 0.0 if real and volume is None else self.random.choice([0.0, 0.5, 1.0])
        """Share of the kills that are power cuts."""
        self.losing_power = self.random.choice([0.02, 0.1, 0.3]) if self.cutting else 0.0
        self.pace_s = self.random.choice([1.5, 0.3, 0.05])
        self.cuts = 0
        self.cut_through = 0
        """GSN up to which the zone holds more or less than what was carried out."""

    # -- processes --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.death.revive()
        self.wait = Wait()
        self.progress = Progress(self.path)
        self.carrier = MortalCarrier(self.zone, self.policy, self.death, self.told)
        self.carriers: dict[int, Carrier] = {}
        if not (self.may_be_late and self.random.random() < 0.5):
            self.carriers[RULE] = self.carrier
        self.projector = WatchedProjector(
            self.environment,
            self._transact,
            self.carriers,
            self.contents,
            lambda _rule: ["elsewhere"],
            self.progress,
            self.time,
            Inline(),
            sleep=self.wait,
        )
        projector = self.projector
        projector.look = self._look
        projector.awaits = lambda rule: rule not in self.carriers
        with self.environment.read() as tables:
            projector.retained = retained = Retained(self.contents, lambda _rule: projector.durable, tables)
        self.contents.is_expected = retained.expected.has
        self.task = asyncio.get_running_loop().create_task(projector.run())

    def _transact(self, change: Callable[[Tables], None]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.death.point()
        with self.environment.write() as tables:
            change(tables)
        self.death.point()
        future.set_result(None)
        return future

    async def restart(self, cut: bool = False, *, lost: bool = False) -> None:
        """As after a kill or a power cut: what was in memory is gone. `lost`: the filesystem could not write what it
        had taken, and said so."""
        self.death.dead = True
        await self.end()
        self.happened.append("-- killed")
        self.kills += 1
        self.contents.restart()
        if cut or not self.has_power or self.random.random() < self.cutting:
            self.cut()
        elif lost and not isinstance(self.zone, MortalFiles):
            self.happened += ["-- lost, but for", *(f"   {change}" for change in self.zone.cut(self.random))]
            self.cut_through = self.machine.gsn
        for key in sorted(self.contents.blobs):
            if self.random.random() < 0.3:  # it was in memory
                del self.contents.blobs[key]
        self.start()

    def cut(self) -> None:
        """The power goes: what is synced stays, the database with it."""
        if isinstance(self.zone, MortalFiles):
            self.happened.append("-- power cut")
            self._cut_volume(self.zone)
        else:
            self.happened += ["-- power cut, which leaves", *(f"   {change}" for change in self.zone.cut(self.random))]
        self.cuts += 1
        self.cut_through = self.machine.gsn
        if self.random.random() < 0.3:
            Path(self.path).write_bytes(self.random.randbytes(self.random.choice([0, 100, 5000])))

    def _cut_volume(self, zone: MortalFiles) -> None:
        assert self.volume is not None
        self.lose_power()
        zone.close()
        self.volume.end()
        self.volume.begin()
        self.has_power = True
        self.zone = MortalFiles(self.death, self.files)
        self.zone.discard_leftovers()

    def lose_power(self) -> None:
        """Nothing more reaches the disk, but the process lives on for a while."""
        if self.volume is not None and self.has_power:
            self.happened.append("-- no power")
            self.has_power = False
            self.volume.cut()

    async def end(self) -> None:
        tasks = [task for task in (self.task, *self.others) if task is not None]
        for task in tasks:
            task.cancel()
        self.slow.end()  # the process is gone, and its threads with it
        await asyncio.gather(*tasks, return_exceptions=True)
        self.others.clear()
        self.slow.end()
        assert not self.carrier.drift, f"drift: {self.carrier.drift}"
        self.progress.close()

    # -- what happens -----------------------------------------------------------------------------------------------

    def submit(self, record: Record) -> None:
        with self.environment.write() as tables:
            self.machine.bind(tables)
            _, effects = self.machine.apply(record)
            items = outbox.append(tables, self.machine.gsn, TARGET, effects)
            self.machine.flush()
        self.items += items
        self.happened.append(f"{self.machine.gsn}: {type(record).__name__}")
        self.happened += [f"   {item.order} {brief(item.effect)}" for item in items]
        self.model.apply_all([with_bytes(effect, self.history.data) for effect in effects])
        assert self.projector.retained is not None
        self.projector.retained.expected.expect(items)
        self.projector.offer(items, self.machine.gsn)
        self.projector.poke()

    def _compare(self, view: View) -> None:
        """Called at a moment when the files are as the view says."""
        assert view.gsn == self.machine.gsn
        if RULE not in self.carriers or not self.has_power:
            return
        self.happened.append("-- compared")
        self.compared += 1
        self.assert_equal()

    def _look(self) -> None:
        """What was carried out so far makes a tree, with holes where files wait for their bytes."""
        if (
            not self.has_power
            or self.random.random() > 0.1
            or self.death.dead
            or self.told.unmarked
            or RULE not in self.carriers
        ):
            return
        if self.projector.projected < self.cut_through:
            return
        model, stale = Zone(TARGET, RULE), list[Thing]()
        for item in self.items:
            if item.order[0] > self.projector.durable and item.order not in self.projector._done:
                continue
            model.apply(with_bytes(e.ScopedEffect(RULE, e.Scope(), item.effect), self.history.data).effect)
            if isinstance(item.effect, e.PutFileEffect) and item.effect in self.told.passed_over:
                stale.append(model.find(item.effect.path, item.effect.inode))
        self.looked += 1
        assert_holds(self.zone.walk(), model, stale)

    def answer(self, generous: float) -> None:
        """Some of the fetches under way end."""
        for asked in list(self.contents.asked):
            digest = asked.content.digest
            have = self.random.random() < (0.1 if digest in self.history.gone else generous)
            if asked.answer.done():
                continue
            if have:
                self.happened.append(f"-- {digest.hex()[:6]} comes")
                asked.answer.set_result(self.history.data[digest])
            else:
                self.happened.append(f"-- {digest.hex()[:6]} is not to be had")
                asked.answer.set_exception(UnavailableError("nobody has it"))

    async def act(self) -> None:
        random, draw = self.random, self.random.random()
        loop = asyncio.get_running_loop()
        self.time.now += random.random() * 2 * self.pace_s
        if random.random() < self.losing_power:
            if self.volume is None or random.random() < 0.5:
                await self.restart(cut=True)
            else:
                self.lose_power()
        elif self.volume is not None and not self.has_power and random.random() < 0.3:
            await self.restart(cut=True)
        elif self.volume is not None and self.has_power and random.random() < 0.05:
            self.happened.append("-- written back")
            self.volume.write_back()
        elif draw < 0.3:
            self.answer(0.5)
            await self.wait.go()
        elif draw < 0.45:
            self.slow.work()
        elif draw < 0.5:
            self.others.append(loop.create_task(self.projector.checkpoint()))
        elif draw < 0.55 and (self.comparing is None or self.comparing.done()):
            # One at a time: a read transaction of the database in memory is no snapshot.
            self.comparing = loop.create_task(self.projector.exclusively(self._compare))
            self.others.append(self.comparing)
        elif draw < 0.6 and RULE not in self.carriers:
            self.open()
        elif draw < 0.6 + self.killing:
            self.death.arm(random.randrange(1, random.choice([4, 40])))
        elif draw > 0.97:
            method = random.choice(["put_file", "link", "rename", "park", "remove", "set_attributes", "sync", ""])
            self.zone.fail(errno.ENOSPC, method=method, times=random.randrange(1, 3))
        for _ in range(random.choice([0, 2, 20])):
            await asyncio.sleep(0)
        await self.check_alive()

    def open(self) -> None:
        self.happened.append("-- opened")
        self.carriers[RULE] = self.carrier
        self.projector.poke()

    async def check_alive(self) -> None:
        assert self.task is not None
        for task in [task for task in self.others if task.done()]:
            self.others.remove(task)
            if not task.cancelled() and not self.death.dead:
                task.result()
        if self.death.dead:
            await self.restart()
        elif self.task.done() and isinstance(self.task.exception(), StorageError):
            await self.restart(lost=True)
        elif self.task.done():
            self.task.result()

    async def run(self) -> None:
        asyncio.get_running_loop().set_default_executor(self.slow)
        with pytest.MonkeyPatch.context() as patch:
            batch = self.random.choice([1, 3, 1024])
            patch.setattr(projector_module, "BATCH_EFFECTS", batch)
            patch.setattr(checkpoints_module, "BATCH_EFFECTS", batch)
            patch.setattr(progress_module, "boot_id", lambda: b"%036d" % self.cuts)
            patch.setattr(rewind_module, "_log", Strict())
            if self.random.random() < 0.2:
                patch.setattr(projector_module, "BLOCKED_MAX", self.random.randrange(2, 9))
            if self.random.random() < 0.3:
                patch.setattr(projector_module, "OFFERED_MAX", 3)
            self.start()
            for record in self.history.records:
                self.submit(record)
                for _ in range(self.random.choice([0, 0, 1, 2, 6])):
                    await self.act()
            await self.finish()

    async def finish(self) -> None:
        """What is not gone for ever comes, and everything is carried out."""
        self.death.points_left = 0
        self.zone.heal()
        self.may_be_late = False
        if not self.has_power:
            await self.restart(cut=True)
        await self.check_alive()
        if RULE not in self.carriers:
            self.open()
        if self.death.dead:
            await self.restart()
        loop, projector = asyncio.get_running_loop(), self.projector
        settled = loop.create_task(self._settled())
        for _ in range(ROUNDS_MAX):
            self.answer(1.0)
            await self.wait.go()
            self.slow.work()
            self.time.now += 1.0
            self.projector.poke()
            for _ in range(10):
                await asyncio.sleep(0)
            await self.check_alive()
            if self.projector is not projector:  # a sync of before was refused, and the process has ended now
                settled.cancel()
                projector, settled = self.projector, loop.create_task(self._settled())
                if RULE not in self.carriers:
                    self.open()
            if settled.done():
                break
        assert settled.done(), f"it never ends: {self.projector.stopped} {self.projector._waiting}"
        await settled
        await self.end()
        self.assert_equal()
        with self.environment.read() as tables:
            assert outbox.count_after(tables, (0, 0), 1) == 0
        if isinstance(self.zone, MortalFiles):
            self.zone.close()

    async def _settled(self) -> None:
        await self.projector.wait_through(self.machine.gsn, PATIENCE_S)
        await self.projector.checkpoint()

    def assert_equal(self) -> None:
        found, wanted = comparable(describe_zone(self.zone.walk())), comparable(describe_model(self.model))
        if self.model.root.attributes is None:  # nothing has been said of them yet
            found[b""] = wanted[b""]
        differing = [
            f"{path!r}: {found.get(path)}, not {wanted.get(path)}"
            for path in sorted(found.keys() | wanted.keys())
            if found.get(path) != wanted.get(path)
        ]
        assert not differing, "\n".join(["the zone is not the namespace:", *differing])
        assert not self.zone.parked, f"parked: {self.zone.parked}"
        assert not self.carrier.drift, f"drift: {self.carrier.drift}"


def comparable(found: dict[bytes, tuple[Any, ...]]) -> dict[bytes, tuple[Any, ...]]:
    """Without what a real filesystem does not keep: modes of symlinks, extended attributes of special files."""
    return {
        path: (kind, attributes if attributes is None else _kept(kind, attributes), *others)
        for path, (kind, attributes, *others) in found.items()
    }


def _kept(kind: Kind | None, attributes: Attributes) -> Attributes:
    if kind in (Kind.FILE, Kind.DIRECTORY):
        return attributes
    return attributes._replace(mode=0o777 if kind is Kind.SYMLINK else attributes.mode, xattrs=())


def assert_holds(found: list[tuple[bytes, Inode]], model: Zone, stale: list[Thing]) -> None:
    """The zone is the model, but for the names of what is `stale` and the times of directories."""
    excused = {id(thing) for thing in stale}
    here = dict(found)
    wanted = paths_of(model.root)
    assert not here.keys() - wanted.keys(), f"too many: {here.keys() - wanted.keys()}"
    objects: dict[int, Thing] = {}
    for path, thing in wanted.items():
        inode = here.get(path)
        if id(thing) in excused:
            assert inode is None or inode.kind is not Kind.DIRECTORY, path
            continue
        assert inode is not None and inode.kind is thing.kind, f"{path!r} is {inode}, not {thing}"
        assert objects.setdefault(inode.number, thing) is thing, f"{path!r} is a hard link"
        if thing.kind is Kind.DIRECTORY:
            assert thing.attributes is None or inode.attributes[:3] == thing.attributes[:3], path
            continue
        assert thing.attributes is not None
        held = (_kept(inode.kind, inode.attributes), bytes(inode.data), inode.target, inode.rdev)
        wants = (_kept(thing.kind, thing.attributes), thing.data, thing.target, thing.rdev)
        assert held == wants, f"{path!r} is {inode}, not {thing}"
    assert len(objects) == len({id(thing) for thing in wanted.values()} - excused)


def run_campaign(directory: Path, seed: int, *, real: bool = False, volume: Volume | None = None) -> Campaign:
    """One history, with `real` on real files, which lose their power where they are on a `volume`; AssertionError with
    all that happened where the zone is wrong."""
    campaign = Campaign(directory, seed, real, volume)
    try:
        asyncio.run(campaign.run())
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(campaign.happened)) from error
    return campaign
