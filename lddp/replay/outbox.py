"""Effects on their way from the state machine to the zone's filesystem, kept until the zone has them durably.

Written in the transaction that folds their records, read by the projector, deleted when the projected index has passed
them. Key: GSN and ordinal within the record, big-endian, so that the table is in log order.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgpack

from lddp.core import effects as e
from lddp.core.records import Attributes, Content, Kind
from lddp.core.tables import Table, Tables
from lddp.replay.progress import ORDINALS_MAX

KEY = struct.Struct(">QI")
DISCARDED_AT_ONCE = 4096
"""What one transaction deletes, so that nobody waits for it long."""
READ_AT_ONCE = 4096
_CODES: dict[type, int] = {
    e.MakeDirectoryEffect: 1,
    e.PutFileEffect: 2,
    e.MakeNodeEffect: 3,
    e.LinkEffect: 4,
    e.RenameEffect: 5,
    e.ParkEffect: 6,
    e.UnparkEffect: 7,
    e.RemoveEffect: 8,
    e.SetAttributesEffect: 9,
    e.WriteEffect: 10,
    e.TruncateEffect: 11,
}
_TYPES: dict[int, Any] = {code: kind for kind, code in _CODES.items()}
_ATTRIBUTES: dict[int, int] = {1: 2, 2: 2, 3: 3, 9: 3, 10: 5, 11: 3}
_CONTENT = {2: 3, 10: 3}
_KIND = {3: 2, 9: 2}
_BASE = {10: 6, 11: 4}
"""The last field; effects of earlier versions do without it."""
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class Item(NamedTuple):
    """One effect for this zone: `order` is its place in the log, (GSN, ordinal)."""

    order: tuple[int, int]
    rule: int
    effect: e.Effect


def is_for(zone: int, scope: e.Scope) -> bool:
    """Whether an effect of this scope concerns the zone."""
    return scope.but != zone and scope.only in (e.ALL_ZONES, zone)


def append(tables: Tables, gsn: int, zone: int, effects: Iterable[e.ScopedEffect]) -> list[Item]:
    """Keeps the effects that concern the zone, and returns them."""
    items: list[Item] = []
    put, key = tables.put, KEY.pack
    for rule, scope, effect in effects:
        if is_for(zone, scope):
            count = len(items)
            put(Table.EFFECTS, key(gsn, count), _pack((_CODES[type(effect)], rule, *effect)))
            items.append(Item((gsn, count), rule, effect))
    assert len(items) <= ORDINALS_MAX, "a record is bounded"
    return items


def read(tables: Tables, after: tuple[int, int], limit: int) -> list[Item]:
    """At most `limit` effects that come after the place `after` in the log."""
    items: list[Item] = []
    for key, value in tables.scan(Table.EFFECTS, _behind(after)):
        gsn, ordinal = KEY.unpack(key)
        items.append(Item((gsn, ordinal), *_decode(value)))
        if len(items) >= limit:
            break
    return items


def _behind(place: tuple[int, int]) -> bytes:
    """Where the keys begin that come after a place in the log."""
    return KEY.pack(*place) + b"\0"


def count_after(tables: Tables, after: tuple[int, int], limit: int) -> int:
    """How many effects come after a place in the log, counted up to `limit`."""
    count = 0
    for _ in tables.scan(Table.EFFECTS, _behind(after)):
        count += 1
        if count >= limit:
            break
    return count


def discard(tables: Tables, through: int, limit: int = DISCARDED_AT_ONCE) -> int:
    """Deletes effects of records up to GSN `through`, the oldest first; how many, at most `limit`."""
    found = itertools.islice(tables.scan(Table.EFFECTS, b"", KEY.pack(through + 1, 0)), limit)
    keys = [key for key, _ in found]
    for key in keys:
        tables.delete(Table.EFFECTS, key)
    return len(keys)


def _decode(data: bytes) -> tuple[int, e.Effect]:
    code, rule, *fields = msgpack.unpackb(data, use_list=False, raw=False)
    place = _ATTRIBUTES.get(code)
    if place is not None:
        fields[place] = Attributes(*fields[place])
    place = _CONTENT.get(code)
    if place is not None:
        fields[place] = Content(*fields[place])
    place = _KIND.get(code)
    if place is not None:
        fields[place] = Kind(fields[place])
    place = _BASE.get(code)
    if place is not None and fields[place:] and fields[place] is not None:
        content, since = fields[place]
        fields[place] = e.Base(Content(*content), since)
    return rule, _TYPES[code](*fields)


def needed(tables: Tables) -> Iterator[bytes]:
    """Digests and packs of the contents that the effects in the outbox bring, or take from the zone's files."""
    place = (0, 0)
    while items := read(tables, place, READ_AT_ONCE):
        place = items[-1].order
        for item in items:
            if isinstance(item.effect, e.PutFileEffect | e.WriteEffect):
                yield item.effect.content.digest
                yield item.effect.content.pack
            if isinstance(item.effect, e.WriteEffect | e.TruncateEffect) and item.effect.base is not None:
                yield item.effect.base.content.digest


def names(tables: Tables, digest: bytes) -> bool:
    """Whether an effect in the outbox brings this content."""
    return any(one == digest for one in needed(tables))
