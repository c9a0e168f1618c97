"""New entries are durable in the write-ahead log before the database has them, and nothing else is there."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest

from lddp.consensus.journal import RaftJournal
from lddp.consensus.wire import Append, Appended, Vote, VoteRequest
from lddp.core.tables import Table
from lddp.errors import CorruptError
from lddp.storage.environment import Environment
from tests.consensus.member import Member, entry
from tests.fakes.memory import MemoryKeyValue


def follower() -> Member:
    """Its first entry and a leader's second one are in the database."""
    member = Member()
    member.waited_for = False
    member.append("b", 1, (1, 0), 1, entry(2, 1))
    return member


def restarted(member: Member) -> Member:
    """A member that finds what a power cut would leave."""
    again = Member("bc", member.keyvalue.copy())
    again.waited_for = False
    return again


def test_entries_that_only_the_write_ahead_log_has_survive() -> None:
    member = follower()
    commits = member.keyvalue.commits
    member.append("b", 1, (2, 1), 2, entry(3, 1), entry(4, 1))
    member.append("b", 1, (4, 1), 2, entry(5, 1))
    assert [answer.next for answer in member.taken(Appended)][-2:] == [5, 6]
    assert member.keyvalue.commits == commits
    again = restarted(member)
    assert again.terms() == [0, 1, 1, 1, 1]
    assert [again.replica.journal.entry(index) for index in (3, 4, 5)] == [entry(index, 1) for index in (3, 4, 5)]
    again.append("b", 1, (5, 1), 5)
    assert [index for index, _ in again.applied] == [2, 3, 4, 5]


def test_what_a_transaction_took_is_not_read_twice() -> None:
    member = follower()
    member.append("b", 1, (2, 1), 2, entry(3, 1))
    member.append("b", 1, (3, 1), 3)
    member.cycle(1.0)  # the fold is due: a transaction
    assert member.keyvalue.wal.frames, "the frames are still there"
    again = restarted(member)
    assert again.terms() == [0, 1, 1] and not again.replica.journal.dirty


def test_a_start_after_a_start_finds_the_same() -> None:
    """Whatever came of the first: the database takes the entries with its next transaction, and not before."""
    member = follower()
    member.append("b", 1, (2, 1), 2, entry(3, 1))
    again = restarted(restarted(member))
    assert again.terms() == [0, 1, 1]
    again.append("b", 1, (3, 1), 2, entry(4, 1))
    assert restarted(again).terms() == [0, 1, 1, 1]


def test_a_vote_and_a_term_are_in_the_database_when_they_leave() -> None:
    member = follower()
    member.append("b", 1, (2, 1), 2, entry(3, 1))
    member.replica.link_down("b")
    member.cycle(5.0)
    member.taken(Vote)
    term = member.replica.core.term + 1
    member.receive("c", VoteRequest(term, 3, 1, True))
    assert member.taken(Vote) == [Vote(term)]
    journal = restarted(member).replica.journal
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId(), journal.last) == (term, "c", 3)


def test_what_was_cut_off_does_not_come_back() -> None:
    member = follower()
    member.append("b", 1, (2, 1), 2, entry(3, 1), entry(4, 1))
    member.append("c", 2, (2, 1), 2, entry(3, 2))
    assert member.terms() == [0, 1, 2]
    member.append("c", 2, (3, 2), 2, entry(4, 2))
    assert restarted(member).terms() == [0, 1, 2, 2]


def test_a_conflict_of_the_same_tick_is_settled_before_anything_is_written() -> None:
    member = follower()
    member.receive("b", Append(1, 2, 2, 1, (entry(3, 1),)), Append(1, 2, 3, 1, (entry(4, 1),)))
    member.append("c", 2, (3, 1), 2, entry(4, 2), entry(5, 2))
    assert restarted(member).terms() == [0, 1, 1, 2, 2]


def test_what_a_newer_leader_took_back_in_the_same_tick_is_not_promised_to_the_older_one() -> None:
    member = follower()
    member.taken(Appended)
    member.replica.deliver("b", Append(1, 2, 2, 1, (entry(3, 1), entry(4, 1))))
    member.replica.deliver("c", Append(2, 2, 2, 1, (entry(3, 2),)))
    member.cycle()
    assert [(answer.term, answer.next) for answer in member.taken(Appended)] == [(2, 4)]
    assert restarted(member).terms() == [0, 1, 2]


def test_a_full_write_ahead_log_is_emptied_by_a_transaction() -> None:
    member = follower()
    member.keyvalue.wal.room = 2
    commits = member.keyvalue.commits
    for index in range(3, 9):
        member.append("b", 1, (index - 1, 1), 2, entry(index, 1))
        assert member.taken(Appended)[-1].next == index + 1
        assert restarted(member).replica.journal.last == index
    assert member.keyvalue.commits == commits + 2


