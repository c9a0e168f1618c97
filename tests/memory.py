"""Where tests keep files that need to outlive nothing but a process: a filesystem in memory.

A disk makes such tests wait for its syncs, and those of all other programs with them. What loses its power, or speaks
of a disk's own ways, is not for this.
"""

from __future__ import annotations

import errno
import os
import tempfile
from functools import cache
from pathlib import Path

FREE_BYTES_MIN = 256 << 20
"""Less is a container's /dev/shm that a few nodes would fill."""


@cache
def memory_directory() -> Path | None:
    """None where there is none that has room and takes what a zone's files have; to be used as `tempfile`'s `dir`."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or not os.access(shared, os.W_OK):
        return None
    room = os.statvfs(shared)
    return shared if room.f_bavail * room.f_frsize >= FREE_BYTES_MIN and _takes_attributes(shared) else None


def _takes_attributes(directory: Path) -> bool:
    """Linux before 6.6 has no extended attributes of users in memory."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        try:
            os.setxattr(file.fileno(), "user.lddp", b"1")
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
                return False
            raise
    return True
