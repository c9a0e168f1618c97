"""Leadership goes to the voter that submits nearly all records, and not more often than it is worth."""

from __future__ import annotations

from itertools import count

import pytest

from lddp.consensus.wire import Append, Appended, Forward, HandOver
from lddp.errors import ConfigError

from .member import Member
from .simulation import Group, Node

STEP_S = 0.01
LOAD_S = 3.5
REST_S = 20.0


class Load:
    """Programs at some nodes, each of which submits a record every 10 ms."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._numbers = count()

    def run(self, *names: str, seconds: float = LOAD_S) -> None:
        for _ in range(round(seconds / STEP_S)):
            for name in names:
                self._group.nodes[name].submit(b"%d" % next(self._numbers))
            self._group.run(STEP_S)


@pytest.fixture
def group() -> Group:
    group = Group(1, sync_s=(0.0, 0.0005))
    group.delay_s = (0.0001, 0.001)
    group.connect_all()
    return group


def leader_of(group: Group) -> str:
    leader = group.leader
    assert leader is not None
    return leader.name


def others(group: Group, leader: Node) -> list[str]:
    return [name for name in group.nodes if name != leader.name]


def test_leadership_goes_to_who_submits_and_nothing_is_lost(group: Group) -> None:
    leader = group.elect()
    heir = others(group, leader)[0]
    load = Load(group)
    load.run(heir)
    assert leader_of(group) == heir
    term = group.nodes[heir].replica.core.term
    group.run(1.0)
    assert len(group.acknowledged) == round(LOAD_S / STEP_S), "what waited meanwhile went to the new leader"
    load.run(heir)
    assert group.nodes[heir].replica.core.term == term, "who leads already hands over to nobody"
    group.heal_and_check()


def test_who_was_given_the_leadership_keeps_it_for_a_while(group: Group) -> None:
    leader = group.elect()
    heir, third = others(group, leader)
    load = Load(group)
    load.run(heir)
    assert leader_of(group) == heir
    load.run(third)
    assert leader_of(group) == heir
    group.run(REST_S)
    load.run(third)
    assert leader_of(group) == third


def test_leadership_stays_where_not_nearly_all_is_somebody_elses(group: Group) -> None:
    leader = group.elect()
    load = Load(group)
    load.run(*group.nodes)
    load.run(*others(group, leader))
    load.run(leader.name, others(group, leader)[0])
    load.run(leader.name)
    assert leader_of(group) == leader.name


def test_leadership_stays_while_a_member_is_away(group: Group) -> None:
    leader = group.elect()
    heir, third = others(group, leader)
    group.crash(third)
    load = Load(group)
    load.run(heir)
    assert leader_of(group) == leader.name
    group.restart(third)
    group.connect_all()
    load.run(heir)
    assert leader_of(group) == heir


def test_it_can_be_switched_off() -> None:
    group = Group(1, sync_s=(0.0, 0.0005), follow_workload_s=0.0)
    group.connect_all()
    leader = group.elect()
    Load(group).run(others(group, leader)[0], seconds=2 * LOAD_S)
    assert leader_of(group) == leader.name
    with pytest.raises(ConfigError):
        Group(1, follow_workload_s=-1.0)


class Leader(Member):
    """One that has everything on all members."""

    def __init__(self) -> None:
        super().__init__()
        self.lead()
        self.answer("b", "c")

    def answer(self, *peers: str) -> None:
        core = self.replica.core
        for peer in peers:
            self.replica.deliver(peer, Appended(core.term, core.last + 1, True, core.commit))
        self.cycle()
        self.sent.clear()


def test_nothing_is_appended_while_the_heir_stands_for_election() -> None:
    leader = Leader()
    last = leader.replica.core.last
    assert leader.replica.hand_over("b")
    assert [to for to, message in leader.sent if isinstance(message, HandOver)] == ["b"]
    leader.receive("b", Forward((b"x",), False, leader.replica.core.term))
    leader.cycle(0.1)
    assert leader.replica.core.last == last
    due = leader.replica.next_at()
    assert leader.clock.now < due, "which is waited for, and not by looking all the time"
    leader.cycle(0.5)
    assert leader.replica.core.last == last + 1, "nobody stood"


def test_an_heir_that_is_gone_is_not_waited_for() -> None:
    leader = Leader()
    last = leader.replica.core.last
    assert leader.replica.hand_over("b")
    leader.replica.link_down("b")
    leader.receive("c", Forward((b"x",), False, leader.replica.core.term))
    assert leader.replica.core.last == last + 1


def test_what_waited_goes_to_the_heir() -> None:
    leader = Leader()
    core = leader.replica.core
    assert leader.replica.hand_over("b")
    leader.receive("c", Forward((b"x",), False, leader.replica.core.term))
    leader.sent.clear()
    leader.receive("b", Append(core.term + 1, core.commit, core.last, core.last_term, ()))
    assert [(to, message) for to, message in leader.sent if isinstance(message, Forward)] == [
        ("b", Forward((b"x",), False, core.term))
    ]


def test_who_is_behind_is_handed_nothing() -> None:
    leader = Leader()
    leader.receive("c", Forward((b"x",), False, leader.replica.core.term))
    leader.sent.clear()
    assert not leader.replica.hand_over("b")
    leader.replica.link_down("c")
    assert not leader.replica.hand_over("c")
    assert leader.taken(HandOver) == []
