"""Carries single effects out on a zone's filesystem. Blocking; runs in a thread of the projector."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from lddp.core import effects as e
from lddp.core.records import Attributes, Kind
from lddp.ports import ContentSource, NewFile, ZoneFilesystem
from lddp.replay.again import release
from lddp.replay.existing import OnExisting, is_as_wanted
from lddp.replay.places import name_aside, path_of
from lddp.replay.touched import follow, parent_of
from lddp.replay.unwatched import Unwatched

_log = logging.getLogger(__name__)
DRIFT_LISTED_MAX = 1000
GIVEN_MAX = 4096
_DRIFT = frozenset((errno.ENOTDIR, errno.EISDIR, errno.EXDEV, errno.ELOOP))


class Carrier:
    """One rule's tree in this zone. Collects the directories whose entries it changed (`touched`), because changing
    them moved their modification times, and what was not as the log left it (`drift`)."""

    def __init__(self, zone: ZoneFilesystem, policy: OnExisting, *, is_shared: bool = False) -> None:
        self.zone = zone
        self.policy = policy
        self.is_shared = is_shared
        """Whether programs change the tree, too, or have done so until its migration was completed."""
        self.touched: set[bytes] = set()
        self.withheld: set[int] = set()
        """Files of which the zone has no object, because their bytes were passed over. At their names there is nothing,
        or what was there before them and is nobody's by now; a later PutFileEffect ends that."""
        self.drift: list[bytes] = []
        self.unwatched = Unwatched()
        self.repeats = False
        """Whether the effect may have been carried out already, by a process that could not say so any more."""
        self.has_lost = False
        """Whether the filesystem may show bytes that it has not written, and will not write."""
        self.traced = False
        """Whether `touched` knows already of the effect, though it is carried out again."""
        self.kept: set[bytes] = set()
        """Paths where the on-existing policy kept the target's own file."""
        self.bytes_written = 0
        self.given: dict[int, Attributes] = {}
        """Inodes of directories -> what they were given last, but for the time. Of none where programs may give them
        others: the log does not tell this zone of that."""
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
        """Does what the effect says; a PutFileEffect without a source is passed over. OSError where the filesystem
        refuses for a reason that may go away; a name that is missing is drift, noted, and does not stop the zone."""
        if self._is_noted:
            with self._noting_places(getattr(effect, "path", b""), getattr(effect, "to", b"")):
                self._carry(effect, source)
        else:
            self._carry(effect, source)

    @property
    def _is_noted(self) -> bool:
        """Whether somebody looks for what programs have done meanwhile."""
        return self.is_shared and self.unwatched.is_on

    @contextmanager
    def _noting_places(self, *paths: bytes) -> Iterator[None]:
        """A program may move the directory in which a name is given or taken: it is noted as it was found before, and
        after. What is in the root is there in any case."""
        names = [path.rpartition(b"/") for path in paths if b"/" in path] if self._is_noted else []

        def note() -> None:
            for directory, _, name in names:
                with suppress(OSError):
                    self.unwatched.add_place(self.zone.status(directory).handle, directory, name)

        note()
        try:
            yield
        finally:
            note()

    def _carry(self, effect: e.Effect, source: ContentSource | None) -> None:
        try:
            if self.withheld and effect.inode in self.withheld:
                self._carry_withheld(effect, source)
            else:
                self._run[type(effect)](effect, source)
        except FileNotFoundError:
            self._note_drift(effect)
        except OSError as error:
            if error.errno not in _DRIFT and not self._is_of_another_kind(effect, error):
                raise
            self._note_drift(effect)

    def pass_over(self, effect: e.Effect) -> None:
        """The effect may have been carried out, by a process that was ended, and is not carried out again."""
        self._made.clear()
        follow(self.touched, effect, again=True)

    def is_plain(self, effect: e.PutFileEffect) -> bool:
        """Whether a file is put without a look at what has its name."""
        if effect.inode in self.withheld:
            return False
        return not effect.observed or effect.replaces or parent_of(effect.path) in self._made

    def put_plain(self, files: Sequence[tuple[e.PutFileEffect, ContentSource]]) -> int:
        """Puts plain files, in order; how many. The next one is to be carried by itself, which tells why."""
        self.touched.update(parent_of(effect.path) for effect, _ in files)
        new = [NewFile(effect.path, effect.attributes, source) for effect, source in files]
        with self._noting_places(*(file.path for file in new)):
            done, _ = self.zone.put_files(new)
        self.bytes_written += sum(effect.content.size for effect, _ in files[:done])
        return done

    def _carry_withheld(self, effect: e.Effect, source: ContentSource | None) -> None:
        """Takes away the names that the file loses, with whatever is there, and leaves alone those that it gets: the
        bytes that come later get all of them."""
        match effect:
            case e.PutFileEffect() if source is not None:
                self._put_file(effect, source)
                self.withheld.discard(effect.inode)
            case e.RenameEffect(_, path, _, _) | e.ParkEffect(_, path):
                self.zone.remove(path)
                self.touched.add(parent_of(path))
            case e.UnparkEffect(inode, _):
                self.zone.remove_parked(b"%d" % inode)
            case e.RemoveEffect():
                self._remove(effect, None)
            case _:
                return

    def _is_of_another_kind(self, effect: e.Effect, error: OSError) -> bool:
        """Whether an effect was refused because something else has the name of its file."""
        if isinstance(effect, e.SetAttributesEffect | e.WriteEffect | e.TruncateEffect):
            return error.errno == errno.EINVAL
        if isinstance(effect, e.LinkEffect) and error.errno == errno.EPERM:
            return self.zone.status(effect.path).kind is Kind.DIRECTORY
        return False

    def _note_drift(self, effect: e.Effect) -> None:
        if self.is_shared and isinstance(effect, e.MakeDirectoryEffect | e.UnparkEffect):
            is_new = isinstance(effect, e.MakeDirectoryEffect)
            to = release(self.zone, name_aside(effect.inode) if is_new else b"%d" % effect.inode, path_of(effect))
            self.unwatched.add_path(to)
            self.touched.add(b"")
        if self.repeats:
            return
        path = path_of(effect)
        _log.warning("%r is not as the log left it: somebody else changed this zone", path)
        if len(self.drift) < DRIFT_LISTED_MAX:
            self.drift.append(path)

    def _make_directory(self, effect: e.MakeDirectoryEffect, _: ContentSource | None) -> None:
        if effect.path and parent_of(effect.path) not in self._made:
            try:
                self.zone.status(effect.path)
            except FileNotFoundError:
                self._made.add(effect.path)
        else:
            self._made.add(effect.path)
        if self.repeats:  # it may have been set aside after a power cut, with what was in it
            self._made.discard(effect.path)
        self.zone.make_directory(effect.path, effect.attributes, name_aside(effect.inode))
        follow(self.touched, effect)

    def _put_file(self, effect: e.PutFileEffect, source: ContentSource | None) -> None:
        path = effect.path
        parent = parent_of(path)
        # Also where nothing is written now: a process that was killed may have put the file here.
        self.touched.add(parent)
        if effect.observed and not effect.replaces and parent not in self._made:
            wanted = is_as_wanted(self.zone, path, effect.content, effect.attributes, self._policy_for(effect))
            if wanted is not None:
                if wanted:
                    self.zone.set_attributes(path, Kind.FILE, effect.attributes)
                else:
                    self.kept.add(path)
                return
        if source is None:
            if effect.observed or not self._is_file(path):
                self.withheld.add(effect.inode)
            return
        self.zone.put_file(path, effect.attributes, source, look=False)
        self.bytes_written += effect.content.size

    def _policy_for(self, effect: e.PutFileEffect) -> OnExisting:
        """What a power cut may have left half written is nobody's file to be kept, and is believed by its bytes.

        Not even by these where the filesystem has lost writes in this boot: what it could not write stays in the cache,
        and counts as written, so that no later sync writes it. Dropped from the cache and read from the disk it could
        be told, but what a program has mapped cannot be dropped: the file is written anew, which is sure."""
        policy = self.policy
        if self.repeats and policy is not OnExisting.OVERWRITE:
            if policy is OnExisting.KEEP and not self._has_time(effect):
                return policy
            policy = OnExisting.SKIP_IDENTICAL
        return OnExisting.OVERWRITE if self.has_lost and policy is OnExisting.SKIP_IDENTICAL else policy

    def _has_time(self, effect: e.PutFileEffect) -> bool:
        """Whether a file is there with the modification time that the effect gives it."""
        try:
            return self.zone.status(effect.path).mtime_ns == effect.attributes.mtime_ns
        except FileNotFoundError:
            return False

    def _is_file(self, path: bytes) -> bool:
        try:
            return self.zone.status(path).kind is Kind.FILE
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _make_node(self, effect: e.MakeNodeEffect, _: ContentSource | None) -> None:
        self.zone.make_node(effect.path, effect.kind, effect.attributes, effect.target, effect.rdev)
        self.touched.add(parent_of(effect.path))

    def _link(self, effect: e.LinkEffect, _: ContentSource | None) -> None:
        self.zone.link(effect.path, effect.to)
        self.touched.add(parent_of(effect.to))

    def _rename(self, effect: e.RenameEffect, _: ContentSource | None) -> None:
        try:
            self.zone.rename(effect.path, effect.to)
        finally:  # it may be done already, by a process that was killed before it could say so
            if effect.directory:
                self._made.clear()
                self._doubt_mode(effect.to)
            follow(self.touched, effect, again=self.traced)

    def _park(self, effect: e.ParkEffect, _: ContentSource | None) -> None:
        try:
            self.zone.park(effect.path, b"%d" % effect.inode)
        finally:
            self._made.clear()
            follow(self.touched, effect, again=self.traced)

    def _unpark(self, effect: e.UnparkEffect, _: ContentSource | None) -> None:
        try:
            self.zone.unpark(b"%d" % effect.inode, effect.to)
        finally:
            self._doubt_mode(effect.to)
            follow(self.touched, effect, again=self.traced)

    def _doubt_mode(self, path: bytes) -> None:
        """A process that was killed may have left a directory writable that it moved."""
        if self.repeats:
            self.touched.add(path)

    def _remove(self, effect: e.RemoveEffect, _: ContentSource | None) -> None:
        if not effect.path:
            self.zone.remove_parked(b"%d" % effect.inode)
            return
        self.zone.remove(effect.path)
        if effect.directory:
            self._made.clear()
        self.touched.add(parent_of(effect.path))

    def _set_attributes(self, effect: e.SetAttributesEffect, _: ContentSource | None) -> None:
        self._changed(effect, self.zone.set_attributes(effect.path, effect.kind, effect.attributes))
        if effect.kind is Kind.DIRECTORY and not self.is_shared:
            if len(self.given) >= GIVEN_MAX:
                self.given.clear()
            self.given[effect.inode] = but_for_time(effect.attributes)

    def _write(self, effect: e.WriteEffect, source: ContentSource | None) -> None:
        assert source is not None, "the projector waits for the bytes of a write"
        self._changed(effect, self.zone.write(effect.path, effect.offset, source, effect.size, effect.attributes))
        self.bytes_written += effect.content.size

    def _truncate(self, effect: e.TruncateEffect, _: ContentSource | None) -> None:
        self._changed(effect, self.zone.truncate(effect.path, effect.size, effect.attributes))

    def _changed(self, effect: e.Effect, handle: bytes) -> None:
        """The file has other names, of which the log may not know yet."""
        if handle and self.is_shared:
            self.unwatched.add_file(handle, effect.inode)


def but_for_time(attributes: Attributes) -> Attributes:
    return attributes._replace(mtime_ns=0)
