"""A small ext4 filesystem on a file, whose power can be cut."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import shutil
import struct
import subprocess
from pathlib import Path

from lddp.zones.syscalls import sync_filesystem

IMAGE_BYTES = 96 << 20
_EXT4_IOC_SHUTDOWN = 0x8004587D
_GOING_FLAGS_NOLOGFLUSH = 2
_CLONE_NEWNS = 0x20000


class Volume:
    """Mounted at `directory`/mounted while it has power. A context: nothing stays mounted after it.

    Each time it is another block device: what the kernel has in its cache of one outlives the mount, and the next one
    would read what was never written.
    """

    def __init__(self, directory: Path) -> None:
        _leave_mounts_to_others()
        self._image = directory / "image"
        self.mounted = directory / "mounted"
        self.mounted.mkdir()
        with open(self._image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        self._device = ""
        _run("mkfs.ext4", "-q", "-F", str(self._image))
        self.begin()

    def begin(self) -> None:
        """Power is back: the journal is replayed."""
        device = _run("losetup", "--find", "--show", str(self._image))
        self._detach()  # not before there is another one, which would be the same
        self._device = device
        try:
            _run("mount", device, str(self.mounted))
        except OSError:
            self._detach()
            raise

    def write_back(self) -> None:
        """The kernel brings to the disk what it has, as it does from time to time."""
        descriptor = os.open(self.mounted, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sync_filesystem(descriptor)
        finally:
            os.close(descriptor)

    def cut(self) -> None:
        """From here on nothing reaches the disk, not even what the journal has in memory."""
        descriptor = os.open(self.mounted, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("=I", _GOING_FLAGS_NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def end(self) -> None:
        """What was in memory only is gone."""
        _run("umount", str(self.mounted))

    def _detach(self) -> None:
        if self._device:
            _run("losetup", "--detach", self._device)
            self._device = ""

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        if os.path.ismount(self.mounted):
            self.end()
        self._detach()


@functools.cache
def _leave_mounts_to_others() -> None:
    """This process sees its mounts alone: a filesystem that another namespace has copied would not end when it is
    unmounted here. They end with this process, too."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _run("mount", "--make-rprivate", "/")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode().strip()


def obstacle(directory: Path) -> str:
    """Why no power can be cut here; empty where it can be."""
    if os.geteuid():
        return "only root can mount a filesystem"
    missing = [name for name in ("mkfs.ext4", "losetup", "mount", "umount") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} cannot be found"
    try:
        with Volume(directory) as volume:
            volume.cut()
    except OSError as error:
        return f"no filesystem can be mounted and shut down: {error}"
    return ""
