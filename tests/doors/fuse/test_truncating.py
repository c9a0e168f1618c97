"""Files that are cut: by who has them not open, and does not live to see it ordered; by who opens them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from pathlib import Path

import pytest

from lddp.config import WriteMode
from lddp.doors.fuse.ground import Patience
from lddp.doors.fuse.protocol import SetAttribute
from lddp.doors.fuse.wire import inode_notice
from lddp.errors import UnavailableError
from tests.doors.fuse.followed import followed, put
from tests.doors.fuse.kernel import Kernel, MachineGround, until
from tests.doors.fuse.live import Programs, can_mount, trio
from tests.doors.fuse.passing import FakeBacking
from tests.doors.fuse.test_names import number

S = SetAttribute


async def cut_in_vain(kernel: Kernel, node: int, why: str) -> None:
    """`truncate -s 4` without a majority, which fails or is killed."""
    ground = kernel.ground
    if why == "failed":
        ground.failure = UnavailableError("no majority")
        assert await number(kernel.setattr(node, S.SIZE, size=4)) == errno.EIO
        ground.failure = None
        return
    ground.gate, ground.waiting = asyncio.Event(), asyncio.Event()
    call = asyncio.create_task(kernel.setattr(node, S.SIZE, size=4))
    await ground.waiting.wait()
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    ground.gate.set()
    ground.gate = None


@pytest.fixture
def mode() -> WriteMode:
    """A pipelined mount has no cut that fails for want of a majority."""
    return WriteMode.SYNC


@pytest.fixture(params=["failed", "killed"])
def why(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def soft(ground: MachineGround, why: str) -> Kernel:
    return Kernel(ground, Patience(0.01 if why == "failed" else None))


@pytest.mark.parametrize("readers", [0, 1], ids=["closed", "being read"])
async def test_a_cut_that_failed_is_not_committed_over_what_another_zone_put_later(
    soft: Kernel, ground: MachineGround, why: str, readers: int
) -> None:
    async with followed(soft) as told:
        async with soft.writing(b"f") as file:
            await file.write(0, b"0123456789")
        reading = [await soft.open(file.node) for _ in range(readers)]
        told.notices.clear()
        await cut_in_vain(soft, file.node, why)
        await told.all()
        assert b"".join(inode_notice(file.node, 0)) in told.notices  # what it may have read meanwhile
        assert [await one.read() for one in reading] == [b"0123456789"] * readers
        put(ground, b"/data/f", b"theirs, later")
        await told.all()
        reader = await soft.open(file.node)
        assert await reader.read() == b"theirs, later"
        for one in [reader, *reading]:
            await one.close()  # nobody has written
        await soft.tree.commit_all()
    assert not [one for one in soft.tree.files if not one.opens and one.is_ahead]
    await soft.filesystem.close()
    assert ground.content(b"/data/f") == b"theirs, later"
    assert not ground.still_open()


async def test_a_cut_that_failed_is_not_in_what_the_kernel_reads_by_itself(
    soft: Kernel, ground: MachineGround, why: str
) -> None:
    backing: FakeBacking = soft.passes()
    async with followed(soft) as told:
        put(ground, b"/data/f", b"a" * (2 << 20))
        reader = await soft.open((await soft.lookup(b"f")).inode)
        assert reader.passes
        await cut_in_vain(soft, reader.node, why)
        await told.all()
        assert await reader.read(0, 8) == b"a" * 8
        await reader.close()
        backing.held.clear()
        await until(lambda: not backing.files)
    await soft.filesystem.close()
    assert ground.content(b"/data/f") == b"a" * (2 << 20)


async def test_a_cut_that_failed_is_committed_by_who_has_the_file_open_for_writing(
    soft: Kernel, ground: MachineGround, why: str
) -> None:
    """Its bytes come after the cut, in the mount's one copy."""
    async with soft.writing(b"f") as file:
        await file.write(0, b"0123456789")
    writer = await soft.open(file.node, os.O_RDWR)
    await writer.write(1, b"w")
    await cut_in_vain(soft, file.node, why)
    await writer.close()
    await soft.filesystem.close()
    assert ground.content(b"/data/f") == b"0w23"


async def test_what_was_stored_while_a_cut_was_killed_is_not_lost(kernel: Kernel, ground: MachineGround) -> None:
    """By a mapping of a file that is closed: nobody else would ever commit it."""
    writer = await kernel.create(b"f")
    await writer.write(0, b"0123456789")
    await writer.flush()
    ground.gate, ground.waiting = asyncio.Event(), asyncio.Event()
    call = asyncio.create_task(kernel.setattr(writer.node, S.SIZE, size=4))
    await ground.waiting.wait()
    await writer.write(1, b"w")
    await writer.release()
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    ground.gate.set()
    await kernel.tree.commit_all()
    assert ground.content(b"/data/f") == b"0w23"


async def test_who_opens_a_file_to_read_may_cut_it(ground: MachineGround) -> None:
    """As Linux does it; the kernel believes that it was done, and its close has it in the log."""
    for mode in WriteMode:
        kernel = Kernel(ground, mode=mode)
        made = await kernel.create(b"f", os.O_WRONLY | os.O_TRUNC)
        await made.write(0, b"bytes")
        await made.close()
        await kernel.tree.barrier()
        opened = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDONLY | os.O_TRUNC)
        assert (await kernel.stat(opened.node)).size == 0 and await opened.read() == b""
        await opened.flush()
        assert ground.content(b"/data/f") == b""
        await opened.release()
        await kernel.filesystem.close()
        assert not ground.still_open()


@can_mount
async def test_who_opens_a_mounted_file_to_read_may_cut_it(tmp_path: Path) -> None:
    script = "import os; open('f', 'w').write('bytes'); fd = os.open('f', os.O_RDONLY | os.O_TRUNC);"
    script += "print(os.pread(fd, 9, 0), os.path.getsize('f'), flush=True); os.close(fd);"
    script += "print(os.path.getsize('f'), open('f').read() == '')"
    async with trio(tmp_path) as nodes:
        local = Programs(tmp_path)
        assert await nodes.programs.python(script) == await local.python(script) == "b'' 0\n0 True\n"
