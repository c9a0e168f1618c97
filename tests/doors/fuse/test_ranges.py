"""Changed ranges of a large file, and what another zone puts there while they are on their way."""

from __future__ import annotations

import asyncio
import os

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import OperationId
from lddp.doors.fuse import committing
from lddp.doors.fuse.wire import inode_notice
from tests.doors.fuse.followed import followed, put
from tests.doors.fuse.kernel import Kernel, MachineGround, Open, plain
from tests.doors.fuse.passing import FakeBacking
from tests.doors.fuse.test_elsewhere import Elsewhere, meanwhile

BIG = 2 * committing.RANGES_FROM_BYTES
MIXED = b"mine" + b"b" * (BIG - 4)


@pytest.fixture
def mode() -> WriteMode:
    """Of the other mode the queue finds out what came in between."""
    return WriteMode.SYNC


def replaced(ground: MachineGround) -> None:
    put(ground, b"/data/f", b"b" * BIG)


def cut(ground: MachineGround) -> None:
    record = r.Truncate(OperationId(b"other", len(ground.order)), 1, 7, b"/data/f", BIG - 9)
    assert not ground.apply(record).errno


@pytest.mark.parametrize(
    ("elsewhere", "expected"), [(replaced, MIXED), (cut, b"mine" + b"a" * (BIG - 13))], ids=["put", "cut"]
)
async def test_ranges_over_what_another_zone_did_meanwhile(
    kernel: Kernel, ground: MachineGround, elsewhere: Elsewhere, expected: bytes
) -> None:
    """What the mount shows is what the log says, also where both are mixed; so does who has it open."""
    put(ground, b"/data/f", b"a" * BIG)
    async with followed(kernel) as told:
        file = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR)
        assert await file.read(BIG - 4, 4) == b"aaaa"
        await file.write(0, b"mine")
        await meanwhile(ground, file.fsync(), elsewhere)
        assert [type(plain(record)) for record in ground.order[-2:]][1] is r.Write
        assert ground.content(b"/data/f") == expected
        reader = await kernel.open(file.node)
        assert not reader.keeps_cache
        told.notices.clear()
        for one in (reader, file):
            assert await one.read(0, BIG) == expected
        await told.all()
        await file.write(1, b"INE")
        await file.close()
        await reader.close()
    assert ground.content(b"/data/f") == b"mINE" + expected[4:]


async def test_the_kernel_forgets_what_it_has_of_a_file_whose_ranges_were_mixed(
    kernel: Kernel, ground: MachineGround
) -> None:
    put(ground, b"/data/f", b"a" * BIG)
    async with followed(kernel) as told:
        file = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR)
        await file.write(0, b"mine")
        ground.gate, ground.waiting = asyncio.Event(), asyncio.Event()
        fsync = asyncio.create_task(file.fsync())
        await ground.waiting.wait()
        replaced(ground)
        await told.all()  # what is written here hides it
        told.notices.clear()
        ground.gate.set()
        ground.gate = None
        await fsync
        await told.all()
        assert b"".join(inode_notice(file.node, 0)) in told.notices
        await file.close()


async def passed_and_changed(kernel: Kernel, ground: MachineGround) -> tuple[Open, Open]:
    """Who reads a file that passes, and who has changed a range of it."""
    put(ground, b"/data/f", b"a" * BIG)
    reader = await kernel.open((await kernel.lookup(b"f")).inode)
    assert reader.passes
    file = await kernel.open(reader.node, os.O_RDWR)
    await file.write(0, b"mine")
    return reader, file


async def test_a_passed_file_whose_ranges_were_mixed(
    kernel: Kernel, ground: MachineGround, backing: FakeBacking
) -> None:
    reader, file = await passed_and_changed(kernel, ground)
    await meanwhile(ground, file.close(), replaced)
    await kernel.told()
    assert await reader.read(0, BIG) == ground.content(b"/data/f") == MIXED
    await reader.close()


async def test_ranges_that_nobody_came_between_stay_what_the_copy_has(kernel: Kernel, ground: MachineGround) -> None:
    """Also where only the file's attributes were changed elsewhere, and where it was cut, and made longer again."""
    put(ground, b"/data/f", b"a" * BIG)
    file = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR)
    shared = kernel.tree.files.get(file.node)
    assert shared is not None
    for change in range(3):
        if change == 1:
            await kernel.setattr(file.node, 1 << 3 | 1 << 6, size=BIG - 100, handle=file.handle)
        await file.write(BIG - 10 + change, b"mine")

        def chmod(ground: MachineGround) -> None:
            record = r.SetAttributes(OperationId(b"other", len(ground.order)), 1, 7, b"/data/f", mode=0o600)
            assert not ground.apply(record).errno

        await meanwhile(ground, file.fsync(), chmod)
        with ground.view() as view:
            inode = view.inode(file.node)
        assert inode is not None and inode.content is not None and not inode.content.sealed
        assert (shared.digest, shared.is_stale) == (inode.content.digest, False)
    opened = len(ground.open_files)
    assert await file.read(0, BIG) == ground.content(b"/data/f")
    await file.close()
    assert len(ground.open_files) == opened


async def test_a_passed_file_whose_ranges_were_mixed_after_the_other_put_was_told_of(
    kernel: Kernel, ground: MachineGround, backing: FakeBacking
) -> None:
    reader, file = await passed_and_changed(kernel, ground)
    ground.gate, ground.waiting = asyncio.Event(), asyncio.Event()
    close = asyncio.create_task(file.close())
    await ground.waiting.wait()
    put(ground, b"/data/f", b"b" * BIG)
    await kernel.told()
    ground.gate.set()
    ground.gate = None
    await close
    for _ in range(3):
        await kernel.told()
    found = await reader.read(0, BIG)
    await reader.close()
    assert ground.content(b"/data/f") == MIXED
    assert found == MIXED
