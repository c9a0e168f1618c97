"""A mount of FUSE whose server has died, as sshfs leaves one: whoever looks at it gets ENOTCONN. Needs root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MNT_DETACH = 2


@contextmanager
def dead_mount(directory: Path) -> Iterator[None]:
    """On an existing directory."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"FUSE cannot be mounted here: {error}")
    try:
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % server
        if libc.mount(b"fuse", bytes(directory), b"fuse", 0, options):
            pytest.skip(f"FUSE cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(server)
    try:
        yield
    finally:
        libc.umount2(bytes(directory), _MNT_DETACH)
