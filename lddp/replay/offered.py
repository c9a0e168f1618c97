"""Effects that have just been put into the outbox: while a zone keeps up, they need not be read back."""

from __future__ import annotations

from collections import deque

from lddp.core.view import View
from lddp.ports import KeyValue
from lddp.replay import outbox
from lddp.replay.outbox import Item
from lddp.replay.progress import Order

OFFERED_MAX = 16_384


class Offered:
    """What comes after `gsn`, which the log has reached; the outbox has everything that is missing here."""

    def __init__(self, environment: KeyValue) -> None:
        self._environment = environment
        self._items: deque[Item] = deque()
        with environment.read() as tables:
            self._gsn = self._after = View(tables).gsn

    def add(self, items: list[Item], gsn: int) -> None:
        if len(self._items) + len(items) > OFFERED_MAX:
            self._items.clear()
            self._after = gsn
        else:
            self._items.extend(items)
        self._gsn = gsn

    def next(self, cursor: Order, scanned: int, limit: int) -> tuple[list[Item], int]:
        """The next effects after `cursor` in log order, and the GSN that the log had reached then. All up to the GSN
        `scanned` is known."""
        while self._items and self._items[0].order <= cursor:
            self._items.popleft()
        if scanned >= self._after:
            return [self._items.popleft() for _ in range(min(len(self._items), limit))], self._gsn
        with self._environment.read() as tables:
            return outbox.read(tables, cursor, limit), View(tables).gsn
