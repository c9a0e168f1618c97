"""After a power cut: the names of the last checkpoint.

The filesystem holds an unknown part of what was done since. Carrying it all out again is right for what an effect makes
or changes, and wrong for what it moves: `a` may be what was moved to `a` already. So every object from before the
checkpoint that took part in a move, and is still there, is first put where it was at the checkpoint, wherever it is
now; it is known by its handle, and where it can be is known from the log (`past`). From there the effects run as they
ran the first time, and find what they found then. What they had destroyed is not there to be brought back, and nothing
needs it, but that it was there: something that is empty stands for it.

Nothing is undone step by step, and no step is guessed: what counts is which object is where. So it makes no difference
whether an object came back to a place that it had left, or whether this was begun before and cut short by another cut.
Objects that must get out of each other's way are set aside meanwhile (parked), under names of their own.

A directory made since the checkpoint is set aside, too, where another thing had its place: until it is made again.
Other things made since stay; what makes them again replaces them.

It relies on this of a filesystem: no change is on the disk without earlier ones of the same object or name, or of the
directories on the way to it. Bytes and attributes may be anything.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from lddp.core.records import Attributes, Kind
from lddp.ports import ZoneFilesystem
from lddp.replay.past import Past, Place, Thing
from lddp.replay.places import is_directory, name_aside, name_of_moved, status_at

_log = logging.getLogger(__name__)
_ROUNDS_MIN = 8
_LENT = b".lddp-parked-"
IN_THE_WAY = frozenset((errno.EINVAL, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EXDEV, errno.ELOOP))


@dataclass(eq=False, slots=True)
class Sight:
    """An object that was found in the tree. What is not `real` only stands for the thing, which is not there."""

    thing: Thing
    real: bool
    path: bytes
    above: Sight | None = None
    name: bytes = b""
    is_home: bool = False
    """Whether this is where the thing was at the checkpoint."""

    @property
    def depth(self) -> int:
        return self.path.count(b"/")


class _Empty:
    """The bytes of what stands for a file."""

    size = 0

    def to_take(self) -> None:
        return None

    def open_to_clone(self) -> int | None:
        return None

    def chunks(self) -> Iterator[tuple[int, bytes | memoryview]]:
        return iter(())


def rewind(zone: ZoneFilesystem, past: Past) -> None:
    """Puts things where they were. Blocking; OSError where the filesystem refuses for a reason that may go away."""
    if is_recognised(zone, past):
        Rewinding(zone, past).run()


def is_recognised(zone: ZoneFilesystem, past: Past) -> bool:
    """Whether handles still mean what they meant before the power cut."""
    if past.root.handle in (b"", zone.status(b"").handle):
        return True
    _log.critical("a filesystem has other handles now: what was moved before a power cut is not found; compare it")
    return False


class Rewinding:
    """Looks, and does what is to be done as far as it can be told from there, until there is nothing to be done."""

    def __init__(self, zone: ZoneFilesystem, past: Past) -> None:
        self._zone = zone
        self._past = past
        self._by_handle: dict[bytes, Thing] = {}
        self._unstable: set[Thing] = set()
        self._stuck: set[Thing] = set()
        self._made = 0
        self._lent: dict[Thing, Place] = {}
        """What was parked at the checkpoint, and where. Meanwhile it is in the root: to put things into a directory
        needs a path."""
        self._hidden: dict[bytes, bytes] = {}
        """Names under which a new directory may be parked, and in the root while it is looked into."""
        self._emptied: set[Thing] = set()
        """New directories that were set aside when all that is known to be in them was out of them."""
        self._sights: list[Sight] = []
        self._seen: dict[Thing, list[Sight]] = {}
        self._parked: dict[Thing, bytes] = {}
        self._real: set[Thing] = set()
        for thing in past.things:
            self._get_to_know(thing)

    def run(self) -> None:
        for _ in range(_ROUNDS_MIN + 2 * len(self._past.things)):
            self._look()
            if not (self._set_aside() or self._reveal() or self._put_back() or self._make_stand_ins()):
                self._park_again()
                return
        self._end_in_vain()

    def _end_in_vain(self) -> None:
        _log.critical("a tree could not be brought back to its last checkpoint after a power cut: compare it")

    def _get_to_know(self, thing: Thing) -> None:
        if thing.homes and thing.homes[0][0] is self._past.parked:
            self._lent[thing] = thing.homes[0]
            thing.handle = thing.handle or self._zone.parked_handle(thing.homes[0][1])
            name = _LENT + thing.homes[0][1]
            thing.homes = [(self._past.root, name)]
            self._past.root.names[name] = [thing]
        if self._is_unstable(thing):
            self._unstable.add(thing)
            for name in [self._aside(thing), *(name for parent, name in thing.places if parent is self._past.parked)]:
                self._hidden[name] = _LENT + name
                self._past.root.names[_LENT + name] = [thing]
        if not thing.handle or (thing.is_fresh and not thing.is_directory):
            return
        known = self._by_handle.setdefault(thing.handle, thing)
        if known.homes and (known.is_directory or thing.is_directory):
            return  # it has one name: a program has moved it from there to where it was met again
        known.homes += [home for home in thing.homes if home not in known.homes]

    def _is_unstable(self, thing: Thing) -> bool:
        """Whether it is a new directory that may be where another thing is to be."""
        return (
            thing.is_fresh
            and thing.is_directory
            and bool(thing.inode)
            and not thing.is_alone
            and not thing.is_only_said
        )

    def _aside(self, thing: Thing) -> bytes:
        """The name under which a thing waits outside of the tree."""
        home = self._lent.get(thing) or next(iter(thing.homes), None)
        if home is not None and home[0] is self._past.parked:
            return home[1]
        return name_aside(thing.inode) if thing.is_fresh else name_of_moved(thing.handle)

    # -- looking ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Where everything is, as far as it can be seen: what is in something parked is seen once that is back."""
        self._parked = {}
        names = [(name, None) for name in self._past.parked.names]
        waiting = {thing for thing in self._by_handle.values() if not thing.is_fresh} | self._unstable
        for name, expected in [*names, *((self._aside(thing), thing) for thing in waiting)]:
            handle = self._zone.parked_handle(name)
            thing = self._by_handle.get(handle) or expected if handle else None
            if thing is not None and (thing.is_fresh or thing.handle == handle):
                self._parked[thing] = name
        self._real = set(self._parked)
        self._sights, self._seen = [], {}
        self._add(Sight(self._past.root, True, b""))
        for sight in self._sights:
            for name, been in sight.thing.names.items():
                if not any(thing.is_directory or thing.handle for thing in been):
                    continue
                path = sight.path + b"/" + name if sight.path else name
                self._see(sight, name, path, been)
        for sight in self._sights:  # again, because now it is known what is there
            sight.is_home = self._is_home(sight)

    def _add(self, sight: Sight) -> None:
        sight.is_home = self._is_home(sight)
        self._sights.append(sight)
        self._seen.setdefault(sight.thing, []).append(sight)

    def _see(self, above: Sight, name: bytes, path: bytes, been: list[Thing]) -> None:
        status = status_at(self._zone, path)
        if status is None:
            return
        thing = self._by_handle.get(status.handle)
        if thing is not None:
            self._real.add(thing)
            self._add(Sight(thing, True, path, above, name))
            return
        if status.kind is not Kind.DIRECTORY:
            return
        directories = [thing for thing in been if thing.is_directory]
        # Every directory that was made or lost its place has a handle: so what is not known is the only one that it
        # can be, or stands for it.
        nameless = [thing for thing in directories if not thing.handle and not thing.is_only_said]
        for thing in nameless[:1]:
            self._real.add(thing)
            self._add(Sight(thing, True, path, above, name))
            return
        for thing in directories:
            if (above.thing, name) in thing.homes:
                self._add(Sight(thing, False, path, above, name))

    def _is_home(self, sight: Sight) -> bool:
        above = sight.above
        if above is None:
            return True
        if (above.thing, sight.name) not in sight.thing.homes:
            return False
        if above.real and (above.thing.handle or above.above is None):
            return True
        return (above.real or above.thing not in self._real) and above.is_home

    # -- setting aside ----------------------------------------------------------------------------------------------

    def _set_aside(self) -> bool:
        """What is where it does not belong, the deepest first: that leaves the paths of the others as they are."""
        at_home = {sight.thing for sight in self._sights if sight.real and sight.is_home}
        done = False
        for sight in sorted(self._sights[1:], key=attrgetter("depth"), reverse=True):
            thing = sight.thing
            if not sight.real or thing in self._stuck:
                continue
            if thing in self._unstable or (thing.handle and not thing.is_fresh and not sight.is_home):
                done |= self._try(thing, partial(self._take_away, sight, at_home))
        return done

    def _take_away(self, sight: Sight, at_home: set[Thing]) -> None:
        thing = sight.thing
        if not thing.is_directory and (thing in at_home or thing in self._parked):
            self._zone.remove(sight.path)
            return
        name = self._aside(thing)
        self._zone.park(sight.path, name)
        self._parked[thing] = name
        if thing in self._unstable:
            self._emptied.add(thing)

    def _try(self, thing: Thing, change: Callable[[], None]) -> bool:
        """Whether it was done; not, where something is in the way that no history of this zone explains."""
        try:
            change()
        except OSError as error:
            return self._give_up(thing, error)
        return True

    def _give_up(self, thing: Thing, error: OSError) -> bool:
        if error.errno not in IN_THE_WAY:
            raise error
        self._stuck.add(thing)
        _log.critical("inode %d cannot be brought back after a power cut, compare its tree: %s", thing.inode, error)
        return False

    def _claim(self, path: bytes, thing: Thing) -> None:
        """The thing is about to get this name, from whatever has it."""

    def _reveal(self) -> bool:
        """What was moved into a new directory that is parked by now has to come out of it."""
        found = [(thing, name) for thing, name in self._parked.items() if name in self._hidden]
        found = [(thing, name) for thing, name in found if thing in self._unstable and thing not in self._emptied]
        for thing, name in found:
            self._zone.unpark(name, self._hidden[name])
            del self._parked[thing]
        return bool(found)

    # -- putting back -----------------------------------------------------------------------------------------------

    def _put_back(self) -> bool:
        """What is missing nearest to the root. A file may have other names farther away, in directories that are to be
        put back first."""
        missing = {thing: self._missing(thing) for thing in self._by_handle.values() if not thing.is_fresh}
        nearest = min((home[0].depth for homes in missing.values() for home in homes), default=0)
        done = False
        for thing, homes in missing.items():
            near = [home for home in homes if home[0].depth == nearest]
            if near:
                done |= self._try(thing, partial(self._bring, thing, near))
        return done or self._discard()

    def _discard(self) -> bool:
        """Names under which files waited that have all others again."""
        spare = [(thing, name) for thing, name in self._parked.items() if thing in self._seen and not thing.is_fresh]
        spare = [(thing, name) for thing, name in spare if (self._past.parked, name) not in thing.homes]
        for thing, name in spare:
            self._zone.remove_parked(name)
            del self._parked[thing]
        return bool(spare)

    def _missing(self, thing: Thing) -> list[Place]:
        """Places where a thing that is there should be and is not."""
        if thing not in self._real or thing in self._stuck:
            return []
        found = {
            (sight.above.thing, sight.name)
            for sight in self._seen.get(thing, ())
            if sight.above is not None and sight.real and sight.is_home
        }
        return [home for home in thing.homes if home not in found and home[0] is not self._past.parked]

    def _bring(self, thing: Thing, homes: list[Place]) -> None:
        for parent, name in homes:
            above = self._make_way(parent)
            path = above + b"/" + name if above else name
            self._claim(path, thing)
            waiting = self._parked.get(thing)
            if waiting is not None:
                self._zone.unpark(waiting, path)
                del self._parked[thing]
                self._add(Sight(thing, True, path, self._sight_of(parent), name))
            else:
                self._zone.link(self._sight_of(thing).path, path)

    def _sight_of(self, thing: Thing) -> Sight:
        found = self._seen[thing]
        return next((sight for sight in found if sight.real), found[0])

    def _make_way(self, directory: Thing) -> bytes:
        """Path of a directory that was there at the checkpoint, or of what stands for it from now on."""
        missing: list[Thing] = []
        here = directory
        while not any(sight.real or sight.is_home for sight in self._seen.get(here, ())):
            missing.append(here)
            here = here.homes[0][0]
        above = next(sight for sight in self._seen[here] if sight.real or sight.is_home)
        for thing in reversed(missing):
            name = thing.homes[0][1]
            path = above.path + b"/" + name if above.path else name
            self._stand(thing, path)
            above = Sight(thing, False, path, above, name)
            self._add(above)
        return above.path

    def _stand(self, _thing: Thing, path: bytes) -> None:
        """A directory, new unless there is one, stands for one that is gone."""
        if not is_directory(self._zone, path):
            self._zone.make_directory(path, self._attributes(0o700))
            self._made += 1

    def _make_stand_ins(self) -> bool:
        """For what is gone. Effects put things into a directory, and take them out again; and the name that a file
        takes is not to stay with the one that has it now."""
        made = self._made
        for thing in self._past.things:
            if thing in self._real or thing in self._stuck or not self._is_missed(thing):
                continue
            for home in thing.homes:
                self._try(thing, partial(self._stand_in, thing, home))
        return self._made > made

    def _is_missed(self, thing: Thing) -> bool:
        """Whether what follows in the log needs something in the place of what is gone."""
        is_known = thing.is_directory or (bool(thing.handle) and self._by_handle.get(thing.handle) is thing)
        return is_known and not thing.is_doubtful

    def _stand_in(self, thing: Thing, home: Place) -> None:
        if thing.is_directory:
            self._make_way(thing)
            return
        above, name = self._make_way(home[0]), home[1]
        path = above + b"/" + name if above else name
        if status_at(self._zone, path) is None:
            self._zone.put_file(path, self._attributes(0o600), _Empty(), look=False)
            self._made += 1

    def _attributes(self, mode: int) -> Attributes:
        top = self._zone.status(b"")
        return Attributes(mode, top.uid, top.gid, 0)

    def _park_again(self) -> None:
        for thing, (_, name) in self._lent.items():
            path = thing.homes[0][1]
            if status_at(self._zone, path) is not None:
                self._try(thing, partial(self._zone.park, path, name))
