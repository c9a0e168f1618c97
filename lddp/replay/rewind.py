"""After a power cut: the names of the last checkpoint.

The filesystem holds an unknown part of what was done since. Carrying it all out again is right for what an effect makes
or changes, and wrong for what it moves: `a` may be what was moved to `a` already. So every object that was moved is
first brought back, latest move first, wherever it is found by its handle (see `moves`). From there the effects run as
they ran the first time. What they had destroyed is not there to be brought back, and nothing needs it.

Bringing back may be cut short or done twice, because it too asks for the object and not for the name. Nothing is
carried out before it is done and durable, which the database says (`Boot`), and then what was noted is forgotten. So
notes are always of what was done from one durable state on.

It relies on this of a filesystem: no change is on the disk without earlier ones of the same object or name, or of the
directories on the way to it. Bytes and attributes may be anything.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import msgpack

from lddp.core import effects as e
from lddp.core.records import Kind
from lddp.core.tables import Table, Tables
from lddp.core.view import View
from lddp.ports import ZoneFilesystem
from lddp.replay import outbox
from lddp.replay.conflicts import ancestors
from lddp.replay.moves import Note
from lddp.replay.outbox import Item
from lddp.replay.places import handle_at, is_directory, make_parents, name_aside
from lddp.replay.progress import Order, Progress
from lddp.replay.touched import parent_of

_log = logging.getLogger(__name__)
_BOOT = b"boot"
_MOVED = b"moved:"
_MOVED_END = b"moved;"
_READ_AT_ONCE = 4096
_IN_THE_WAY = frozenset((errno.EINVAL, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EXDEV, errno.ELOOP))
Move = tuple[e.Effect, Note]


class Boot(NamedTuple):
    """What is known of the time since the machine started."""

    name: bytes
    repeated_through: int
    """GSN up to which effects may have been carried out before, without a mark that is believed."""
    rules: tuple[int, ...]
    """Rules whose trees are not brought back yet."""

    def without(self, rule: int) -> Boot:
        """That rule's tree is brought back."""
        return self._replace(rules=tuple(other for other in self.rules if other != rule))


def read_boot(tables: Tables, progress: Progress) -> Boot:
    """As noted, or what has to be noted now because the machine was started since."""
    data = tables.get(Table.LOCAL, _BOOT)
    if data is None and progress.survived:
        return Boot(progress.boot, 0, ())
    if data is not None:
        name, repeated_through, rules = msgpack.unpackb(data)
        if name == progress.boot:
            return Boot(name, repeated_through, tuple(rules))
    moved = sorted({item.rule for item, _ in _read_moves(tables)})
    return Boot(progress.boot, View(tables).gsn, tuple(moved))


def is_noted(tables: Tables, boot: Boot) -> bool:
    data: bytes = msgpack.packb(boot)
    return tables.get(Table.LOCAL, _BOOT) == data


def note_boot(tables: Tables, boot: Boot) -> None:
    tables.put(Table.LOCAL, _BOOT, msgpack.packb(boot))


# -- notes in the database --------------------------------------------------------------------------------------------


def keep_notes(tables: Tables, notes: Mapping[Order, Note]) -> None:
    for order, note in notes.items():
        tables.put(Table.LOCAL, _MOVED + outbox.KEY.pack(*order), msgpack.packb(note))


def read_notes(tables: Tables) -> dict[Order, Note]:
    """Of effects since the last checkpoint, in log order."""
    return {
        outbox.KEY.unpack(key[len(_MOVED) :]): Note(*msgpack.unpackb(data, use_list=False))
        for key, data in tables.scan(Table.LOCAL, _MOVED, _MOVED_END)
    }


def forget_notes(tables: Tables, through: int) -> None:
    """Effects up to GSN `through` are durable."""
    for key, _ in list(tables.scan(Table.LOCAL, _MOVED, _MOVED + outbox.KEY.pack(through + 1, 0))):
        tables.delete(Table.LOCAL, key)


def read_moves(tables: Tables, rule: int, durable: Set[Order]) -> list[Move]:
    """What of a rule was moved since the last checkpoint, in log order, but for what is `durable` all the same."""
    found = _read_moves(tables)
    return [(item.effect, note) for item, note in found if item.rule == rule and item.order not in durable]


def noted_orders(tables: Tables, rule: int) -> list[Order]:
    return [item.order for item, _ in _read_moves(tables) if item.rule == rule]


def forget_moves(tables: Tables, orders: Iterable[Order]) -> None:
    for order in orders:
        tables.delete(Table.LOCAL, _MOVED + outbox.KEY.pack(*order))


def _read_moves(tables: Tables) -> Iterator[tuple[Item, Note]]:
    for order, note in read_notes(tables).items():
        found = outbox.read(tables, (order[0], order[1] - 1) if order[1] else (order[0] - 1, 0xFFFFFFFF), 1)
        if found and found[0].order == order:
            yield found[0], note


# -- bringing back ----------------------------------------------------------------------------------------------------


def rewind(zone: ZoneFilesystem, moves: Sequence[Move]) -> None:
    """Brings back what was moved. Blocking; OSError where the filesystem refuses for a reason that may go away."""
    rewinding = _Rewinding(zone, moves)
    for place in reversed(range(len(moves))):
        try:
            rewinding.undo(place)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            _log.warning("%r cannot be undone after a power cut: %s", moves[place][0], error)


