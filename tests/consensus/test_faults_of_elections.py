"""The faults of PySyncObj's elections and answers: each shown in the released code, then closed in ours."""

from __future__ import annotations

import pickle

import pytest

from lddp.consensus.wire import (
    NO_OP,
    Append,
    Appended,
    Canvass,
    CanvassReply,
    Later,
    Vote,
    VoteRequest,
    decode_message,
    encode_message,
)
from lddp.errors import FormatError

from .member import Member, entry
from .simulation import Group
from .stock import Stock


def test_10_overlapping_membership_changes_are_accepted() -> None:
    stock = Stock(dynamicMembershipChange=True)
    stock.lead()
    for peer in stock.nodes:
        stock.receive(peer, type="next_node_idx", next_node_idx=3, reset=False, success=True)
    stock.tick(0.2)
    stock.raft.addNodeToCluster(stock.module.Node("x"))
    stock.raft.addNodeToCluster(stock.module.Node("y"))
    stock.tick(0.2)
    assert len(stock.raft.otherNodes) == 4, "released: two changes at once, neither committed"

    change = Append(1, 1, 1, 0, ((b"\x02" + pickle.dumps(["add", "x"]), 2, 1),))
    with pytest.raises(FormatError):
        decode_message(encode_message(change))


def test_11_a_forwarded_command_hangs_without_an_answer() -> None:
    stock = Stock()
    stock.append("b", 1, (1, 0), 1)
    answers: list[object] = []
    stock.raft._applyCommand(b"x", lambda *answer: answers.append(answer), 0)
    stock.tick()
    for _ in range(1000):
        stock.append("b", 1, (1, 0), 1)
        stock.tick(0.1)
    assert answers == [], "released: the message was lost, the caller waits for ever"
    # Ours gives no answer at all: `RaftMember.submit` says so, and all of its waits have deadlines (test_member).


def test_12_a_stalled_node_deposes_a_healthy_leader() -> None:
    stock = Stock()
    stock.append("b", 1, (1, 0), 1)
    stock.tick(5.0)  # stalled; heartbeats lie unread in its sockets
    assert stock.raft.raftCurrentTerm == 2 and "request_vote" in stock.kinds(), "released: asks for votes at once"

    group = Group(12)
    group.connect_all()
    leader = group.elect()
    group.run(2.0)
    term = leader.replica.core.term
    stalled = next(node for node in group.nodes.values() if node is not leader)
    stalled.busy = True  # no cycle runs, messages queue
    group.run(5.0)
    stalled.busy = False
    stalled.wake()
    group.run(5.0)
    assert group.leader is leader
    assert {node.replica.core.term for node in group.nodes.values()} == {term}


def test_12_a_member_that_was_cut_off_comes_back_without_an_election() -> None:
    group = Group(13)
    group.connect_all()
    leader = group.elect()
    away = next(node.name for node in group.nodes.values() if node is not leader)
    group.isolate(away)
    group.run(20.0)
    term = leader.replica.core.term
    group.connect_all()
    group.run(5.0)
    assert group.leader is leader and leader.replica.core.term == term


def test_12_votes_are_not_given_while_the_leader_is_heard() -> None:
    member = Member()
    member.append("b", 1, (1, 0), 1)
    member.receive("c", VoteRequest(9, 99, 9, False), Canvass(9, 99, 9))
    assert member.replica.core.term == 1
    assert member.taken(Vote) == []
    assert [reply.granted for reply in member.taken(CanvassReply)] == [False]
    member.receive("c", VoteRequest(9, 99, 9, True))
    assert member.taken(Vote) == [Vote(9)], "but when the leader hands over"


