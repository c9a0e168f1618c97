"""Contents that this zone has put into its files and that other zones may still have to ask for.

A file whose bytes came from the log may be changed in part by a later record; from then on no zone's file holds the
bytes of the earlier one, and a zone that was away could never be brought along. So the bytes that an operation brought
stay in the store until every zone of the rule has carried them out durably. Kept in the database with each checkpoint,
so that a restart forgets nothing.

Bytes that were observed are not kept: the source has them, in the file itself. Where that is to be changed in part,
they are saved before, unless every zone has them. Where they are not there any more, a program has changed the file
too: it is doubted, and what is reported of it then takes the place of what the others wait for in vain.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Protocol

import msgpack

from lddp.core import effects as e
from lddp.core.records import Content
from lddp.core.tables import Table, Tables
from lddp.ports import ZoneFilesystem
from lddp.replay.expected import Expected, brings
from lddp.replay.outbox import Item

_log = logging.getLogger(__name__)
_RETAINED = b"retained"
_Key = tuple[bytes, bool]


class Keeps(Protocol):
    """The part of a content store that is used here."""

    def keep(self, content: Content) -> None:
        """Until `unkeep`, files are made as copies of these bytes."""
        ...

    def unkeep(self, content: Content) -> None: ...

    def release(self, content: Content) -> None: ...

    def release_refused(self) -> None:
        """Again what was refused, because somebody needed it."""
        ...

    def named(self, content: Content) -> None:
        """A record that names these bytes has been folded."""
        ...


class Sources(Protocol):
    """What is to be known of rules whose source this zone is. Used from the thread that carries effects out."""

    def is_source(self, rule: int) -> bool: ...

    def save(self, content: Content, descriptor: int) -> bool:
        """Has the store hold the bytes of an open file, durably. False where they are not this content's; OSError where
        there is no room. Blocking."""
        ...

    def doubt(self, inode: int) -> None:
        """The file is to be looked at again, whatever its times say."""
        ...


class Retained:
    """`everywhere(rule)` is the GSN up to which every zone of a rule is durably projected. Without `sources` this zone
    is nobody's."""

    def __init__(
        self, store: Keeps, everywhere: Callable[[int], int], tables: Tables, sources: Sources | None = None
    ) -> None:
        self._store = store
        self._everywhere = everywhere
        self._sources = sources
        self.expected = Expected(store.named)
        self._lock = threading.Lock()
        """Bases are saved while others are let go."""
        self._contents: dict[_Key, Content] = {}
        self._using: dict[_Key, set[tuple[int, int]]] = {}
        self._until: dict[_Key, dict[int, int]] = {}
        """By rule, the GSN of the latest effect that was carried out with it."""
        for digest, size, sealed, rule, gsn in msgpack.unpackb(tables.get(Table.LOCAL, _RETAINED) or b"\x90"):
            self._keep_until(Content(digest, size, sealed=sealed), rule, gsn)

    concerns = staticmethod(brings)

    def _keep(self, content: Content) -> _Key:
        key = content.digest, content.sealed
        if key not in self._contents:
            self._contents[key] = content
            self._store.keep(content)
        return key

    def _keep_until(self, content: Content, rule: int, gsn: int) -> _Key:
        key = self._keep(content)
        until = self._until.setdefault(key, {})
        until[rule] = max(gsn, until.get(rule, 0))
        return key

    def hold(self, item: Item) -> None:
        """The effect is about to be carried out; may be called again."""
        assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect)
        with self._lock:
            self._using.setdefault(self._keep(item.effect.content), set()).add(item.order)

    def used(self, item: Item) -> None:
        """The effect was carried out."""
        assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect)
        with self._lock:
            key = self._keep_until(item.effect.content, item.rule, item.order[0])
            using = self._using.get(key, set())
            using.discard(item.order)
            if not using:
                self._using.pop(key, None)

    def recall(self, item: Item) -> None:
        """The effect was carried out by an earlier process."""
        if self.concerns(item.effect):
            self.used(item)
        if isinstance(item.effect, e.WriteEffect | e.TruncateEffect) and item.effect.base is not None:
            with self._lock:
                self._keep_until(item.effect.base.content, item.rule, item.effect.base.since)

    def save_base(self, rule: int, effect: e.WriteEffect | e.TruncateEffect, zone: ZoneFilesystem) -> None:
        """The effect is about to change a file in part. Blocking; for the thread that carries effects out."""
        base, sources = effect.base, self._sources
        if base is None or sources is None or not sources.is_source(rule) or self._everywhere(rule) >= base.since:
            return
        with self._lock:
            self._keep_until(base.content, rule, base.since)
        try:
            descriptor = zone.open_read(effect.path)
            try:
                is_saved = sources.save(base.content, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            # No reason not to go on: who waits for them gets what is reported of the file then.
            _log.warning("%r cannot be kept as it was for other zones: %s", effect.path, error.strerror)
            is_saved = False
        if not is_saved:
            sources.doubt(effect.inode)

    def release_due(self) -> None:
        """Drops what every zone has by now."""
        with self._lock:
            reached = {rule: self._everywhere(rule) for until in self._until.values() for rule in until}
            for key, until in list(self._until.items()):
                content = self._contents[key]
                is_everywhere = all(gsn <= reached[rule] for rule, gsn in until.items())
                if is_everywhere and key not in self._using and not self.expected.has(content):
                    del self._until[key], self._contents[key]
                    self._store.unkeep(content)
                    self._store.release(content)
        self._store.release_refused()

    def snapshot(self) -> dict[bytes, bytes]:
        """What a checkpoint writes into the local table."""
        with self._lock:
            rows = [
                (self._contents[key].digest, self._contents[key].size, self._contents[key].sealed, rule, gsn)
                for key, until in self._until.items()
                for rule, gsn in until.items()
            ]
        return {_RETAINED: bytes(msgpack.packb(rows))}
