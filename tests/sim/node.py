"""One node of the simulated ecosystem: a machine that stays, and the process on it that comes and goes.

The process is put together as `lddp.node.runtime` does it, from production code and the simulator's outside world.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lddp.consensus.core import Role
from lddp.consensus.member import RaftMember
from lddp.core.records import Record
from lddp.core.rules import Rule
from lddp.core.tables import Tables
from lddp.core.view import View
from lddp.errors import OutcomeUnknownError, StorageError, UnavailableError
from lddp.gateway import NO_ZONE, Gateway
from lddp.migrate.observer import Observer
from lddp.migrate.portions import room_in
from lddp.node.completion import Completion
from lddp.node.gossip import Gossip
from lddp.node.migration import MigrationDriver
from lddp.node.originals import Originals
from lddp.node.survey import Surveyor
from lddp.node.uploads import is_needed
from lddp.replay.awaited import name_of_changed
from lddp.replay.progress import Progress
from lddp.replay.projector import Projector
from lddp.replay.retained import Retained
from lddp.submissions import Applied
from tests.fakes.memory import MemoryKeyValue
from tests.fakes.power import PowerZone
from tests.fakes.zone import FakeZone
from tests.sim.content import SimulatedPusher, SimulatedStore
from tests.sim.disk import SimulatedKeyValue
from tests.sim.loop import Process, ProcessClock, ProcessRandom, SimulatedExecutor
from tests.sim.trees import SimulatedTrees

if TYPE_CHECKING:
    from tests.sim.world import World

ENDING_S = 0.1
"""How long a node takes to end that cannot write its database, or whose zone could not write its files."""
SUPERVISED_S = 1.0
"""How long after the latter it is started again."""


class Machine:
    """What outlives a process: the database, the contents, the zone's files. `zone` is its number, NO_ZONE without."""

    def __init__(self, world: World, name: str, zone: int) -> None:
        self.world = world
        self.name = name
        self.zone = zone
        self.stored = MemoryKeyValue()
        self.blobs: dict[tuple[bytes, bool], bytes] = {}
        self.files: dict[int, FakeZone] = {}
        """By rule. Those that a program changes itself keep all they have when the power goes."""
        self.taken: dict[int, dict[tuple[bytes, bool], bytes]] = {}
        """Blobs that were moved into a rule's files since those were synced."""
        self.directory = world.directory / name
        os.makedirs(self.directory)
        self.lives = 0
        self.node: Node | None = None
        self.sync_s = (0.0, 0.002)
        self.boot = 0
        """How often it has lost its power."""
        self.zone_error = 0
        """The errno with which its filesystem refuses every change."""
        self.is_spared = False
        """It is not killed, nor made to end."""
        self.shown = 0
        """The highest GSN that a mount here has answered with."""

    @property
    def up(self) -> bool:
        return self.node is not None

    def zone_files(self, rule: int) -> FakeZone:
        return self.files.setdefault(rule, PowerZone())

    def start(self) -> None:
        assert self.node is None
        self.lives += 1
        process = Process(self.world.loop, self.name, (self.world.seed, self.name, self.lives))
        process.on_fuse = self.kill
        self.world.processes.append(process)
        with self.world.within(process):
            self.node = Node(self, process)
            self.node.start()

    def kill(self, *, power: bool = False) -> None:
        """Ends the process wherever it is; what it had on its disk and in its files stays. `power` is a cut of it:
        then what the database had not synced is lost, of what the zones had not synced any part, and the marks of what
        was done mean nothing."""
        node, self.node = self.node, None
        assert node is not None
        node.process.kill()
        node.progress_closed()
        self.stored = node.environment.kill(power=power)
        self.world.network.detach(self.name)
        if power:
            self.boot += 1
            self._tear(self.directory / "progress", node.process.random)
            self._cut_zones(node.process.random)

    def _cut_zones(self, random: Random) -> None:
        for rule, zone in sorted(self.files.items()):
            if isinstance(zone, PowerZone):
                zone.cut(random)
            # A blob whose new name is not on the disk has its old one.
            self.blobs.update(self.taken.pop(rule, {}))

    def refuse_change(self) -> None:
        """Called before each change of a zone's files."""
        if self.zone_error:
            self.world.count(f"change refused with {errno.errorcode[self.zone_error]}")
            raise OSError(self.zone_error, os.strerror(self.zone_error))

    def refuse_sync(self) -> None:
        """Called before each sync of a zone. One that is refused ends the node; what was not synced may be lost."""
        node = self.node
        if self.zone_error and node is not None and not self.is_spared:
            self.world.count(f"sync refused with {errno.errorcode[self.zone_error]}")
            node.has_lost_writes = True
            raise OSError(self.zone_error, os.strerror(self.zone_error))

    def end_without_writes(self, node: Node) -> None:
        """It has been told of a sync that was refused."""
        if self.node is node:
            self.kill()
            self._cut_zones(node.process.random)
            loop = self.world.loop
            loop.at(loop.now + SUPERVISED_S, loop.outside, lambda: self.up or self.start())

    def _tear(self, path: Path, random: Random) -> None:
        """Pages of a mapped file reach the disk in any order, or not at all."""
        if path.exists() and random.random() < 0.5:
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.seek(random.randrange(size))
                file.write(random.randbytes(64))
                if random.random() < 0.5:
                    file.truncate(random.randrange(size))

    def fail_database(self, error: int) -> None:
        """The next commit fails: that must end the node. Somebody starts it again later."""
        node = self.node
        assert node is not None
        node.environment.error = error
        loop = self.world.loop

        def ended() -> None:
            if self.node is node and node.failed:
                self.kill()
            elif self.node is node:
                self.world.checks.fail(f"{self.name} goes on although its database cannot be written")

        def refused() -> None:
            self.world.count(f"commit refused with {errno.errorcode[error]}")
            loop.at(node.process.now() + ENDING_S, loop.outside, ended)

        node.environment.on_error = refused


