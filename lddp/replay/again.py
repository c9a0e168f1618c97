"""What is carried out again at a tree that programs change, too, after the process or the machine was ended.

A program may have done something at the same names since. That is newer: it is what the source says now, is observed
like every other change, and so comes to all zones. So an effect that may have been carried out before looks first. It
moves and changes only the object that it met the first time, and takes a name only from what had it then, or from what
the log itself has made since the last checkpoint: new directories are known by their handles, files by the time that
they were given, which nothing keeps that changes them. What it may not do is passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from lddp.core import effects as e
from lddp.core.records import Kind
from lddp.core.tables import Tables
from lddp.ports import Status, ZoneFilesystem
from lddp.replay import outbox
from lddp.replay.notes import Note, read_root, read_stand_ins
from lddp.replay.places import is_directory, name_aside, path_of, status_at
from lddp.replay.progress import Order
from lddp.replay.unwatched import Unwatched

_log = logging.getLogger(__name__)
_READ_AT_ONCE = 4096
_NAME_BYTES_MAX = 200
_UNITS_NS = (1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000)
"""What filesystems keep times in. They cut off what is less."""
_Giving = e.PutFileEffect | e.MakeNodeEffect | e.WriteEffect | e.TruncateEffect | e.SetAttributesEffect


class Again:
    """What the log knows to be its own in one rule's tree. `root` is the tree's handle when notes were made of it."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._is_same: bool | None = None
        self.stand_ins: set[bytes] = set()
        """Handles of directories that stand for others after a power cut."""
        self._made: dict[int, set[bytes]] = {}
        self._files: set[int] = set()
        """Inodes of which the log has made a file, or the like, ..."""
        self._given: dict[int, set[tuple[Kind, int]]] = {}
        """... and the times that it has given to what the inodes stand for, and ..."""
        self._times: set[int] = set()
        """... all of them."""
        self._met: set[bytes] = set()
        """Handles of what had a name that an effect took."""
        self._parked_from: dict[int, bytes] = {}
        self.unwatched = Unwatched()

    def learn(self, effect: e.Effect, note: Note | None) -> None:
        """Of all effects since the last checkpoint, in log order."""
        if note is not None and note.there:
            self._met.add(note.there)
        match effect:
            case e.MakeDirectoryEffect(inode, _, _) if note is not None and note.moved:
                self._made.setdefault(inode, set()).add(note.moved)
            case e.PutFileEffect() | e.MakeNodeEffect():
                self._files.add(effect.inode)
                self._learn_time(effect, Kind.FILE if isinstance(effect, e.PutFileEffect) else effect.kind)
            case e.WriteEffect() | e.TruncateEffect():
                self._learn_time(effect, Kind.FILE)
            case e.SetAttributesEffect():
                self._learn_time(effect, effect.kind)
            case _:
                return

    def _learn_time(self, effect: _Giving, kind: Kind) -> None:
        given = effect.attributes.mtime_ns
        for kept in {given - given % unit for unit in _UNITS_NS}:
            self._times.add(kept)
            self._given.setdefault(effect.inode, set()).add((kind, kept))

    def confirmed(self, note: Note, earlier: Note) -> Note:
        """What is noted of an effect that was noted before: other handles only where the log itself has made another
        directory since."""
        own = self.stand_ins.union(*self._made.values())
        moved = note.moved if note.moved in own else earlier.moved
        return earlier._replace(moved=moved, gone=note.gone if note.gone in own else earlier.gone)

    def has_met(self, status: Status) -> bool:
        """Whether it is older than what the log has done since the last checkpoint."""
        return status.handle in self._met

    def is_own(self, status: Status, inode: int | None = None) -> bool:
        """Whether the log has made this object since the last checkpoint: for this inode, or for any."""
        if status.kind is Kind.DIRECTORY and status.handle in self.stand_ins:
            return True
        if status.kind is Kind.DIRECTORY:
            numbers = self._made.keys() if inode is None else {inode}
            return any(status.handle in self._made.get(number, ()) for number in numbers)
        numbers = self._files if inode is None else self._files & {inode}
        return any((status.kind, status.mtime_ns) in self._given[number] for number in numbers)

    def now(self, zone: ZoneFilesystem, effect: e.Effect, note: Note) -> e.Effect | None:
        """What is to be carried out now of an effect that may have been carried out before."""
        if self._is_same is None:
            self._is_same = self._root in (b"", zone.status(b"").handle)
        if not self._is_same:
            return effect  # on a filesystem with other handles nothing is recognised
        if isinstance(effect, e.WriteEffect | e.TruncateEffect | e.SetAttributesEffect):
            now = self._change(status_at(zone, effect.path), effect, note)
        else:
            now = effect if self._may(zone, effect, note) else None
        if now is None:
            _log.info("%r is left as it is: a program may have changed it since", path_of(effect))
        return now

    def _change(
        self, found: Status | None, effect: e.WriteEffect | e.TruncateEffect | e.SetAttributesEffect, note: Note
    ) -> e.Effect | None:
        """What a program has changed since is left alone. But what is written to a file is written again, because a
        process may have been ended in the middle of that; the file does not get the time that the log knows, and is
        read again."""
        if found is None or not self._is_object(found, effect.inode, note.there):
            return None
        if found.mtime_ns == note.there_ns or found.mtime_ns in self._times:
            return effect
        if not isinstance(effect, e.WriteEffect):
            return None
        attributes = effect.attributes._replace(mtime_ns=found.mtime_ns)
        return effect._replace(size=max(effect.size, found.size), attributes=attributes)

    def _may(self, zone: ZoneFilesystem, effect: e.Effect, note: Note) -> bool:
        match effect:
            case e.MakeDirectoryEffect(inode, path, _):
                found = status_at(zone, path)
                if found is None or found.kind is Kind.DIRECTORY or self._may_take(zone, path, note):
                    return True
                self.unwatched.add_path(release(zone, name_aside(inode), path))
                return False
            case e.PutFileEffect() | e.MakeNodeEffect():
                return self._may_take(zone, effect.path, note)
            case e.LinkEffect(inode, path, to):
                return self._may_move(zone, inode, path, to, note)
            case e.RenameEffect(inode, path, to, _):
                if self._may_move(zone, inode, path, to, note):
                    return True
                if not note.moved and self._is_object(status_at(zone, path), inode, b""):
                    zone.remove(path)  # it was put again only to be moved
                return False
            case e.ParkEffect(inode, path):
                self._parked_from[inode] = path
                return self._is_object(status_at(zone, path), inode, note.moved)
            case e.UnparkEffect(inode, to):
                return self._may_unpark(zone, inode, to, note)
            case e.RemoveEffect(_, path, _):
                found = status_at(zone, path) if path else None
                return not path or (found is not None and self._is_given_up(zone, path, found, note))
        return True

    def _is_object(self, status: Status | None, inode: int, handle: bytes | None) -> bool:
        """Whether this is what the effect met the first time, or what was made again for it."""
        return status is not None and (status.handle == handle or self.is_own(status, inode))

    def _may_take(self, zone: ZoneFilesystem, path: bytes, note: Note) -> bool:
        """Whether a name is free, or has what had it the first time, or what the log has made since."""
        found = status_at(zone, path)
        return found is None or self._is_given_up(zone, path, found, note)

    def _is_given_up(self, zone: ZoneFilesystem, path: bytes, found: Status, note: Note) -> bool:
        """Whether what has the name is what the log has taken it from, as it was then, or what the log has made."""
        is_own = self.is_own(found)
        if found.kind is Kind.DIRECTORY:
            return (is_own or found.handle in (note.there, note.gone)) and not zone.list(path)
        is_same = found.handle == note.there and (found.mtime_ns == note.there_ns or found.mtime_ns in self._times)
        return is_own or is_same

    def _may_move(self, zone: ZoneFilesystem, inode: int, path: bytes, to: bytes, note: Note) -> bool:
        found, there = status_at(zone, path), status_at(zone, to)
        if found is None:
            self._lose_name(zone, to, there, note)
        if not self._is_object(found, inode, note.moved):
            return False
        return (found is not None and there is not None and there.handle == found.handle) or self._may_take(
            zone, to, note
        )

    def _lose_name(self, zone: ZoneFilesystem, path: bytes, status: Status | None, note: Note) -> None:
        """What should take the name is gone. What has it loses it all the same, where it is one name of a file with
        others: what follows in the log is not for that file."""
        if status is not None and status.handle == note.there and status.kind is Kind.FILE and status.links > 1:
            zone.remove(path)

    def _may_unpark(self, zone: ZoneFilesystem, inode: int, to: bytes, note: Note) -> bool:
        name = b"%d" % inode
        if not zone.parked_handle(name):
            self._lose_name(zone, to, status_at(zone, to), note)
            return False
        if self._may_take(zone, to, note):
            return True
        self.unwatched.add_path(release(zone, name, to, self._parked_from.get(inode, to)))
        return False


