"""After a power cut at a tree that programs change, too: things are put back where they were (see `rewind`), but
nothing of a program's is replaced, moved or taken away for it.

What a program has made is told from what the log has made as `again` says. What cannot be put back, because a program
has made something at its place or has taken the directory away, gets the name again that it had after the cut, or
another one if that is taken, too: there it is observed. What is carried out after that finds that it is not where it
was, and leaves it alone.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from operator import itemgetter

from lddp.core.records import Kind
from lddp.ports import ZoneFilesystem
from lddp.replay.again import Again, release
from lddp.replay.past import Past, Place, Thing
from lddp.replay.places import status_at
from lddp.replay.rewind import IN_THE_WAY, Rewinding, Sight, is_recognised

_log = logging.getLogger(__name__)
_STAND_IN_MODE = 0o700


def rewind_among_programs(zone: ZoneFilesystem, past: Past, again: Again) -> None:
    """As `rewind`. `again` knows of the directories that it has made, then."""
    if is_recognised(zone, past):
        _Cautious(zone, past, again).run()


def _in_the_way(path: bytes) -> OSError:
    return OSError(errno.EEXIST, "a program has made something there, or has taken the directory away", path)


class _Cautious(Rewinding):
    def __init__(self, zone: ZoneFilesystem, past: Past, again: Again) -> None:
        super().__init__(zone, past)
        self._again = again
        self._taken: dict[Thing, Place] = {}
        """Where what is parked was found."""
        self._guessed: dict[bytes, bytes] = {}
        """Paths of directories that stand for others which a program may have taken away, by handle."""

    def run(self) -> None:
        super().run()
        self._remember_stand_ins()
        for handle, path in sorted(self._guessed.items(), key=itemgetter(1), reverse=True):
            status = status_at(self._zone, path)
            if status is not None and status.handle == handle and not self._zone.list(path):
                self._zone.remove(path)
        for thing in [thing for thing in self._past.things if thing in self._stuck]:
            _log.info("inode %d is not brought back after a power cut: a program has changed its place", thing.inode)
        for thing, name in list(self._parked.items()):
            if not thing.is_fresh and thing not in self._lent:
                self._give_back(thing, name)

    def _remember_stand_ins(self) -> None:
        """Also those of a process that was ended before it could."""
        for sight in self._sights:
            if sight.is_home and not sight.real and sight.thing.is_removed:
                status = status_at(self._zone, sight.path)
                if status is not None and status.mode == _STAND_IN_MODE:
                    self._again.stand_ins.add(status.handle)

    def _reveal(self) -> bool:
        """A directory that was made to be named again, and is not noted yet, has nothing in it."""
        for thing, name in list(self._parked.items()):
            if thing in self._unstable and self._zone.parked_handle(name) != thing.handle:
                del self._parked[thing]
        return super()._reveal()

    def _end_in_vain(self) -> None:
        _log.warning("programs go on to change a tree that is brought back after a power cut: what is left stays")
        self._park_again()

    def _is_unstable(self, thing: Thing) -> bool:
        """Of what has no handle nobody knows whether it is a program's."""
        return bool(thing.handle) and super()._is_unstable(thing)

    def _give_up(self, thing: Thing, error: OSError) -> bool:
        if error.errno == errno.ENOENT:
            return True  # a program has just moved it, or a directory on the way to it: it is looked for again
        if error.errno not in (*IN_THE_WAY, errno.EEXIST):
            raise error
        self._stuck.add(thing)
        return False

    def _try(self, thing: Thing, change: Callable[[], None]) -> bool:
        """What is in the way of something may be a thing that is put back later."""
        is_done = super()._try(thing, change)
        if is_done:
            self._stuck.clear()
        return is_done

    # -- looking once more, right before each change ----------------------------------------------------------------

    def _take_away(self, sight: Sight, _at_home: set[Thing]) -> None:
        """Also what has its place already: only its parked name is dropped, once it is certain that it has others."""
        if sight.above is None or not self._is_still(sight):
            return
        if sight.thing in self._unstable and sight.name not in self._hidden.values():
            self._look_for_place(sight.thing)
        super()._take_away(sight, set())
        self._taken.setdefault(sight.thing, (sight.above.thing, sight.name))

    def _look_for_place(self, thing: Thing) -> None:
        """A new directory is set aside only if it can be made again."""
        for above, name in thing.places[:1]:
            for sight in self._seen.get(above, ())[:1]:
                path = sight.path + b"/" + name if sight.path else name
                status = status_at(self._zone, path)
                if status is None or status.handle in self._by_handle or self._again.has_met(status):
                    return
                if not self._again.is_own(status):
                    raise _in_the_way(path)

    def _is_still(self, sight: Sight) -> bool:
        status = status_at(self._zone, sight.path)
        return status is not None and status.handle == sight.thing.handle

    def _has_names(self, thing: Thing) -> bool:
        return any(self._is_still(sight) for sight in self._seen.get(thing, ()))

    def _discard(self) -> bool:
        for thing in [thing for thing in self._parked if not self._has_names(thing)]:
            self._seen.pop(thing, None)
        return super()._discard()

    def _claim(self, path: bytes, thing: Thing) -> None:
        status = status_at(self._zone, path)
        if status is None or status.handle == thing.handle:
            return
        is_full = status.kind is Kind.DIRECTORY and bool(self._zone.list(path))
        if status.handle in self._by_handle or is_full or not self._again.is_own(status):
            raise _in_the_way(path)

    def _stand(self, thing: Thing, path: bytes) -> None:
        status = status_at(self._zone, path)
        if status is not None and status.kind is Kind.DIRECTORY:
            return
        if not thing.is_removed and not any(parked.is_directory for parked in self._parked):
            raise _in_the_way(path)
        # What is in something parked is seen once that is back, and takes this place then.
        self._claim(path, thing)
        super()._stand(thing, path)
        handle = self._zone.status(path).handle
        self._again.stand_ins.add(handle)
        if not thing.is_removed:
            self._guessed[handle] = path

    def _is_missed(self, thing: Thing) -> bool:
        """Only directories that the log has taken away: it takes them away again. What else is gone was taken away by a
        program."""
        return thing.is_directory and thing.is_removed

    # -- what has no place ------------------------------------------------------------------------------------------

    def _give_back(self, thing: Thing, name: bytes) -> None:
        """It is parked, and would stay so."""
        place = self._taken.get(thing)
        if self._has_names(thing):
            self._zone.remove_parked(name)
            return
        came_from = None
        if place is not None and self._seen.get(place[0]):
            above = self._sight_of(place[0]).path
            came_from = above + b"/" + place[1] if above else place[1]
        self._again.unwatched.add_path(release(self._zone, name, thing.homes[0][1], came_from))