def test_a_database_of_before_opens() -> None:
    member = follower()
    keyvalue = member.keyvalue.copy()
    with keyvalue.write() as tables:
        state = msgpack.unpackb(tables.get(Table.RAFT, b"state") or b"")
        tables.put(Table.RAFT, b"state", bytes(msgpack.packb([1, *state[1:-1]])))
    old = Member("bc", keyvalue)
    assert old.terms() == [0, 1]
    old.append("b", 1, (2, 1), 1, entry(3, 1))
    assert restarted(old).terms() == [0, 1, 1]


@pytest.mark.parametrize("version", [3, 255, None])
def test_another_format_is_refused(version: object) -> None:
    keyvalue = follower().keyvalue.copy()
    with keyvalue.write() as tables:
        state = msgpack.unpackb(tables.get(Table.RAFT, b"state") or b"")
        tables.put(Table.RAFT, b"state", bytes(msgpack.packb([version, *state[1:]])))
    with pytest.raises(CorruptError, match="newer lddp"):
        RaftJournal(keyvalue)


@pytest.mark.parametrize("frame", [b"", b"\xc1", bytes(msgpack.packb([3])), bytes(msgpack.packb([3, [[1]]]))])
def test_a_write_ahead_log_of_something_else_is_refused(frame: bytes) -> None:
    member = follower()
    member.append("b", 1, (2, 1), 2, entry(3, 1))
    keyvalue = member.keyvalue.copy()
    keyvalue.wal.frames[0] = frame
    with pytest.raises(CorruptError, match="write-ahead log cannot be read"):
        RaftJournal(keyvalue)


@pytest.mark.parametrize("first", [2, 5])
def test_entries_that_do_not_follow_are_refused(first: int) -> None:
    member = follower()
    member.append("b", 1, (2, 1), 2, entry(3, 1))
    keyvalue = member.keyvalue.copy()
    keyvalue.wal.frames[0] = bytes(msgpack.packb([first, [[1, b"another"]]]))
    with pytest.raises(CorruptError, match="write-ahead log cannot be read"):
        RaftJournal(keyvalue)


def test_what_follows_a_start_follows_what_it_found() -> None:
    """Also where the entries that it found are not in the database yet."""
    member = follower()
    member.append("b", 1, (2, 1), 2, entry(3, 1))
    again = restarted(member)
    again.replica.journal._dirty = False  # as if it could be left for later
    again.append("b", 1, (3, 1), 2, entry(4, 1))
    assert restarted(again).terms() == [0, 1, 1, 1]


def test_a_write_ahead_log_that_is_gone_is_noticed_at_every_start(tmp_path: Path) -> None:
    """Entries that were acknowledged may have been in it."""

    def opened() -> Environment:
        return Environment.open(str(tmp_path), ecosystem="e", node="n", map_size=64 << 20)

    with opened() as environment:
        journal = RaftJournal(environment)
        with environment.write() as tables:
            journal.flush(tables, applied=journal.applied)
        journal.flushed()
        journal.add(*entry(2, 1))
        assert journal.write_ahead()
    with opened() as environment:
        assert RaftJournal(environment).last == 2
    (tmp_path / "log.wal").unlink()
    for _ in range(2):
        with opened() as environment, pytest.raises(CorruptError, match="is gone, with what the node had promised"):
            RaftJournal(environment)


def test_a_database_and_the_write_ahead_log_of_another_time_share_nothing(tmp_path: Path) -> None:
    """A copy of the database that is older than the log beside it: the log says nothing of it, now or later."""

    def opened() -> Environment:
        return Environment.open(str(tmp_path), ecosystem="e", node="n", map_size=64 << 20)

    def commit(journal: RaftJournal, environment: Environment) -> None:
        with environment.write() as tables:
            journal.flush(tables, applied=journal.applied)
        journal.flushed()

    with opened() as environment:
        journal = RaftJournal(environment)
        commit(journal, environment)
    older = (tmp_path / "data.mdb").read_bytes()
    with opened() as environment:
        journal = RaftJournal(environment)
        journal.add(*entry(2, 1))
        commit(journal, environment)
        journal.add(*entry(3, 1))
        assert journal.write_ahead()
    (tmp_path / "data.mdb").write_bytes(older)
    for _ in range(3):
        with opened() as environment:
            journal = RaftJournal(environment)
            assert journal.last == 1
            commit(journal, environment)


def test_a_new_database_does_not_believe_an_old_write_ahead_log(tmp_path: Path) -> None:
    def opened() -> Environment:
        return Environment.open(str(tmp_path), ecosystem="e", node="n", map_size=64 << 20)

    for _ in range(2):
        with opened() as environment:
            journal = RaftJournal(environment)
            assert journal.last == 1
            with environment.write() as tables:
                journal.flush(tables, applied=journal.applied)
            journal.flushed()
            journal.add(*entry(2, 1))
            assert journal.write_ahead()
        (tmp_path / "data.mdb").unlink()
        (tmp_path / "marker.json").unlink()


def test_a_lost_write_ahead_log_is_only_missed_where_it_was_needed() -> None:
    keyvalue = MemoryKeyValue()
    keyvalue.wal.lost = True
    assert RaftJournal(keyvalue).last == 1
