"""Programs in mounts at several zones, pipelined most of them, and clients that mean what they saw last, which is not
always so any more: all at the same names, under faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from unittest.mock import patch

import lddp.doors.fuse.committing
import lddp.doors.fuse.memory
import lddp.doors.fuse.passthrough
import lddp.doors.fuse.pipeline
from lddp.core.namespace import Inode
from lddp.core.records import (
    Create,
    CreateFile,
    Guarded,
    InPlace,
    Link,
    MakeDirectory,
    Operation,
    OperationId,
    Put,
    Record,
    Rename,
    Symlink,
)
from lddp.core.view import View
from lddp.gateway import NO_ZONE
from tests.core.model import Model, Verdict
from tests.core.model import Node as ModelNode
from tests.core.support import tree
from tests.sim.alike import is_alike
from tests.sim.checks import Violation
from tests.sim.faults import Faults
from tests.sim.mounts import Mounts
from tests.sim.operations import PATH, REST_S, Maker, Operations, come_to_rest, settings_of, settle
from tests.sim.programs import Program
from tests.sim.promises import Done, Meant, check_all
from tests.sim.world import World

AFTER_FAULTS_S = 1.0
NAMING = MakeDirectory | Create | CreateFile | Symlink
SMALL_QUEUE = {"QUEUED_MAX": 6, "BATCH_MAX": 3, "SETTLED_MAX": 5}
"""A queue that is full soon, and a speculation that is made again all the time."""


class Remembering(Maker):
    """Means what it saw when it last looked; and makes rows, of which each is to be done only after the one before."""

    def __init__(self, world: World, random: Random, contents: dict[bytes, bytes]) -> None:
        super().__init__(random, contents, alike=is_alike(world.seed))
        self._world = world
        self._looks = random.choice([0.05, 0.3, 1.0])
        self._memory: dict[bytes, int] = {}
        self._rows = random.choice([0.0, 0.5])
        self._last: OperationId | None = None
        self._makers: list[OperationId] = []

    def make(self, id_: OperationId, zone: int, time_ns: int) -> tuple[Record, dict[bytes, bytes]]:
        if self.random.random() < self._looks:
            self._look()
        operation, contents = super().make(id_, zone, time_ns)
        assert isinstance(operation, Operation)
        is_in_row = self.random.random() < self._rows
        record = self._guarded(operation) if is_in_row else operation
        self._last = id_
        if isinstance(operation, NAMING):
            self._makers.append(id_)
        return record, contents

    def _look(self) -> None:
        nodes = [machine.node for machine in self._world.up if machine.zone != NO_ZONE and machine.node is not None]
        if nodes:
            with self.random.choice(nodes).environment.read() as tables:
                self._memory = _numbers(View(tables))

    def _path(self) -> bytes:
        """Half of them are what was seen."""
        seen = sorted(self._memory.keys() - {PATH})
        if seen and self.random.random() < 0.5:
            return self.random.choice(seen)
        return super()._path()

    def _recalled(self, path: bytes) -> int:
        """Its number, and now and then another one's."""
        if self._memory and self.random.random() < 0.1:
            return self.random.choice(sorted(self._memory.values()))
        return self._memory.get(path, 0)

    def _meaning(self, operation: Operation) -> Operation:
        changed = operation
        if self.random.random() < 0.7:
            if isinstance(operation, InPlace):
                changed = changed._replace(expected_inode=self._recalled(operation.path))  # type: ignore[call-arg]
            else:
                above = operation.path.rpartition(b"/")[0]
                changed = changed._replace(expected_parent=self._recalled(above))  # type: ignore[call-arg]
        if isinstance(changed, Rename | Link) and self.random.random() < 0.7:
            # Often another one: that a record gets as far as its second path is rare enough.
            random = Random(repr(operation.id))
            numbers = sorted(self._memory.values())
            is_other = numbers and random.random() < 0.4
            number = random.choice(numbers) if is_other else self._recalled(changed.to.rpartition(b"/")[0])
            changed = changed._replace(expected_to_parent=number)
        return changed

    def _guarded(self, operation: Operation) -> Guarded:
        random = self.random
        paths = (operation.path, operation.to) if isinstance(operation, Rename | Link) else (operation.path,)
        expected: list[int] = []
        for path in paths:
            for one in (path.rpartition(b"/")[0], path):
                kind = random.choices(["any", "seen", "made"], [5, 4, 1])[0]
                if kind == "any" or (kind == "made" and not self._makers):
                    expected.append(0)
                elif kind == "seen":
                    expected.append(self._recalled(one))
                else:
                    expected.append(-random.choice(self._makers[-3:]).sequence)
        return Guarded(operation, self._last if random.random() < 0.4 else None, *expected)


def _numbers(view: View) -> dict[bytes, int]:
    """The rule's paths, but for what mounts have for themselves."""
    rule = view.rule("data")
    if rule is None:
        return {}
    found: dict[bytes, Inode] = tree(view, rule.root)
    return {
        PATH + b"/" + path if path else PATH: inode.number
        for path, inode in found.items()
        if not path.startswith(b"own")
    }


