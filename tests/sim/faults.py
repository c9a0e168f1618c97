"""Faults: what goes wrong with nodes, disks and the network of a simulated world, several at the same time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.sim.node import Machine
from tests.sim.world import World

PAUSE_S = (5.0, 40.0)
FUSE_POINTS_MAX = 40


class Faults:
    """Injects one fault after the other. Every fault that does not end by itself is ended by `heal`."""

    def __init__(self, world: World, seed: object, *, pause_s: tuple[float, float] = PAUSE_S) -> None:
        self.world = world
        self.random = Random(repr((seed, "faults")))
        self.pause_s = pause_s
        self.spared: set[str] = set()
        """Nodes that are never killed."""
        self.kinds: tuple[tuple[str, int, Callable[[], None]], ...] = (
            ("kill", 4, self.kill),
            ("kill between effects", 4, self.burn),
            ("kill all", 1, self.kill_all),
            ("restart", 6, self.restart),
            ("break a link", 3, self.break_link),
            ("one-way clog", 3, self.clog),
            ("isolate", 2, self.isolate),
            ("majority ring", 1, self.ring),
            ("heal the network", 4, self.heal_network),
            ("pause", 2, self.pause),
            ("slow sync", 2, self.slow_sync),
            ("slow network", 1, self.slow_network),
            ("clock jump", 1, self.jump),
        )

    def inject(self) -> None:
        names, weights, actions = zip(*self.kinds, strict=True)
        (chosen,) = self.random.choices(range(len(names)), weights)
        self.world.count(names[chosen])
        actions[chosen]()

    def _machine(self) -> Machine:
        """Half of the time the leader, which matters most."""
        leader = self.world.leader
        if leader is not None and self.random.random() < 0.5:
            return leader
        return self.random.choice(list(self.world.machines.values()))

    def _pair(self) -> tuple[str, str]:
        one = self._machine().name
        return one, self.random.choice([name for name in self.world.machines if name != one])

    # -- nodes ------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        machine = self._machine()
        if machine.up and machine.name not in self.spared:
            machine.kill()
            if self.random.random() < 0.4:
                machine.start()

    def burn(self) -> None:
        """It is killed between two of its next effects on the outside world."""
        machine = self._machine()
        if machine.node is not None and machine.name not in self.spared:
            machine.node.process.fuse = self.random.randrange(1, FUSE_POINTS_MAX)

    def kill_all(self) -> None:
        for machine in self.world.up:
            if machine.name not in self.spared:
                machine.kill()
        self.restart()

    def restart(self) -> None:
        for machine in self.world.machines.values():
            if not machine.up:
                machine.start()

    def pause(self) -> None:
        machine = self._machine()
        if machine.node is not None:
            machine.node.process.spend(self.random.uniform(*self.pause_s))

    def slow_sync(self) -> None:
        machine = self._machine()
        machine.sync_s = self.random.choice([(0.0, 0.002), (0.0, 0.05), (0.02, 0.3)])
        if machine.node is not None:
            machine.node.environment.sync_s = machine.sync_s

    def jump(self) -> None:
        node = self._machine().node
        if node is not None:
            node.process.skew_s = self.random.uniform(-3600.0, 3600.0)

    # -- the network ------------------------------------------------------------------------------------------------

    def break_link(self) -> None:
        self.world.network.cut(*self._pair())

    def clog(self) -> None:
        self.world.network.clog(*self._pair())

    def isolate(self) -> None:
        name = self._machine().name
        for other in self.world.machines:
            if other != name:
                self.world.network.clog(name, other)
                if self.random.random() < 0.8:
                    self.world.network.clog(other, name)

    def ring(self) -> None:
        """Everybody sees a majority, and no two the same."""
        names = list(self.world.machines)
        reach = len(names) // 4 + 1
        for at, name in enumerate(names):
            for to, other in enumerate(names):
                if min((at - to) % len(names), (to - at) % len(names)) > reach:
                    self.world.network.clog(name, other)

    def slow_network(self) -> None:
        self.world.network.delay_s = self.random.choice([(0.0002, 0.005), (0.001, 0.08), (0.05, 0.3)])

    def heal_network(self) -> None:
        self.world.network.unclog_all()

    # -- the end ----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything works again, at once."""
        self.heal_network()
        self.world.network.delay_s = self.world.settings.delay_s
        for machine in self.world.machines.values():
            machine.sync_s = self.world.settings.sync_s
            if machine.node is not None:
                machine.node.process.fuse = 0
                machine.node.process.resume()
                machine.node.environment.sync_s = machine.sync_s
        self.restart()
