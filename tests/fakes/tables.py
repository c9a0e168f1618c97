"""Tables in memory: what the core needs of a database, without one."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from lddp.core.tables import Table


class DictTables:
    """Implements `lddp.core.tables.Tables`. A scan sees changes made behind the key it returned last."""

    def __init__(self) -> None:
        self._values: dict[Table, dict[bytes, bytes]] = {table: {} for table in Table}
        self._keys: dict[Table, list[bytes]] = {table: [] for table in Table}

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._values[table].get(key)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        assert isinstance(key, bytes) and isinstance(value, bytes), (table, key, value)
        if key not in self._values[table]:
            insort(self._keys[table], key)
        self._values[table][key] = value

    def delete(self, table: Table, key: bytes) -> bool:
        if self._values[table].pop(key, None) is None:
            return False
        keys = self._keys[table]
        del keys[bisect_left(keys, key)]
        return True

    def scan(self, table: Table, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        keys = self._keys[table]
        position = bisect_left(keys, start)
        while position < len(keys):
            key = keys[position]
            if stop is not None and key >= stop:
                return
            yield key, self._values[table][key]
            position = bisect_left(keys, key + b"\x00")

    def snapshot(self) -> dict[Table, dict[bytes, bytes]]:
        """A copy of everything, in ascending order of key, to compare two databases by."""
        return {table: {key: self._values[table][key] for key in keys} for table, keys in self._keys.items() if keys}

    def copy(self) -> DictTables:
        other = DictTables()
        for table in Table:
            other._values[table] = dict(self._values[table])
            other._keys[table] = list(self._keys[table])
        return other