class Watched(Operations):
    """Clients, and what the model says of all that the log has of mounts."""

    def __init__(self, world: World, *, clients: int, count: int) -> None:
        super().__init__(world, clients=clients, count=count)
        self.log: list[Done] = []
        self.gone: set[int] = set()
        self._made: dict[OperationId, int] = {}

    def _maker(self, random: Random) -> Maker:
        return Remembering(self.world, random, self.contents)

    def _judge(self, model: Model, gsn: int, record: Operation | Guarded) -> Verdict:
        if isinstance(record, Guarded):
            operation = self._with_bytes(record.operation)
            verdict = model.judge_guarded(record._replace(operation=operation), self._made)
        else:
            operation = self._with_bytes(record)
            verdict = model.judge(operation)
        if verdict.commit is None:
            return verdict
        paths = (operation.path, operation.to) if isinstance(operation, Rename | Link) else (operation.path,)
        found = [model.find(path, operation.zone) for path in paths]
        places = tuple(
            Meant(one.parent.number if one.parent else 0, one.name, one.node.number if one.node else 0) for one in found
        )
        plain = record.operation if isinstance(record, Guarded) else record
        self.log.append(Done(gsn, record.id, plain, places))
        losing = [one.node for one in found if one.node is not None]
        commit = verdict.commit

        def committed(at: int) -> None:
            commit(at)
            self.gone |= {node.number for node in losing if not _is_named(model, node)}
            new = places[0].at == 0 and isinstance(operation, NAMING | Put)
            self._made[record.id] = at << 16 if new else places[0].at

        return Verdict(verdict.allowed, committed)


def _is_named(model: Model, node: ModelNode) -> bool:
    return any(one is node for _, one in model.walk(model.rules[0]))


@contextmanager
def settings(small: bool, memory: int) -> Iterator[None]:
    """`memory`: bytes of the largest copy that is in memory."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(lddp.doors.fuse.memory, "COPY_BYTES_MAX", memory))
        stack.enter_context(patch.object(lddp.doors.fuse.memory, "ROOM_BYTES_MIN", 0))
        stack.enter_context(patch.object(lddp.doors.fuse.committing, "RANGES_FROM_BYTES", 24))
        stack.enter_context(patch.object(lddp.doors.fuse.passthrough, "PASS_FROM_BYTES", 8))
        for name, value in SMALL_QUEUE.items() if small else ():
            stack.enter_context(patch.object(lddp.doors.fuse.pipeline, name, value))
        yield


def run(seed: int) -> World:
    """Raises Violation; the world as it was at the end."""
    random = Random(repr((seed, "mount")))
    world = World(("mount", seed), settings_of(random))
    with settings(random.random() < 0.4, Random(repr((seed, "memory"))).choice([0, 16, 64, 1 << 20])), world:
        world.start()
        operations = Watched(world, clients=random.choice([1, 1, 3]), count=random.choice([10, 40]))
        created = world.loop.create_task(operations.create())
        if not world.run_until(created.done, REST_S):
            raise Violation("the rule was not created in time")
        mounts = Mounts(world, random, operations.contents, lambda life, number: Program(life, number).run())
        try:
            _use(world, random, operations, mounts)
            world.checks.check_history()
            world.checks.check_states(list(world.machines.values()))
            operations.check()
            found = check_all([life.history for life in mounts.lives], operations.log, operations.gone)
            world.counts |= found
        finally:
            mounts.close()
    return world


def _use(world: World, random: Random, operations: Operations, mounts: Mounts) -> None:
    """Until everything has come to rest."""
    faults = Faults(world, world.seed, pause_s=(2.0, 10.0))
    world.loop.create_task(mounts.keep())
    world.run_for(random.choice([0.0, 0.5]))
    operations.start()
    for _ in range(random.choice([4, 8, 12])):
        world.run_for(random.choice([0.01, 0.05, 0.3, 1.0]))
        faults.inject()
    world.run_for(random.choice([0.1, 1.0]))
    faults.heal()
    world.run_for(AFTER_FAULTS_S)
    mounts.stop()
    if not world.run_until(lambda: mounts.are_idle, REST_S):
        raise Violation(f"programs in mounts still wait {REST_S} s after the faults have stopped")
    if not world.run_until(lambda: mounts.are_ordered, REST_S):
        raise Violation(f"mounts have something queued {REST_S} s after the faults have stopped")
    come_to_rest(world, operations)
    for life in mounts.lives:
        differs = "" if life.is_over else life.differs()
        if differs:
            raise Violation(f"{life.history.name}: {differs}")
    mounts.compare()
    if not world.run_until(lambda: mounts.are_compared, REST_S):
        raise Violation(f"files in mounts cannot be read {REST_S} s after the faults have stopped")
    settle(world)  # a copy of a record that had got stuck somewhere may have come meanwhile
