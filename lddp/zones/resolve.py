"""Paths beneath a root: nothing here follows a symlink, whoever swaps directories meanwhile.

A descriptor is opened anew for each operation rather than kept: a kept one would go on naming a directory that
somebody has moved away, even out of the root, and an `openat2` costs little beside the operation it serves.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType

from lddp.zones import syscalls

PATH_BYTES_MAX = 4000
"""Longest piece of a path given to the kernel at once; its own limit is 4,095 bytes."""

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def failure(number: int, path: bytes) -> OSError:
    """The OSError (of the right subclass) for an errno and a path."""
    return OSError(number, os.strerror(number), path)


def check_path(path: bytes) -> None:
    """EINVAL for a path that is not relative, has an empty, `.` or `..` component or a zero byte."""
    framed = b"/%b/" % path
    dotted = b"/." in framed and (b"/./" in framed or b"/../" in framed)
    if dotted or b"//" in framed or b"\0" in framed:
        raise failure(errno.EINVAL, path)


def check_name(name: bytes) -> None:
    """EINVAL for what is not a single name."""
    if not name or b"/" in name:
        raise failure(errno.EINVAL, name)
    check_path(name)


class Place:
    """A name in an open directory. A context: the directory is closed at its end."""

    __slots__ = ("_owned", "fd", "name")

    def __init__(self, fd: int, name: bytes, owned: bool) -> None:
        self.fd = fd
        self.name = name
        self._owned = owned

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            self._owned = False
            os.close(self.fd)


class Root:
    """The directory that every path is beneath. `hidden` is a name directly in it that does not exist for callers."""

    def __init__(self, path: str | bytes) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.device = os.fstat(self.fd).st_dev
        self.hidden = b""
        self._openat2 = _has_openat2(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, path: bytes, flags: int) -> int:
        """A descriptor of what is at `path`. ENOTDIR where a symlink or another non-directory is on the way to it."""
        if path:
            self._check(path)
        return self._open_checked(path, flags)

    def place(self, path: bytes) -> Place:
        """The directory that holds `path`, and the last name of it. EBUSY for the root, which has no name."""
        if not path:
            raise failure(errno.EBUSY, path)
        self._check(path)
        parent, _, name = path.rpartition(b"/")
        if not parent:
            return Place(self.fd, name, owned=False)
        return Place(self._open_checked(parent, os.O_PATH | os.O_DIRECTORY), name, owned=True)

    def _open_checked(self, path: bytes, flags: int) -> int:
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        if len(path) <= PATH_BYTES_MAX:
            return self._open_piece(self.fd, path or b".", flags)
        directory, rest = self._descend(path)
        try:
            return self._open_piece(directory, rest, flags)
        finally:
            os.close(directory)

    def _check(self, path: bytes) -> None:
        check_path(path)
        hidden = self.hidden
        if hidden and path.startswith(hidden) and path[len(hidden) : len(hidden) + 1] in (b"", b"/"):
            raise failure(errno.ENOENT, path)

    def _descend(self, path: bytes) -> tuple[int, bytes]:
        """Walks a long path in pieces; returns a directory and what is left of the path below it."""
        directory = os.dup(self.fd)
        try:
            while len(path) > PATH_BYTES_MAX:
                cut = path.rfind(b"/", 0, PATH_BYTES_MAX)
                if cut < 0:
                    raise failure(errno.ENAMETOOLONG, path)
                below = self._open_piece(directory, path[:cut], _WALK)
                os.close(directory)
                directory = below
                path = path[cut + 1 :]
        except BaseException:
            os.close(directory)
            raise
        return directory, path

    def _open_piece(self, directory: int, path: bytes, flags: int) -> int:
        try:
            if self._openat2:
                return syscalls.open_beneath(directory, path, flags)
            return _walk(directory, path, flags)
        except OSError as error:
            if error.errno == errno.ELOOP and flags & (os.O_PATH | os.O_DIRECTORY):
                # A symlink at the end would have been opened itself (O_PATH), so this one is on the way.
                raise failure(errno.ENOTDIR, path) from error
            raise


def _has_openat2(directory: int) -> bool:
    try:
        os.close(syscalls.open_beneath(directory, b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        # EPERM: container runtimes of the time before openat2 refuse what they do not know.
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return False
    return True


def _walk(directory: int, path: bytes, flags: int) -> int:
    """What `openat2` does, one component at a time, for kernels before 5.6."""
    *parents, last = path.split(b"/")
    here = directory
    try:
        for name in parents:
            below = os.open(name, _WALK, dir_fd=here)
            if here != directory:
                os.close(here)
            here = below
        return os.open(last, flags, dir_fd=here)
    finally:
        if here != directory:
            os.close(here)
