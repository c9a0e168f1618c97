"""Waiting until something numbered has been passed."""

from __future__ import annotations

import asyncio


class Waiting:
    """Callers that wait for numbers, each until the first that is still to come is beyond its own."""

    def __init__(self) -> None:
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def __bool__(self) -> bool:
        return bool(self._waiters)

    async def until(self, number: int, timeout_s: float | None) -> None:
        """Returns once `number` has been passed. Raises TimeoutError, and what `fail` says."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (number, future)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def passed(self, first: int) -> None:
        """All numbers below `first` have been passed."""
        due = [future for number, future in self._waiters if number < first]
        self._waiters = [waiter for waiter in self._waiters if waiter[0] >= first]
        for future in due:
            if not future.done():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        waiters, self._waiters = self._waiters, []
        for _, future in waiters:
            if not future.done():
                future.set_exception(error)
