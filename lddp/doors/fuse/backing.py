"""What passthrough asks of the kernel, and of the filesystem that has a mount's own copies."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lddp.doors.fuse import copying, wire
from lddp.zones import syscalls

_OPEN = 0x4010E501
_CLOSE = 0x4004E502
_SET_SIGNAL = 10
_CACHESTAT = 451
"""The system call's number, on all architectures (Linux 6.5 and later)."""


class Backing(Protocol):
    """Calls do not block, but for `is_clean` and `clone`, which are for threads."""

    def open(self, descriptor: int) -> int:
        """The kernel may read this file by itself from now on; its number for it. OSError where it will not."""
        ...

    def close(self, number: int) -> None:
        """It is not named in an answer any more. Files that the kernel has open by it stay so."""
        ...

    def is_held(self, descriptor: int) -> bool:
        """Whether anybody but this descriptor has the file open or mapped. To be asked only while nobody can open it.
        OSError where the filesystem cannot tell."""
        ...

    def is_clean(self, descriptor: int) -> bool:
        """Whether the disk has all of the file: a clone waits until it has. OSError where the kernel cannot tell."""
        ...

    def clone(self, source: int, target: int) -> None:
        """Gives a file the bytes of another one, from its beginning on, without copying them: whoever reads it
        meanwhile has the old ones or the new ones. OSError where the filesystem cannot."""
        ...


class KernelBacking:
    """`device` is the open /dev/fuse; `is_over` says whether it has been closed."""

    def __init__(self, device: int, is_over: Callable[[], bool]) -> None:
        self._device = device
        self._is_over = is_over

    def open(self, descriptor: int) -> int:
        if self._is_over():
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        number: int = fcntl.ioctl(self._device, _OPEN, bytearray(wire.backing_map(descriptor)), True)
        return number

    def close(self, number: int) -> None:
        if not self._is_over():
            with contextlib.suppress(OSError):  # it went with the mount
                fcntl.ioctl(self._device, _CLOSE, wire.backing_number(number))

    def is_held(self, descriptor: int) -> bool:
        # A write lease is given only to who is alone (fcntl(2)). Whoever came meanwhile would cause a signal.
        fcntl.fcntl(descriptor, _SET_SIGNAL, signal.SIGURG)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            return True
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False

    def is_clean(self, descriptor: int) -> bool:
        everything, found = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(_CACHESTAT, ctypes.c_uint(descriptor), everything, found, ctypes.c_uint(0)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        _, dirty, under_way, _, _ = found
        return not dirty and not under_way

    def clone(self, source: int, target: int) -> None:
        syscalls.clone(target, source)


def why_not_passing(kernel: Backing, directory: Path) -> str:
    """Why files of this directory cannot be given to the kernel; empty where they can. Blocking."""
    what, descriptors = "make files", []
    try:
        for _ in range(2):
            descriptors.append(copying.new_file(directory))
        source, target = descriptors
        os.pwrite(source, b"lddp", 0)
        os.fdatasync(source)
        what = "be asked what is on the disk (Linux 6.5 and later can)"
        kernel.is_clean(source)
        what = "make clones of files (XFS and btrfs can)"
        kernel.clone(source, target)
        what = "be asked who has a file open"
        kernel.is_held(target)
        what = "be read by the kernel for a mount"
        kernel.close(kernel.open(target))
    except OSError as error:
        return f"the filesystem of {directory} cannot {what}: {error.strerror}"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return ""
