"""Getting a mount from the kernel and giving it back. Blocking: for threads, because mounts answer to this process."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
from typing import NamedTuple

from lddp.errors import UsageError, ZoneError, quoted

TYPE = b"fuse.lddp"
_MS_NOSUID, _MS_NODEV, _MS_RDONLY = 2, 4, 1
_MNT_DETACH = 2
_HELPER = "fusermount3"
_HELPER_S = 30.0
_ESCAPES = {b"\\040": b" ", b"\\011": b"\t", b"\\012": b"\n", b"\\134": b"\\"}


class Mounted(NamedTuple):
    """A line of the kernel's table of mounts. `device` is `MAJOR:MINOR`."""

    mountpoint: bytes
    device: str
    type: bytes
    source: bytes


def _unescaped(text: bytes) -> bytes:
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text


def parse_table(text: bytes) -> list[Mounted]:
    """/proc/PID/mountinfo (proc(5))."""
    found = []
    for line in text.splitlines():
        fields, _, rest = line.partition(b" - ")
        kind, source, *_ = rest.split(b" ")
        columns = fields.split(b" ")
        found.append(Mounted(_unescaped(columns[4]), columns[2].decode("ascii"), kind, _unescaped(source)))
    return found


def table() -> list[Mounted]:
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_table(file.read())


def ours(mountpoint: bytes) -> list[Mounted]:
    """Mounts of this kind at a path, the one on top last."""
    return [one for one in table() if one.mountpoint == mountpoint and one.type == TYPE]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def mount(mountpoint: bytes, source: bytes, *, privileged: bool | None = None) -> int:
    """Mounts at an existing directory; the descriptor that serves it. As root by mount(2), otherwise by fusermount3,
    which is setuid. UsageError for a place that cannot be one, ZoneError where the kernel refuses."""
    clear_dead(mountpoint)
    try:
        found = os.stat(mountpoint)
    except OSError as error:
        raise UsageError(f"{quoted(mountpoint)} cannot be mounted on: {error.strerror}; make the directory") from None
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{quoted(mountpoint)} is not a directory; give one to mount on")
    if ours(mountpoint):
        raise UsageError(f"{quoted(mountpoint)} is a mount of lddp already; unmount it first")
    if os.geteuid() == 0 if privileged is None else privileged:
        return _mount_as_root(mountpoint, source)
    return _mount_by_helper(mountpoint, source)


def _mount_as_root(mountpoint: bytes, source: bytes) -> int:
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ZoneError(error.errno or errno.EIO, f"/dev/fuse cannot be opened ({error.strerror})") from None
    options = b"fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions,allow_other,max_read=%d" % (
        descriptor,
        os.getuid(),
        os.getgid(),
        1 << 20,
    )
    if _libc().mount(source, mountpoint, TYPE, _MS_NOSUID | _MS_NODEV, options):
        number = ctypes.get_errno()
        os.close(descriptor)
        raise ZoneError(number, f"{quoted(mountpoint)} could not be mounted on: {os.strerror(number)}")
    return descriptor


def _mount_by_helper(mountpoint: bytes, source: bytes) -> int:
    """fusermount3 mounts, and sends the descriptor back over a socket (mount.fuse3(8), _FUSE_COMMFD)."""
    helper = shutil.which(_HELPER)
    if helper is None:
        raise UsageError(f"only root can mount without {_HELPER}; install fuse3, or run the node as root")
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with mine, its:
        options = b"default_permissions,max_read=1048576,subtype=lddp,fsname=" + source
        done = subprocess.run(
            [os.fsencode(helper), b"-o", options, b"--", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(its.fileno())},
            pass_fds=(its.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_HELPER_S,
            check=False,
        )
        if done.returncode:
            text = done.stderr.decode(errors="backslashreplace").strip() or f"exit code {done.returncode}"
            raise ZoneError(errno.EPERM, f"{quoted(mountpoint)} could not be mounted on: {text}")
        mine.settimeout(_HELPER_S)
        _, descriptors, _, _ = socket.recv_fds(mine, 1, 1)
    if not descriptors:
        raise ZoneError(errno.EPERM, f"{_HELPER} mounted {quoted(mountpoint)} and sent no descriptor")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def unmount(mountpoint: bytes, *, lazily: bool = False) -> None:
    """Takes a mount away; `lazily` also while programs have files open there. OSError(EBUSY) where they have."""
    if os.geteuid() == 0:
        if _libc().umount2(mountpoint, _MNT_DETACH if lazily else 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), mountpoint)
        return
    helper = shutil.which(_HELPER)
    if helper is None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), mountpoint)
    command = [helper, "-u", *(["-z"] if lazily else []), "--", os.fsdecode(mountpoint)]
    if subprocess.run(command, capture_output=True, timeout=_HELPER_S, check=False).returncode:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), mountpoint)


def clear_dead(mountpoint: bytes) -> bool:
    """Detaches what a node that was killed has left behind at a mountpoint; whether there was something."""
    found = False
    while ours(mountpoint):
        try:
            os.statvfs(mountpoint)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
                return found
        else:
            return found
        unmount(mountpoint, lazily=True)
        found = True
    return found
