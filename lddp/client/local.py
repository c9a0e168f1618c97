"""Where on this machine the bytes of a download go."""

from __future__ import annotations

import os
import stat
from typing import IO

_DESCRIPTORS = ("/dev/", "/proc/")
"""Links there, such as /dev/stdout, stand for what a program has open."""


def open_in_place(target: str) -> IO[bytes] | None:
    """Opens what must not be replaced, and cannot be begun anew: a device, a pipe, or what a program has open. None for
    a regular file and where nothing is: a new file may take the name. Raises OSError, also for a directory."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    flags = os.O_WRONLY | os.O_NOCTTY
    if stat.S_ISREG(status.st_mode):
        if not (os.path.islink(target) and os.path.abspath(target).startswith(_DESCRIPTORS)):
            return None
        flags |= os.O_APPEND  # behind what the program has written there already
    return open(os.open(target, flags), "wb")
