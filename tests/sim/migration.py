"""A migration of a tree that changes all the time, under faults; in the end the source, the targets and the namespace
are the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from unittest.mock import patch

import lddp.migrate.batch
import lddp.migrate.look
import lddp.migrate.observer
import lddp.migrate.portions
import lddp.migrate.rounds
from lddp.core.codec import decode
from lddp.core.machine import StateMachine
from lddp.core.records import (
    ChangeMigration,
    CreateRule,
    InodeReport,
    Kind,
    MigrationAction,
    Observation,
    ObservedEntry,
    ZoneMember,
)
from lddp.core.rules import read_receipt, receipt_gsns
from lddp.core.view import View
from lddp.errors import UnavailableError
from lddp.gateway import NO_ZONE
from tests.fakes.tables import DictTables
from tests.fakes.zone import FakeZone
from tests.sim.alike import is_alike
from tests.sim.checks import Violation, check_equal, difference, namespace_rows, walk, zone_rows
from tests.sim.clients import Client
from tests.sim.faults import Faults
from tests.sim.node import Node
from tests.sim.operations import settle
from tests.sim.source import FakeWatcher, SourceTree, Writer
from tests.sim.world import Settings, World

RULE, SOURCE = 1, 1
PATH = b"/moved"
END_S = 300.0
"""Simulated time within which a migration must have completed once the faults and the writer have stopped."""
LIMITS = (
    (lddp.migrate.look, "SMALL_BYTES_MAX", 1024),
    (lddp.migrate.rounds, "SMALL_BYTES_MAX", 1024),
    (lddp.migrate.portions, "TINY_BYTES_MAX", 16),
    (lddp.migrate.observer, "DIRECTORIES_PER_JOB", 3),
    # A round cannot wait for its shipments: it is one step here.
    (lddp.migrate.observer, "SHIPMENTS_MAX", 10_000),
)
"""So small that a small tree meets all of them."""
TAMPERINGS = (0, 1, 4, 8)
"""How often a target is changed behind the back before it is verified."""


@contextmanager
def small_limits(portion_entries: int) -> Iterator[None]:
    with ExitStack() as stack:
        for module, name, value in LIMITS:
            stack.enter_context(patch.object(module, name, value))
        for module in (lddp.migrate.look, lddp.migrate.portions, lddp.migrate.batch):
            stack.enter_context(patch.object(module, "PORTION_ENTRIES", portion_entries))
        yield


class Migration:
    """One rule from the zone SOURCE to all others, its writer, and what must be true in the end."""

    def __init__(self, world: World, random: Random, *, rule: int = RULE, observe_only: bool = True) -> None:
        self.world = world
        self.rule, self.name = rule, "moved"
        self.observe_only = observe_only
        self.random = random
        source = next(machine for machine in world.machines.values() if machine.zone == SOURCE)
        self.source = source
        self.tree = SourceTree(world.loop, source.files.setdefault(rule, FakeZone()))
        entries_max, maps = random.choice([12, 40]), random.random() < 0.25
        self.writer = Writer(self.tree, random, entries_max, maps=maps, alike=is_alike(world.seed))
        self.writer.populate(random.choice([0, 10, 30]))
        self.is_writing = True
        self.asked = False
        """Somebody wants it to end."""
        self._rate = random.choice([0.0, 0.02, 0.2])
        self._queue_max = 10_000 if self.writer.maps else random.choice([5, 1000])
        self._delay_s = random.choice([0.001, 0.1, 1.0])
        self._looking = False
        world.open_watcher = self._open_watcher
        world.interfere = self._interfere
        world.descriptors.before_read = self._before_read

    @property
    def spared(self) -> set[str]:
        """Nodes that must not be killed: events that die with the source are the only trace of mapped stores."""
        return {self.source.name} if self.writer.maps else set()

    async def _open_watcher(self, _root: bytes) -> FakeWatcher:
        watcher = FakeWatcher(self.tree, self.world.loop.current, self._queue_max, self._delay_s)
        await watcher.start()
        return watcher

    # -- the writer -------------------------------------------------------------------------------------------------

    def _interfere(self, zone: int, rule: int) -> None:
        """Somebody changes the source in the middle of a look at it."""
        if zone == SOURCE and rule == self.rule and self.is_writing and self.random.random() < self._rate:
            self._change()

    def _before_read(self, zone: FakeZone) -> None:
        if zone is self.tree.files:
            self._interfere(SOURCE, self.rule)

    def _change(self) -> None:
        with self.world.loop.within(self.world.loop.outside):
            self.writer.step()

    async def write(self) -> None:
        """Changes the source until told to stop, in bursts."""
        while self.is_writing:
            for _ in range(self.random.choice([1, 1, 3, 12])):
                self._change()
            await asyncio.sleep(self.random.choice([0.0, 0.01, 0.1, 0.5]))

    # -- the migration ----------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        client = Client(self.world, f"admin of {self.name}", self.rule)
        zones = sorted(m.zone for m in self.world.machines.values() if m.zone != NO_ZONE)
        members = tuple(
            ZoneMember(zone, f"zone {zone}", b"/srv/moved", self.observe_only and zone == SOURCE) for zone in zones
        )
        create = CreateRule(client.next_id(), 1, self.name, PATH, SOURCE, members)
        answers = [await client.send(create, {}, self.source)]
        for action in (MigrationAction.CREATE, MigrationAction.START):
            change = ChangeMigration(client.next_id(), 1, self.name, action)
            answers.append(await client.send(change, {}, self.source))
        if any(answer.outcome.errno for answer in answers):
            raise Violation(f"the migration could not be begun: {answers}")

    @property
    def state(self) -> str:
        node = self.source.node
        if node is None:
            return ""
        with node.environment.read() as tables:
            migration = View(tables).migration(self.rule)
        return "" if migration is None else migration.state

    def ask_to_complete(self) -> None:
        self.asked = True
        node = self.random.choice([one.node for one in self.world.machines.values() if one.zone != NO_ZONE])
        if node is not None:
            with self.world.within(node.process):
                node.spawn(self._ask_at(node))

    async def _ask_at(self, node: Node) -> None:
        """Any node that has a zone does: it tells the source."""
        with contextlib.suppress(UnavailableError):
            node.completion.ask(self.rule)

    def stop_writing(self) -> None:
        self.is_writing = False

    def follow(self) -> None:
        """Everything that was changed while the writer ran has been followed, before anybody compares anything."""
        world = self.world
        if self.state == "completed":
            return
        drained = world.loop.create_task(self._drained())
        if not world.run_until(drained.done, END_S):
            raise Violation(f"the source is not drained {END_S} s after all is well again: {self._problem()}")
        drained.result()
        settle(world)
        self.check(receipt=False)

    async def _drained(self) -> None:
        world, node = self.world, self.source.node
        assert node is not None
        while self.state != "live" or node.drivers[self.rule].observer is None:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.05)
        done = world.loop.create_future()

        async def drain() -> None:
            observer = node.drivers[self.rule].observer
            assert observer is not None
            await observer.drained()
            world.loop.at(world.loop.now, world.loop.outside, done.set_result, None)

        world.loop.at(world.loop.now, node.process, lambda: node.spawn(drain()))
        await done

    def finish(self) -> None:
        """The source holds still and nothing fails any more: the migration comes to its end."""
        world, ends = self.world, ("completed", "failed", "aborted")
        if not self.asked:
            self._tamper()
        self.ask_to_complete()
        if not world.run_until(lambda: self.state in ends, END_S):
            raise Violation(f"the migration is {self.state} {END_S} s after all is well again: {self._problem()}")
        if self.state != "completed":
            raise Violation(f"the migration has {self.state}: {self._problem()}")

    def _tamper(self) -> None:
        """Somebody has changed targets behind the back, or a disk has: a verification finds that, and mends it."""
        random = Random(repr((self.world.seed, "tampering")))
        for name, files in sorted(self.world.zone_files(self.rule).items()):
            for _ in range(random.choice(TAMPERINGS) if name != self.source.name else 0):
                path, inode = random.choice(list(walk(files)))
                (kind,) = random.choices(["bytes", "mode", "xattr", "name"], [4, 1, 1, 2])
                if kind == "bytes" and inode.data:
                    inode.data[random.randrange(len(inode.data))] ^= 1  # and no time tells
                elif kind == "mode" and inode.kind is not Kind.SYMLINK:
                    inode.attributes = inode.attributes._replace(mode=inode.attributes.mode ^ 0o10)
                elif kind == "xattr" and inode.kind in (Kind.FILE, Kind.DIRECTORY):
                    inode.attributes = inode.attributes._replace(xattrs=((b"user.other", b"1"),))
                elif kind == "name" and path and not inode.entries:
                    files.remove(path)
                else:
                    continue
                self.world.count(f"target changed behind the back: {kind}")

    def _problem(self) -> str:
        node = self.source.node
        driver = None if node is None else node.drivers.get(self.rule)
        if driver is None:
            return "there is no driver"
        backlog = None if driver.observer is None else driver.observer.backlog
        left = None if backlog is None else (backlog.dirty.names, backlog.dirty.files, backlog.large, backlog.busy)
        problems = {m.name: m.node.projector.stopped for m in world_nodes(self.world) if m.node and m.node.projector}
        return f"{driver.problem}; left {left}; failures {backlog and backlog.failures}; projectors {problems}"

    # -- at rest ----------------------------------------------------------------------------------------------------

    def check(self, *, receipt: bool = True) -> None:
        zones = self.world.zone_files(self.rule)
        node = self.source.node
        assert node is not None
        with node.environment.read() as tables:
            view = View(tables)
            rule = next(one for one in view.rules() if one.number == self.rule)
            wanted = namespace_rows(view, rule.root)
            receipts = [read_receipt(tables, gsn) for gsn in receipt_gsns(tables)]
        different = difference(zone_rows(zones[self.source.name]), wanted)
        if different:
            raise Violation(f"the source is not what the namespace says:\n{different}")
        check_equal(zones)
        self._check_reads()
        if not receipt:
            return
        last = [receipt for receipt in receipts if receipt is not None and receipt[1] == self.name][-1]
        if len({finding.digest for finding in last[3]}) != 1:
            raise Violation("the receipt's zones differ")

    def _check_reads(self) -> None:
        """Every file was once as it was reported: what changes while it is read is not told. Of a store through a
        mapping no time tells, and of what operations write, the program does not know."""
        if self.writer.maps or not self.observe_only:
            return
        tables = DictTables()
        machine, view = StateMachine(tables), View(tables)
        for data in self.world.checks.records():
            record = decode(data)
            if isinstance(record, Observation) and record.rule == self.rule:
                machine.flush()
                self._check_reports(record, view)
            machine.apply(record)

    def _check_reports(self, record: Observation, view: View) -> None:
        """`view` is the state before it."""
        reports: list[tuple[bytes, InodeReport | ObservedEntry]] = []
        for one in record.inodes:
            inode = view.inode(one.inode)
            reports += [(inode.identity, one)] if inode is not None else []
        reports += [(entry.identity, entry) for report in record.directories for entry in report.entries]
        for identity, one in reports:
            content = one.content
            if content is not None and (identity, content.digest, one.attributes.mtime_ns) not in self.tree.versions:
                raise Violation(f"{one} was never like that at the source")


def world_nodes(world: World) -> list:  # type: ignore[type-arg]
    return [machine for machine in world.machines.values() if machine.up]


def settings_of(random: Random) -> Settings:
    zones = random.choice([(SOURCE, 2, NO_ZONE), (SOURCE, 2, NO_ZONE), (SOURCE, 2, 3), (SOURCE, 2)])
    return Settings(
        zones=zones,
        delay_s=random.choice([(0.0002, 0.002), (0.0005, 0.03)]),
        sync_s=random.choice([(0.0, 0.002), (0.0, 0.03)]),
        heartbeat_s=0.3,
        election_timeout_min_s=1.0,
        election_timeout_max_s=2.0,
        checkpoint_s=random.choice([0.1, 5.0]),
    )


def run(seed: int) -> World:
    """Raises Violation; the world as it was at the end."""
    random = Random(repr((seed, "migration")))
    world = World(("migration", seed), settings_of(random))
    migration = Migration(world, random)
    with small_limits(random.choice([3, 2048])), world:
        world.start()
        begun = world.loop.create_task(migration.begin())
        if not world.run_until(begun.done, END_S):
            raise Violation("the migration was not begun in time")
        begun.result()
        faults = Faults(world, world.seed, pause_s=(2.0, 10.0))
        faults.spared = migration.spared
        writing = world.loop.create_task(migration.write())
        for _ in range(random.choice([0, 3, 8, 16])):
            world.run_for(random.choice([0.0, 0.01, 0.05, 0.3, 1.0]))
            faults.inject()
            if random.random() < 0.05:
                # The end itself is under faults too.
                migration.stop_writing()
                migration.ask_to_complete()
        world.run_for(random.choice([0.1, 1.0]))
        faults.heal()
        migration.stop_writing()
        world.run_until(writing.done, 10.0)
        if not migration.asked:
            migration.follow()
        migration.finish()
        settle(world)
        world.checks.check_history()
        world.checks.check_states(list(world.machines.values()))
        migration.check()
    return world
