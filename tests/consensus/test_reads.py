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
