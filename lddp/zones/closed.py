"""Directories that are closed to their own owner, who has no privilege: what is done in them all the same.

Such a directory has its last mode before anything is put into it, as all others have. It is opened for the moment of a
change. A kill in between leaves it open: the change is carried out again then, and after that the directory gets its
attributes, as after any change in it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

from lddp.zones import syscalls
from lddp.zones.attributes import by_proc

T = TypeVar("T")
_OPEN = stat.S_IWUSR | stat.S_IXUSR


class Closed:
    """`lock` is a descriptor of a file that all processes have that change the tree. May be used from several threads
    at once: one that found a directory open may find it closed again."""

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._thread_lock = threading.Lock()

    def as_owner(self, change: Callable[[], T], *directories: int) -> T:
        """Makes a change of names in these directories, of which descriptors are given. It may be begun twice."""
        try:
            return change()
        except PermissionError:
            pass
        with self._thread_lock:
            with suppress(OSError):  # a filesystem without such locks has no workers either
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                with opened(*directories):
                    return change()
            finally:
                with suppress(OSError):
                    fcntl.flock(self._lock, fcntl.LOCK_UN)


@contextmanager
def opened(*descriptors: int) -> Iterator[None]:
    """Directories among these are open to this user for a moment, if they belong to it."""
    with ExitStack() as closing:
        for descriptor in descriptors:
            found = os.fstat(descriptor)
            mode = stat.S_IMODE(found.st_mode)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and mode & _OPEN != _OPEN:
                where = by_proc(descriptor)
                os.chmod(where, mode | _OPEN)
                closing.callback(os.chmod, where, mode)
        yield


@contextmanager
def opened_at(directory: int, name: bytes) -> Iterator[None]:
    """As `opened`, for what has a name, if anything: a directory may not be moved to another parent by an owner without
    privilege unless it is writable, since its `..` changes."""
    try:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        yield
        return
    try:
        with opened(descriptor):
            yield
    finally:
        os.close(descriptor)


def exchange(directory: int, name: bytes, to_directory: int, to_name: bytes) -> None:
    """`syscalls.exchange`, also of directories that are moved to another parent so."""
    try:
        syscalls.exchange(directory, name, to_directory, to_name)
    except PermissionError:
        with opened_at(directory, name), opened_at(to_directory, to_name):
            syscalls.exchange(directory, name, to_directory, to_name)
