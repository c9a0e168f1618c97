"""Small filesystems of a node's own: full on demand, cut off as by a power failure, and mounted again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN: everything afterwards is EIO."""
_WITHOUT_THE_LOG = struct.pack("I", 2)
FILLER = ".full"
CHUNK_BYTES = 1 << 20
UNMOUNT_S = 20.0


class Disk:
    """An ext4 of its own in a sparse file, at `path`."""

    def __init__(self, image: Path, path: Path, size: int) -> None:
        self.image = image
        self.path = path
        self.size = size
        self._mounted = False

    def make(self) -> None:
        with open(self.image, "wb") as file:
            file.truncate(self.size)
        _run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(self.image))
        self.path.mkdir(parents=True)
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self.image), str(self.path))
        self._mounted = True

    def unmount(self) -> None:
        """Waits for the last process that has something open here; OSError when it stays."""
        deadline = time.monotonic() + UNMOUNT_S
        while self._mounted:
            try:
                _run("umount", str(self.path))
                self._mounted = False
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def cut(self) -> None:
        """What was not synced is gone; every call fails with EIO until the disk is mounted again."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _WITHOUT_THE_LOG)
        finally:
            os.close(descriptor)

    def fill(self) -> None:
        """Takes every block that is free."""
        descriptor = os.open(self.path / FILLER, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            chunk = CHUNK_BYTES << 10
            end = os.fstat(descriptor).st_size
            while chunk >= 4096:
                try:
                    os.posix_fallocate(descriptor, end, chunk)
                    end += chunk
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    chunk //= 4
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """For good: a power cut that follows must not bring the filler back."""
        (self.path / FILLER).unlink(missing_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Whatever is left of it; never raises."""
        if self._mounted:
            with contextlib.suppress(OSError):
                self.unmount()
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
        self.image.unlink(missing_ok=True)


def _run(*command: str) -> None:
    found = subprocess.run(command, capture_output=True, check=False)
    if found.returncode:
        raise OSError(found.returncode, f"{' '.join(command)}: {found.stderr.decode(errors='replace').strip()}")
