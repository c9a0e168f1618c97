"""Looking at the source: directory listings, files and their bytes, as reports for an observation.

Blocking; runs in threads. A read that may be torn (size or times moved while it was read) is never reported. Small
files are read while their directory is listed and packed; large ones are left pending for a look of their own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from lddp.core.namespace import Inode
from lddp.core.records import Attributes, DirectoryReport, InodeReport, Kind, ObservedEntry
from lddp.core.view import View
from lddp.migrate.listing import Found, Listing, join
from lddp.migrate.options import Exclusion
from lddp.migrate.portions import PORTION_BYTES, PORTION_ENTRIES, ROOM, Pack, held, is_nameable
from lddp.migrate.seen import attributes_of, is_same, is_unchanged, report_of
from lddp.ports import OpenDirectory, Status, ZoneFilesystem
from lddp.zones.attributes import read_xattrs

SMALL_BYTES_MAX = 256 * 1024
READ_TRIES = 3


class SourceZone(ZoneFilesystem, Protocol):
    """A zone whose objects can be found again by their handles."""

    @property
    def gives_owners(self) -> bool:
        """Whether objects of it get the owner that is asked for."""
        ...

    def locate(self, handle: bytes) -> bytes | None: ...

    def alive(self, handle: bytes) -> bool | None: ...


class Failure(NamedTuple):
    """A path that could not be read, or that no record can hold as it is, and the errno."""

    path: bytes
    errno: int


class Moved(Exception):
    """What the namespace calls by this path is not there: the source has moved it, and its parent must be looked at."""


class Looker:
    """Looks at one rule's tree in this zone. Not shared between threads; collects what was left out and what failed.
    An observation has `room` for so many bytes of what is reported."""

    def __init__(self, zone: SourceZone, view: View, exclusion: Exclusion, pack: Pack, room: int = ROOM) -> None:
        self._zone = zone
        self._view = view
        self._listing = Listing(zone, view, exclusion)
        self.pack = pack
        self._room = room
        self._size = 0
        """Bytes of the entries that are looked at."""
        self.failures: list[Failure] = []
        self.unread: list[tuple[int, bytes, Failure]] = []
        """Directories and names of what cannot be reported, and why."""
        self.read: set[bytes] = set()
        """Identities of files whose bytes were read by a name that was asked for."""
        self._directory = 0
        self.skipped, self.excluded = self._listing.skipped, self._listing.excluded
        self.unverified: set[int] = set()
        """Inodes of known large files whose change time moved though size and modification time did not."""
        self.linked: set[bytes] = set()
        """Identities of objects with several names that are not as the namespace says."""

    # -- directories ------------------------------------------------------------------------------------------------

    def open_directory(self, inode: Inode) -> tuple[bytes, Status]:
        """Path and status of a directory of the namespace. Moved where another object or none is there, or where none
        can be told from another: its own name is to be looked at then."""
        if inode.name and not inode.identity:
            raise Moved
        path = self._view.path(inode)
        try:
            status = self._zone.status(path)
        except (FileNotFoundError, NotADirectoryError):
            raise Moved from None
        if status.kind is not Kind.DIRECTORY or (inode.identity and inode.identity != status.handle):
            raise Moved
        return path, status

    def scan(self, inode: Inode) -> Iterator[DirectoryReport]:
        """Everything in a directory that is not listed yet, in portions; the last one is complete. Raises Moved, or
        OSError where the directory cannot be read."""
        path, _ = self.open_directory(inode)
        known = dict(self._view.list(inode.number))
        entries: list[ObservedEntry] = []
        self._directory, self._listing.rule, self._size = inode.number, inode.rule, 0
        with _still_there(inode), self._zone.open_directory(path) as directory:
            for name, found in self._listing.of(directory, path):
                entry = self._entry(path, name, found, known.pop(name, 0), directory)
                if entry is not None:
                    entries.append(entry)
                # The pack may hold files of other directories already, and is not to grow beyond what a pack may be.
                is_full = self.pack.size >= PORTION_BYTES or self._size >= self._room // 2
                if is_full or len(entries) >= PORTION_ENTRIES:
                    yield DirectoryReport(inode.number, tuple(entries), (), False, None)
                    entries, self._size = [], 0
        attributes, stamp = self._directory_now(inode, path)
        yield DirectoryReport(inode.number, tuple(entries), tuple(known), True, attributes, stamp)

    def differences(self, inode: Inode) -> set[bytes]:
        """Names of a listed directory where the source and the namespace do not agree."""
        path, status = self.open_directory(inode)
        known = dict(self._view.list(inode.number))
        self._listing.rule = inode.rule
        names: set[bytes] = set()
        with _still_there(inode), self._zone.open_directory(path) as directory:
            listing = self._listing.of(directory, path)
        for name, found in listing:
            number = known.pop(name, 0)
            if isinstance(found, OSError):
                names.add(name)
                continue
            if found is None or self._listing.leaves_out(join(path, name), found, number):
                if number:
                    names.add(name)
                continue
            child = self._view.inode(number) if number else None
            if child is None or not is_unchanged(child, found):
                names.add(name)
        names.update(known)
        if status.ctime_ns != inode.stamp:
            names.add(b"")
        return names

    def names(self, inode: Inode, names: set[bytes]) -> DirectoryReport:
        """These names of a directory as they are now, with the directory's own attributes."""
        path, _ = self.open_directory(inode)
        self._directory, self._listing.rule = inode.number, inode.rule
        entries: list[ObservedEntry] = []
        absent: list[bytes] = []
        for name in sorted(names - {b""}):
            number = self._view.child(inode.number, name)
            found = self._listing.at(path, name)
            if found is None or (
                not isinstance(found, OSError) and self._listing.leaves_out(join(path, name), found, number)
            ):
                absent.append(name)
                continue
            entry = self._entry(path, name, found, number)
            if entry is not None:
                entries.append(entry)
        attributes, stamp = self._directory_now(inode, path)
        self.read.update(entry.identity for entry in entries if entry.content is not None)
        gone = tuple(filter(is_nameable, absent))
        return DirectoryReport(inode.number, tuple(entries), gone, False, attributes, stamp)

    def _directory_now(self, inode: Inode, path: bytes) -> tuple[Attributes | None, int]:
        """Attributes and stamp of a directory that has been looked into; None where no record can hold them. Moved
        where another object or none is there by now."""
        with _still_there(inode):
            after = self._zone.status(path)
            attributes = self._attributes(path, after)
        if inode.identity and after.handle != inode.identity:
            raise Moved
        try:
            held(InodeReport(inode.number, attributes, 0, None, b"", after.ctime_ns), self._room)
        except OSError as error:
            self._leave_unread(path, b"", error)
            return None, 0
        return attributes, after.ctime_ns

    def _leave_unread(self, path: bytes, name: bytes, error: OSError) -> None:
        self.failures.append(Failure(path, error.errno or 0))
        self.unread.append((self._directory, name, self.failures[-1]))

    # -- entries ----------------------------------------------------------------------------------------------------

    def _entry(
        self, parent: bytes, name: bytes, status: Found, number: int, directory: OpenDirectory | None = None
    ) -> ObservedEntry | None:
        """What a name stands for; None where it is left out, or is as the namespace says, or has just gone, or cannot
        be looked at."""
        path = join(parent, name)
        if isinstance(status, OSError):
            self._leave_unread(path, name, status)
            return None
        if status is None or self._listing.leaves_out(path, status, number):
            return None
        if not is_nameable(name):
            self._leave_unread(path, name, OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)))
            return None
        child = self._view.inode(number) if number else None
        if child is not None and is_unchanged(child, status):
            return None
        if status.links > 1 and status.kind is not Kind.DIRECTORY:
            self.linked.add(status.handle)
        try:
            entry = self._observe(path, name, status, child, directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if status.kind is Kind.SYMLINK:
                self._leave_unread(path, name, error)
                return None
            self.failures.append(Failure(path, error.errno or 0))
            entry = self._bare(path, name, status, child)
        return self._held(path, entry)

    def _held(self, path: bytes, entry: ObservedEntry) -> ObservedEntry | None:
        """The entry, where a record can hold it."""
        try:
            self._size += held(entry, self._room)
        except OSError as error:
            self._leave_unread(path, entry.name, error)
            return None
        return entry

    def _observe(
        self, path: bytes, name: bytes, status: Status, child: Inode | None, directory: OpenDirectory | None
    ) -> ObservedEntry:
        match status.kind:
            case Kind.FILE if status.size <= SMALL_BYTES_MAX and self.pack.takes(status.size):
                return self._small_file(path, name, status, child, directory)
            case Kind.FILE:
                entry, known = self._bare(path, name, status, child), self._known(status, child)
                same = known is not None and known.content is not None and not known.pending
                if known is not None and same and (known.size, known.mtime_ns) == (status.size, status.mtime_ns):
                    self.unverified.add(known.number)
                    return entry._replace(stamp=known.stamp)
                return entry
            case Kind.SYMLINK:
                return self._symlink(path, name, status, child)
            case _:
                return self._bare(path, name, status, child)

    def _known(self, status: Status, child: Inode | None) -> Inode | None:
        """What the log has of an object, whatever its names are there."""
        if child is not None and child.identity in (b"", status.handle):
            return child
        number = self._view.by_identity(self._listing.rule, status.handle)
        return self._view.inode(number) if number else None

    def _symlink(self, path: bytes, name: bytes, status: Status, child: Inode | None) -> ObservedEntry:
        """With its target, which never changes: it must not be another object's that took the name meanwhile."""
        try:
            now, target = self._zone.read_link(path)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise FileNotFoundError(errno.ENOENT, "no symlink any more", path) from None
        if now.handle != status.handle:
            raise FileNotFoundError(errno.ENOENT, "another object by now", path)
        return self._bare(path, name, now, child)._replace(target=target)

    def _bare(self, path: bytes, name: bytes, status: Status, child: Inode | None) -> ObservedEntry:
        assert status.kind is not None
        try:
            attributes = self._attributes(path, status)
        except OSError:
            xattrs = child.xattrs if child is not None else ()
            attributes = Attributes(status.mode, status.uid, status.gid, status.mtime_ns, xattrs)
        size = status.size if status.kind is Kind.FILE else 0
        return ObservedEntry(
            name, status.handle, status.kind, attributes, size, None, b"", status.rdev, status.ctime_ns
        )

    def _attributes(self, path: bytes, status: Status) -> Attributes:
        return Attributes(status.mode, status.uid, status.gid, status.mtime_ns, self._zone.xattrs(path))

    def _small_file(
        self, path: bytes, name: bytes, status: Status, child: Inode | None, directory: OpenDirectory | None
    ) -> ObservedEntry:
        """With its bytes; without them where it does not hold still."""
        descriptor = self._zone.open_read(path) if directory is None else directory.open_read(name)
        try:
            seen = (status.size, status.mtime_ns, status.ctime_ns)
            for _ in range(READ_TRIES):
                xattrs = read_xattrs(descriptor)
                data = os.pread(descriptor, seen[0] + 1, 0)
                after = os.fstat(descriptor)
                now = (after.st_size, after.st_mtime_ns, after.st_ctime_ns)
                if after.st_ino != status.inode or after.st_size > SMALL_BYTES_MAX:
                    break
                if len(data) == now[0] and now == seen:
                    attributes = attributes_of(after, xattrs)
                    content = self.pack.add(data)
                    return ObservedEntry(
                        name, status.handle, Kind.FILE, attributes, now[0], content, b"", 0, after.st_ctime_ns
                    )
                seen = now
        finally:
            os.close(descriptor)
        return self._bare(path, name, status, child)

    # -- single files -----------------------------------------------------------------------------------------------

    def open_file(self, inode: Inode) -> tuple[bytes, int, os.stat_result]:
        """(path, descriptor, status) of a file of the namespace, at any of its names. Raises Moved, or OSError."""
        for parent, name in self._view.links(inode):
            above = self._view.inode(parent)
            assert above is not None
            path = join(self._view.path(above), name)
            status = self._status_at(path, inode)
            if status is None:
                continue
            try:
                descriptor = self._zone.open_read(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                # Another object may have taken the name meanwhile, and be one that cannot be opened.
                if self._status_at(path, inode) is not None:
                    raise
                continue
            found = os.fstat(descriptor)
            if found.st_ino == status.inode:
                return path, descriptor, found
            os.close(descriptor)
        raise Moved

    def _status_at(self, path: bytes, inode: Inode) -> Status | None:
        """Of a file of the namespace, if it is there."""
        try:
            status = self._zone.status(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status if status.kind is Kind.FILE and status.handle == inode.identity else None

    def bare_report(self, inode: Inode, descriptor: int) -> InodeReport:
        """Report of an open large file without its bytes, which are read later, as if it had not been looked at.
        OSError also where no record could hold it with them."""
        xattrs = read_xattrs(descriptor)
        report = report_of(inode, os.fstat(descriptor), xattrs, None)
        held(report, self._room)
        return report._replace(stamp=inode.stamp)

    def small_report(self, inode: Inode, descriptor: int, before: os.stat_result) -> InodeReport | None:
        """Report of an open small file with its bytes; None where it does not hold still. OSError also where no record
        can hold it."""
        for _ in range(READ_TRIES):
            xattrs = read_xattrs(descriptor)
            data = os.pread(descriptor, before.st_size + 1, 0)
            after = os.fstat(descriptor)
            if len(data) == before.st_size and is_same(before, after):
                report = report_of(inode, after, xattrs, self.pack.add(data))
                held(report, self._room)
                return report
            before = after
            if before.st_size > SMALL_BYTES_MAX:
                return None
        return None


@contextmanager
def _still_there(inode: Inode) -> Iterator[None]:
    """Around what is done in a directory that was there: it has been moved, or removed, where it is not any more. The
    top of the tree cannot have been moved by anybody who would tell."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        if not inode.name:
            raise
        raise Moved from None
