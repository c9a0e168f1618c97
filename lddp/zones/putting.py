"""Whole new files put in place of whatever has their name: made in staging, finished there, then renamed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from functools import partial

from lddp.core.records import Attributes
from lddp.ports import ContentSource, Status, Takeable
from lddp.zones.attributes import Shortfalls, apply_attributes
from lddp.zones.filling import fill_new
from lddp.zones.looking import Looker
from lddp.zones.resolve import Root
from lddp.zones.staging import Staging
from lddp.zones.syscalls import AT_FDCWD

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class InMemory:
    """The bytes of a small file as a `ContentSource`."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self.size = len(data)

    def to_take(self) -> None:
        return None

    def open_to_clone(self) -> int | None:
        return None

    def chunks(self) -> Iterator[tuple[int, bytes | memoryview]]:
        if self.size:
            yield 0, self._data


class Putter:
    """Puts files into one tree. May be used from several threads at once."""

    def __init__(self, root: Root, staging: Staging, looker: Looker, shortfalls: Shortfalls) -> None:
        self._root = root
        self._staging = staging
        self._looker = looker
        self._shortfalls = shortfalls

    def put(self, path: bytes, attributes: Attributes, source: ContentSource, look: bool) -> Status | None:
        """`ZoneFilesystem.put_file`."""
        taken = source.to_take()
        if taken is not None:
            status = self._take(path, attributes, taken, source.size)
            if status is not None:
                return status
        staging = self._staging
        temporary = staging.new_name()
        descriptor = os.open(temporary, _NEW, attributes.mode & 0o777, dir_fd=staging.temporary)
        try:
            try:
                fill_new(descriptor, source)
                foreseen = self._finish(descriptor, attributes, path)
                if not look:
                    # Now, so that who watches is told of the end of the writing where it took place.
                    written, descriptor = descriptor, -1
                    os.close(written)
                with self._root.place(path) as place:
                    staging.closed.as_owner(lambda: staging.put(temporary, place.fd, place.name), place.fd)
            except BaseException:
                staging.discard(temporary)
                raise
            if not look:
                return None
            status = self._looker.status_of(descriptor)
            assert not foreseen or status.mode == attributes.mode, "the process's umask stays what it was"
            return status
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _finish(self, descriptor: int, attributes: Attributes, path: bytes) -> bool:
        """Attributes of a file just made in staging; returns whether its owner and mode were right by themselves."""
        staging = self._staging
        if (
            (attributes.uid, attributes.gid) == (staging.uid, staging.gid)
            and not attributes.xattrs
            and not attributes.mode & (0o7000 | staging.umask)
        ):
            os.utime(descriptor, ns=(attributes.mtime_ns, attributes.mtime_ns))
            return True
        found = os.fstat(descriptor)
        apply_attributes(descriptor, found, attributes, path, self._shortfalls, has_xattrs=False)
        return False

    def _take(self, path: bytes, attributes: Attributes, taken: Takeable, size: int) -> Status | None:
        """Moves a file into place; None if it is not one that can be moved, or not there any more."""
        from_path = os.fsencode(taken.path)
        try:
            descriptor = os.open(from_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(descriptor)
            # With a second name it would change when that is written to.
            movable = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_dev == self._staging.device
            if not movable or found.st_size != size:
                return None
            is_moved = False
            try:
                apply_attributes(descriptor, found, attributes, path, self._shortfalls)
                with self._root.place(path) as place, taken.moving() as may_move:
                    if may_move and _is_at(from_path, found):
                        replace = partial(self._staging.replace, AT_FDCWD, from_path)
                        aside = self._staging.closed.as_owner(lambda: replace(place.fd, place.name), place.fd)
                        is_moved = True
                if not is_moved:
                    return None
            except OSError as error:
                if error.errno == errno.EXDEV:  # the same filesystem, but mounted twice
                    return None
                raise
            finally:
                if not is_moved:  # as it was, so that it can be read and taken another time
                    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
            if aside is not None:
                self._staging.discard(aside)
            return self._looker.status_of(descriptor)
        finally:
            os.close(descriptor)


def _is_at(path: bytes, file: os.stat_result) -> bool:
    """Whether the name is still this file's: another one of the same bytes may have come there since."""
    try:
        return os.path.samestat(os.lstat(path), file)
    except FileNotFoundError:
        return False
