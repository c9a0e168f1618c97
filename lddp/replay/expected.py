"""Bytes that effects still to be carried out bring, and that only the nodes' stores hold.

A store has equal bytes once. An effect that has done with them must not take them from a later one that has not begun:
of what clients have brought, no other node need have a copy.
"""

from __future__ import annotations

from collections.abc import Iterable

from lddp.core import effects as e
from lddp.core.records import Content
from lddp.ports import KeyValue
from lddp.replay import outbox
from lddp.replay.outbox import Item
from lddp.replay.progress import Order

EXPECTED_MAX = 200_000
"""So many contents are remembered. While there are more, any may be expected."""
_READ_AT_ONCE = 4096


def brings(effect: e.Effect) -> bool:
    """Whether the effect brings bytes that only the nodes' stores hold: what was observed, its source has."""
    match effect:
        case e.PutFileEffect(content=content, observed=False) | e.WriteEffect(content=content):
            return content.inline is None and content.size > 0 and not content.pack
        case _:
            return False


class Expected:
    """Contents by the first bytes of their digests, with the GSN of the latest effect that brings each. Only asked of
    what is there: where two begin alike, one stays longer than it must."""

    def __init__(self) -> None:
        self._until: dict[bytes, int] = {}
        self._any_until = 0
        """Up to this GSN there were more than could be remembered."""
        self._is_recalled = False
        self._reached = 0
        self._prune_at = EXPECTED_MAX // 64

    def expect(self, items: Iterable[Item]) -> None:
        """These effects are to be carried out."""
        for item in items:
            if brings(item.effect):
                assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect)
                key = item.effect.content.digest[:8]
                self._until[key] = max(item.order[0], self._until.get(key, 0))
                if len(self._until) > EXPECTED_MAX:
                    self._any_until = max(self._any_until, *self._until.values())
                    self._until = {}

    def recall(self, environment: KeyValue, after: Order) -> None:
        """What an earlier process had still to carry out. Blocking."""
        with environment.read() as tables:
            while items := outbox.read(tables, after, _READ_AT_ONCE):
                self.expect(items)
                after = items[-1].order
        self._is_recalled = True

    def reached(self, gsn: int) -> None:
        """Everything up to this GSN has been carried out."""
        self._reached = gsn
        if len(self._until) > self._prune_at:
            self._until = {key: until for key, until in self._until.items() if until > gsn}
            self._prune_at = max(EXPECTED_MAX // 64, 2 * len(self._until))

    def has(self, content: Content) -> bool:
        """Whether such an effect may still be to come. May be called from any thread."""
        return not self._is_recalled or max(self._until.get(content.digest[:8], 0), self._any_until) > self._reached
