"""Fresh filesystems on loop devices, so that no run pays for what another one deleted.

Their images are files that have all of their blocks, as a disk has: where an image has none yet, every sync of
something new makes the filesystem below give out blocks and write its own journal, which costs several times what the
sync does. An image is written once, and used again for the next filesystem of the run. Nor does a disk have a page
cache below it: the loop device writes to the image directly.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE_BYTES = 6 << 30
STEP_BYTES = 8 << 20
FREE, USED = ".free", ".used"
INODES = 200_000
UNMOUNT_TRIES = 50
UNMOUNT_PAUSE_S = 0.2
TOOLS = ("mkfs.ext4", "losetup", "mount", "umount")


def why_no_images() -> str:
    """Why loop-mounted filesystems cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "only root can mount an image"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if os.path.exists("/dev/loop-control") else "the kernel has no loop devices"


@contextmanager
def fresh_filesystem(scratch: Path, inodes: int = INODES) -> Iterator[Path]:
    """An empty ext4 filesystem, mounted; destroyed as a whole afterwards."""
    # Whole tables now, so that no kernel thread fills them in while something is timed.
    options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-N", str(inodes)]
    with _mounted(scratch, ["mkfs.ext4", *options]) as disk:
        yield disk


def why_no_clones() -> str:
    """Why there can be no filesystem here whose files are clones; empty when there can."""
    return why_no_images() or ("" if shutil.which("mkfs.xfs") else "not installed: mkfs.xfs")


@contextmanager
def cloning_filesystem(scratch: Path) -> Iterator[Path]:
    """As `fresh_filesystem`, of XFS."""
    with _mounted(scratch, ["mkfs.xfs", "-q", "-f", "-K", "-m", "reflink=1"]) as disk:
        yield disk


@contextmanager
def _mounted(scratch: Path, make: list[str]) -> Iterator[Path]:
    image = _take_image(scratch)
    mounted = Path(tempfile.mkdtemp(prefix="mounted-", dir=scratch))
    subprocess.run([*make, image], check=True)
    _mount(image, mounted)
    try:
        yield mounted
    finally:
        _unmount(mounted)
        mounted.rmdir()
        image.rename(image.with_suffix(FREE))


def _mount(image: Path, mounted: Path) -> None:
    """The device goes with the mount."""
    attach = ["losetup", "--find", "--show", "--direct-io=on", image]
    device = subprocess.run(attach, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        subprocess.run(["mount", device, mounted], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def _take_image(scratch: Path) -> Path:
    """One that nobody uses, or a new one. Images go with `scratch`."""
    home = scratch / "images"
    home.mkdir(exist_ok=True)
    for free in home.glob(f"*{FREE}"):
        return free.rename(free.with_suffix(USED))
    descriptor, path = tempfile.mkstemp(suffix=USED, dir=home)
    with open(descriptor, "wb") as file:
        for _ in range(IMAGE_BYTES // STEP_BYTES):
            file.write(bytes(STEP_BYTES))
        os.fsync(file.fileno())
    return Path(path)


@contextmanager
def work_place(scratch: Path) -> Iterator[Path]:
    """A fresh filesystem where one can be made, else a directory."""
    if why_no_images():
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            yield Path(directory)
    else:
        with fresh_filesystem(scratch) as disk:
            yield disk


def _unmount(mounted: Path) -> None:
    """A process that was killed may hold a file open for a moment longer."""
    for _ in range(UNMOUNT_TRIES):
        done = subprocess.run(["umount", mounted], stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return
        time.sleep(UNMOUNT_PAUSE_S)
    raise RuntimeError(done.stderr.strip())
