"""What happened to the names of a tree since its last checkpoint, told again from the log without looking at the zone.

It says of every object that took part where it was at the checkpoint, and at which places it has been since. A place is
a name in a directory, and a directory is an object, too, so places mean the same wherever directories are moved.

Only the handles that were noted tie this to what is on a disk (see `moves`). Every directory that was made, was moved
or lost its name has one, and so have other objects that were moved and are from before the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from lddp.core import effects as e
from lddp.core.tables import Tables
from lddp.replay import outbox
from lddp.replay.notes import Note, read_notes, read_root
from lddp.replay.progress import Order

_READ_AT_ONCE = 4096
_NONE = Note()
Place = tuple["Thing", bytes]


@dataclass(eq=False, slots=True)
class Thing:
    """An object. `inode` is 0 where no effect has said it."""

    is_directory: bool
    is_fresh: bool
    """Made since the checkpoint."""
    is_doubtful: bool = False
    """It may be fresh all the same: the policy for what exists has left a file there that was there, or has not."""
    is_ghost: bool = False
    """Nothing brought it there: what should have, waits, and so does all that speaks of it."""
    inode: int = 0
    handle: bytes = b""
    homes: list[Place] = field(default_factory=list)
    """Its places at the checkpoint, as far as they matter: none of what is fresh."""
    is_moved: bool = False
    is_removed: bool = False
    """The log has taken it away since."""
    depth: int = 0
    """How far from the root it was at the checkpoint."""
    places: list[Place] = field(default_factory=list)
    """Where it has been, at the checkpoint and since."""
    names: dict[bytes, list[Thing]] = field(default_factory=dict)
    """Of a directory: what has been at each name, at the checkpoint and since, in the order of coming."""

    @property
    def is_only_said(self) -> bool:
        """Whether it cannot be on the disk."""
        return self.is_ghost and not self.handle

    @property
    def is_alone(self) -> bool:
        """Whether it never moved, and nothing else has ever been at its place."""
        return not self.is_moved and all(directory.names[name] == [self] for directory, name in self.places)


class Past:
    """`tell` it all effects since the checkpoint, in log order."""

    def __init__(self) -> None:
        self.things: list[Thing] = []
        self.root = self._new(is_directory=True)
        self.parked = self._new(is_directory=True)
        """Stands for the place of what is parked."""
        self._now: dict[Place, Thing | None] = {}
        """What is at a place; None where there is nothing any more, absent where nothing has been said of it."""
        self._files: dict[int, Thing] = {}
        """Objects of files by inode, as far as they are known."""

    def tell(self, effect: e.Effect, note: Note | None) -> None:
        """`note` is what was noted of the effect before it was carried out."""
        handles = note or _NONE
        match effect:
            case e.MakeDirectoryEffect(inode, path, _):
                if path:
                    self._make_directory(inode, self._place(path), note)
            case e.PutFileEffect() | e.MakeNodeEffect():
                self._make(effect)
            case e.LinkEffect(inode, path, to):
                self._come(self._at(self._place(path), inode, handles.is_directory, handles.moved), self._place(to))
            case e.RenameEffect(inode, path, to, is_directory):
                # Where a program had put a directory in the place of a file, that is what was moved.
                moved_directory = is_directory or handles.is_directory
                thing = self._leave(self._place(path), inode, moved_directory, handles.moved)
                if handles.gone:
                    self._at(self._place(to), 0, True, handles.gone).is_removed = True
                self._come(thing, self._place(to))
            case e.ParkEffect(inode, path):
                thing = self._leave(self._place(path), inode, handles.is_directory, handles.moved)
                self._come(thing, (self.parked, b"%d" % inode))
            case e.UnparkEffect(inode, to):
                thing = self._leave((self.parked, b"%d" % inode), inode, handles.is_directory, handles.moved)
                self._come(thing, self._place(to))
            case e.RemoveEffect(inode, path, is_directory):
                place = self._place(path) if path else (self.parked, b"%d" % inode)
                self._at(place, inode, is_directory, handles.gone).is_removed = True
                self._now[place] = None
            case _:
                return

    # -- names ------------------------------------------------------------------------------------------------------

    def _new(self, *, is_directory: bool, is_fresh: bool = False, inode: int = 0) -> Thing:
        thing = Thing(is_directory, is_fresh, inode=inode)
        self.things.append(thing)
        return thing

    def _place(self, path: bytes) -> Place:
        here = self.root
        *above, name = path.split(b"/")
        for one in above:
            place = here, one
            found = self._now.get(place)
            if found is None:
                found = self._ghost(place) if place in self._now else self._found(place, 0, True)
            found.is_directory = True
            here = found
        return here, name

    def _found(self, place: Place, inode: int, is_directory: bool) -> Thing:
        """What must have been there at the checkpoint, or in a directory of which not all is told."""
        thing = self._new(is_directory=is_directory, is_fresh=place[0].is_fresh, inode=inode)
        if not thing.is_fresh:
            thing.homes.append(place)
            thing.depth = place[0].depth + 1
        self._come(thing, place)
        return thing

    def _ghost(self, place: Place) -> Thing:
        """A directory where there is none."""
        thing = self._new(is_directory=True, is_fresh=True)
        thing.is_ghost = True
        self._come(thing, place)
        return thing

    def _come(self, thing: Thing, place: Place) -> None:
        directory, name = place
        self._now[place] = thing
        been = directory.names.setdefault(name, [])
        if thing not in been:
            been.append(thing)
            thing.places.append(place)

    def _at(self, place: Place, inode: int, is_directory: bool, handle: bytes) -> Thing:
        """What an effect finds at a place."""
        thing = self._now.get(place)
        if thing is None and place in self._now:
            thing = self._new(is_directory=is_directory, is_fresh=True, inode=inode)
            thing.is_ghost = True
        elif thing is None:
            known = self._files.get(inode)
            if known is None or known.is_fresh or is_directory or place[0].is_fresh:
                thing = self._found(place, inode, is_directory)
                if not is_directory and inode:
                    self._files.setdefault(inode, thing)
            else:
                thing = known
                thing.homes.append(place)
                self._come(thing, place)
        thing.handle = thing.handle or handle
        thing.inode = thing.inode or inode
        return thing

    def _leave(self, place: Place, inode: int, is_directory: bool, handle: bytes) -> Thing:
        thing = self._at(place, inode, is_directory, handle)
        thing.is_moved = True
        self._now[place] = None
        return thing

    def _is_directory(self, place: Place) -> bool:
        thing = self._now.get(place)
        return thing is not None and thing.is_directory

    # -- what is made -----------------------------------------------------------------------------------------------

    def _make_directory(self, inode: int, place: Place, note: Note | None) -> None:
        if note is not None:
            thing = self._new(is_directory=True, is_fresh=True, inode=inode)
            thing.handle = note.moved
            self._come(thing, place)
        elif place not in self._now or self._is_directory(place):
            self._at(place, inode, True, b"")
        # Otherwise it has not been carried out: there was nothing to be found.

    def _make(self, effect: e.PutFileEffect | e.MakeNodeEffect) -> None:
        place = self._place(effect.path)
        is_observed = isinstance(effect, e.PutFileEffect) and effect.observed and not effect.replaces
        if is_observed and place not in self._now:
            thing = self._found(place, effect.inode, False)
            thing.is_doubtful = True
        else:
            thing = self._new(is_directory=False, is_fresh=True, inode=effect.inode)
            self._come(thing, place)
        self._files[effect.inode] = thing


def read_past(tables: Tables, after: Order, rule: int, durable: Set[Order]) -> Past:
    """Of a rule's tree after a place in the log, but for what is `durable` all the same, as far as anything is noted:
    what came later moved nothing."""
    past, notes = Past(), read_notes(tables)
    past.root.handle = read_root(tables, rule)
    for item in _items(tables, after, notes):
        if item.rule == rule and item.order not in durable:
            past.tell(item.effect, notes.get(item.order))
    return past


def _items(tables: Tables, after: Order, notes: Mapping[Order, Note]) -> Iterable[outbox.Item]:
    last = max(notes, default=after)
    place = after
    while place < last and (items := outbox.read(tables, place, _READ_AT_ONCE)):
        yield from (item for item in items if item.order <= last)
        place = items[-1].order
