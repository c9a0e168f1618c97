"""A filesystem whose files can be clones of each other, and programs that do in a mount what they are told."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.doors.fuse.live import PATIENCE_S, WHY_NOT

IMAGE_BYTES = 512 << 20


@contextmanager
def cloning_filesystem(directory: Path) -> Iterator[Path]:
    """XFS in a file, mounted by a loop device."""
    image, mounted = directory / "xfs.image", directory / "xfs"
    mounted.mkdir()
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True, capture_output=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)
        image.unlink()


@functools.cache
def why_no_clones() -> str:
    if WHY_NOT:
        return WHY_NOT
    if shutil.which("mkfs.xfs") is None:
        return "mkfs.xfs is not installed"
    if not hasattr(os, "uname") or tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9):
        return "this kernel has no passthrough"
    return ""


can_clone = pytest.mark.skipif(bool(why_no_clones()), reason=why_no_clones())

DRIVEN = """
import fcntl, mmap, os, sys
names = {'fcntl': fcntl, 'mmap': mmap, 'os': os, 'sys': sys}
for line in sys.stdin:
    kind, code = eval(line)
    try:
        found = eval(code, names) if kind == 'ask' else exec(code, names)
    except OSError as error:
        found = error.errno
    print(repr(found), flush=True)
"""


class Driven:
    """A program in a mount; what a call raises as OSError is its errno."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def _tell(self, kind: str, code: str) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(repr((kind, code)).encode() + b"\n")
        async with asyncio.timeout(PATIENCE_S):
            answer = await stdout.readline()
        assert answer, f"the program ended at {code}"
        return eval(answer)

    async def do(self, code: str) -> None:
        found = await self._tell("do", code)
        assert found is None, (code, found)

    async def ask(self, code: str) -> Any:
        return await self._tell("ask", code)


@asynccontextmanager
async def driven(point: Path) -> AsyncIterator[Driven]:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-ec", 'cd "$0"; exec "$@"', str(point), sys.executable, "-c", DRIVEN),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=1 << 26,
    )
    try:
        yield Driven(process)
    finally:
        process.kill()
        await process.wait()
