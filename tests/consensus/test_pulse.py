"""When a leader sends without an entry to send."""

from __future__ import annotations

import pytest

from lddp.consensus.config import RaftConfig
from lddp.consensus.pulse import Pulse

NOTICE_S = 0.002
HEARTBEAT_S = 10.0


@pytest.fixture
def pulse() -> Pulse:
    times = {"heartbeat_s": HEARTBEAT_S, "election_timeout_min_s": 40.0, "election_timeout_max_s": 50.0}
    pulse = Pulse(RaftConfig(node="a", address="unix:/a", ecosystem="e", commit_notice_s=NOTICE_S, **times))
    assert not pulse.is_due(1.0, 0)
    pulse.sent(1.0, 0)
    return pulse


def waits(pulse: Pulse, now: float, commit: int) -> float:
    """Until the news of a commit is sent alone."""
    assert not pulse.is_due(now, commit)
    assert pulse.is_due(pulse.next_at, commit)
    return pulse.next_at - now


def test_the_news_of_a_lone_commit_waits_a_little(pulse: Pulse) -> None:
    assert waits(pulse, 2.0, 1) == pytest.approx(NOTICE_S)
    pulse.sent(2.0 + NOTICE_S, 1)
    assert not pulse.is_due(2.01, 1), "it is news once"
    assert waits(pulse, 3.0, 2) == pytest.approx(NOTICE_S)


@pytest.mark.parametrize(("pause_s", "expected_s"), [(0.0005, 0.002), (0.003, 0.006), (0.0079, 0.008), (0.009, 0.002)])
def test_where_commits_follow_one_another_the_next_entry_is_waited_for(
    pulse: Pulse, pause_s: float, expected_s: float
) -> None:
    pulse.is_due(1.05, 1)
    pulse.sent(1.05, 1)
    assert waits(pulse, 1.05 + pause_s, 2) == pytest.approx(expected_s)


def test_news_that_a_follower_waits_for_is_sent_at_once(pulse: Pulse) -> None:
    pulse.awaited = 2
    assert pulse.is_due(1.05, 1)
    pulse.sent(1.05, 1)
    assert pulse.is_due(1.051, 2)
    pulse.sent(1.051, 2)
    assert not pulse.is_due(1.052, 3)


def test_signs_of_life(pulse: Pulse) -> None:
    assert pulse.next_at == 1.0 + HEARTBEAT_S
    assert pulse.is_due(11.0, 0)
    pulse.sent(11.0, 0)
    pulse.beat(12.0)
    assert pulse.is_due(12.0, 0)
    pulse.sent(12.0, 0)
    pulse.rest()
    assert not pulse.is_due(99.0, 0)


def test_another_leadership_tells_again(pulse: Pulse) -> None:
    pulse.is_due(1.05, 5)
    pulse.sent(1.05, 5)
    pulse.forget()
    assert waits(pulse, 1.08, 5) == pytest.approx(NOTICE_S)
