"""Records that wait to be ordered, in the order they came, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

_SMOOTHING = 0.2


class Inbox:
    def __init__(self, *, records_max: int, bytes_max: int) -> None:
        self._records: deque[bytes] = deque()
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._dropped: set[str] = set()
        """Peers whose last records did not fit."""
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def put(self, records: Sequence[bytes]) -> bool:
        """All or none; False where they do not fit."""
        size = sum(map(len, records))
        if len(self._records) + len(records) > self._records_max or self.bytes + size > self._bytes_max:
            return False
        self._records.extend(records)
        self.bytes += size
        return True

    def put_forwarded(self, peer: str, records: Sequence[bytes], *, follows: bool) -> bool:
        """As `put`, for what a peer has sent. What follows on something that did not fit is not taken either: a batch
        would be ordered with its end before its beginning, which the peer sends again later."""
        taken = not (follows and peer in self._dropped) and self.put(records)
        if taken:
            self._dropped.discard(peer)
        else:
            self._dropped.add(peer)
        return taken

    def take(self, *, records_max: int, bytes_max: int) -> list[bytes]:
        """The oldest records, as many as fit; at least one if there is one."""
        taken: list[bytes] = []
        size = 0
        while self._records and len(taken) < records_max:
            length = len(self._records[0])
            if taken and size + length > bytes_max:
                break
            taken.append(self._records.popleft())
            size += length
        self.bytes -= size
        return taken

    def clear(self) -> None:
        self._records.clear()
        self.bytes = 0

    def put_back(self, records: Sequence[bytes]) -> None:
        """Undoes a `take`."""
        self._records.extendleft(reversed(records))
        self.bytes += sum(map(len, records))


class ApplyCost:
    """What applying costs of late, so that an entry is not made larger than can be applied between two heartbeats."""

    def __init__(self, *, budget_s: float, records_max: int, bytes_max: int) -> None:
        self._budget_s = budget_s
        self._limits = (records_max, bytes_max)
        self._costs_s = [0.0, 0.0]

    def note(self, *, records: int, size: int, seconds: float) -> None:
        for at, amount in enumerate((records, size)):
            self._costs_s[at] += _SMOOTHING * (seconds / max(amount, 1) - self._costs_s[at])

    @property
    def records_max(self) -> int:
        return self._amount(0)

    @property
    def bytes_max(self) -> int:
        return self._amount(1)

    def _amount(self, at: int) -> int:
        cost_s = self._costs_s[at]
        limit = self._limits[at]
        return limit if cost_s * limit <= self._budget_s else max(1, int(self._budget_s / cost_s))
