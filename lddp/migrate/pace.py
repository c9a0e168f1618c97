"""How fast content goes out, files that are still on their way included."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator

from lddp.ports import Clock

WINDOW_S = 5


class Pace:
    """Counts bytes as they are read for the peers. `total` are all of them, `under_way` those of files that have not
    been read to their end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._seconds: deque[tuple[int, int]] = deque()
        """(second, bytes) of the last ones."""
        self._reading: dict[int, int] = {}
        self.total = 0

    @property
    def under_way(self) -> int:
        return sum(self._reading.values())

    def passed(self, count: int) -> None:
        """So many bytes more."""
        self.total += count
        second = int(self._clock.monotonic())
        if self._seconds and self._seconds[-1][0] == second:
            count += self._seconds.pop()[1]
        self._seconds.append((second, count))
        self._forget(second)

    @contextlib.contextmanager
    def reading(self, inode: int) -> Iterator[Callable[[int], None]]:
        """While a file is read: what is given is to be told how far that has come."""

        def told(offset: int) -> None:
            before, self._reading[inode] = self._reading.get(inode, 0), offset
            self.passed(offset - before)

        try:
            yield told
        finally:
            self._reading.pop(inode, None)

    def per_second(self) -> float:
        """Bytes a second over the last few seconds."""
        now = self._clock.monotonic()
        self._forget(int(now))
        elapsed = min(max(now - self._began, 1.0), WINDOW_S)
        return sum(count for _, count in self._seconds) / elapsed

    def _forget(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] <= second - WINDOW_S:
            self._seconds.popleft()