class Node:
    """One process."""

    def __init__(self, machine: Machine, process: Process) -> None:
        world = machine.world
        self.machine, self.process, self.world = machine, process, world
        self.name = machine.name
        self.witness = machine.zone == NO_ZONE
        self.has_lost_writes = False
        self.clock, self.random = ProcessClock(process), ProcessRandom(process)
        self.environment = SimulatedKeyValue(machine.stored, process, machine.sync_s)
        self.gateway = Gateway(self.environment, machine.zone, self.clock, self.random, self.witness)
        self.member = RaftMember(
            world.raft_config(self.name), self.environment, self._apply, clock=self.clock, random=self.random
        )
        self.member.on_folded.append(self.gateway.folded)
        self.member.on_committed.append(self.gateway.committed)
        self.member.on_committed.append(lambda _first, _last: world.checks.committed(self))
        self.looking, self.carrying = SimulatedExecutor(one=False), SimulatedExecutor(one=True)
        self.trees = SimulatedTrees(self)
        self.nodes_by_zone = {m.zone: m.name for m in world.machines.values() if m.zone != NO_ZONE and m is not machine}
        self.store = SimulatedStore(self.name, machine.blobs, process, world.network, world.descriptors)
        self.store.locate, self.store.doubt = self.trees.locate, self._doubt_soon
        self.store.is_named = partial(is_needed, self.environment)
        self.store.peers = world.stores
        world.stores[self.name] = self.store
        self.pusher = SimulatedPusher(self.store, world.network, world.descriptors)
        self.progress: Progress | None = None
        self.projector = None if self.witness else self._projector()
        self.surveyor = Surveyor(
            self.environment,
            self.gateway,
            self.member,
            self.trees,
            self.projector,
            self.looking,
            self.nodes_by_zone,
            self.store,
            self._holders,
        )
        config: Any = SimpleNamespace(
            peers={name: _ADDRESS for name in world.machines if name != self.name},
            peer=_ADDRESS.address,
            limits=SimpleNamespace(log_entries_kept=world.settings.log_entries_kept),
        )
        self.gossip = Gossip(self.gateway, self.member, self.projector, config, dict)
        self.drivers: dict[int, MigrationDriver] = {}
        self.completion = Completion(self.gateway, self.member, self.drivers.get, self.nodes_by_zone)
        self.member.on_message.append(self._message)

    def _apply(self, tables: Tables, index: int, records: Sequence[bytes]) -> bool:
        self.world.checks.folds(self, tables, index, records)
        return self.gateway.apply(tables, index, records)

    def _projector(self) -> Projector:
        self.progress = Progress(os.fspath(self.machine.directory / "progress"))
        projector = Projector(
            self.environment,
            self.member.transact,
            self.trees.carriers,
            self.store,
            self._holders,
            self.progress,
            self.clock,
            self.carrying,
        )
        with self.environment.read() as tables:
            originals = Originals(self.trees, self.gateway.zone, self.store.save, self._doubt_soon)
            projector.retained = retained = Retained(self.store, self._durable_everywhere, tables, originals)
        self.store.is_expected = retained.expected.has
        projector.awaits = self.trees.problems.__contains__
        projector.folded_again = self.gateway.settled
        self.gateway.on_new_effects.append(retained.expected.expect)
        self.gateway.on_effects.append(projector.offer)
        self.gateway.on_applied.append(projector.poke)
        return projector

    def _doubt_soon(self, number: int) -> None:
        for driver in self.drivers.values():
            self.world.loop.call_soon_threadsafe(driver.doubt, number)

    @property
    def failed(self) -> bool:
        """It has stopped by itself."""
        failed = getattr(self.member, "failed", None)
        return failed is not None and failed.done()

    @property
    def leads(self) -> bool:
        """As far as it knows."""
        return self.member.role is Role.LEADER

    def progress_closed(self) -> None:
        """The kernel unmaps the marks of a process that is gone; the file keeps them."""
        if self.progress is not None:
            self.progress.close()

    def _holders(self, number: int) -> list[str]:
        rule = self.trees.rules.get(number)
        if rule is None:
            return []
        zones = sorted((member.zone for member in rule.members), key=lambda zone: zone != rule.source)
        return [self.nodes_by_zone[zone] for zone in zones if zone in self.nodes_by_zone]

    def _durable_everywhere(self, number: int) -> int:
        assert self.projector is not None
        rule = self.trees.rules.get(number)
        if rule is None:
            return self.projector.durable
        writing = [member.zone for member in rule.members if not member.observe_only]
        names = [self.nodes_by_zone[zone] for zone in writing if zone in self.nodes_by_zone]
        return min([self.projector.durable, *(self.gossip.durable.get(name, 0) for name in names)])

    def peers_of(self, rule: Rule) -> list[str]:
        return [self.nodes_by_zone[m.zone] for m in rule.members if m.zone in self.nodes_by_zone]

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        with self.environment.read() as tables:
            self.trees.refresh({rule.number: rule for rule in View(tables).rules()})
        self.gateway.start(self.member)
        self.gateway.on_applied.append(self._refresh)
        self.spawn(self.member.start())
        if self.projector is not None:
            self.spawn(self.projector.run())
        self.spawn(self._beside())
        self._refresh(self.gateway.gsn)

    async def _beside(self) -> None:
        await asyncio.sleep(0)  # the member has started by then
        self.spawn(self.completion.run())
        await self.gossip.run()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.world.loop.create_task(coroutine)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if self.failed:
            return  # the node is ending
        if not task.cancelled() and (error := task.exception()) is not None and not self.process.dead:
            if self.has_lost_writes and isinstance(error, StorageError):
                loop = self.world.loop
                loop.at(self.process.now() + ENDING_S, loop.outside, self.machine.end_without_writes, self)
                return
            self.world.checks.fail(f"a part of {self.name} failed: {error!r}", error)

    def _refresh(self, _gsn: int) -> None:
        if not self.witness:
            self.trees.refresh(self.gateway.machine.rules)
        for number, rule in self.trees.rules.items():
            if rule.source == self.gateway.zone and number in self.trees.zones and number not in self.drivers:
                driver = MigrationDriver(
                    self.gateway,
                    self.environment,
                    rule,
                    self.trees.zones[number],
                    self._observer,
                    self.surveyor.survey,
                    self.gossip.neighbours,
                )
                self.drivers[number] = driver
                self.spawn(driver.run())
        for number, driver in self.drivers.items():
            driver.follow(self.trees.rules[number])

    def _observer(self, rule: Rule, zone: Any) -> Observer:
        return Observer(
            self.gateway,
            self.environment,
            zone,
            rule,
            self.surveyor.begin(rule),
            self.pusher,  # type: ignore[arg-type]
            self.peers_of(rule),
            self._as_of(rule),
            self.looking,
            self.store.keep_recent,
            self.random.token,
            self.trees.settling(rule.number),
            self.trees.unwatched(rule.number),
            room_in(self.world.raft_config(self.name).record_bytes_max),
        )

    def _as_of(self, rule: Rule) -> Callable[[int], int]:
        projector = self.projector
        if rule.observe_only or projector is None:
            return lambda gsn: gsn
        return lambda gsn: min(gsn, projector.projected)

    def _message(self, peer: str, message: dict[str, Any]) -> None:
        if message.get("type") == "progress":
            self.gossip.hear(peer, message)

    # -- what doors do ----------------------------------------------------------------------------------------------

    async def submit(self, record: Record, timeout_s: float, decided: Callable[[], None] = lambda: None) -> Applied:
        """As `node.backend`: the outcome once it is visible in this zone. `decided`: once it is known to be good."""
        deadline = self.clock.monotonic() + timeout_s
        applied = await self.gateway.submit(record, timeout_s)
        if not applied.outcome.errno:
            decided()
        if self.projector is not None and not applied.outcome.errno:
            try:
                left_s = max(0.0, deadline - self.clock.monotonic())
                await self.projector.wait(applied.gsn, left_s, name_of_changed(record))
            except UnavailableError:
                raise OutcomeUnknownError("ordered, but not visible here yet") from None
        return applied


_ADDRESS = SimpleNamespace(address=SimpleNamespace(path=""))
