"""Fresh ext4 filesystems on loop devices, so that no run pays for what another one deleted."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE_BYTES = 6 << 30
TOOLS = ("mkfs.ext4", "mount", "umount")


def why_no_images() -> str:
    """Why loop-mounted filesystems cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "only root can mount an image"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if os.path.exists("/dev/loop-control") else "the kernel has no loop devices"


@contextmanager
def fresh_filesystem(scratch: Path) -> Iterator[Path]:
    """An empty ext4 filesystem, mounted; destroyed as a whole afterwards."""
    home = Path(tempfile.mkdtemp(prefix="image-", dir=scratch))
    image, mounted = home / "ext4.img", home / "mounted"
    mounted.mkdir()
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    # Whole tables now, so that no kernel thread fills them in while something is timed.
    options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-i", "32768"]
    subprocess.run(["mkfs.ext4", *options, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", mounted], check=True)
        image.unlink()
        mounted.rmdir()
        home.rmdir()