def release(zone: ZoneFilesystem, name: bytes, path: bytes, came_from: bytes | None = None) -> bytes:
    """What is parked cannot have its place at `path`, where a program has made something: it goes back to where it came
    from, if it can, or gets a name in the root, where it is observed. An empty directory is not missed. Its path
    then, if any."""
    if not zone.parked_handle(name):
        return b""
    if came_from is not None and status_at(zone, came_from) is None:
        above = came_from.rpartition(b"/")[0]
        if not above or is_directory(zone, above):
            zone.unpark(name, came_from)
            return came_from
    last = path.rpartition(b"/")[2][:_NAME_BYTES_MAX]
    number = 1
    while status_at(zone, to := b"%b.lddp-%d" % (last, number)) is not None:
        number += 1
    zone.unpark(name, to)
    found = status_at(zone, to)
    if found is not None and found.kind is Kind.DIRECTORY and not zone.list(to):
        zone.remove(to)
        return b""
    _log.warning("a program has taken the place of %r: what was to be there is %r now", path, to)
    return to


def read_again(tables: Tables, after: Order, notes: Mapping[Order, Note]) -> dict[int, Again]:
    """By rule, for trees that programs change and of which there are notes."""
    found: dict[int, Again] = {}
    last = max((order for order, note in notes.items() if note.there is not None), default=after)
    place = after
    while place < last and (items := outbox.read(tables, place, _READ_AT_ONCE)):
        for item in items:
            if item.order > last:
                break
            if item.rule not in found:
                found[item.rule] = Again(read_root(tables, item.rule))
                found[item.rule].stand_ins = read_stand_ins(tables, item.rule)
            found[item.rule].learn(item.effect, notes.get(item.order))
        place = items[-1].order
    return found
