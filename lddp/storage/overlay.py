"""Changes that wait in memory over a read transaction, until one write transaction takes them all."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from lddp.core.tables import Table, Tables

_INSERTED_MAX = 8
"""So many new keys find their places one by one; more are sorted in."""


class Overlay:
    """`Tables` whose reads see its own changes first. What is changed often is written once."""

    __slots__ = ("_base", "_base_get", "_fresh", "_keys", "_rows")

    def __init__(self, base: Tables) -> None:
        self._base = base
        self._base_get = base.get
        self._rows: dict[Table, dict[bytes, bytes | None]] = {table: {} for table in Table}
        """None stands for a row that is deleted."""
        self._keys: dict[Table, list[bytes]] = {table: [] for table in Table}
        self._fresh: dict[Table, list[bytes]] = {table: [] for table in Table}
        """Keys of changed rows: in order, and those that came after the last scan."""

    @property
    def base(self) -> Tables:
        return self._base

    def put_over(self, base: Tables) -> None:
        """Goes on over another transaction: where that shows more, what was changed here is seen first."""
        self._base = base
        self._base_get = base.get

    def __len__(self) -> int:
        """Rows changed."""
        return sum(map(len, self._rows.values()))

    def get(self, table: Table, key: bytes) -> bytes | None:
        rows = self._rows[table]
        if key in rows:
            return rows[key]
        return self._base_get(table, key)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        rows = self._rows[table]
        if key not in rows:
            self._fresh[table].append(key)
        rows[key] = value

    def delete(self, table: Table, key: bytes) -> bool:
        if self.get(table, key) is None:
            return False
        rows = self._rows[table]
        if key not in rows:
            self._fresh[table].append(key)
        rows[key] = None
        return True

    def scan(self, table: Table, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        rows = self._rows[table]
        below = self._base.scan(table, start, stop)
        if not rows:
            yield from below
            return
        row = next(below, None)
        keys = self._ordered(table)
        position = bisect_left(keys, start)
        while True:
            key = keys[position] if position < len(keys) else None
            if key is not None and stop is not None and key >= stop:
                key = None
            if row is not None and (key is None or row[0] < key):
                last = row[0]
                yield row
                row = next(below, None)
            elif key is not None:
                if row is not None and row[0] == key:
                    row = next(below, None)
                last, value = key, rows[key]
                if value is not None:
                    yield key, value
            else:
                return
            # Rows behind this one may have come meanwhile.
            keys = self._ordered(table)
            position = bisect_right(keys, last)

    def _ordered(self, table: Table) -> list[bytes]:
        keys, fresh = self._keys[table], self._fresh[table]
        if len(fresh) > _INSERTED_MAX:
            keys += fresh
            keys.sort()
        else:
            for key in fresh:
                insort(keys, key)
        fresh.clear()
        return keys

    def flush(self, tables: Tables) -> None:
        """Puts all changes into a write transaction. Nothing is forgotten here: that transaction may yet fail."""
        for table, rows in self._rows.items():
            for key in sorted(rows):
                value = rows[key]
                if value is None:
                    tables.delete(table, key)
                else:
                    tables.put(table, key, value)
