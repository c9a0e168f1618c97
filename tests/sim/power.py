"""Clients that mostly move directories about on few names, while machines lose their power again and again: what a zone
had not synced may be there or not, and it must find its way back."""

from __future__ import annotations

from random import Random

from lddp.core.namespace import Inode
from lddp.core.records import (
    Append,
    Kind,
    Link,
    MakeDirectory,
    Operation,
    OperationId,
    Put,
    Record,
    RemoveDirectory,
    Rename,
    RenameFlag,
    Unlink,
    Write,
)
from lddp.core.view import View
from lddp.gateway import NO_ZONE
from tests.core.support import tree
from tests.sim.checks import Violation
from tests.sim.faults import Faults
from tests.sim.operations import PATH, REST_S, RULE, Maker, Operations, come_to_rest
from tests.sim.world import Settings, World

NAMES = (b"a", b"b", b"c", b"d")
DEPTH_MAX = 4
FAULTS = {
    "power cut": 8,
    "power cut of all": 3,
    "kill": 3,
    "kill between effects": 5,
    "restart": 8,
    "zone refuses changes": 1,
    "zone takes changes again": 3,
    "pause": 1,
    "isolate": 1,
    "heal the network": 2,
    "slow sync": 1,
}


class Mover(Maker):
    """Makes operations on what is there, as some node sees it now."""

    def __init__(self, world: World, random: Random, contents: dict[bytes, bytes]) -> None:
        super().__init__(random, contents)
        self._world = world

    def _found(self) -> dict[bytes, Inode]:
        for machine in self._world.up:
            if machine.zone != NO_ZONE and machine.node is not None:
                with machine.node.environment.read() as tables:
                    view = View(tables)
                    root = next((rule.root for rule in view.rules() if rule.number == RULE), None)
                    return {path: inode for path, inode in tree(view, root).items() if path} if root else {}
        return {}

    def _choose(self, found: dict[bytes, Inode], kind: Kind) -> bytes:
        """One of these that is there, if there is one."""
        paths = sorted(path for path, inode in found.items() if inode.kind is kind)
        return PATH + b"/" + self.random.choice(paths or [*NAMES])

    def _new(self, found: dict[bytes, Inode]) -> bytes:
        directories = [path for path, inode in found.items() if inode.kind is Kind.DIRECTORY]
        above = self.random.choice([b"", *sorted(path for path in directories if path.count(b"/") < DEPTH_MAX - 1)])
        return PATH + (b"/" + above if above else b"") + b"/" + self.random.choice(NAMES)

    def make(self, id_: OperationId, zone: int, time_ns: int) -> tuple[Record, dict[bytes, bytes]]:
        random, head, found = self.random, (id_, zone, time_ns), self._found()
        directory, file, new = self._choose(found, Kind.DIRECTORY), self._choose(found, Kind.FILE), self._new(found)
        kind = random.choices(range(9), [10, 12, 3, 3, 5, 3, 2, 2, 4])[0]
        operation: Operation
        match kind:
            case 0:
                operation = MakeDirectory(*head, new, 0o755, 0, 0)
            case 1:
                operation = Rename(*head, directory, new)
            case 2:
                other = self._choose(found, random.choice([Kind.DIRECTORY, Kind.FILE]))
                operation = Rename(*head, directory, other, RenameFlag.EXCHANGE)
            case 3:
                operation = Rename(*head, file, random.choice([new, file]))
            case 4:
                operation = RemoveDirectory(*head, directory)
            case 5:
                operation = Unlink(*head, file)
            case 6:
                operation = Link(*head, file, new)
            case 7:
                content = self._content()
                operation = random.choice([Append(*head, file, content), Write(*head, file, 1, content)])
            case _:
                operation = Put(*head, new, 0o644, 0, 0, self._content())
        content_ = getattr(operation, "content", None)
        if content_ is None or content_.inline is not None:
            return operation, {}
        return operation, {content_.digest: self.contents[content_.digest]}


class Moves(Operations):
    def _maker(self, random: Random) -> Maker:
        return Mover(self.world, random, self.contents)


def run(seed: int) -> World:
    """Raises Violation; the world as it was at the end."""
    random = Random(repr((seed, "power")))
    settings = Settings(
        zones=random.choice([(1, 2, 3), (1, 2, NO_ZONE), (1, 2)]),
        delay_s=(0.0002, 0.002),
        checkpoint_s=random.choice([0.1, 1.0, 5.0, 60.0]),
    )
    world = World(("power", seed), settings)
    with world:
        world.start()
        operations = Moves(world, clients=random.choice([1, 2, 4]), count=random.choice([40, 100, 160]))
        created = world.loop.create_task(operations.create())
        if not world.run_until(created.done, REST_S):
            raise Violation("the rule was not created in time")
        faults = Faults(world, world.seed, pause_s=(2.0, 10.0))
        faults.kinds = tuple((name, FAULTS[name], act) for name, _, act in faults.kinds if name in FAULTS)
        operations.start()
        for _ in range(random.choice([3, 6, 12])):
            world.run_for(random.choice([0.05, 0.3, 1.0, 3.0]))
            faults.inject()
        world.run_for(random.choice([0.1, 1.0]))
        faults.heal()
        come_to_rest(world, operations)
        world.checks.check_history()
        world.checks.check_states(list(world.machines.values()))
        operations.check()
    return world