class _Rewinding:
    """`place` counts in `moves`. What comes after it has been undone; of what comes before, some may not be there, and
    then a path may lead elsewhere than it did."""

    def __init__(self, zone: ZoneFilesystem, moves: Sequence[Move]) -> None:
        self._zone = zone
        self._moves = moves
        self._owners = {note.moved: effect.inode for effect, note in moves if note.moved}
        self._gone: dict[bytes, int] = {}
        """Place at which a directory lost its name for ever, by its handle."""
        self._known = {handle for _, note in moves for handle in note}
        for place, (_, note) in enumerate(moves):
            if note.gone:
                self._gone.setdefault(note.gone, place)

    def undo(self, place: int) -> None:
        effect, note = self._moves[place]
        match effect:
            case e.RenameEffect(_, path, to, _):
                if self._came_to(to, note) and not self._is_at(path, note):
                    self._move_back(to, path)
            case e.LinkEffect(_, path, to):
                if self._came_to(to, note):
                    if self._is_at(path, note):
                        self._zone.remove(to)
                    else:
                        self._move_back(to, path)
            case e.UnparkEffect(inode, to):
                if self._came_to(to, note):
                    self._zone.park(to, b"%d" % inode)
            case e.ParkEffect(inode, path):
                if self._stands_for(self._zone.parked_handle(b"%d" % inode), note.moved):
                    make_parents(self._zone, path)
                    self._zone.unpark(b"%d" % inode, path)
            case e.MakeDirectoryEffect(inode, path, _):
                # Until it is made again: it is not another one's that has the name before.
                if is_directory(self._zone, path) and self._is_of(inode, path, place):
                    self._zone.park(path, name_aside(inode))

    def _is_at(self, path: bytes, note: Note) -> bool:
        return self._stands_for(handle_at(self._zone, path), note.moved)

    def _stands_for(self, found: bytes, handle: bytes) -> bool:
        """Whether what was found is the object, or a directory of which nothing is known where it is gone."""
        return bool(found and handle) and (found == handle or (handle in self._gone and found not in self._known))

    def _came_to(self, path: bytes, note: Note) -> bool:
        """Whether an object is where this move put it: at that name of that directory."""
        if not self._is_at(path, note):
            return False
        return self._stands_for(handle_at(self._zone, parent_of(path)), note.target)

    def _is_of(self, inode: int, path: bytes, place: int) -> bool:
        """Whether the directory may be the one that was made for an inode at a place."""
        owner = self._owners.get(handle_at(self._zone, path), inode)
        return owner == inode and self._leads_there(b"%b/" % path, place)

    def _leads_there(self, path: bytes, place: int) -> bool:
        """Whether no directory above had lost its name by then."""
        if not self._gone:
            return True
        return all(self._gone.get(handle_at(self._zone, above), place) >= place for above in ancestors(path))

    def _move_back(self, path: bytes, to: bytes) -> None:
        make_parents(self._zone, to)
        self._zone.rename(path, to)


# -- names that last --------------------------------------------------------------------------------------------------


def lasting_paths(tables: Tables, after: Order) -> dict[Order, bytes]:
    """For changes of a file in place: a name that the file had then and that no effect takes away. The filesystem may
    have lost another one already."""
    items: list[Item] = []
    place = after
    while found := outbox.read(tables, place, _READ_AT_ONCE):
        items += [item for item in found if _is_change(item.effect) or _is_move(item.effect)]
        place = found[-1].order
    view = View(tables)
    now: dict[int, dict[int, bytes]] = {item.rule: {} for item in items}
    for item in items:
        inode = view.inode(item.effect.inode) if _is_change(item.effect) else None
        if inode is not None and inode.number not in now[item.rule]:
            now[item.rule][inode.number] = view.path(inode)
    paths: dict[Order, bytes] = {}
    for item in reversed(items):
        if not _is_change(item.effect):
            now[item.rule] = _before(now[item.rule], item.effect)
        elif item.effect.inode in now[item.rule]:
            paths[item.order] = now[item.rule][item.effect.inode]
    return paths


def at_lasting_path(item: Item, paths: Mapping[Order, bytes]) -> Item:
    path = paths.get(item.order)
    match item.effect:
        case e.WriteEffect() | e.TruncateEffect() | e.SetAttributesEffect() if path is not None:
            return item._replace(effect=item.effect._replace(path=path))
        case _:
            return item


def _is_change(effect: e.Effect) -> bool:
    match effect:
        case e.WriteEffect() | e.TruncateEffect():
            return True
        case e.SetAttributesEffect():
            return effect.kind is not Kind.DIRECTORY
        case _:
            return False


def _is_move(effect: e.Effect) -> bool:
    return isinstance(effect, e.RenameEffect | e.LinkEffect | e.ParkEffect | e.UnparkEffect)


def _before(paths: dict[int, bytes], effect: e.Effect) -> dict[int, bytes]:
    """Where objects are before an effect, by where they are after it."""
    match effect:
        case e.RenameEffect(inode, old, new, with_tree):
            pass
        case e.LinkEffect(inode, old, new):
            with_tree = False
        case e.ParkEffect(inode, old):
            new, with_tree = b"\0%d" % inode, True
        case e.UnparkEffect(inode, new):
            old, with_tree = b"\0%d" % inode, True
        case _:
            return paths
    if paths.get(inode) == new:
        paths[inode] = old
    if not with_tree:
        return paths
    below = new + b"/"
    return {number: old + path[len(new) :] if path.startswith(below) else path for number, path in paths.items()}
