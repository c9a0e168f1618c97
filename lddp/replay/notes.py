"""What is written down of effects before they are carried out, and of the boots of the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgpack

from lddp.core.tables import Table, Tables
from lddp.core.view import View
from lddp.replay import outbox
from lddp.replay.progress import Order, Progress

_BOOT = b"boot"
_MOVED = b"moved:"
_MOVED_END = b"moved;"
_ROOT = b"root-handle:"
_STAND_INS = b"stand-ins:"


class Note(NamedTuple):
    """Handles: of the object that an effect moves, or of a new directory that it brings to its name, and of a directory
    that loses its name. Both are empty for a directory that is made where there was none, and that nobody knows."""

    moved: bytes = b""
    gone: bytes = b""
    is_directory: bool = False
    """What is moved."""
    there: bytes | None = None
    """At a tree that programs change, too: handle of what has the name that the effect takes, or of the file that it
    changes; empty where there is nothing."""
    there_ns: int = 0
    """Its modification time."""


def keep_notes(tables: Tables, notes: Mapping[Order, Note], roots: Mapping[int, bytes]) -> None:
    """`roots` has the handles of the roots of the trees that the notes are of, by rule."""
    for order, note in notes.items():
        tables.put(Table.LOCAL, _MOVED + outbox.KEY.pack(*order), msgpack.packb(note))
    for rule, handle in roots.items():
        if read_root(tables, rule) != handle:
            tables.put(Table.LOCAL, _ROOT + b"%d" % rule, handle)


def read_root(tables: Tables, rule: int) -> bytes:
    """Handle of a tree's root when the latest notes were made; empty where there are none."""
    return tables.get(Table.LOCAL, _ROOT + b"%d" % rule) or b""


def read_stand_ins(tables: Tables, rule: int) -> set[bytes]:
    """Handles of directories that a recovery has made in the place of others that are gone."""
    data = tables.get(Table.LOCAL, _STAND_INS + b"%d" % rule)
    return set() if data is None else set(msgpack.unpackb(data))


def note_stand_ins(tables: Tables, rule: int, handles: Iterable[bytes]) -> None:
    tables.put(Table.LOCAL, _STAND_INS + b"%d" % rule, msgpack.packb(sorted(handles)))


def read_notes(tables: Tables) -> dict[Order, Note]:
    """Of effects since the last checkpoint, in log order."""
    return {
        outbox.KEY.unpack(key[len(_MOVED) :]): _decoded(data)
        for key, data in tables.scan(Table.LOCAL, _MOVED, _MOVED_END)
    }


def _decoded(data: bytes) -> Note:
    fields = msgpack.unpackb(data, use_list=False)
    # Notes once had handles of directories in the place of what is now the third field.
    return Note(*fields) if len(fields) > 2 and isinstance(fields[2], bool) else Note(*fields[:2])


def forget_notes(tables: Tables, through: int) -> None:
    """Effects up to GSN `through` are durable."""
    for key, _ in list(tables.scan(Table.LOCAL, _MOVED, _MOVED + outbox.KEY.pack(through + 1, 0))):
        tables.delete(Table.LOCAL, key)


def noted_orders(tables: Tables, rule: int) -> list[Order]:
    """The effects of a rule's tree of which there are notes."""
    return [order for order, of in _rules_of_notes(tables) if of == rule]


def forget_orders(tables: Tables, orders: Iterable[Order]) -> None:
    for order in orders:
        tables.delete(Table.LOCAL, _MOVED + outbox.KEY.pack(*order))


def _rules_of_notes(tables: Tables) -> list[tuple[Order, int]]:
    found: list[tuple[Order, int]] = []
    for order in read_notes(tables):
        items = outbox.read(tables, (order[0], order[1] - 1) if order[1] else (order[0] - 1, 0xFFFFFFFF), 1)
        if items and items[0].order == order:
            found.append((order, items[0].rule))
    return found


# -- boots ------------------------------------------------------------------------------------------------------------


class Boot(NamedTuple):
    """What is known of the time since the machine started."""

    name: bytes
    repeated_through: int
    """GSN up to which effects may have been carried out before, without a mark that is believed."""
    rules: tuple[int, ...]
    """Rules whose trees are not brought back yet."""
    has_lost: bool = False
    """Whether a filesystem has lost writes in this boot: it may show what it does not have."""

    def without(self, rule: int) -> Boot:
        """That rule's tree is brought back."""
        return self._replace(rules=tuple(other for other in self.rules if other != rule))


def read_boot(tables: Tables, progress: Progress) -> Boot:
    """As noted, or what has to be noted now: because the machine was started since, or because a filesystem has lost
    writes. Then no mark counts."""
    if progress.has_lost:
        progress.forget()
        return _anew(tables, progress)
    data = tables.get(Table.LOCAL, _BOOT)
    if data is None and progress.survived:
        return Boot(progress.boot, 0, ())
    if data is not None:
        name, repeated_through, rules, *more = msgpack.unpackb(data)
        if name == progress.boot:
            return Boot(name, repeated_through, tuple(rules), *more)
    return _anew(tables, progress)


def _anew(tables: Tables, progress: Progress) -> Boot:
    moved = sorted({rule for _, rule in _rules_of_notes(tables)})
    return Boot(progress.boot, View(tables).gsn, tuple(moved), progress.has_lost)


def is_noted(tables: Tables, boot: Boot) -> bool:
    data: bytes = msgpack.packb(boot)
    return tables.get(Table.LOCAL, _BOOT) == data


def note_boot(tables: Tables, boot: Boot) -> None:
    tables.put(Table.LOCAL, _BOOT, msgpack.packb(boot))
