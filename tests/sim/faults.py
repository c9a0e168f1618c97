"""Faults: what goes wrong with nodes, disks and the network of a simulated world, several at the same time."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from random import Random

from tests.sim.loop import SimulatedHandle
from tests.sim.node import Machine
from tests.sim.world import World

PAUSE_S = (5.0, 40.0)
LEADER_PAUSE_S = (5.0, 40.0)
FUSE_POINTS_MAX = 40
AT_ONCE = (1, 1, 1, 1, 2, 3)
SWIZZLE_STEP_S = 0.5
STRANDING_S = 0.3


class Faults:
    """Injects one fault after the other. Every fault that does not end by itself is ended by `heal`."""

    def __init__(
        self,
        world: World,
        seed: object,
        *,
        pause_s: tuple[float, float] = PAUSE_S,
        leader_pause_s: tuple[float, float] = LEADER_PAUSE_S,
    ) -> None:
        self.world = world
        self.random = Random(repr((seed, "faults")))
        self.pause_s = pause_s
        self.leader_pause_s = leader_pause_s
        self.spared: set[str] = set()
        """Nodes that are never killed."""
        self._later: list[SimulatedHandle] = []
        self.kinds: tuple[tuple[str, int, Callable[[], None]], ...] = (
            ("kill", 4, self.kill),
            ("kill between effects", 4, self.burn),
            ("kill all", 1, self.kill_all),
            ("power cut", 2, self.cut_power),
            ("power cut of all", 1, self.cut_all_power),
            ("restart", 6, self.restart),
            ("break a link", 3, self.break_link),
            ("one-way clog", 3, self.clog),
            ("garbled message", 2, self.garble),
            ("messages repeated over the next link", 2, self.repeat),
            ("all is repeated over the next links", 0, self.repeat_all),
            ("isolate", 2, self.isolate),
            ("one-way partition", 2, self.isolate_one_way),
            ("swizzle", 1, self.swizzle),
            ("leader stranded", 2, self.strand),
            ("majority ring", 1, self.ring),
            ("heal the network", 4, self.heal_network),
            ("pause", 2, self.pause),
            ("pause of the leader", 1, self.pause_leader),
            ("database fails", 2, self.fail_database),
            ("zone refuses changes", 2, self.refuse_changes),
            ("zone takes changes again", 2, self.take_changes),
            ("slow sync", 2, self.slow_sync),
            ("slow network", 1, self.slow_network),
            ("clock jump", 1, self.jump),
        )

    def inject(self) -> None:
        """One fault, or several at the same moment."""
        names, weights, actions = zip(*self.kinds, strict=True)
        for chosen in self.random.choices(range(len(names)), weights, k=self.random.choice(AT_ONCE)):
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

    def kill(self, *, power: bool = False) -> None:
        machine = self._machine()
        if machine.up and machine.name not in self.spared:
            machine.kill(power=power)
            if self.random.random() < 0.4:
                machine.start()

    def burn(self) -> None:
        """It is killed between two of its next effects on the outside world."""
        machine = self._machine()
        if machine.node is not None and machine.name not in self.spared:
            machine.node.process.fuse = self.random.randrange(1, FUSE_POINTS_MAX)

    def kill_all(self, *, power: bool = False) -> None:
        for machine in self.world.up:
            if machine.name not in self.spared:
                machine.kill(power=power)
        self.restart()

    def cut_power(self) -> None:
        self.kill(power=True)

    def cut_all_power(self) -> None:
        self.kill_all(power=True)

    def restart(self) -> None:
        for machine in self.world.machines.values():
            if not machine.up:
                machine.start()

    def pause(self) -> None:
        machine = self._machine()
        if machine.node is not None:
            machine.node.process.spend(self.random.uniform(*self.pause_s))

    def pause_leader(self) -> None:
        leader = self.world.leader
        if leader is not None and leader.node is not None:
            leader.node.process.spend(self.random.uniform(*self.leader_pause_s))

    def fail_database(self) -> None:
        machine = self._machine()
        if machine.up and machine.name not in self.spared:
            machine.fail_database(self.random.choice([errno.ENOSPC, errno.EIO]))

    def refuse_changes(self) -> None:
        """A zone's filesystem is full, or broken: only its own projection stops."""
        machine = self._machine()
        machine.zone_error = self.random.choice([errno.ENOSPC, errno.EIO])
        machine.is_spared = machine.name in self.spared

    def take_changes(self) -> None:
        for machine in self.world.machines.values():
            machine.zone_error = 0

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

    def isolate_one_way(self) -> None:
        """A node is heard by nobody, or hears nobody."""
        name, hears = self._machine().name, self.random.random() < 0.5
        for other in self.world.machines:
            if other != name:
                self.world.network.clog(*((name, other) if hears else (other, name)))

    def swizzle(self) -> None:
        """Some nodes are cut off one after the other, and come back in another order."""
        loop, at, names = self.world.loop, self.world.loop.now, list(self.world.machines)
        chosen = self.random.sample(names, self.random.randrange(1, len(names)))
        for action in (self.world.network.clog, self.world.network.unclog):
            self.random.shuffle(chosen)
            for name in chosen:
                at += self.random.uniform(0.0, SWIZZLE_STEP_S)
                for way in [way for other in names if other != name for way in ((name, other), (other, name))]:
                    self._later.append(loop.at(at, loop.outside, action, *way))

    def strand(self) -> None:
        """A leader hears nobody any more, and a little later is not heard either: what others have of its log is more
        than it knows, and it goes on with what they will never have."""
        leader, loop = self.world.leader, self.world.loop
        if leader is not None:
            at = loop.now + self.random.uniform(0.0, STRANDING_S)
            for other in self.world.machines:
                if other != leader.name:
                    self.world.network.clog(other, leader.name)
                    self._later.append(loop.at(at, loop.outside, self.world.network.clog, leader.name, other))

    def garble(self) -> None:
        self.world.network.garble(*self._pair())

    def repeat(self) -> None:
        self.world.network.repeat(*self._pair())

    def repeat_all(self) -> None:
        """Every link breaks, and what was said last over it is said again."""
        for one, other in itertools.combinations(self.world.machines, 2):
            self.world.network.repeat(one, other)

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
        for handle in self._later:
            handle.cancel()
        self._later.clear()
        self.world.network.unclog_all()

    # -- the end ----------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything works again, at once."""
        self.heal_network()
        self.world.network.delay_s = self.world.settings.delay_s
        self.take_changes()
        for machine in self.world.machines.values():
            machine.sync_s = self.world.settings.sync_s
            if machine.node is not None and machine.node.has_lost_writes:
                machine.end_without_writes(machine.node)
            elif machine.node is not None and machine.node.failed:
                machine.kill()
            elif machine.node is not None:
                machine.node.environment.error = 0
                machine.node.process.fuse = 0
                machine.node.process.resume()
                machine.node.environment.sync_s = machine.sync_s
        self.restart()
