"""Random faults against the production replica; every seed is one reproducible story."""

from __future__ import annotations

from itertools import count

import pytest

from .simulation import Group

FAULTS = 100
ACTIONS = (
    "submit submit submit read read cut mute isolate blackhole crash power restart restart join join compact give_up"
)


class Storm:
    """A group under random faults, half of them aimed at the leader."""

    def __init__(self, seed: int, names: str) -> None:
        slow_disk = seed % 2 == 0
        self.group = Group(seed, names, sync_s=(0.0, 0.08) if slow_disk else (0.0, 0.004))
        self.group.delay_s = (0.0005, 0.03) if seed % 3 else (0.0005, 0.002)
        self.numbers = count()
        self.group.connect_all()

    def run(self, faults: int = FAULTS) -> Group:
        group = self.group
        for _ in range(faults):
            leader = group.leader
            aimed = leader is not None and group.random.random() < 0.5
            name = leader.name if leader is not None and aimed else group.random.choice(list(group.nodes))
            getattr(self, group.random.choice(ACTIONS.split()))(name)
            group.run(group.random.choice([0.0, 0.002, 0.01, 0.05, 0.3, 1.2]))
        group.heal_and_check()
        return group

    def submit(self, _name: str) -> None:
        for node in self.group.nodes.values():
            for _ in range(self.group.random.randint(0, 5)):
                if node.up:
                    node.submit(b"%d" % next(self.numbers))

    def read(self, _name: str) -> None:
        for node in self.group.nodes.values():
            if node.up:
                self.group.read(node.name)

    def cut(self, name: str) -> None:
        self.group.disconnect(name, self._other(name))

    def mute(self, name: str) -> None:
        self.group.muted.add((name, self._other(name)))

    def isolate(self, name: str) -> None:
        self.group.isolate(name)

    def blackhole(self, name: str) -> None:
        """A partition that nobody is told of."""
        for other in self.group.nodes:
            self.group.muted |= {(name, other), (other, name)}

    def crash(self, name: str) -> None:
        self.group.crash(name)

    def power(self, _name: str) -> None:
        """All at once, whatever is on its way to a disk."""
        for name in self.group.nodes:
            self.group.crash(name)
        for name in self.group.nodes:
            self.group.restart(name)
        self.group.muted.clear()
        self.group.connect_all()

    def restart(self, _name: str) -> None:
        for name in self.group.nodes:
            self.group.restart(name)

    def join(self, _name: str) -> None:
        for source, target in sorted(self.group.muted):
            self.group.disconnect(source, target)
        self.group.muted.clear()
        self.group.connect_all()

    def compact(self, name: str) -> None:
        everywhere = min(node.replica.journal.applied for node in self.group.nodes.values())
        if self.group.nodes[name].up:
            self.group.nodes[name].replica.compact(everywhere - 1)

    def give_up(self, name: str) -> None:
        """Who leads hands over to another, while records come."""
        if self.group.nodes[name].up:
            self.group.nodes[name].replica.hand_over(self._other(name))
            self.submit(name)

    def _other(self, name: str) -> str:
        return self.group.random.choice([other for other in self.group.nodes if other != name])


def storm(seed: int, names: str, faults: int = FAULTS) -> Group:
    return Storm(seed, names).run(faults)


@pytest.mark.parametrize("seed", range(40))
def test_three_members_agree_whatever_happens(seed: int) -> None:
    storm(seed, "abc")


@pytest.mark.parametrize("seed", range(100, 110))
def test_five_members_agree_whatever_happens(seed: int) -> None:
    storm(seed, "abcde")


@pytest.mark.parametrize("seed", range(200, 210))
def test_two_members_agree_whatever_happens(seed: int) -> None:
    storm(seed, "ab")


def test_the_storms_do_something() -> None:
    groups = [storm(seed, "abc") for seed in range(300, 304)]
    assert sum(len(group.acknowledged) for group in groups) > 300
    assert sum(group.reads_answered for group in groups) > 10
    assert sum(len(group.leaders) for group in groups) > 8
