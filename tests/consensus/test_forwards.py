"""What followers send to their leader is ordered as they have sent it, or later as a whole."""

from __future__ import annotations

from lddp.consensus.wire import (
    Append,
    Appended,
    Forward,
    Message,
    VoteRequest,
    decode_message,
    decode_records,
    encode_message,
)

from .member import Member, entry

BATCH = [b"%d" % number for number in range(6)]


def ordered(leader: Member) -> list[bytes]:
    """What was appended since the last call, as it went to one of the peers."""
    entries = [
        one for peer, message in leader.sent if peer == "c" and isinstance(message, Append) for one in message.entries
    ]
    leader.sent.clear()
    return [record for command, _, _ in entries for record in decode_records(command[1:])]


def frames() -> list[Message]:
    """How a follower sends a batch that is larger than an entry may be."""
    follower = Member("bc", entry_records_max=4)
    follower.append("c", 1, (1, 0), 1, entry(2, 1))
    follower.sent.clear()
    assert follower.replica.inbox.put(BATCH)
    follower.cycle()
    sent = follower.taken(Forward)
    assert [len(message.records) for message in sent] == [4, 2]
    return [decode_message(encode_message(message)) for message in sent]


def nearly_full() -> Member:
    """A leader whose inbox has room for the end of the batch, not for its beginning."""
    leader = Member("bc", pending_records_max=8)
    leader.lead()
    leader.sent.clear()
    assert leader.replica.inbox.put([b"other"] * 5)
    return leader


def test_what_does_not_fit_takes_along_what_follows_it() -> None:
    leader = nearly_full()
    leader.receive("b", *frames())
    assert leader.replica.forwards_dropped == len(BATCH)
    leader.receive("b", *frames())
    leader.cycle()
    assert ordered(leader) == [b"other"] * 5 + BATCH


def test_it_does_so_where_there_is_room_again_by_then() -> None:
    leader = nearly_full()
    first, second = frames()
    leader.receive("b", first)
    assert not len(leader.replica.inbox)
    leader.receive("b", second)
    leader.cycle()
    assert ordered(leader) == [b"other"] * 5


def test_what_another_peer_has_sent_does_not_follow_it() -> None:
    leader = nearly_full()
    term = leader.replica.core.term
    first, second = frames()
    leader.replica.deliver("b", first)
    leader.receive("c", Forward((b"c",), False, term), Forward((b"d",), True, term))
    leader.receive("b", second, Forward((b"later",), False, term))
    leader.cycle()
    assert ordered(leader) == [b"other"] * 5 + [b"c", b"d", b"later"]


def test_who_leads_no_longer_does_not_send_on_what_it_has_left_of_a_batch() -> None:
    """The beginning may be lost with its term, and comes again from who waits for it."""
    member = Member("bc", entry_records_max=4, apply_budget_s=10.0)
    member.lead()
    member.replica.on_leader_change.append(lambda leader: leader and member.replica.inbox.put(BATCH))  # type: ignore
    assert member.replica.inbox.put(BATCH)
    member.cycle()
    assert len(member.replica.inbox) == 2
    member.sent.clear()
    member.append("c", member.replica.core.term + 1, (1, 0), 1)
    sent = [record for message in member.taken(Forward) for record in message.records]
    assert sent == BATCH


def leading() -> Member:
    """Its peers have all that it has ordered."""
    member = Member("bc", entry_records_max=4, apply_budget_s=10.0)
    member.lead()
    core = member.replica.core
    for peer in "bc":
        member.receive(peer, Appended(core.term, core.last + 1, True, 0))
    assert core.commit == core.last
    return member


def test_a_hand_over_that_came_to_nothing_is_over() -> None:
    """`b` never stands for election, the old leader goes on, and is deposed much later by `c`."""
    member = leading()
    core = member.replica.core
    assert member.replica.hand_over("b")
    for _ in range(8):  # the pause is over, and everybody still follows this leader
        member.cycle(0.1)
        for peer in "bc":
            member.receive(peer, Appended(core.term, core.last + 1, True, core.commit))
    assert core.is_leader and member.replica._workload.paused_until <= member.clock.monotonic()
    member.replica.on_leader_change.append(lambda leader: leader and member.replica.inbox.put(BATCH))  # type: ignore
    assert member.replica.inbox.put(BATCH)
    member.cycle()
    assert len(member.replica.inbox) == 2, "it has ordered the beginning of the batch"
    member.sent.clear()
    member.append("c", core.term + 1, (1, 0), 1)
    sent = [record for message in member.taken(Forward) for record in message.records]
    assert sent == BATCH


