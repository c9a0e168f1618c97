"""The log as people read it: records by GSN, and the live stream of what is folded."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple

from lddp.admin.backend import Document, Event
from lddp.core.codec import UNREADABLE, decode
from lddp.core.namespace import NUMBER
from lddp.core.records import Guarded, Record
from lddp.core.tables import Table, Tables
from lddp.errors import OperationError
from lddp.node.describe import event_kind, record_document

if TYPE_CHECKING:
    from lddp.node.runtime import Node

RECORDS_AT_ONCE = 256
"""Records that are read before other things of the node have their turn; the last entry of them is read whole."""
LOOKED_MAX = 10_000
"""Records that are looked at for one answer, whatever is found: as many as one answer may have."""


class Portion(NamedTuple):
    """Records by GSN: those from `first` to before `following` that can be read."""

    first: int
    following: int
    records: list[tuple[int, Record]]


class History:
    """Reads this node's copy of the log."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def portion(self, first: int, last: int) -> Portion | None:
        """What the applied log has from GSN `first` to `last`, as far as it is kept, or the beginning of that; None
        where there is nothing."""
        if first > last:
            return None
        node = self._node
        with node.environment.read() as tables:
            rows = tables.scan(Table.ENTRY_GSNS, self._entry_start(tables, first), NUMBER.pack(last + 1))
            places = ((NUMBER.unpack(key)[0], NUMBER.unpack(value)[0]) for key, value in rows)
            kept = (place for place in places if place[1] >= node.member.first_index)
            entries = list(itertools.islice(kept, RECORDS_AT_ONCE))
        if not entries:
            return None
        found: list[tuple[int, Record]] = []
        begin = following = max(first, entries[0][0])
        for start, index in entries:
            if following - begin >= RECORDS_AT_ONCE:
                break
            for gsn, data in enumerate(node.member.records_at(index), start):
                if first <= gsn <= last:
                    following = gsn + 1
                    with contextlib.suppress(*UNREADABLE):
                        found.append((gsn, decode(data)))
        return Portion(begin, following, found)

    def _entry_start(self, tables: Tables, gsn: int) -> bytes:
        """Key of the entry that holds `gsn`; entries carry at most as many records as RaftConfig allows."""
        span = 4096
        found = NUMBER.pack(max(gsn, 1))
        if tables.get(Table.ENTRY_GSNS, found) is None:
            for key, _ in tables.scan(Table.ENTRY_GSNS, NUMBER.pack(max(gsn - span, 0)), found):
                found = key
        return found

    async def documents(self, first: int, last: int, path: bytes, limit: int) -> tuple[list[Document], int]:
        """Records with first <= GSN <= last (0: the end) that concern `path`, and the GSN to go on from, 0 at the end.
        What is looked at is bounded as what is found is, and other things of the node have their turn meanwhile."""
        last = min(last or self._node.gateway.gsn, self._node.gateway.gsn)
        found: list[Document] = []
        looked = 0
        while (portion := self.portion(first, last)) is not None:
            for gsn, record in portion.records:
                if path and not concerns(record, path):
                    continue
                found.append(record_document(gsn, record))
                if len(found) == limit:
                    return found, gsn + 1 if gsn < last else 0
            first = portion.following
            looked += first - portion.first
            if looked >= LOOKED_MAX:
                return found, first if first <= last else 0
            await asyncio.sleep(0)
        return found, 0

    async def events(self, after: int) -> AsyncGenerator[list[Event], None]:
        """Everything after GSN `after` (-1: what is to come), each GSN's events together. OperationError(ESTALE) where
        the log no longer holds what is next, be it at the start or because the reader is too slow."""
        node = self._node
        position = node.gateway.gsn if after < 0 else after
        moved = asyncio.Event()

        def poke(_gsn: int) -> None:
            moved.set()

        node.gateway.on_applied.append(poke)
        try:
            while True:
                moved.clear()
                if position < node.gateway.gsn:
                    portion = self.portion(position + 1, node.gateway.gsn)
                    if portion is None or portion.first > position + 1:
                        raise OperationError(
                            errno.ESTALE, f"the log no longer holds {position + 1}: read the state again"
                        )
                    for gsn, record in portion.records:
                        yield [Event(gsn, event_kind(record), record_document(gsn, record))]
                    position = portion.following - 1
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