def test_12_an_old_leader_is_told_of_the_later_term() -> None:
    stock = Stock()
    stock.append("b", 5, (1, 0), 1)
    stock.transport.sent.clear()
    stock.append("c", 4, (1, 0), 1)
    assert stock.transport.sent == [], "released: silence"

    member = Member()
    member.append("b", 5, (1, 0), 1)
    member.append("c", 4, (1, 0), 1)
    assert member.taken(Later) == [Later(5)]

    leader = Member()
    leader.lead()
    leader.receive("b", Later(7))
    assert not leader.replica.core.is_leader and leader.replica.core.term == 7


def test_13_a_diverged_follower_is_found_in_two_steps() -> None:
    stock = Stock()
    stock.append("b", 1, (1, 0), 1, *[(bytes([NO_OP]), index, 1) for index in range(2, 40)])
    stock.transport.sent.clear()
    stock.append("c", 3, (38, 2), 1)
    assert stock.transport.sent[-1][1]["next_node_idx"] == 38, "released: one index back a heartbeat"

    member = Member()
    member.append("b", 1, (1, 0), 5, *[entry(index, 1) for index in range(2, 40)])
    member.taken(Appended)
    member.append("c", 3, (38, 2), 1)
    assert member.taken(Appended) == [Appended(3, 38, False, 5)]

    leader = Member()
    leader.append("b", 1, (1, 0), 5, *[entry(index, 1) for index in range(2, 40)])
    leader.lead()
    leader.taken(Append)
    leader.receive("b", Appended(leader.replica.core.term, 38, False, 5))
    first = next(message for message in leader.taken(Append) if message.entries)
    assert first.previous == 5


def test_14_an_answer_of_an_earlier_term_is_counted() -> None:
    stock = Stock()
    stock.append("b", 1, (1, 0), 1, *[(bytes([NO_OP]), index, 1) for index in range(2, 6)])
    stock.lead()
    stock.receive("b", type="next_node_idx", next_node_idx=7, reset=False, success=True)  # for term 1's entry 6
    stock.tick(0.2)
    assert stock.raft.raftCommitIndex == 6, "released: this term's entry 6 counts as stored by b"

    member = Member()
    member.append("b", 1, (1, 0), 1, *[entry(index, 1) for index in range(2, 6)])
    member.lead()
    member.receive("b", Appended(1, 7, True, 1))
    member.cycle()
    assert member.replica.journal.commit == 1
    member.receive("b", Appended(member.replica.core.term, 7, True, 1))
    assert member.replica.journal.commit == 6


def test_14_one_voter_counts_twice() -> None:
    stock = Stock("bcde")
    stock.tick(10.0)
    for _ in range(2):
        stock.receive("b", type="response_vote", term=1)
    assert stock.raft._isLeader(), "released: two votes of one voter are two votes"

    member = Member("bcde")
    member.cycle(5.0)
    member.cycle(0.1)
    member.receive("b", CanvassReply(1, 0, True), CanvassReply(1, 0, True))
    assert member.replica.core.term == 0, "nor does one pre-vote"
    member.receive("c", CanvassReply(1, 0, True))
    assert member.replica.core.term == 1
    member.receive("b", Vote(1), Vote(1))
    assert not member.replica.core.is_leader
    member.receive("c", Vote(1))
    assert member.replica.core.is_leader


def test_15_nothing_from_the_network_is_unpickled() -> None:
    for body in (pickle.dumps({"type": "request_vote"}), b"", b"\xc1", b"\x90", b"\x91\xcd\xff\xff", b"\xff" * 100):
        with pytest.raises(FormatError):
            decode_message(body)


def test_17_a_leader_without_a_majority_steps_down_soon() -> None:
    stock = Stock()
    stock.lead()
    stock.tick(20.0)
    assert stock.raft._isLeader(), "released: for 30 s by default it believes itself the leader"

    member = Member()
    member.lead()
    member.cycle(1.1)
    assert not member.replica.core.is_leader


