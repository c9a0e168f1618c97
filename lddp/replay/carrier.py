"""Carries single effects out on a zone's filesystem. Blocking; runs in a thread of the projector."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

from lddp.core import effects as e
from lddp.core.records import Kind
from lddp.ports import ContentSource, ZoneFilesystem
from lddp.replay.existing import OnExisting, is_as_wanted

_log = logging.getLogger(__name__)
DRIFT_LISTED_MAX = 1000
_DRIFT = frozenset((errno.ENOTDIR, errno.EISDIR, errno.EXDEV, errno.ELOOP))


class Carrier:
    """One rule's tree in this zone. Collects the directories whose entries it changed (`touched`), because changing
    them moved their modification times, and what was not as the log left it (`drift`)."""

    def __init__(self, zone: ZoneFilesystem, policy: OnExisting) -> None:
        self.zone = zone
        self.policy = policy
        self.touched: set[bytes] = set()
        self.skipped: set[int] = set()
        """Inodes whose bytes were passed over because the log replaces them later: not in the zone for now."""
        self.drift: list[bytes] = []
        self.recovering = False
        """Whether effects are from before this start: they may have been carried out already, or passed over."""
        self.kept: set[bytes] = set()
        """Paths where the on-existing policy kept the target's own file."""
        self.bytes_written = 0
        self._made: set[bytes] = set()
        self._run: dict[type, Callable[[Any, ContentSource | None], None]] = {
            e.MakeDirectoryEffect: self._make_directory,
            e.PutFileEffect: self._put_file,
            e.MakeNodeEffect: self._make_node,
            e.LinkEffect: self._link,
            e.RenameEffect: self._rename,
            e.ParkEffect: self._park,
            e.UnparkEffect: self._unpark,
            e.RemoveEffect: self._remove,
            e.SetAttributesEffect: self._set_attributes,
            e.WriteEffect: self._write,
            e.TruncateEffect: self._truncate,
        }

    def carry(self, effect: e.Effect, source: ContentSource | None) -> None:
        """Does what the effect says. OSError where the filesystem refuses for a reason that may go away; a name that
        is missing is drift, noted, and does not stop the zone."""
        try:
            self._run[type(effect)](effect, source)
        except FileNotFoundError:
            if effect.inode not in self.skipped:
                self._note_drift(effect)
        except OSError as error:
            if error.errno not in _DRIFT and not self._is_of_another_kind(effect, error):
                raise
            self._note_drift(effect)

    def _is_of_another_kind(self, effect: e.Effect, error: OSError) -> bool:
        """Whether an effect was refused because something else has the name of its file."""
        if isinstance(effect, e.SetAttributesEffect | e.WriteEffect | e.TruncateEffect):
            return error.errno == errno.EINVAL
        if isinstance(effect, e.LinkEffect) and error.errno == errno.EPERM:
            return self.zone.status(effect.path).kind is Kind.DIRECTORY
        return False

    def _note_drift(self, effect: e.Effect) -> None:
        if self.recovering:
            return
        path: bytes = getattr(effect, "path", b"") or getattr(effect, "to", b"")
        _log.warning("%r is not as the log left it: somebody else changed this zone", path)
        if len(self.drift) < DRIFT_LISTED_MAX:
            self.drift.append(path)

    def _touch(self, path: bytes) -> None:
        end = path.rfind(b"/")
        self.touched.add(path[:end] if end >= 0 else b"")

    def _trace(self, effect: e.Effect) -> None:
        """Keeps `touched` up with an effect that was carried out."""
        match effect:
            case e.RenameEffect(_, path, to, directory):
                if directory:
                    self._move_touched(path, to)
                self._touch(path)
                self._touch(to)
            case e.ParkEffect(inode, path):
                self._move_touched(path, _parked(inode))
                self._touch(path)
            case e.UnparkEffect(inode, to):
                self._move_touched(_parked(inode), to)
                self._touch(to)
            case e.LinkEffect(_, _, to):
                self._touch(to)
            case e.MakeDirectoryEffect(_, path, _):
                self._touch(path)
                self.touched.add(path)
            case e.PutFileEffect() | e.MakeNodeEffect() | e.RemoveEffect():
                self._touch(effect.path)
            case _:
                return

    def retrace(self, effect: e.Effect) -> None:
        """An effect that was carried out before this start: its directories may not have their times yet."""
        self._trace(effect)

    def _make_directory(self, effect: e.MakeDirectoryEffect, _: ContentSource | None) -> None:
        parent = effect.path[: max(effect.path.rfind(b"/"), 0)]
        if effect.path and parent not in self._made:
            try:
                self.zone.status(effect.path)
            except FileNotFoundError:
                self._made.add(effect.path)
        else:
            self._made.add(effect.path)
        self.zone.make_directory(effect.path, effect.attributes)
        self._trace(effect)

    def _put_file(self, effect: e.PutFileEffect, source: ContentSource | None) -> None:
        assert source is not None, "the projector waits for the bytes of a file"
        self.skipped.discard(effect.inode)
        path = effect.path
        parent = path[: max(path.rfind(b"/"), 0)]
        if effect.observed and parent not in self._made:
            wanted = is_as_wanted(self.zone, path, effect.content, effect.attributes, self.policy)
            if wanted is not None:
                if wanted:
                    self.zone.set_attributes(path, Kind.FILE, effect.attributes)
                else:
                    self.kept.add(path)
                return
        self.zone.put_file(path, effect.attributes, source, look=False)
        self.bytes_written += effect.content.size
        self._trace(effect)

    def _make_node(self, effect: e.MakeNodeEffect, _: ContentSource | None) -> None:
        self.zone.make_node(effect.path, effect.kind, effect.attributes, effect.target, effect.rdev)
        self._trace(effect)

    def _link(self, effect: e.LinkEffect, _: ContentSource | None) -> None:
        self.zone.link(effect.path, effect.to)
        self._trace(effect)

    def _rename(self, effect: e.RenameEffect, _: ContentSource | None) -> None:
        try:
            self.zone.rename(effect.path, effect.to)
        finally:  # it may be done already, by a process that was killed before it could say so
            if effect.directory:
                self._made.clear()
            self._trace(effect)

    def _move_touched(self, path: bytes, to: bytes) -> None:
        below = path + b"/"
        moved = {item for item in self.touched if item == path or item.startswith(below)}
        self.touched -= moved
        self.touched |= {to + item[len(path) :] for item in moved}

    def _park(self, effect: e.ParkEffect, _: ContentSource | None) -> None:
        try:
            self.zone.park(effect.path, b"%d" % effect.inode)
        finally:
            self._made.clear()
            self._trace(effect)

    def _unpark(self, effect: e.UnparkEffect, _: ContentSource | None) -> None:
        try:
            self.zone.unpark(b"%d" % effect.inode, effect.to)
        finally:
            self._trace(effect)

    def _remove(self, effect: e.RemoveEffect, _: ContentSource | None) -> None:
        if not effect.path:
            self.zone.remove_parked(b"%d" % effect.inode)
            return
        self.zone.remove(effect.path)
        if effect.directory:
            self._made.clear()
        self._trace(effect)

    def _set_attributes(self, effect: e.SetAttributesEffect, _: ContentSource | None) -> None:
        self.zone.set_attributes(effect.path, effect.kind, effect.attributes)

    def _write(self, effect: e.WriteEffect, source: ContentSource | None) -> None:
        assert source is not None, "the projector waits for the bytes of a write"
        self.zone.write(effect.path, effect.offset, source, effect.size, effect.attributes)
        self.bytes_written += effect.content.size

    def _truncate(self, effect: e.TruncateEffect, _: ContentSource | None) -> None:
        self.zone.truncate(effect.path, effect.size, effect.attributes)


def _parked(inode: int) -> bytes:
    """Where a parked object is, in the terms of `touched`: no path of a tree has a NUL."""
    return b"\0%d" % inode
