"""Removing a tree of any depth with two descriptors, never following a symlink."""

from __future__ import annotations

import errno
import os
import stat

from lddp.zones.resolve import failure

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESTARTS_MAX = 100


class _Moved(Exception):
    """Somebody moved a directory while its tree was being removed, so the way back up does not lead where it did."""


class _Level:
    """One directory on the way down: who it is, its name in its parent, and its directories still to be removed."""

    __slots__ = ("identity", "name", "pending")

    def __init__(self, identity: tuple[int, int], name: bytes, pending: list[bytes]) -> None:
        self.identity = identity
        self.name = name
        self.pending = pending


def remove_tree(directory: int, name: bytes) -> None:
    """Removes `name` from an open directory, with all below it. Absent is done.

    Something that is put into the tree meanwhile is removed too; ENOTEMPTY if that does not end.
    """
    for _ in range(_RESTARTS_MAX):
        if _remove_leaf(directory, name):
            return
        try:
            _empty(directory, name)
        except _Moved:
            continue
    raise failure(errno.ENOTEMPTY, name)


def _remove_leaf(directory: int, name: bytes) -> bool:
    """Whether the name is gone: it was no directory, or an empty one."""
    try:
        os.unlink(name, dir_fd=directory)
        return True
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        pass
    except PermissionError:
        # POSIX says EPERM for a directory, and some filesystems do.
        if not _is_directory(directory, name):
            raise
    try:
        os.rmdir(name, dir_fd=directory)
        return True
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False  # replaced meanwhile; the caller comes again
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False


def _is_directory(directory: int, name: bytes) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _empty(directory: int, name: bytes) -> None:
    """Removes all below `name`, and then `name`. Goes up by `..`, checked, so that depth costs no descriptors."""
    here = os.dup(directory)
    levels: list[_Level] = []
    top = os.fstat(directory)
    try:
        pending = [name]
        while True:
            if pending:
                child = pending.pop()
                below = _enter(here, child)
                if below is None:
                    continue
                os.close(here)
                here = below
                found = os.fstat(here)
                levels.append(_Level((found.st_dev, found.st_ino), child, pending))
                pending = _remove_leaves(here)
                continue
            if not levels:
                return
            level = levels.pop()
            expected = levels[-1].identity if levels else (top.st_dev, top.st_ino)
            above = _above(here, directory, expected, last=not levels)
            os.close(here)
            here = above
            pending = level.pending
            if not _remove_leaf(here, level.name):
                raise _Moved
    finally:
        os.close(here)


def _above(here: int, directory: int, expected: tuple[int, int], *, last: bool) -> int:
    above = os.dup(directory) if last else os.open("..", _READ, dir_fd=here)
    found = os.fstat(above)
    if (found.st_dev, found.st_ino) != expected:
        os.close(above)
        raise _Moved
    return above


def _enter(directory: int, name: bytes) -> int | None:
    """A descriptor of a directory; None if there is none of that name any more."""
    try:
        return os.open(name, _READ, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            _remove_leaf(directory, name)
            return None
        if error.errno != errno.EACCES:
            raise
    _open_to_owner(directory, name)
    return os.open(name, _READ, dir_fd=directory)


def _open_to_owner(directory: int, name: bytes) -> None:
    """An owner without privilege may have directories that not even the owner may read."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod(b"/proc/self/fd/%d" % descriptor, 0o700)
    finally:
        os.close(descriptor)


def _remove_leaves(directory: int) -> list[bytes]:
    """Removes everything but full directories, whose names it returns."""
    if os.geteuid() != 0 and os.fstat(directory).st_mode & 0o300 != 0o300:
        os.fchmod(directory, 0o700)
    names = [os.fsencode(name) for name in os.listdir(directory)]
    return [name for name in names if not _remove_leaf(directory, name)]