def test_the_end_of_a_batch_that_comes_when_it_leads_no_longer_is_not_sent_on() -> None:
    """`b` had sent it in two messages; the first was ordered in the term that has ended."""
    member = leading()
    core = member.replica.core
    member.receive("b", Forward(tuple(BATCH[:4]), False, core.term))
    assert len(member.replica.inbox) == 0
    member.append("c", core.term + 1, (1, 0), 1)
    member.sent.clear()
    member.receive("b", Forward(tuple(BATCH[4:]), True, core.term - 1), Forward(tuple(BATCH[4:]), True, core.term))
    sent = [record for message in member.taken(Forward) for record in message.records]
    assert sent == [], "the beginning may be lost with its term"


def test_what_is_left_of_a_batch_is_for_the_heir_alone() -> None:
    """`a` has ordered the beginning, which `b` has and no majority, and hands over to `b`."""
    for elected in "bd":
        member = Member("bcde", entry_records_max=4, apply_budget_s=10.0)
        member.lead()
        core = member.replica.core
        for peer in "bcde":
            member.receive(peer, Appended(core.term, core.last + 1, True, 0))
        before, term = core.last, core.term
        member.receive("c", Forward(tuple(BATCH[:4]), False, term))
        member.receive("b", Appended(term, core.last + 1, True, before))
        assert (core.commit, core.last) == (before, before + 1)
        assert member.replica.hand_over("b")
        member.receive("c", Forward(tuple(BATCH[4:]), True, term))
        member.sent.clear()
        member.append(elected, term + 1, (before, term), before)
        sent = [record for message in member.taken(Forward) for record in message.records]
        assert sent == (BATCH[4:] if elected == "b" else []), "the beginning may be lost with its term"


def test_what_was_sent_to_a_leader_is_for_its_term() -> None:
    """It stood in the socket of a leader that was stopped, and leads again: its sender has asked others meanwhile, and
    been answered."""
    first, second = leading(), leading()
    late = Forward(tuple(BATCH), False, first.replica.core.term)
    term = first.replica.core.term + 1
    first.append("c", term, (1, 0), 1)
    first.lead()
    assert first.replica.core.term > term
    last = first.replica.core.last
    first.receive("b", late)
    first.cycle()
    assert first.replica.core.last == last
    assert first.replica.forwards_dropped == len(BATCH)
    last = second.replica.core.last
    second.receive("b", late)
    second.cycle()
    assert second.replica.core.last > last


def test_what_has_waited_for_a_leader_is_not_given_to_it() -> None:
    """Who waits for it knows whether it was done meanwhile."""
    follower = Member("bc")
    assert follower.replica.inbox.put(BATCH)
    follower.cycle()
    follower.append("c", 1, (1, 0), 1)
    assert follower.taken(Forward) == []
    follower.replica.link_down("c")
    follower.cycle()
    assert follower.replica.leader is None
    assert follower.replica.inbox.put(BATCH)
    follower.replica.link_up("c")
    follower.append("c", 1, (1, 0), 1)
    assert follower.replica.leader == "c"
    assert follower.taken(Forward) == []
    assert follower.replica.inbox.put(BATCH)
    follower.cycle()
    assert [message.term for message in follower.taken(Forward)] == [1]


def test_who_follows_the_same_leader_in_another_term_is_told() -> None:
    """The leader was deposed and elected again, and has forgotten what was sent to it before. Its request for a vote
    and its first message as leader come to this member in one cycle, as after a pause."""
    member = Member("bc")
    member.append("b", 1, (1, 0), 1)
    member.cycle(2.0)  # nothing was heard for a while: not loyal any more
    member.append("b", 1, (1, 0), 1)
    told: list[str | None] = []
    member.replica.on_leader_change.append(told.append)
    member.clock.now += 0.9
    term = member.replica.core.term
    assert member.replica.leader == "b"
    member.receive("b", VoteRequest(term + 1, 1, 0, True), Append(term + 1, 1, 1, 0, ()))
    assert (member.replica.core.term, member.replica.leader) == (term + 1, "b")
    assert told, "what waits is to be submitted again"
