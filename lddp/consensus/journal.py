"""The Raft log, term, vote, and indexes in the node's database, in the shape PySyncObj expects of a journal.

Nothing here is written at once: changes gather in memory. What others may depend on is made durable at the end of the
tick: by `write_ahead` where it is nothing but new entries at the log's end, which go into the write-ahead log with one
sync; else by `flush`, which puts all changes into the tick's write transaction, and `flushed`, called when that has
committed. That ends the era of the write-ahead log, whose entries are then in the database too. The newest entries
are kept in memory; older ones are read from the database.

PySyncObj cuts its log back on every overlap (its `deleteEntriesFrom`). Here that does nothing: the log is cut where
an added entry's term differs from the stored one's at the same index, which is the only conflict there is (Raft
paper, 5.3). So a message that arrives late cannot take back what was acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import msgpack

from lddp.consensus.wire import NO_OP, Entry
from lddp.core.tables import Table, Tables
from lddp.errors import CorruptError
from lddp.ports import KeyValue
from lddp.storage.wal import APPEND_BYTES_MAX

_STATE_KEY = b"state"
_STATE_FORMAT = 2
_STATE_FORMAT_WITHOUT_WAL = 1
_TERM_BYTES = 8
_DELETIONS_PER_FLUSH_MAX = 1024


class InvariantError(AssertionError):
    """Something that Raft promises does not hold. The node stops rather than let its zone diverge."""


class RaftJournal:
    """`first` and `last` are the indexes of the log's ends; an empty database gets PySyncObj's first entry (index 1,
    a no-op of term 0, equal on all members). `applied` is the last index folded into the state."""

    def __init__(self, keyvalue: KeyValue, *, window_entries_max: int = 4096, window_bytes_max: int = 16 << 20) -> None:
        self._keyvalue = keyvalue
        self._window_entries_max = window_entries_max
        self._window_bytes_max = window_bytes_max
        self._window: dict[int, Entry] = {}
        self._window_bytes = 0
        self._dirty = False
        self.first, self.last, self.commit, self.applied = 1, 0, 0, 0
        self._term = 0
        self._vote: str | None = None
        self._window_first = 1
        self._durable = 0
        """Last index that is in the database as it is here."""
        self._ahead = 0
        """Last index that is durable as it is here: in the database, or in the write-ahead log."""
        self._era = self._era_next = b""
        """The write-ahead log's, as the database has it, and after this flush."""
        self._cut_through = 0
        """Last index in the database that has been cut off since the last flush."""
        self._oldest = self._oldest_next = 1
        """First index that is still in the database, now and after this flush."""
        self._load()
        self.inherited = self.last
        """Last entry that was here at the start and has not been cut off since."""

    # -- what the member uses ---------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """There is something to flush that others may depend on: all but the commit and applied indexes, which follow
        from the rest when they are lost."""
        return self._dirty or self._ahead < self.last or self._oldest < self.first

    def entry(self, index: int) -> Entry:
        """The entry at `first` <= index <= `last`."""
        entry = self._window.get(index)
        if entry is not None:
            return entry
        if not self.first <= index <= self.last:
            raise IndexError(f"entry {index} is not in the log ({self.first} to {self.last})")
        with self._keyvalue.read() as tables:
            value = tables.get(Table.LOG, _key(index))
        if value is None:
            raise CorruptError(f"log entry {index} is missing from the database; restore this node")
        return _decode(index, value)

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None outside of the log."""
        return self.entry(index)[2] if self.first <= index <= self.last else None

    def compact(self, through: int) -> None:
        """Drops the entries up to `through`, all applied. They are taken off the disk a bounded number a flush."""
        if not through < self.applied:
            raise InvariantError(f"compaction through {through} reaches beyond what is applied ({self.applied})")
        if through < self.first:
            return
        for index in range(self.first, through + 1):
            self._forget(index)
        self.first = through + 1
        self._first_entry = self.entry(self.first)
        self._dirty = True

    def set_applied(self, index: int) -> None:
        assert self.applied <= index <= self.commit, "applied never goes back nor beyond commit"
        self.applied = index

    def write_ahead(self) -> bool:
        """Makes new entries durable without a write transaction; False where that is not possible, or not enough."""
        if self._dirty or self._oldest < self.first or not self._era:  # without an era in the database nobody looks
            return False
        entries = [self._window[index] for index in range(self._ahead + 1, self.last + 1)]
        if sum(len(entry[0]) for entry in entries) > APPEND_BYTES_MAX:
            return False
        data = bytes(msgpack.packb([self._ahead + 1, [(term, command) for command, _, term in entries]]))
        if not self._keyvalue.wal.append(self._era, data):
            return False
        self._ahead = self.last
        return True

    def flush(self, tables: Tables, *, applied: int) -> None:
        """Puts all changes into a write transaction which holds the fold up to entry `applied`. Call `flushed` when it
        has committed; without that, the next flush writes the same again."""
        for index in range(self.last + 1, self._cut_through + 1):
            tables.delete(Table.LOG, _key(index))
        for index in range(self._durable + 1, self.last + 1):
            command, _, term = self._window[index]
            tables.put(Table.LOG, _key(index), term.to_bytes(_TERM_BYTES, "big") + command)
        self._oldest_next = min(self.first, self._oldest + _DELETIONS_PER_FLUSH_MAX)
        for index in range(self._oldest, self._oldest_next):
            tables.delete(Table.LOG, _key(index))
        self._era_next = self._keyvalue.wal.begin()
        state = [_STATE_FORMAT, self._term, self._vote, self.commit, applied, self.first, self.last]
        tables.put(Table.RAFT, _STATE_KEY, bytes(msgpack.packb([*state, self._oldest_next, self._era_next])))

    def flushed(self) -> None:
        self._dirty = False
        self._cut_through = 0
        self._durable = self._ahead = self.last
        self._era = self._era_next
        self._oldest = self._oldest_next
        for index in self._evictable():
            self._forget(index)

    # -- what PySyncObj uses ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.last - self.first + 1

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> Entries: ...
    def __getitem__(self, position: int | slice) -> Entry | Entries:
        if isinstance(position, slice):
            start, stop, _ = position.indices(len(self))
            return Entries(self, self.first + start, self.first + max(start, stop))
        if position == -1:
            return self._last_entry
        if position == 0:
            return self._first_entry
        return self.entry(self.first + position if position >= 0 else self.last + 1 + position)

    def add(self, command: bytes, idx: int, term: int) -> None:
        if idx <= self.last:
            stored = self.entry(idx)
            if stored[2] == term:
                if stored[0] != command:
                    raise InvariantError(f"two different entries with index {idx} and term {term}")
                return
            self._cut(idx)
        if idx != self.last + 1:
            raise InvariantError(f"entry {idx} does not follow {self.last}")
        entry = (bytes(command), idx, term)
        self._window[idx] = entry
        self._window_bytes += len(command)
        self._last_entry = entry
        self.last = idx

    def deleteEntriesFrom(self, _position: int) -> None:
        """Deferred: see the module's docstring."""

    def deleteEntriesTo(self, _position: int) -> None:
        raise InvariantError("PySyncObj's compaction ran although it is switched off")

    def clear(self) -> None:
        raise InvariantError("PySyncObj wanted to clear the log")

    def setRaftCommitIndex(self, index: int) -> None:
        if index < self.commit or index > self.last:
            raise InvariantError(f"commit index {index} is below {self.commit} or beyond the log's end {self.last}")
        self.commit = index

    def getRaftCommitIndex(self) -> int:
        return self.commit

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        if term < self._term or (term == self._term and self._vote is not None and voted_for != self._vote):
            raise InvariantError(f"term or vote changed from {self._term}, {self._vote} to {term}, {voted_for}")
        if (term, voted_for) != (self._term, self._vote):
            self._term, self._vote = term, voted_for
            self._dirty = True

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._vote

    def onOneSecondTimer(self) -> None:
        """Nothing is kept apart from the log, so there is nothing to catch up with."""

    # -- inside -----------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        with self._keyvalue.read() as tables:
            value = tables.get(Table.RAFT, _STATE_KEY)
            if value is None:
                self._begin()
                return
            try:
                version, *state = msgpack.unpackb(value)
            except (ValueError, TypeError, msgpack.UnpackException) as error:
                raise CorruptError("the Raft state cannot be read; restore this node") from error
            if version == _STATE_FORMAT_WITHOUT_WAL:
                state.append(b"")
            elif version != _STATE_FORMAT:
                raise CorruptError(f"the Raft state has format {version}, not {_STATE_FORMAT}; use a newer lddp")
            if len(state) != 8:
                raise CorruptError("the Raft state cannot be read; restore this node")
            self._term, self._vote, self.commit, self.applied, self.first, self.last, self._oldest, self._era = state
            if not self.first <= self.applied <= self.commit <= self.last:
                raise CorruptError("the Raft state's indexes contradict each other; restore this node")
            ends = [tables.get(Table.LOG, _key(index)) for index in (self.first, self.last, self.last + 1)]
        if ends[0] is None or ends[1] is None or ends[2] is not None:
            raise CorruptError("the log's ends are not where the Raft state says; restore this node")
        self._first_entry = _decode(self.first, ends[0])
        self._last_entry = _decode(self.last, ends[1])
        self._durable = self._ahead = self.last
        self._oldest_next = self._oldest
        self._window_first = self.last + 1
        if self._era:
            self._load_ahead()
        else:
            self._keyvalue.wal.create()

    def _load_ahead(self) -> None:
        """The entries that were durable before the database had them; the next transaction takes them."""
        for data in self._keyvalue.wal.read(self._era):
            try:
                first, entries = msgpack.unpackb(data)
                for index, (term, command) in enumerate(entries, first):
                    self.add(command, index, term)
            except (ValueError, TypeError, msgpack.UnpackException, InvariantError) as error:
                raise CorruptError("the write-ahead log cannot be read; restore this node") from error
            self._dirty = True
        self._ahead = self.last

    def _begin(self) -> None:
        self._keyvalue.wal.create()
        self.add(bytes([NO_OP]), 1, 0)
        self._first_entry = self._last_entry
        self.commit = self.applied = 1
        self._dirty = True

    def _cut(self, index: int) -> None:
        if index <= self.commit:
            raise InvariantError(f"entry {index} is committed ({self.commit}) and would be cut off")
        for gone in range(index, self.last + 1):
            self._forget(gone)
        self.inherited = min(self.inherited, index - 1)
        self._cut_through = max(self._cut_through, self._durable)
        self._durable = min(self._durable, index - 1)
        self._ahead = min(self._ahead, index - 1)
        # The write-ahead log has what is cut off: only another era makes it void.
        self._dirty = True
        self.last = index - 1
        self._window_first = min(self._window_first, index)
        self._last_entry = self.entry(self.last)

    def _forget(self, index: int) -> None:
        entry = self._window.pop(index, None)
        if entry is not None:
            self._window_bytes -= len(entry[0])

    def _evictable(self) -> Iterator[int]:
        """Oldest entries of a window that is too large; all of them are durable."""
        while len(self._window) > self._window_entries_max or self._window_bytes > self._window_bytes_max:
            index = self._window_first
            self._window_first += 1
            yield index
            if not self._window:
                return


class Entries(Sequence[Entry]):
    """Consecutive entries, read when they are looked at: PySyncObj asks for the whole rest of the log to use a few."""

    def __init__(self, journal: RaftJournal, start: int, stop: int) -> None:
        self._journal = journal
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(position, slice):
            return [self._journal.entry(self._start + at) for at in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return self._journal.entry((self._start if position >= 0 else self._stop) + position)

    def __iter__(self) -> Iterator[Entry]:
        for index in range(self._start, self._stop):
            yield self._journal.entry(index)


def _key(index: int) -> bytes:
    return index.to_bytes(8, "big")


def _decode(index: int, value: bytes) -> Entry:
    return value[_TERM_BYTES:], index, int.from_bytes(value[:_TERM_BYTES], "big")
