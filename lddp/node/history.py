"""The log as people read it: records by GSN, and the live stream of what is folded."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING

from lddp.admin.backend import Document, Event
from lddp.core.codec import decode
from lddp.core.namespace import NUMBER
from lddp.core.records import Guarded, Record
from lddp.core.tables import Table
from lddp.errors import FormatError, OperationError
from lddp.node.describe import event_kind, record_document

if TYPE_CHECKING:
    from lddp.node.runtime import Node

EVENTS_AT_ONCE = 1000


class History:
    """Reads this node's copy of the log."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def records(self, first: int, last: int) -> Iterator[tuple[int, Record]]:
        """(GSN, record) of the applied log from GSN `first` to `last` (0: the end), as far as it is kept."""
        node = self._node
        last = min(last or node.gateway.gsn, node.gateway.gsn)
        with node.environment.read() as tables:
            starts = [
                (NUMBER.unpack(key)[0], NUMBER.unpack(value)[0])
                for key, value in tables.scan(Table.ENTRY_GSNS, NUMBER.pack(self._entry_start(first)))
                if NUMBER.unpack(key)[0] <= last
            ]
        for start, index in starts:
            if index < node.member.first_index:
                continue
            for offset, data in enumerate(node.member.records_at(index)):
                gsn = start + offset
                if first <= gsn <= last:
                    try:
                        yield gsn, decode(data)
                    except FormatError:
                        continue

    def _entry_start(self, gsn: int) -> int:
        """First GSN of the entry that holds `gsn`; entries carry at most as many records as RaftConfig allows."""
        span = 4096
        found = max(gsn, 1)
        with self._node.environment.read() as tables:
            low, high = NUMBER.pack(max(gsn - span, 0)), NUMBER.pack(gsn + 1)
            for key, _ in tables.scan(Table.ENTRY_GSNS, low, high):
                found = NUMBER.unpack(key)[0]
        return found

    def documents(self, first: int, last: int, path: bytes, limit: int) -> list[Document]:
        found: list[Document] = []
        for gsn, record in self.records(first, last):
            if path and not concerns(record, path):
                continue
            found.append(record_document(gsn, record))
            if len(found) >= limit:
                break
        return found

    async def events(self, after: int) -> AsyncGenerator[list[Event], None]:
        """Everything after GSN `after` (-1: what is to come), each GSN's events together."""
        node = self._node
        position = node.gateway.gsn if after < 0 else after
        if position < node.gateway.gsn and next(self.records(position + 1, position + 1), None) is None:
            raise OperationError(errno.ESTALE, f"the log no longer holds {position + 1}: read the state again")
        moved = asyncio.Event()

        def poke(_gsn: int) -> None:
            moved.set()

        node.gateway.on_applied.append(poke)
        try:
            while True:
                moved.clear()
                last = min(node.gateway.gsn, position + EVENTS_AT_ONCE)
                for gsn, record in self.records(position + 1, last) if last > position else ():
                    yield [Event(gsn, event_kind(record), record_document(gsn, record))]
                position = last
                if position >= node.gateway.gsn:
                    await moved.wait()
        finally:
            node.gateway.on_applied.remove(poke)


def concerns(record: Record, path: bytes) -> bool:
    """Whether a record is about a path or what is below it."""
    record = record.operation if isinstance(record, Guarded) else record
    below = path.rstrip(b"/") + b"/"
    for name in ("path", "to"):
        value = getattr(record, name, None)
        if isinstance(value, bytes) and (value == path or value.startswith(below)):
            return True
    return False
