"""The faults of PySyncObj's log, commit index, and journal: each shown in the released code, then closed in ours.

The numbers are those of the audit (docs of `lddp.consensus.core`).
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from lddp.consensus.journal import InvariantError, RaftJournal
from lddp.consensus.wire import Append, Appended, Forward, decode_message, encode_message
from lddp.core.tables import Table
from lddp.errors import FormatError
from tests.fakes.memory import MemoryKeyValue

from .member import Member, entry
from .simulation import Group
from .stock import NO_OP, REGULAR, Stock

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
"""PySyncObj's journal leaves files open."""


def test_1_a_late_message_takes_back_acknowledged_entries() -> None:
    stock = Stock()
    stock.append("b", 1, (1, 0), 1, *[(NO_OP, index, 1) for index in range(2, 8)])
    assert stock.last == 7
    stock.append("b", 1, (1, 0), 1, (NO_OP, 2, 1))
    assert stock.last == 2, "released: five acknowledged entries are gone"

    member = Member()
    member.append("b", 1, (1, 0), 1, *[entry(index, 1) for index in range(2, 8)])
    member.append("b", 1, (1, 0), 1, entry(2, 1))
    assert member.replica.journal.last == 7
    assert [answer.next for answer in member.taken(Appended)] == [8, 3]


def test_1_an_answer_rewinds_what_is_sent_next() -> None:
    stock = Stock()
    stock.lead()
    for _ in range(3):
        stock.raft._applyCommand(b"x", None, 0)
        stock.tick(0.2)
    stock.tick(0.2)
    before = stock.raft.getStatus()["next_node_idx_server_b"]
    stock.receive("b", type="next_node_idx", next_node_idx=3, reset=False, success=True)
    assert stock.raft.getStatus()["next_node_idx_server_b"] == 3 < before, "released: sent again from 3 on"

    member = Member()
    member.lead()
    for _ in range(3):
        member.replica.inbox.put([b"x"])
        member.cycle()
    member.taken(Append)
    member.receive("b", Appended(1, 3, True, 1))
    member.receive("c", Appended(1, 3, True, 1))
    resent = [item for message in member.taken(Append) for item in message.entries]
    assert resent == []


def test_2_a_snapshot_chunk_moves_the_commit_index_over_foreign_entries() -> None:
    stock = Stock()
    stock.append("b", 1, (1, 0), 1, (NO_OP, 2, 1), (NO_OP, 3, 1))
    stock.receive("c", type="append_entries", term=2, commit_index=9, serialized=None)
    assert stock.raft.raftCommitIndex == 3, "released: entries of an old leader count as committed"

    with pytest.raises(FormatError):
        decode_message(encode_message(Append(2, 9, 1, 0, ()))[:-1] + b"\xc0")


def test_2_commit_is_taken_no_further_than_the_message_proves() -> None:
    member = Member()
    member.append("b", 1, (1, 0), 1, *[entry(index, 1) for index in range(2, 6)])
    member.append("c", 2, (2, 1), 9)
    assert member.replica.journal.commit == 2
    assert member.replica.journal.last == 5
    member.append("c", 2, (2, 1), 9, entry(3, 2))
    assert member.replica.journal.commit == 3
    assert member.terms() == [0, 1, 2]


def test_3_snapshots_are_neither_sent_nor_taken() -> None:
    group = Group(3)
    group.connect("a", "b")
    leader = group.elect()
    for number in range(40):
        leader.submit(b"%d" % number)
        group.run(0.02)
    for node in (group.nodes["a"], group.nodes["b"]):
        node.replica.compact(node.replica.journal.applied)
    group.run(1.0)
    group.connect_all()
    group.run(2.0)
    late = group.nodes["c"]
    assert late.replica.sidelined and "c" in leader.replica.core.sidelined
    assert late.records() == []
    assert group.leader is leader, "a sidelined member disturbs nobody"


