"""The database of a node in memory, for tests and the simulator: same transactions, nothing survives the process."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lddp.core.tables import Table
from lddp.errors import CorruptError

_Rows = dict[Table, dict[bytes, bytes]]
_Keys = dict[Table, list[bytes]]
_Undo = dict[tuple[Table, bytes], bytes | None]


class MemoryTransaction:
    """The open write transaction: changes in place, and what was there before in `undo`."""

    def __init__(self, rows: _Rows, keys: _Keys) -> None:
        self._rows = rows
        self._keys = keys
        self.undo: _Undo = {}

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._rows[table].get(key)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        assert 0 < len(key) <= 511, "LMDB refuses empty keys and keys beyond 511 bytes"
        rows = self._rows[table]
        before = rows.get(key)
        self.undo.setdefault((table, key), before)
        if before is None:
            insort(self._keys[table], key)
        rows[key] = bytes(value)

    def delete(self, table: Table, key: bytes) -> bool:
        before = self._rows[table].pop(key, None)
        if before is None:
            return False
        self.undo.setdefault((table, key), before)
        keys = self._keys[table]
        del keys[bisect_left(keys, key)]
        return True

    def scan(self, table: Table, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        keys, rows = self._keys[table], self._rows[table]
        position = bisect_left(keys, start)
        while position < len(keys):
            key = keys[position]
            if stop is not None and key >= stop:
                return
            yield key, rows[key]
            # Rows may have come and gone before this key; found again only then.
            if position < len(keys) and keys[position] == key:
                position += 1
            else:
                position = bisect_left(keys, key)
                if position < len(keys) and keys[position] == key:
                    position += 1


class MemoryReadTransaction:
    """A view of the last committed state, also while a write transaction is open. Unlike LMDB's it is not a snapshot:
    commits that happen while it is open show."""

    def __init__(self, rows: _Rows, keys: _Keys, undo: Callable[[], _Undo]) -> None:
        self._rows = rows
        self._keys = keys
        self._undo = undo

    def get(self, table: Table, key: bytes) -> bytes | None:
        undo = self._undo()
        if (table, key) in undo:
            return undo[table, key]
        return self._rows[table].get(key)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        raise AssertionError("put in a read transaction")

    def delete(self, table: Table, key: bytes) -> bool:
        raise AssertionError("delete in a read transaction")

    def scan(self, table: Table, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        keys = self._keys[table]
        missing = [key for (changed, key), before in self._undo().items() if changed is table and before is not None]
        candidates = sorted({*keys, *missing}) if missing else keys
        end = len(candidates) if stop is None else bisect_left(candidates, stop)
        for key in candidates[bisect_left(candidates, start) : end]:
            value = self.get(table, key)
            if value is not None:
                yield key, value


class MemoryWriteAheadLog:
    """Implements `ports.WriteAheadLog`: what is appended is durable. With `room` frames in an era there is no more."""

    def __init__(self, *, room: int = 64) -> None:
        self.room = room
        self.era = b""
        self.frames: list[bytes] = []
        self.lost = False
        """The file is gone."""
        self.appended = 0
        """Frames of all eras so far."""
        self._eras = 0
        self._writing = b""

    def create(self) -> None:
        self.era, self.frames, self.lost, self._writing = b"", [], False, b""

    def begin(self) -> bytes:
        self._eras += 1
        return b"era %d" % self._eras

    def append(self, era: bytes, data: bytes) -> bool:
        if era != self._writing:
            self._writing = self.era = era
            self.frames = []
        if len(self.frames) >= self.room:
            return False
        self.frames.append(data)
        self.appended += 1
        return True

    def read(self, era: bytes) -> list[bytes]:
        if self.lost:
            raise CorruptError("the write-ahead log is gone")
        if era == self.era:
            self._writing = era
            return list(self.frames)
        return []

    def copy(self) -> MemoryWriteAheadLog:
        """What the next process finds. As with a file, who appends without having read begins at its beginning."""
        other = MemoryWriteAheadLog(room=self.room)
        other.era, other.frames, other.lost = self.era, list(self.frames), self.lost
        other.appended, other._eras = self.appended, self._eras
        return other


class MemoryKeyValue:
    """Implements `ports.KeyValue`. One thread only."""

    def __init__(self) -> None:
        self.wal = MemoryWriteAheadLog()
        self._rows: _Rows = {table: {} for table in Table}
        self._keys: _Keys = {table: [] for table in Table}
        self._open: MemoryTransaction | None = None
        self.commits = 0
        """Write transactions committed so far."""

    @contextmanager
    def write(self) -> Iterator[MemoryTransaction]:
        assert self._open is None, "a write transaction inside a write transaction"
        transaction = self._open = MemoryTransaction(self._rows, self._keys)
        try:
            yield transaction
        except BaseException:
            self._roll_back(transaction.undo)
            raise
        finally:
            self._open = None
        self.commits += 1

    @contextmanager
    def read(self) -> Iterator[MemoryReadTransaction]:
        yield MemoryReadTransaction(self._rows, self._keys, lambda: self._open.undo if self._open else {})

    def copy(self) -> MemoryKeyValue:
        """The last committed state in a database of its own: what a disk holds after a power cut."""
        assert self._open is None
        other = MemoryKeyValue()
        other.wal = self.wal.copy()
        for table in Table:
            other._rows[table] = dict(self._rows[table])
            other._keys[table] = list(self._keys[table])
        return other

    def _roll_back(self, undo: _Undo) -> None:
        for (table, key), before in undo.items():
            rows, keys = self._rows[table], self._keys[table]
            if before is not None:
                if key not in rows:
                    insort(keys, key)
                rows[key] = before
            elif rows.pop(key, None) is not None:
                del keys[bisect_left(keys, key)]
