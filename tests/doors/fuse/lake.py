"""Mounts at two nodes over a filesystem with clones, and programs in them that have files open."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from lddp.doors.fuse.passthrough import PASS_FROM_BYTES, Passthrough
from tests.doors.fuse.cloning import Driven, cloning_filesystem, driven
from tests.doors.fuse.live import PATIENCE_S, MountedTrio, trio
from tests.doors.fuse.test_mounted import trio_mount_at_target
from tests.node.trio import SOURCE, TARGET

SIZE = PASS_FROM_BYTES * 2 + 77


class Lake:
    """A mount at each of two nodes, over one filesystem with clones; `f` has SIZE bytes of `a`."""

    def __init__(self, nodes: MountedTrio, stack: AsyncExitStack) -> None:
        self.nodes = nodes
        self._stack = stack
        self.there_point = Path()

    @property
    def passthrough(self) -> Passthrough:
        return self.nodes.nodes[SOURCE].mounts.mounts[bytes(self.nodes.point)].tree.passthrough

    async def here(self) -> Driven:
        return await self._stack.enter_async_context(driven(self.nodes.point))

    async def there(self) -> Driven:
        return await self._stack.enter_async_context(driven(self.there_point))

    async def agreed(self) -> None:
        for name in (SOURCE, TARGET):
            await self.nodes.nodes[name].backend.barrier(PATIENCE_S)

    async def settled(self) -> None:
        """All that is in the log is in both zones, and on their disk."""
        await self.agreed()
        await self.nodes.settled()
        await asyncio.to_thread(subprocess.run, ["sync", "-f", self.nodes.source], check=True)

    async def over(self, number: int) -> None:
        await self.nodes.until(lambda: number not in self.passthrough)


@asynccontextmanager
async def lake_at(directory: Path) -> AsyncIterator[Lake]:
    with cloning_filesystem(directory) as disk:
        async with AsyncExitStack() as stack:
            nodes = await stack.enter_async_context(trio(disk, passthrough=True))
            there = await stack.enter_async_context(trio_mount_at_target(nodes))
            lake = Lake(nodes, stack)
            lake.there_point = there.point
            await nodes.programs.python(f"open('f', 'wb').write(b'a' * {SIZE})")
            await lake.settled()
            yield lake


OPEN = "fd = os.open('f', os.O_RDONLY); number = os.fstat(fd).st_ino"


async def reader(lake: Lake) -> tuple[Driven, int]:
    """A program that has `f` open as `fd`, passed."""
    program = await lake.here()
    await program.do(OPEN)
    number = await program.ask("number")
    assert number in lake.passthrough
    assert await program.ask("os.pread(fd, 4, 0)") == b"aaaa"
    return program, number
