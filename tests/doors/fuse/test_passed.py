"""Files that the kernel reads by itself, in mounts of real nodes: what a program reads is what it would read without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from lddp.doors.fuse.passthrough import PASS_FROM_BYTES, Passthrough
from tests.doors.fuse.cloning import Driven, can_clone, cloning_filesystem, driven
from tests.doors.fuse.live import PATIENCE_S, MountedTrio, can_mount, trio
from tests.doors.fuse.test_mounted import trio_mount_at_target
from tests.node.trio import SOURCE, TARGET

pytestmark = [can_mount, can_clone]
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

    async def passes(self, number: int) -> bool:
        return number in self.passthrough

    async def over(self, number: int) -> None:
        await self.nodes.until(lambda: number not in self.passthrough)


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    with cloning_filesystem(tmp_path) as disk:
        async with AsyncExitStack() as stack:
            nodes = await stack.enter_async_context(trio(disk))
            there = await stack.enter_async_context(trio_mount_at_target(nodes))
            lake = Lake(nodes, stack)
            lake.there_point = there.point
            await nodes.programs.python(f"open('f', 'wb').write(b'a' * {SIZE})")
            await lake.agreed()
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


async def test_a_file_is_passed_while_it_is_open(lake: Lake) -> None:
    program, number = await reader(lake)
    assert await program.ask(f"os.pread(fd, 1 << 25, 0) == b'a' * {SIZE}")
    await program.do("os.close(fd)")
    await lake.over(number)


async def test_a_reader_sees_who_writes_in_the_same_mount(lake: Lake) -> None:
    program, _ = await reader(lake)
    writer = await lake.here()
    await writer.do("fd = os.open('f', os.O_WRONLY); os.pwrite(fd, b'new', 10)")
    assert await program.ask("os.pread(fd, 6, 8)") == b"aanewa"
    await writer.do(f"os.ftruncate(fd, {SIZE} + 5)")
    assert await program.ask(f"os.pread(fd, 9, {SIZE} - 2)") == b"aa\0\0\0\0\0"
    await writer.do("os.close(fd)")
    await lake.nodes.assert_equal()


async def test_a_reader_sees_what_another_zone_puts(lake: Lake) -> None:
    program, _ = await reader(lake)
    await program.do(f"mapped = mmap.mmap(fd, {SIZE}, prot=mmap.PROT_READ)")
    other = await lake.there()
    await other.do(f"open('f', 'wb').write(b'b' * {SIZE})")
    await lake.agreed()
    assert await program.ask(f"os.pread(fd, 1 << 25, 0) == b'b' * {SIZE}")
    assert await program.ask("mapped[:3]") == b"bbb"
