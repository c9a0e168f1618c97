"""What was changed in a file since its bytes were last in the log."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

SPANS_MAX = 256
"""Beyond these, neighbours become one: what lies between them is sent again."""


class Dirty:
    """Ranges that were written, and how short the file was in between. `before` is its size in the log, in bytes."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.low = before
        """The least size since: what the log has beyond it is not in the file any more."""
        self.touched = False
        self.may_stream = True
        """Whether what is written in order is sent before it is committed."""
        self._run_start = self._run_stop = 0
        """What was written last, each right behind the one before."""
        self._starts: list[int] = []
        self._stops: list[int] = []

    def write(self, start: int, stop: int) -> None:
        self.touched = True
        if start >= stop:
            return
        if start != self._run_stop:
            self._run_start = start
        self._run_stop = stop
        # The common case: right behind what was written last.
        if self._stops and self._starts[-1] <= start <= self._stops[-1]:
            self._stops[-1] = max(self._stops[-1], stop)
            return
        first = bisect_left(self._stops, start)
        last = first
        while last < len(self._starts) and self._starts[last] <= stop:
            start, stop = min(start, self._starts[last]), max(stop, self._stops[last])
            last += 1
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        if len(self._starts) > SPANS_MAX:
            self._merge_nearest()

    def _merge_nearest(self) -> None:
        gaps = [self._starts[index + 1] - self._stops[index] for index in range(len(self._starts) - 1)]
        index = gaps.index(min(gaps))
        self._stops[index] = self._stops[index + 1]
        del self._starts[index + 1], self._stops[index + 1]

    def resize(self, size: int) -> None:
        self.touched = True
        self.low = min(self.low, size)
        while self._stops and self._stops[-1] > size:
            if self._starts[-1] >= size:
                del self._starts[-1], self._stops[-1]
            else:
                self._stops[-1] = size

    def spans(self) -> list[tuple[int, int]]:
        """(start, stop) in ascending order, apart from each other."""
        return list(zip(self._starts, self._stops, strict=True))

    @property
    def run_bytes(self) -> int:
        """How many bytes were written in order, without anything in between."""
        return self._run_stop - self._run_start

    def span_at(self, offset: int) -> tuple[int, int]:
        """The span that has the byte at `offset`; there has to be one."""
        index = bisect_right(self._starts, offset) - 1
        assert index >= 0 and offset < self._stops[index]
        return self._starts[index], self._stops[index]

    def stop_of(self, offset: int) -> int:
        """Up to where everything from `offset` on is in spans."""
        return self.span_at(offset)[1]

    @property
    def size(self) -> int:
        """How many bytes the spans have."""
        return sum(self._stops) - sum(self._starts)

    def again(self, later: Dirty) -> Dirty:
        """This and what came after it, for a commit that failed."""
        both = Dirty(self.before)
        both.touched = self.touched or later.touched
        both.low = min(self.low, later.low)
        for start, stop in self.spans():
            both.write(start, min(stop, later.low))
        for start, stop in later.spans():
            both.write(start, stop)
        return both