def test_a_vote_leaves_only_when_it_is_stored() -> None:
    member = Member()
    member.clock.now += 5.0
    member.replica.deliver("b", VoteRequest(3, 9, 2, False))
    member.replica.begin()
    assert member.taken(Vote) == []
    member.replica.finish()
    assert member.taken(Vote) == [Vote(3)]
    again = Member(keyvalue=member.keyvalue.copy())
    again.receive("c", VoteRequest(3, 9, 2, False))
    assert again.taken(Vote) == [], "one vote a term, also across a restart"


def test_entries_of_an_earlier_term_are_not_committed_by_counting() -> None:
    member = Member()
    member.append("b", 1, (1, 0), 1, entry(2, 1))
    member.lead()
    term = member.replica.core.term
    member.receive("b", Appended(term, 3, True, 1))
    member.cycle()
    assert member.replica.journal.commit == 1
    member.receive("b", Appended(term, 4, True, 1))
    assert member.replica.journal.commit == 3


def test_an_acknowledgement_of_what_was_never_sent_counts_for_nothing() -> None:
    member = Member()
    member.lead()
    member.receive("b", Appended(member.replica.core.term, 99, True, 1))
    member.cycle()
    assert member.replica.journal.commit == 1


def test_a_machine_that_is_always_late_elects_all_the_same() -> None:
    member = Member()
    for _ in range(3):
        member.cycle(5.0)
    assert member.taken(Canvass)


def canvassing() -> Member:
    """It has asked whether others would vote for it in term 1, and stands still then."""
    member = Member(peers="bcde")
    member.cycle(5.0)
    member.cycle(0.1)
    assert member.taken(Canvass)[0].term == 1
    member.replica.deliver("b", CanvassReply(1, 0, True))
    member.replica.deliver("c", CanvassReply(1, 0, True))
    return member


def test_who_hears_of_a_leader_with_the_agreement_to_its_own_election_follows() -> None:
    """Both lay unread. Its answers to the leader are not taken back by a term of its own."""
    member = canvassing()
    member.replica.deliver("d", VoteRequest(1, 1, 0, False))
    member.append("d", 1, (1, 0), 1, entry(2, 1))
    assert member.replica.core.term == 1 and not member.taken(VoteRequest)
    assert member.taken(Vote) == [Vote(1)]
    assert member.taken(Appended) == [Appended(1, 3, True, 1)]


def test_who_voted_for_another_meanwhile_is_no_candidate_of_the_next_term() -> None:
    member = canvassing()
    member.receive("d", VoteRequest(1, 1, 0, False))
    assert member.replica.core.term == 1 and not member.taken(VoteRequest)
    alone = canvassing()
    alone.cycle()
    assert alone.replica.core.term == 1 and alone.taken(VoteRequest), "without another it is one"


def test_a_leader_asks_those_who_answer_nothing_and_hears_of_their_term() -> None:
    """As much is on its way to them as may be, so that they are sent no entries, and no signs of life with those."""
    leader = Member(entry_bytes_max=1024, flight_bytes_max=1024, heartbeat_s=0.1)
    leader.lead()
    term = leader.replica.core.term
    leader.receive("b", Appended(term, leader.replica.core.last + 1, True, 1))
    while "c" not in leader.replica.core.throttled:
        leader.replica.inbox.put([b"x" * 300])
        leader.cycle()
        leader.receive("b", Appended(term, leader.replica.core.last + 1, True, 1))
    leader.sent.clear()
    for _ in range(10):
        leader.cycle(0.05)
        leader.receive("b", Appended(term, leader.replica.core.last + 1, True, 1))
    asked = [message for peer, message in leader.sent if peer == "c" and isinstance(message, Append)]
    assert 3 <= len(asked) <= 6 and not any(message.entries for message in asked)
    assert leader.replica.core.is_leader and "c" in leader.replica.core.throttled
    follower = Member()
    follower.append("b", term + 1, (1, 0), 1)
    follower.receive("c", asked[0])
    (answer,) = follower.taken(Later)
    leader.receive("c", answer)
    assert leader.replica.core.term == term + 1 and not leader.replica.core.throttled
