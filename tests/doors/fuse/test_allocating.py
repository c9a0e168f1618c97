"""Holes and room that a program asks for (fallocate), and does not get or does not live to see."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
import threading

import pytest

from lddp.doors.fuse import copying
from lddp.doors.fuse.protocol import Opcode
from lddp.doors.fuse.wire import inode_notice
from tests.doors.fuse.followed import followed
from tests.doors.fuse.kernel import Kernel, MachineGround, Open, until
from tests.doors.fuse.test_names import number

PUNCH, ZERO = copying.KEEP_SIZE | 2, 16
SIZE = 8192
HOLE = bytes(4096) + b"a" * 4096


async def fallocate(file: Open, mode: int, length: int) -> bytes:
    return await file.kernel(Opcode.FALLOCATE, file.node, struct.pack("<QQQII", file.handle, 0, length, mode, 0))


async def opened(kernel: Kernel) -> Open:
    async with kernel.writing(b"f") as made:
        await made.write(0, b"a" * SIZE)
    return await kernel.open(made.node, os.O_RDWR)


@pytest.mark.parametrize(
    ("mode", "length", "expected"),
    [(PUNCH, 4096, HOLE), (ZERO, 2 * SIZE, bytes(SIZE)), (0, 2 * SIZE, b"a" * SIZE)],
    ids=["hole", "zeros", "room"],
)
async def test_what_a_killed_program_has_asked_for_is_in_the_log_or_not_there(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch, mode: int, length: int, expected: bytes
) -> None:
    """The kernel was told that it was not done, and has what it had of the bytes and of the size."""
    file = await opened(kernel)
    held, begun, allocate = threading.Event(), threading.Event(), copying.allocate

    def slow(*arguments: int) -> None:
        begun.set()
        held.wait()
        allocate(*arguments)

    monkeypatch.setattr(copying, "allocate", slow)
    async with followed(kernel) as told:
        call = asyncio.create_task(fallocate(file, mode, length))
        await until(begun.is_set)
        told.notices.clear()
        call.cancel()
        held.set()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await told.all()
        assert b"".join(inode_notice(file.node, 0)) in told.notices
        await file.close()
        reader = await kernel.open(file.node)
        assert not reader.keeps_cache
        assert await reader.read(0, 4 * SIZE) == ground.content(b"/data/f") == expected
        await reader.close()


@pytest.mark.parametrize(
    ("why", "is_changed"), [(errno.EIO, True), (errno.EOPNOTSUPP, False)], ids=["EIO", "not there"]
)
async def test_a_hole_that_the_disk_refuses(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch, why: int, is_changed: bool
) -> None:
    """A disk that fails may have done a part of it; where there are no holes, a file is not sent again for that."""
    file = await opened(kernel)

    def fails(descriptor: int, mode: int, offset: int, length: int) -> None:
        os.pwrite(descriptor, bytes(100 if is_changed else 0), 0)
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(copying, "allocate", fails)
    sent = len(ground.uploads)
    assert await number(fallocate(file, PUNCH, 4096)) == why
    await file.close()
    assert (len(ground.uploads) > sent) is is_changed
    reader = await kernel.open(file.node)
    assert await reader.read(0, SIZE) == ground.content(b"/data/f")
    await reader.close()
