"""A schedule is the seed's alone, brings every kind, and never gives one thing to two faults."""

from __future__ import annotations

from itertools import combinations

import pytest

from cluster.chaos.network import Links, ruleset
from cluster.chaos.schedule import ACTIVE_MAX, KINDS, Fault, plan

ALL = sorted(KINDS)


def overlap(one: Fault, other: Fault) -> bool:
    return one.at < other.at + other.seconds and other.at < one.at + one.seconds


@pytest.mark.parametrize("seed", range(30))
def test_faults_overlap_but_do_not_clash(seed: int) -> None:
    faults = plan(seed, ALL, 300.0, 4.0, 5)
    assert {fault.kind for fault in faults} == set(ALL)
    assert any(overlap(one, other) for one, other in combinations(faults, 2))
    for one, other in combinations(faults, 2):
        shared = KINDS[one.kind].takes & KINDS[other.kind].takes
        whole = "net" in shared or "one" not in (KINDS[one.kind].scope, KINDS[other.kind].scope)
        if shared and (whole or one.target == other.target):
            assert not overlap(one, other), (one, other)
    for fault in faults:
        assert sum(one.at <= fault.at < one.at + one.seconds for one in faults) <= ACTIVE_MAX
        assert fault.seconds > 0 and fault.at + fault.seconds <= 300.0


@pytest.mark.parametrize("active", [2, 4])
def test_faults_begin_sooner_while_fewer_than_asked_for_are_active(active: int) -> None:
    def most_at_once(faults: list[Fault]) -> int:
        return max(sum(one.at <= fault.at < one.at + one.seconds for one in faults) for fault in faults)

    lone, crowded = plan(5, ALL, 600.0, 60.0, 5), plan(5, ALL, 600.0, 60.0, 5, active)
    assert len(crowded) > 2 * len(lone)
    assert most_at_once(lone) == 1 and active <= most_at_once(crowded) <= max(ACTIVE_MAX, active)


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    assert plan(1, ALL, 60.0, 3.0, 5) == plan(1, ALL, 60.0, 3.0, 5)
    assert plan(1, ALL, 60.0, 3.0, 5) != plan(2, ALL, 60.0, 3.0, 5)


def test_a_long_campaign_is_quiet_for_half_a_minute_at_its_end_and_no_longer() -> None:
    faults = plan(3, ALL, 3600.0, 5.0, 5, 3)
    assert 3480.0 < max(fault.at for fault in faults) < 3570.0
    assert 3500.0 < max(fault.at + fault.seconds for fault in faults) <= 3590.0
    assert all(fault.seconds >= KINDS[fault.kind].seconds[0] for fault in faults)
    assert max(fault.at for fault in plan(3, ALL, 30.0, 2.0, 5)) < 30.0 * 0.85


def test_no_kinds_are_no_faults() -> None:
    assert plan(1, [], 60.0, 3.0, 5) == []


def test_the_rules_of_a_host_say_what_is_wrong_with_its_links() -> None:
    peers = ["10.0.0.2", "10.0.0.3"]
    assert "drop" not in ruleset(Links(), peers)
    links = Links(loss_percent=10, duplicate_percent=20)
    links.cut_from["10.0.0.3"] += 2
    links.cut_from["10.0.0.2"] += 1
    links.cut_from["10.0.0.2"] -= 1
    text = ruleset(links, peers)
    assert "ip saddr 10.0.0.3 drop" in text
    assert "ip saddr 10.0.0.2 drop" not in text
    assert "numgen random mod 100 < 10 drop" in text
    assert "ip daddr 10.0.0.2 numgen random mod 100 < 20 dup to 10.0.0.2" in text
