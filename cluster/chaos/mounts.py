"""A mount namespace of the campaign's own.

Whoever copies the machine's mounts while a disk is there would hold on to it: after a power cut it could not be mounted
afresh. Here nobody sees the disks, and they are gone with the last process, however it ended.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_CLONE_NEWNS = 0x20000
_MS_REC_SLAVE = 0x4000 | 0x80000
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def enter(*needed: Path) -> None:
    """Must be called while the process has one thread. Leaves all foreign loop mounts but those with `needed` paths,
    for the same reason. OSError where it is not allowed."""
    if _libc.unshare(_CLONE_NEWNS) or _libc.mount(b"none", b"/", None, _MS_REC_SLAVE, None):
        raise OSError(ctypes.get_errno(), "no mount namespace of our own")
    paths = [str(path) for path in (*needed, Path(sys.prefix), Path(sys.base_prefix), Path("/usr"), Path.cwd())]
    for line in Path("/proc/self/mounts").read_text("utf-8", "surrogateescape").splitlines():
        device, where = line.split()[:2]
        point = where.replace("\\040", " ")
        if device.startswith("/dev/loop") and not any(path.startswith(point) for path in paths):
            _libc.umount2(os.fsencode(point), _MNT_DETACH)
