"""Contents that this zone has put into its files and that other zones may still have to ask for.

A file whose bytes came from the log may be changed in part by a later record; from then on no zone's file holds the
bytes of the earlier one, and a zone that was away could never be brought along. So the bytes that an operation brought
stay in the store until every zone of the rule has carried them out durably. Bytes that were observed are not kept:
the source has them. Kept in the database with each checkpoint, so that a restart forgets nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgpack

from lddp.core import effects as e
from lddp.core.records import Content
from lddp.core.tables import Table, Tables
from lddp.replay.outbox import Item

_RETAINED = b"retained"
_Key = tuple[bytes, bool]


class Keeps(Protocol):
    """The part of a content store that is used here."""

    def keep(self, content: Content) -> None:
        """Until `unkeep`, files are made as copies of these bytes."""
        ...

    def unkeep(self, content: Content) -> None: ...

    def release(self, content: Content) -> None: ...


class Retained:
    """`everywhere(rule)` is the GSN up to which every zone of a rule is durably projected."""

    def __init__(self, store: Keeps, everywhere: Callable[[int], int], tables: Tables) -> None:
        self._store = store
        self._everywhere = everywhere
        self._contents: dict[_Key, Content] = {}
        self._using: dict[_Key, set[tuple[int, int]]] = {}
        self._until: dict[_Key, tuple[int, int]] = {}
        """Rule and GSN of the latest effect that was carried out with it."""
        for digest, size, sealed, rule, gsn in msgpack.unpackb(tables.get(Table.LOCAL, _RETAINED) or b"\x90"):
            self._keep(Content(digest, size, sealed=sealed))
            self._until[digest, sealed] = rule, gsn

    @staticmethod
    def concerns(effect: e.Effect) -> bool:
        """Whether the effect brings bytes that only the nodes' stores hold."""
        match effect:
            case e.PutFileEffect(content=content, observed=False) | e.WriteEffect(content=content):
                return content.inline is None and content.size > 0 and not content.pack
            case _:
                return False

    def _keep(self, content: Content) -> _Key:
        key = content.digest, content.sealed
        if key not in self._contents:
            self._contents[key] = content
            self._store.keep(content)
        return key

    def hold(self, item: Item) -> None:
        """The effect is about to be carried out; may be called again."""
        assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect)
        self._using.setdefault(self._keep(item.effect.content), set()).add(item.order)

    def used(self, item: Item) -> None:
        """The effect was carried out."""
        assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect)
        key = self._keep(item.effect.content)
        using = self._using.get(key, set())
        using.discard(item.order)
        if not using:
            self._using.pop(key, None)
        gsn = max(item.order[0], self._until.get(key, (0, 0))[1])
        self._until[key] = item.rule, gsn

    def release_due(self) -> None:
        """Drops what every zone has by now."""
        reached = {rule: self._everywhere(rule) for rule, _ in self._until.values()}
        for key, (rule, gsn) in list(self._until.items()):
            if gsn <= reached[rule] and key not in self._using:
                del self._until[key]
                content = self._contents.pop(key)
                self._store.unkeep(content)
                self._store.release(content)

    def snapshot(self) -> dict[bytes, bytes]:
        """What a checkpoint writes into the local table."""
        rows = [
            (self._contents[key].digest, self._contents[key].size, self._contents[key].sealed, *until)
            for key, until in self._until.items()
        ]
        return {_RETAINED: bytes(msgpack.packb(rows))}
