"""The Linux system calls that Python's `os` lacks. Each raises OSError as `os` would.

The numbers and flags are the same on every architecture that Linux supports in 64 bits, except where libc knows better.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import struct
import threading

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_HANDLE_FID = 0x200
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_STATX_BTIME = 0x800
_FALLOC_KEEP_SIZE_PUNCH_HOLE = 0x01 | 0x02
_FICLONE = 0x40049409

_HANDLE_BYTES_MAX = 128
_HANDLE_HEADER = struct.Struct("=Ii")
_OPEN_HOW = struct.Struct("=QQQ")
_OPEN_HOW_SIZE = _OPEN_HOW.size
_STATX_SIZE = 256
_STATX_MASK = struct.Struct("=I")
_STATX_BTIME_FIELD = struct.Struct("=qI")
_STATX_BTIME_OFFSET = 80
_STATFS_SIZE = 256
_STATFS_TYPE = struct.Struct("L")

_libc = ctypes.CDLL(None, use_errno=True)

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_name_to_handle_at = _libc.name_to_handle_at
_name_to_handle_at.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_open_by_handle_at = _libc.open_by_handle_at
_open_by_handle_at.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_renameat2 = _libc.renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_syncfs = _libc.syncfs
_syncfs.argtypes = (ctypes.c_int,)
_statx = _libc.statx
_statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
_fstatfs = _libc.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _failure(path: bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


@functools.cache
def _how(flags: int) -> bytes:
    return _OPEN_HOW.pack(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """`openat2`: opens `path`, which must not pass a symlink nor lead out of `directory`."""
    assert b"\0" not in path
    how = _how(flags)
    while True:
        descriptor: int = _syscall(_OPENAT2, directory, path, how, _OPEN_HOW_SIZE)
        if descriptor >= 0:
            return descriptor
        failure = _failure(path)
        # EAGAIN: a rename ran meanwhile and the kernel could not be sure; EINTR: a signal whose handler has run.
        if failure.errno not in (errno.EAGAIN, errno.EINTR):
            raise failure


class _HandleBuffer(threading.local):
    """One `struct file_handle` and the places in it for each thread, because making them costs more than the call."""

    def __init__(self) -> None:
        self.bytes = bytearray(_HANDLE_HEADER.size + _HANDLE_BYTES_MAX)
        self.pin = (ctypes.c_char * len(self.bytes)).from_buffer(self.bytes)
        self.address = ctypes.addressof(self.pin)
        # Eight bytes, because AT_HANDLE_MNT_ID_UNIQUE kernels may write that many.
        self.mount = ctypes.c_uint64()
        self.mount_address = ctypes.addressof(self.mount)


_buffers = _HandleBuffer()
_EMPTY_HEADER = _HANDLE_HEADER.pack(_HANDLE_BYTES_MAX, 0)


def handle_at(directory: int, name: bytes, flags: int) -> tuple[int, bytes]:
    """`name_to_handle_at`: (type, bytes) of the kernel's handle for `name` in `directory`, not following symlinks."""
    buffer = _buffers
    raw = buffer.bytes
    raw[0:8] = _EMPTY_HEADER
    if _name_to_handle_at(directory, name, buffer.address, buffer.mount_address, flags) != 0:
        raise _failure(name)
    length, kind = _HANDLE_HEADER.unpack_from(raw)
    return kind, bytes(raw[8 : 8 + length])


def open_handle(mount: int, kind: int, data: bytes) -> int:
    """`open_by_handle_at` with O_PATH; `mount` is a descriptor of anything on the handle's filesystem."""
    descriptor: int = _open_by_handle_at(mount, _HANDLE_HEADER.pack(len(data), kind) + data, os.O_PATH | os.O_CLOEXEC)
    if descriptor < 0:
        raise _failure()
    return descriptor


def birth_time_ns(directory: int, name: bytes, flags: int) -> int:
    """When the object was made, in nanoseconds since the epoch; 0 where the filesystem does not keep it."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if _statx(directory, name, flags, _STATX_BTIME, buffer) != 0:
        raise _failure(name)
    if not _STATX_MASK.unpack_from(buffer)[0] & _STATX_BTIME:
        return 0
    seconds, nanoseconds = _STATX_BTIME_FIELD.unpack_from(buffer, _STATX_BTIME_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def filesystem_type(descriptor: int) -> int:
    """`f_type` of `fstatfs`: a number for each kind of filesystem (statfs(2) lists them)."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _fstatfs(descriptor, buffer) != 0:
        raise _failure()
    (kind,) = _STATFS_TYPE.unpack_from(buffer)
    return int(kind)


def rename_to_nothing(directory: int, name: bytes, to_directory: int, to_name: bytes) -> None:
    """`renameat2` with RENAME_NOREPLACE: EEXIST where the new name is there already."""
    if _renameat2(directory, name, to_directory, to_name, RENAME_NOREPLACE) != 0:
        raise _failure(name)


def exchange(directory: int, name: bytes, to_directory: int, to_name: bytes) -> None:
    """`renameat2` with RENAME_EXCHANGE: both names must exist; each then names what the other did."""
    if _renameat2(directory, name, to_directory, to_name, RENAME_EXCHANGE) != 0:
        raise _failure(name)


def sync_filesystem(descriptor: int) -> None:
    """`syncfs`: what was written to the descriptor's filesystem is durable."""
    if _syncfs(descriptor) != 0:
        raise _failure()


def clone(descriptor: int, source: int) -> None:
    """Gives a file all of another one's bytes, and size, by sharing its blocks; EOPNOTSUPP, EXDEV and others where the
    filesystem cannot (ioctl_ficlone(2))."""
    fcntl.ioctl(descriptor, _FICLONE, source)


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Makes `length` bytes at `offset` read as zeros without changing the file's size; EOPNOTSUPP where it cannot."""
    if _fallocate(descriptor, _FALLOC_KEEP_SIZE_PUNCH_HOLE, offset, length) != 0:
        raise _failure()
