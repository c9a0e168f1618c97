"""Tables to look into for a moment, while whoever lends them goes on changing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from lddp.core.tables import Table, Tables


class Lent:
    """`Tables` for reading. Void as soon as their owner says so by `end`: who keeps them longer, across an await for
    instance, is refused and does not see two states as one."""

    __slots__ = ("_is_void", "_tables", "get")

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._is_void = False
        self.get: Callable[[Table, bytes], bytes | None] = tables.get

    def scan(self, table: Table, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        rows = self._tables.scan(table, start, stop)
        while not self._is_void:
            row = next(rows, None)
            if row is None:
                return
            yield row
        _refuse()

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        raise AssertionError("put into tables that are lent to be read")

    def delete(self, table: Table, key: bytes) -> bool:
        raise AssertionError("delete from tables that are lent to be read")

    def end(self) -> None:
        """Whoever has it still cannot use it any more."""
        self._is_void = True
        self.get = _refuse


def _refuse(*_: object) -> Any:
    raise AssertionError("tables that were lent are used after they were taken back")
