"""Callers that wait until an index is reached."""

from __future__ import annotations

import asyncio
import heapq


class Waiters:
    """At most `limit` of them, counting those that have given up only while there is room."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    def add(self, index: int) -> asyncio.Future[None] | None:
        """Ends when `index` is reached; None where too many wait."""
        if len(self._heap) >= self._limit:
            self._heap = [entry for entry in self._heap if not entry[2].done()]
            heapq.heapify(self._heap)
        if len(self._heap) >= self._limit:
            return None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number += 1
        heapq.heappush(self._heap, (index, self._number, waiter))
        return waiter

    def have_reached(self, index: int) -> bool:
        """Whether one of them waits for no more than `index`."""
        return bool(self._heap) and self._heap[0][0] <= index

    def reached(self, index: int) -> None:
        while self._heap and self._heap[0][0] <= index:
            waiter = heapq.heappop(self._heap)[2]
            if not waiter.done():
                waiter.set_result(None)

    def take_all(self) -> list[asyncio.Future[None]]:
        """All that wait, in no order; they are forgotten here."""
        waiting, self._heap = [waiter for _, _, waiter in self._heap], []
        return waiting