def test_4_nothing_is_synced(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    stock = Stock(journalFile=str(tmp_path / "journal"))
    stock.append("b", 1, (1, 0), 1, (NO_OP, 2, 1))
    assert "next_node_idx" in stock.kinds() and synced == [], "released: acknowledged without a sync"
    stock.close()

    member = Member()
    member.replica.deliver("b", Append(1, 1, 1, 0, (entry(2, 1),)))
    member.replica.begin()
    assert member.taken(Appended) == [], "no answer before the transaction"
    member.replica.finish()
    assert len(member.taken(Appended)) == 1
    assert RaftJournal(member.keyvalue.copy()).last == 2


def test_5_the_commit_index_is_stored_apart_from_the_log(tmp_path: Any) -> None:
    path = str(tmp_path / "journal")
    stock = Stock(journalFile=path)
    stock.append("b", 1, (1, 0), 2, (NO_OP, 2, 1))
    stock.tick(2.0)
    stock.close()
    os.unlink(path)  # the power cut that kept the small file and lost the large one
    again = Stock(journalFile=path)
    assert again.raft.raftCommitIndex == 2 > again.last, "released: committed beyond the log's end"
    again.close()

    member = Member()
    member.append("b", 1, (1, 0), 2, entry(2, 1))
    state = member.keyvalue.copy()
    assert (RaftJournal(state).commit, RaftJournal(state).last) == (2, 2)
    with state.write() as tables:
        tables.delete(Table.LOG, (2).to_bytes(8, "big"))
    with pytest.raises(Exception, match="restore this node"):
        RaftJournal(state)


def test_6_to_8_compaction_is_undone_by_a_kill_as_a_whole(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "journal")
    stock = Stock(journalFile=path)
    stock.append("b", 1, (1, 0), 1, *[(NO_OP, index, 1) for index in range(2, 30)])
    journal = stock.raft._SyncObj__raftLog

    class Killed(Exception):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(journal, "add", killed)
    with pytest.raises(Killed):
        journal.deleteEntriesTo(5)
    stock.close()
    again = Stock(journalFile=path)
    assert again.last == 1, "released: a kill during compaction loses the log"
    again.close()

    keyvalue = MemoryKeyValue()
    member = Member(keyvalue=keyvalue, compaction_margin=1)
    member.append("b", 1, (1, 0), 29, *[entry(index, 1) for index in range(2, 30)])
    member.replica.compact(20)
    with pytest.raises(Killed), keyvalue.write() as tables:
        member.replica.journal.flush(tables, applied=member.replica.fold.committed)
        raise Killed
    reopened = RaftJournal(keyvalue.copy())
    assert (reopened.first, reopened.last) == (1, 29)
    member.cycle()
    reopened = RaftJournal(keyvalue.copy())
    assert (reopened.first, reopened.last) == (21, 29)
    with keyvalue.read() as tables:
        assert sum(1 for _ in tables.scan(Table.LOG)) == 9


def test_9_an_exception_in_apply_is_tried_again_for_ever() -> None:
    stock = Stock()
    calls: list[bytes] = []

    def failing(command: bytes) -> None:
        calls.append(command)
        raise RuntimeError("apply")

    stock.raft._SyncObj__doApplyCommand = failing
    stock.append("b", 1, (1, 0), 2, (REGULAR + b"x", 2, 1))
    for _ in range(3):
        with pytest.raises(RuntimeError):
            stock.tick()
    assert len(calls) == 3, "released: the same command again and again"

    class Broken(Member):
        def apply(self, *_: Any) -> bool:
            raise RuntimeError("apply")

    member = Broken()
    member.replica.deliver("b", Append(1, 2, 1, 0, (entry(2, 1),)))
    member.replica.begin()
    with pytest.raises(RuntimeError):
        member.replica.finish()
    assert member.taken(Appended) == [], "nothing left the member that stops here"
    with member.keyvalue.read() as tables:
        assert tables.get(Table.RAFT, b"state") is None, "and nothing of it is on its disk"


def test_16_large_entries_are_chunked_by_the_wrong_length() -> None:
    stock = Stock(appendEntriesBatchSizeBytes=100)
    stock.lead()
    stock.tick(0.2)
    stock.raft._applyCommand(b"x" * 194, None, 0)
    stock.tick(0.2)
    stock.transport.sent.clear()
    stock.tick(0.2)
    chunks = [message.get("transmission") for peer, message in stock.transport.sent if peer == "b"]
    assert chunks.count("finish") == 2, "released: the first of them unpickles half an entry"

    member = Member(entry_bytes_max=1 << 20)
    member.lead()
    member.replica.inbox.put([b"x" * ((1 << 20) - 16)])
    member.taken(Append)
    member.cycle()
    sent = [message for message in member.taken(Append) if message.entries]
    assert [len(message.entries) for message in sent] == [1, 1]


def test_16_an_entry_full_of_small_records_is_not_chunked_either() -> None:
    member = Member(entry_bytes_max=1024, entry_records_max=1000)
    member.lead()
    member.receive("b", Forward((b"x" * 1025, *[b""] * 999, b"x" * 1024), False, member.replica.core.term))
    assert member.replica.forwards_dropped == 1
    sent = [message for _ in range(3) for message in member.taken(Append) + (member.cycle() or []) if message.entries]
    assert {len(message.entries) for message in sent} == {1}
    assert member.replica.journal.last == 3


def test_16_an_entry_of_larger_settings_than_now_is_not_chunked() -> None:
    """All members were given a lower bound, and one of them was away when the log got the entry."""
    before = Member(entry_bytes_max=1 << 20)
    before.lead()
    assert before.replica.inbox.put([bytes(200_000)])
    before.cycle()
    core = before.replica.core
    before.receive("c", Appended(core.term, core.last + 1, True, core.commit))
    assert core.commit == core.last == 3
    before.replica.close()

    after = Member(keyvalue=before.keyvalue, entry_bytes_max=64 << 10)
    after.lead()
    core = after.replica.core
    after.taken(Append)
    after.receive("b", Appended(core.term, core.last, False, 2))
    sent = [entry[1] for message in after.taken(Append) for entry in message.entries]
    assert sent == [3, 4]


def test_what_is_on_its_way_to_a_silent_follower_is_bounded() -> None:
    member = Member(entry_bytes_max=1024, flight_bytes_max=4096)
    member.lead()
    member.taken(Append)
    for _ in range(40):
        member.replica.inbox.put([b"x" * 1000])
        member.cycle()
    term, last = member.replica.core.term, member.replica.journal.last
    sent = [
        entry
        for peer, message in member.sent
        if peer == "b" and isinstance(message, Append)
        for entry in message.entries
    ]
    assert 3 < len(sent) < 8
    for _ in range(40):
        member.taken(Append)
        member.receive("b", Appended(term, sent[-1][1] + 1, True, 1))
        sent += [entry for message in member.taken(Append) for entry in message.entries]
    assert [entry[1] for entry in sent] == list(range(sent[0][1], last + 1))


def test_18_the_whole_log_is_applied_again_after_a_restart(tmp_path: Any) -> None:
    path = str(tmp_path / "journal")
    entries = [(REGULAR + b"x", index, 1) for index in range(2, 6)]
    for _ in range(2):
        stock = Stock(journalFile=path)
        calls: list[bytes] = []
        stock.raft._SyncObj__doApplyCommand = calls.append
        stock.append("b", 1, (1, 0), 5, *entries)
        stock.tick(2.0)
        assert len(calls) == 4, "released: both times"
        stock.close()

    member = Member()
    member.append("b", 1, (1, 0), 5, *[entry(index, 1) for index in range(2, 6)])
    assert len(member.applied) == 4
    again = Member(keyvalue=member.keyvalue)
    again.append("b", 1, (5, 1), 6, entry(6, 1))
    assert [index for index, _ in again.applied] == [6]


def test_19_only_a_window_of_the_log_is_in_memory() -> None:
    member = Member(window_entries_max=16)
    for start in range(2, 202, 20):
        member.append(
            "b", 1, (start - 1, 1 if start > 2 else 0), start, *[entry(i, 1) for i in range(start, start + 20)]
        )
    assert len(member.replica.journal._window) <= 16
    assert member.terms() == [0] + [1] * 200
    assert member.replica.journal.entry(7) == entry(7, 1)


def test_a_cut_of_committed_entries_stops_the_member() -> None:
    member = Member()
    member.append("b", 1, (1, 0), 3, entry(2, 1), entry(3, 1))
    with pytest.raises(InvariantError):
        member.append("c", 2, (1, 0), 3, entry(2, 2), entry(3, 2))


def test_a_member_that_has_committed_something_else_than_the_leader_stops() -> None:
    """Somebody's disk has forgotten what it promised. The leader asks from the index on that this member has committed,
    and would ask so for ever."""
    member = Member()
    member.append("b", 1, (1, 0), 2, entry(2, 1))
    assert member.replica.journal.commit == 2
    member.replica.link_down("b")
    with pytest.raises(InvariantError, match="entry 2 is committed here"):
        member.append("c", 2, (2, 2), 3, entry(3, 2))
