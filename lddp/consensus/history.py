"""The records of past log entries, for who wants to read the log."""

from __future__ import annotations

from lddp.consensus.member import RaftMember
from lddp.consensus.wire import REGULAR, decode_records


def records_at(member: RaftMember, raft_index: int) -> list[bytes]:
    """The records of one applied entry; empty for an entry that carries none. The entry must not be compacted."""
    journal = member._replica.journal
    assert journal.first <= raft_index <= journal.applied
    command, _, _ = journal.entry(raft_index)
    return list(decode_records(command[1:])) if command[0] == REGULAR else []
