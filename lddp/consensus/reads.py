"""Read points that are linearizable without writing to the log: ReadIndex (Ongaro's thesis, 6.4).

The leader notes its commit index when it is asked, then makes sure, by a round with a majority, that it was still the
leader then. Asks that come while rounds are open share the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lddp.consensus.core import Core
from lddp.consensus.wire import Confirm, Confirmed, Outlet, ReadAnswer, ReadAsk

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

    def forget(self, peer: str) -> None:
        """The peer's link broke. If it asks again it may be another process, that gives its own asks the same numbers:
        what was noted for the old ones would be too old for them."""
        self._waiting = [ask for ask in self._waiting if ask[0] != peer]
        for opened in self._rounds.values():
            opened.asks = [ask for ask in opened.asks if ask[0] != peer]

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


class ReadPoints:
    """Both parts, and the messages between them."""

    def __init__(self, core: Core, outlet: Outlet, *, asks_max: int) -> None:
        self._core = core
        self._outlet = outlet
        self._leading = LeaderReads(majority=core.majority, asks_max=asks_max)
        self._links = 0
        self.own = OwnReads(asks_max=asks_max)

    def link_up(self, peer: str) -> None:
        self._links += 1
        for number in self._leading.open_rounds():
            self._outlet.send(peer, Confirm(self._core.term, number))

    def link_down(self, peer: str) -> None:
        self._links += 1
        self._leading.forget(peer)

    def pump(self, leader: str | None) -> None:
        """Sends what waits: asks to the leader, or as leader the next round."""
        core = self._core
        if len(self.own):
            self._send_own(leader)
        if not core.is_leader or not core.commit_is_current:
            return
        opened = self._leading.begin(core.commit)
        if opened is None:
            return
        number = opened[0]
        for peer in sorted(core.linked):
            self._outlet.send(peer, Confirm(core.term, number))
        self._settle(self._leading.confirm(None, number))

    def abandon(self) -> None:
        """The leadership changed: whoever asked here must ask elsewhere."""
        for peer, number in self._leading.abandon():
            if peer is not None:
                self._outlet.send(peer, ReadAnswer(number, 0))

    def asked(self, peer: str, message: ReadAsk) -> None:
        if not self._core.is_leader or not self._leading.ask(peer, message.number):
            self._outlet.send(peer, ReadAnswer(message.number, 0))

    def answered(self, message: ReadAnswer) -> None:
        if message.at:
            self.own.answer(message.number, message.at)

    def confirmed(self, peer: str, message: Confirmed) -> None:
        if message.term == self._core.term and self._core.is_leader:
            self._settle(self._leading.confirm(peer, message.number))

    def _send_own(self, leader: str | None) -> None:
        core = self._core
        if core.is_leader:
            for number in self.own.unsent((core.term, leader, 0)):
                self._leading.ask(None, number)
        elif leader is not None and leader in core.linked:
            # Sent again after any change of links: the answer may have been on one that broke.
            for number in self.own.unsent((core.term, leader, self._links)):
                self._outlet.send(leader, ReadAsk(number))

    def _settle(self, settled: list[tuple[Ask, int]]) -> None:
        for (peer, number), index in settled:
            if peer is None:
                self.own.answer(number, index)
            else:
                self._outlet.send(peer, ReadAnswer(number, index))
