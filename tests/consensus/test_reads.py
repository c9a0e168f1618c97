"""Read points of members that come and go."""

from __future__ import annotations

from lddp.consensus.wire import Appended, Confirm, Confirmed, ReadAnswer, ReadAsk
from tests.consensus.member import Member


def commit_one(member: Member) -> int:
    """The leader orders a record; its index, once it is committed."""
    assert member.replica.inbox.put([b"record"])
    member.cycle()
    core = member.replica.core
    member.receive("c", Appended(core.term, core.last + 1, True, core.commit))
    assert core.commit == core.last
    return core.commit


def deliver(leader: Member, other: Member) -> None:
    """What has gone out to b, as it went, and its answers, until there is nothing more to say. The other member stands
    for b; what it does does not depend on names."""
    for _ in range(20):
        out = [message for peer, message in leader.sent if peer == "b"]
        leader.sent = [item for item in leader.sent if item[0] != "b"]
        other.sent.clear()
        for message in out:
            other.replica.deliver("x", message)
        other.cycle()
        back = [message for peer, message in other.sent if peer == "x" and isinstance(message, Confirmed | Appended)]
        for message in back:
            leader.replica.deliver("b", message)
        leader.cycle(0.05)


def test_rounds_that_are_open_are_confirmed_by_a_member_that_was_away_at_the_election() -> None:
    """It hears of the term by them, before any entry; they are sent to it once."""
    leader = Member()
    leader.replica.link_down("b")
    leader.lead()
    core = leader.replica.core
    leader.receive("c", Appended(core.term, core.last + 1, True, core.commit))
    leader.taken(Confirm)
    answered: list[int] = []
    rounds = 4  # as many as may be open; c is gone before it answers
    for _ in range(rounds):
        assert leader.replica.read_point(answered.append) is not None
        leader.cycle()
    assert len({confirm.number for confirm in leader.taken(Confirm)}) == rounds
    behind = Member("xy")
    assert behind.replica.core.term < core.term
    leader.replica.link_up("b")
    leader.replica.link_down("c")
    deliver(leader, behind)
    assert core.is_leader and behind.replica.core.term == core.term
    assert len(answered) == rounds
    assert leader.replica.read_point(answered.append) is not None
    deliver(leader, behind)
    assert len(answered) == rounds + 1


def test_an_ask_of_an_earlier_life_is_not_answered_to_the_next_one() -> None:
    member = Member()
    member.lead()
    before = commit_one(member)
    term = member.replica.core.term
    member.receive("b", ReadAsk(1))
    opened = {confirm.number for confirm in member.taken(Confirm)}
    assert len(opened) == 1, "one round is open, and nobody has confirmed it"
    member.replica.link_down("b")
    after = commit_one(member)
    assert after > before
    member.replica.link_up("b")
    member.receive("b", ReadAsk(1))
    opened |= {confirm.number for confirm in member.taken(Confirm)}
    for number in sorted(opened):
        member.receive("c", Confirmed(term, number))
    assert member.taken(ReadAnswer) == [ReadAnswer(1, after)]
