"""Bytes that effects still to be carried out bring, and that only the nodes' stores hold.

A store has equal bytes once. An effect that has done with them must not take them from a later one that has not begun:
of what clients have brought, no other node need have a copy. So they are expected from the moment at which their record
is folded. After a start any bytes may be, until it is known what an earlier process had folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lddp.core import effects as e
from lddp.core.records import Content
from lddp.ports import KeyValue
from lddp.replay import outbox
from lddp.replay.outbox import Item
from lddp.replay.progress import Order

EXPECTED_MAX = 200_000
"""So many contents are remembered. What is more goes into a filter, which takes few others for one of them."""
FILTER_BYTES = 4 * 1024 * 1024
_KEY_BYTES = 12
_READ_AT_ONCE = 4096


def brings(effect: e.Effect) -> bool:
    """Whether the effect brings bytes that only the nodes' stores hold: what was observed, its source has."""
    match effect:
        case e.PutFileEffect(content=content, observed=False) | e.WriteEffect(content=content):
            return content.inline is None and content.size > 0 and not content.pack
        case _:
            return False


class Filter:
    """A Bloom filter of digests, by three parts of each."""

    def __init__(self) -> None:
        self._bits = bytearray(FILTER_BYTES)

    def _places(self, key: bytes) -> list[int]:
        return [int.from_bytes(key[at : at + 4]) % (8 * FILTER_BYTES) for at in (0, 4, 8)]

    def add(self, key: bytes) -> None:
        for place in self._places(key):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, key: bytes) -> bool:
        return all(self._bits[place >> 3] & (1 << (place & 7)) for place in self._places(key))


class Expected:
    """Contents by the first bytes of their digests, with the GSN of the latest effect that brings each. `named` hears
    of each as it is expected. Changed in the event loop."""

    def __init__(self, named: Callable[[Content], None] = lambda _content: None) -> None:
        self._named = named
        self._until: dict[bytes, int] = {}
        self._filter: Filter | None = None
        self._filter_until = 0
        self._reached = 0
        self._is_known = False
        self._prune_at = EXPECTED_MAX // 64

    def expect(self, items: Iterable[Item]) -> None:
        """The records of these effects have been folded."""
        for item in items:
            if brings(item.effect):
                assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect)
                self._add(item.effect.content.digest[:_KEY_BYTES], item.order[0])
                self._named(item.effect.content)

    def _add(self, key: bytes, gsn: int) -> None:
        until = self._until
        until[key] = max(gsn, until.get(key, 0))
        if len(until) > EXPECTED_MAX:
            found = self._filter or Filter()
            for known in until:
                found.add(known)
            self._filter_until = max(self._filter_until, *until.values())
            self._filter = found
            self._until = {}

    def recalled(self, found: dict[bytes, int]) -> None:
        """Now it is known what an earlier process had folded: besides this, it has been folded again."""
        for key, gsn in found.items():
            self._add(key, gsn)
        self._is_known = True

    def reached(self, gsn: int) -> None:
        """Everything up to this GSN has been carried out."""
        self._reached = gsn
        if self._filter_until <= gsn:
            self._filter = None
        if len(self._until) > self._prune_at:
            self._until = {key: until for key, until in self._until.items() if until > gsn}
            self._prune_at = max(EXPECTED_MAX // 64, 2 * len(self._until))

    def has(self, content: Content) -> bool:
        """Whether such an effect may still be to come. May be called from any thread."""
        if not self._is_known:
            return True
        key = content.digest[:_KEY_BYTES]
        if self._until.get(key, 0) > self._reached:
            return True
        found = self._filter  # looked at last: what goes into it is still among the others meanwhile
        return found is not None and key in found


def read_expected(environment: KeyValue, after: Order) -> dict[bytes, int]:
    """What the outbox has, for `Expected.recalled`. Blocking."""
    found: dict[bytes, int] = {}
    with environment.read() as tables:
        while items := outbox.read(tables, after, _READ_AT_ONCE):
            for item in items:
                if brings(item.effect):
                    assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect)
                    found[item.effect.content.digest[:_KEY_BYTES]] = item.order[0]
            after = items[-1].order
    return found
