"""Read points that are linearizable without writing to the log: ReadIndex (Ongaro's thesis, 6.4).

The leader notes its commit index when it is asked, then makes sure, by a round with a majority, that it was still the
leader then. Asks that come while rounds are open share the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_ROUNDS_MAX = 4

Ask = tuple[str | None, int]
"""(peer that asks, None for this member itself; its number of the ask)."""


@dataclass(slots=True)
class Round:
    index: int
    asks: Sequence[Ask]
    confirmed: set[str] = field(default_factory=set)


class LeaderReads:
    """The leader's part, for one leadership after another."""

    def __init__(self, *, majority: int, asks_max: int) -> None:
        self._majority = majority
        self._asks_max = asks_max
        self._waiting: list[Ask] = []
        self._rounds: dict[int, Round] = {}
        self._number = 0

    def ask(self, peer: str | None, number: int) -> bool:
        """False where too many ask."""
        if len(self._waiting) >= self._asks_max:
            return False
        self._waiting.append((peer, number))
        return True

    def begin(self, commit: int) -> tuple[int, Round] | None:
        """The next round to send, if one is wanted: (its number, the round)."""
        if not self._waiting or len(self._rounds) >= _ROUNDS_MAX:
            return None
        self._number += 1
        asks, self._waiting = self._waiting, []
        self._rounds[self._number] = opened = Round(commit, asks)
        return self._number, opened

    def open_rounds(self) -> list[int]:
        return list(self._rounds)

    def confirm(self, peer: str | None, number: int) -> list[tuple[Ask, int]]:
        """A member (None: this one) says that it knows no later term; the asks that this settles, each with the index
        to read at."""
        if number not in self._rounds:
            return []
        if peer is not None:
            self._rounds[number].confirmed.add(peer)
        if len(self._rounds[number].confirmed) + 1 < self._majority:
            return []
        # What settles a round settles all before it: their index was noted earlier.
        settled = [key for key in self._rounds if key <= number]
        rounds = [self._rounds.pop(key) for key in settled]
        return [(ask, opened.index) for opened in rounds for ask in opened.asks]

    def abandon(self) -> list[Ask]:
        """No longer the leader: all asks that will not be answered."""
        asks = [ask for opened in self._rounds.values() for ask in opened.asks] + self._waiting
        self._rounds.clear()
        self._waiting = []
        return asks


class OwnReads:
    """The asks of this member's own callers, and where they were sent."""

    def __init__(self, *, asks_max: int) -> None:
        self._asks_max = asks_max
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._sent_to: dict[int, object] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._callbacks)

    def add(self, callback: Callable[[int], None]) -> int | None:
        """The ask's number; None where there are too many."""
        if len(self._callbacks) >= self._asks_max:
            return None
        self._number += 1
        self._callbacks[self._number] = callback
        return self._number

    def drop(self, number: int) -> None:
        self._callbacks.pop(number, None)
        self._sent_to.pop(number, None)

    def unsent(self, to: object) -> list[int]:
        """The asks that were not sent to `to` last; from now on they were."""
        numbers = [number for number in self._callbacks if self._sent_to.get(number) != to]
        for number in numbers:
            self._sent_to[number] = to
        return numbers

    def answer(self, number: int, index: int) -> None:
        callback = self._callbacks.pop(number, None)
        self._sent_to.pop(number, None)
        if callback is not None:
            callback(index)
