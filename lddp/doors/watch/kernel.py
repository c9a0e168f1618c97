"""The system calls of file handles, fanotify and inotify, which Python does not have."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import struct
import termios
from functools import cache

from lddp.errors import ZoneError

AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_HANDLE_BYTES_MAX = 128
_HANDLE_HEAD = struct.Struct("=Ii")

FAN_CLOEXEC = 0x01
FAN_NONBLOCK = 0x02
FAN_UNLIMITED_QUEUE = 0x10
FAN_UNLIMITED_MARKS = 0x20
FAN_REPORT_DFID_NAME_TARGET = 0x0200 | 0x0400 | 0x0800 | 0x1000

FAN_MARK_ADD = 0x01
FAN_MARK_ONLYDIR = 0x08
FAN_MARK_FILESYSTEM = 0x100
FAN_MARK_IGNORE_SURV = 0x400 | 0x40

FAN_MODIFY = 0x02
FAN_ATTRIB = 0x04
FAN_CLOSE_WRITE = 0x08
FAN_CREATE = 0x100
FAN_DELETE = 0x200
FAN_DELETE_SELF = 0x400
FAN_MOVE_SELF = 0x800
FAN_Q_OVERFLOW = 0x4000
FAN_EVENT_ON_CHILD = 0x08000000
FAN_RENAME = 0x10000000
FAN_ONDIR = 0x40000000

IN_MODIFY = 0x02
IN_ATTRIB = 0x04
IN_CLOSE_WRITE = 0x08
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_UNMOUNT = 0x2000
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ISDIR = 0x40000000
IN_ONLYDIR = 0x01000000


@cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.fanotify_mark.argtypes = [
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint64,
        ctypes.c_int,
        ctypes.c_char_p,
    ]
    library.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]
    library.name_to_handle_at.argtypes = [
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_int),
        ctypes.c_int,
    ]
    return library


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def handle_at(descriptor: int, path: bytes = b"") -> tuple[bytes, int]:
    """(handle, id of the mount) of the object open at `descriptor`, or of `path` relative to it, without following
    a symlink at the end. ZoneError where the filesystem has no file handles."""
    buffer = ctypes.create_string_buffer(_HANDLE_HEAD.size + _HANDLE_BYTES_MAX)
    _HANDLE_HEAD.pack_into(buffer, 0, _HANDLE_BYTES_MAX, 0)
    mount = ctypes.c_int()
    flags = 0 if path else _AT_EMPTY_PATH
    try:
        _checked(_libc().name_to_handle_at(descriptor, path, buffer, ctypes.byref(mount), flags), "name_to_handle_at")
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        message = "the filesystem has no file handles, so its objects cannot be told apart; use another filesystem"
        raise ZoneError(errno.EOPNOTSUPP, message) from error
    size, kind = _HANDLE_HEAD.unpack_from(buffer, 0)
    start = _HANDLE_HEAD.size
    return struct.pack("<i", kind) + buffer.raw[start : start + size], mount.value


def fanotify_init(flags: int) -> int:
    """A new fanotify descriptor that reports file handles."""
    return _checked(_libc().fanotify_init(flags, os.O_RDONLY | os.O_LARGEFILE | os.O_CLOEXEC), "fanotify_init")


def fanotify_mark(descriptor: int, flags: int, mask: int, path: bytes) -> None:
    _checked(_libc().fanotify_mark(descriptor, flags, mask, AT_FDCWD, path), "fanotify_mark")


def inotify_init() -> int:
    return _checked(_libc().inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify_init1")


def inotify_watch(descriptor: int, directory: int, mask: int) -> int:
    """Watches exactly the directory that is open at `directory`; the number of the watch, which is the one it has if
    it was watched before. The magic link of /proc is followed by the kernel straight to that directory."""
    path = b"/proc/self/fd/%d" % directory
    return _checked(_libc().inotify_add_watch(descriptor, path, mask | IN_ONLYDIR), "inotify_add_watch")


def inotify_forget(descriptor: int, watch: int) -> None:
    """Removes a watch; one that the kernel has removed already is done."""
    if _libc().inotify_rm_watch(descriptor, watch) < 0 and ctypes.get_errno() != errno.EINVAL:
        _checked(-1, "inotify_rm_watch")


def queued_size(descriptor: int) -> int:
    """FIONREAD. inotify: bytes that wait to be read; fanotify: 24 for each event that waits."""
    number = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, number)
    return number[0]
