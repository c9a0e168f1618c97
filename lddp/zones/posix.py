"""A zone on any POSIX filesystem that Linux mounts."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from types import TracebackType

from lddp.core.records import Attributes, Kind, Xattrs
from lddp.errors import LddpError
from lddp.ports import ContentSource, NewFile, Status
from lddp.zones.attributes import Shortfalls, apply_attributes, by_proc, read_xattrs
from lddp.zones.closed import exchange
from lddp.zones.directories import make_directory, place_directory
from lddp.zones.filling import fill_part
from lddp.zones.looking import KIND_BY_FORMAT, Looker, OpenDirectory, open_regular
from lddp.zones.names import link, move
from lddp.zones.putting import Putter
from lddp.zones.resolve import Place, Root, check_name, failure
from lddp.zones.roots import RootIdentity, identity_of
from lddp.zones.staging import Staging, stat_name
from lddp.zones.syscalls import sync_filesystem
from lddp.zones.worker import Tree
from lddp.zones.workers import Workers

_FORMAT_BY_KIND = {kind: form for form, kind in KIND_BY_FORMAT.items()}
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SET_ID = stat.S_ISUID | stat.S_ISGID


class PosixZone:
    """`ports.ZoneFilesystem` over the tree at `root`. May be used from several threads at once.

    `staging` is a directory on the same filesystem, outside of the tree, directly in its root, or in a state directory
    of `lddp migrate` there, and hidden from callers then. An `observe_only` zone needs none and raises EROFS from
    whatever would change it.
    """

    def __init__(self, root: str | bytes, staging: str | bytes | None, *, observe_only: bool = False) -> None:
        if staging is None and not observe_only:
            raise ValueError("a zone that is written to needs a staging directory")
        self.shortfalls = Shortfalls()
        self._root = Root(root)
        self._looker = Looker(self._root)
        self._staging: Staging | None = None
        self._putter: Putter | None = None
        self._workers: Workers | None = None
        self._tree: Tree | None = None
        self._paths = os.path.abspath(os.fsencode(root)), os.path.abspath(os.fsencode(staging or b""))
        try:
            if staging is not None and not observe_only:
                self._staging = Staging(staging)
                self._putter = Putter(self._root, self._staging, self._looker, self.shortfalls)
                if self._staging.device != self._root.device:
                    raise failure(errno.EXDEV, os.fsencode(staging))
            if staging is not None:
                self._root.hidden = _hidden_name(os.fsencode(root), os.fsencode(staging))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._workers is not None and self._tree is not None:
            self._workers.forget(self._tree)
        self._root.close()
        if self._staging is not None:
            self._staging.close()

    def __del__(self) -> None:
        if hasattr(self, "_root"):
            self.close()

    def __enter__(self) -> PosixZone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- looking ----------------------------------------------------------------------------------------------------

    def status(self, path: bytes) -> Status:
        return self._looker.status(path)

    def root(self) -> RootIdentity:
        return identity_of(self._root.fd)

    def list(self, path: bytes) -> list[tuple[bytes, Status]]:
        return self._looker.list(path)

    def open_directory(self, path: bytes) -> OpenDirectory:
        return self._looker.open(path)

    def locate(self, handle: bytes) -> bytes | None:
        return self._looker.locate(handle)

    def alive(self, handle: bytes) -> bool | None:
        return self._looker.alive(handle)

    @property
    def gives_owners(self) -> bool:
        return os.geteuid() == 0

    def xattrs(self, path: bytes) -> Xattrs:
        descriptor = self._root.open(path, os.O_PATH)
        try:
            return read_xattrs(by_proc(descriptor))
        finally:
            os.close(descriptor)

    def read_link(self, path: bytes) -> tuple[Status, bytes]:
        return self._looker.read_link(path)

    def open_read(self, path: bytes) -> int:
        return open_regular(self._root, path)

    # -- making -----------------------------------------------------------------------------------------------------

    def make_directory(self, path: bytes, attributes: Attributes, parked: bytes = b"") -> None:
        staging = self._writable()
        descriptor = self._open_made(staging, path, attributes, parked) if path else self._root.open(path, os.O_PATH)
        try:
            # A new one may have inherited an ACL or the setgid bit.
            apply_attributes(by_proc(descriptor), os.fstat(descriptor), attributes, path, self.shortfalls)
        finally:
            os.close(descriptor)

    def _open_made(self, staging: Staging, path: bytes, attributes: Attributes, parked: bytes) -> int:
        # Nobody may enter before the owner is right.
        own = (attributes.uid, attributes.gid) == (staging.uid, staging.gid)
        mode = attributes.mode & 0o777 if own else 0o700

        def make() -> int:
            if not parked or not place_directory(staging, parked, place):
                make_directory(staging, place, mode)
            return os.open(place.name, _DIRECTORY, dir_fd=place.fd)

        with self._root.place(path) as place:
            return staging.closed.as_owner(make, place.fd)

    def put_file(
        self, path: bytes, attributes: Attributes, source: ContentSource, *, look: bool = True
    ) -> Status | None:
        self._writable()
        assert self._putter is not None
        return self._putter.put(path, attributes, source, look)

    def put_files(self, files: Sequence[NewFile]) -> tuple[int, OSError | LddpError | None]:
        self._writable()
        assert self._putter is not None
        done = 0
        while done < len(files):
            answer = self._workers.put(self._tree, files[done:]) if self._workers and self._tree else None
            if answer is not None:
                for shortfall in answer.shortfalls:
                    self.shortfalls.note(*shortfall)
                done += answer.done
                if answer.error is not None:
                    return done, answer.error
                continue
            try:
                self._putter.put(*files[done], look=False)
            except (OSError, LddpError) as error:
                return done, error
            done += 1
        return done, None

    def use(self, workers: Workers) -> None:
        """Lets other processes carry out `put_files`. After `discard_leftovers`."""
        found = os.fstat(self._root.fd)
        identity = (found.st_dev, found.st_ino, *self._writable().inode)
        self._tree = Tree(*self._paths, self._root.hidden, identity)
        self._workers = workers

    def make_node(self, path: bytes, kind: Kind, attributes: Attributes, target: bytes, rdev: int) -> Status:
        staging = self._writable()
        temporary = staging.new_name()
        match kind:
            case Kind.SYMLINK:
                os.symlink(target, temporary, dir_fd=staging.temporary)
            case Kind.FIFO | Kind.CHARACTER_DEVICE | Kind.BLOCK_DEVICE:
                os.mknod(temporary, _FORMAT_BY_KIND[kind] | 0o600, rdev, dir_fd=staging.temporary)
            case _:
                raise failure(errno.EINVAL, path)
        try:
            descriptor = os.open(temporary, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging.temporary)
        except BaseException:
            staging.discard(temporary)
            raise
        try:
            try:
                apply_attributes(
                    by_proc(descriptor), os.fstat(descriptor), attributes, path, self.shortfalls, has_xattrs=False
                )
                with self._root.place(path) as place:
                    staging.closed.as_owner(lambda: staging.put(temporary, place.fd, place.name), place.fd)
            except BaseException:
                staging.discard(temporary)
                raise
            return self._looker.status_of(descriptor)
        finally:
            os.close(descriptor)

    # -- names ------------------------------------------------------------------------------------------------------

    def link(self, path: bytes, to: bytes) -> None:
        staging = self._writable()
        with self._root.place(path) as old, self._root.place(to) as new:
            staging.closed.as_owner(lambda: link(staging, old, new), old.fd, new.fd)

    def rename(self, path: bytes, to: bytes) -> None:
        staging = self._writable()
        with self._root.place(path) as old, self._root.place(to) as new:
            found = os.stat(old.name, dir_fd=old.fd, follow_symlinks=False)
            if path == to:
                return
            if to.startswith(path + b"/"):
                raise failure(errno.EINVAL, to)
            if path.startswith(to + b"/"):
                # As the kernel says. To carry it out would put what is moved where a crash could lose it.
                raise failure(errno.ENOTEMPTY, to)
            staging.closed.as_owner(lambda: move(staging, found, old, new), old.fd, new.fd)

    def exchange(self, path: bytes, to: bytes) -> None:
        closed = self._writable().closed
        with self._root.place(path) as one, self._root.place(to) as other:
            closed.as_owner(lambda: exchange(one.fd, one.name, other.fd, other.name), one.fd, other.fd)

    def park(self, path: bytes, name: bytes) -> None:
        staging = self._writable()
        check_name(name)
        there = Place(staging.parked, name, owned=False)
        with self._root.place(path) as place:
            found = stat_name(place.fd, place.name)
            staging.closed.as_owner(lambda: move(staging, found, place, there), place.fd)

    def unpark(self, name: bytes, to: bytes) -> None:
        staging = self._writable()
        check_name(name)
        there = Place(staging.parked, name, owned=False)
        with self._root.place(to) as place:
            found = stat_name(staging.parked, name)
            staging.closed.as_owner(lambda: move(staging, found, there, place), place.fd)

    def make_parked(self, name: bytes) -> bytes:
        staging = self._writable()
        check_name(name)
        os.mkdir(name, 0o700, dir_fd=staging.parked)
        return self.parked_handle(name)

    def parked_handle(self, name: bytes) -> bytes:
        staging = self._writable()
        check_name(name)
        try:
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging.parked)
        except FileNotFoundError:
            return b""
        try:
            return self._looker.status_of(descriptor).handle
        finally:
            os.close(descriptor)

    def remove(self, path: bytes) -> None:
        staging = self._writable()
        try:
            place = self._root.place(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        with place:
            staging.closed.as_owner(lambda: staging.remove(place.fd, place.name), place.fd)

    def remove_parked(self, name: bytes) -> None:
        staging = self._writable()
        check_name(name)
        staging.remove(staging.parked, name)

    def discard_leftovers(self) -> None:
        """Removes what a crash left half made in staging; call it before the first change after a start."""
        self._writable().discard_leftovers()

    # -- changing ---------------------------------------------------------------------------------------------------

    def set_attributes(self, path: bytes, kind: Kind, attributes: Attributes) -> bytes:
        self._writable()
        descriptor = self._root.open(path, os.O_PATH)
        try:
            found = os.fstat(descriptor)
            _check_kind(found, kind, path)
            apply_attributes(by_proc(descriptor), found, attributes, path, self.shortfalls)
            return self._handle_of_several(descriptor)
        finally:
            os.close(descriptor)

    def write(self, path: bytes, offset: int, source: ContentSource, size: int, attributes: Attributes) -> bytes:
        self._writable()
        descriptor = self._open_write(path)
        try:
            fill_part(descriptor, offset, source)
            return self._finish_change(descriptor, size, attributes, path)
        finally:
            os.close(descriptor)

    def truncate(self, path: bytes, size: int, attributes: Attributes) -> bytes:
        self._writable()
        descriptor = self._open_write(path)
        try:
            return self._finish_change(descriptor, size, attributes, path)
        finally:
            os.close(descriptor)

    def _finish_change(self, descriptor: int, size: int, attributes: Attributes, path: bytes) -> bytes:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, size)
        apply_attributes(descriptor, os.fstat(descriptor), attributes, path, self.shortfalls)
        return self._handle_of_several(descriptor)

    def _handle_of_several(self, descriptor: int) -> bytes:
        found = os.fstat(descriptor)  # after the change: who gives it another name now sees all of that
        has_several = found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode)
        return self._looker.status_of(descriptor).handle if has_several else b""

    def _open_write(self, path: bytes) -> int:
        """A descriptor of a regular file, also of one that its owner may not write to."""
        target = self._root.open(path, os.O_PATH)
        try:
            found = os.fstat(target)
            _check_kind(found, Kind.FILE, path)
            where = by_proc(target)
            try:
                return os.open(where, os.O_WRONLY | os.O_CLOEXEC)
            except PermissionError:
                if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWUSR:
                    raise
            os.chmod(where, stat.S_IMODE(found.st_mode) & ~_SET_ID | stat.S_IWUSR)
            return os.open(where, os.O_WRONLY | os.O_CLOEXEC)
        finally:
            os.close(target)

    # -- the whole --------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        sync_filesystem(self._root.fd)

    def free_bytes(self) -> int:
        found = os.fstatvfs(self._root.fd)
        return found.f_bavail * found.f_frsize

    @property
    def scratch(self) -> bytes:
        """The directory in which files are made; empty where nothing is written."""
        return self._paths[1] + b"/temporary" if self._staging is not None else b""

    def _writable(self) -> Staging:
        if self._staging is None:
            raise failure(errno.EROFS, b"")
        return self._staging


def _hidden_name(root: bytes, staging: bytes) -> bytes:
    """The name directly in the root that a staging directory has or is below; b"" if it is outside. OSError where that
    would hide more than a program's own state."""
    top = os.path.realpath(root).rstrip(b"/") + b"/"
    inside = os.path.realpath(staging) + b"/"
    if not inside.startswith(top):
        return b""
    name, _, below = inside[len(top) :].partition(b"/")
    is_state = name.startswith(b".") and name.endswith(b".lddp")
    if not name or (below and not is_state):
        raise OSError(
            errno.EINVAL, "this node's own staging directory is in it; choose another directory for one of them"
        )
    return name


def _check_kind(found: os.stat_result, kind: Kind, path: bytes) -> None:
    actual = KIND_BY_FORMAT.get(stat.S_IFMT(found.st_mode))
    if actual is kind:
        return
    if actual is Kind.DIRECTORY:
        raise failure(errno.EISDIR, path)
    raise failure(errno.ENOTDIR if kind is Kind.DIRECTORY else errno.EINVAL, path)
