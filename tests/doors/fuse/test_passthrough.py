"""Files that the kernel reads by itself: what it is told, what it reads, and that it never gets what it would refuse.

`Modes` refuses what Linux refuses, so an open in the wrong mode fails every test here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random

import pytest

from lddp.core import records as r
from lddp.core.records import Content, OperationId
from lddp.doors.fuse import copying, memory, passthrough, wire
from lddp.doors.fuse.file import File
from lddp.doors.fuse.following import SETTLE_TURNS
from lddp.doors.fuse.protocol import FOPEN_DIRECT_IO, FOPEN_PASSTHROUGH, SetAttribute
from lddp.errors import UnavailableError
from tests.doors.fuse.kernel import PATIENCE_S, Kernel, MachineGround, Open, until
from tests.doors.fuse.passing import FakeBacking

DATA = b"some bytes that are long enough"
PASSED = FOPEN_PASSTHROUGH
DIRECT = FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "PASS_FROM_BYTES", 8)
    monkeypatch.setattr(memory, "COPY_BYTES_MAX", 0)
    monkeypatch.setattr(passthrough, "LOOK_S", 0.001)
    monkeypatch.setattr(passthrough, "AGAIN_S", 0.001)


async def made(kernel: Kernel, data: bytes = DATA) -> int:
    async with kernel.writing(b"f") as file:
        await file.write(0, data)
    return file.node


def theirs(ground: MachineGround, data: bytes, digest: bytes = b"\7") -> None:
    """What another zone puts."""
    ground.contents[digest * 32] = data
    id = OperationId(b"other", len(ground.order))
    assert not ground.apply(r.Put(id, 1, 7, b"/data/f", 0o644, 0, 0, Content(digest * 32, len(data)))).errno


async def over(kernel: Kernel, node: int) -> None:
    await until(lambda: node not in kernel.tree.passthrough)


async def test_who_only_reads_is_passed_and_who_writes_is_not(kernel: Kernel, backing: FakeBacking) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    assert reader.flags == PASSED and await reader.read() == DATA
    second = await kernel.open(node)
    assert second.flags == PASSED and len(backing.files) == 1
    await reader.close()
    await second.close()
    await over(kernel, node)
    writer = await kernel.open(node, os.O_WRONLY)
    late = await kernel.open(node)
    assert not writer.passes and not late.passes
    await writer.close()
    await late.close()


async def test_every_open_of_what_is_passed_is_passed(kernel: Kernel, backing: FakeBacking) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    others = [await kernel.open(node, flags) for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_DIRECT)]
    assert [other.flags for other in others] == [DIRECT] * 3
    await reader.close()
    late = await kernel.open(node)
    assert late.flags == PASSED
    for other in (*others, late):
        assert await other.read() == DATA
        await other.close()


async def test_a_reader_sees_all_changes_of_this_mount(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    writer = await kernel.open(node, os.O_WRONLY)
    await writer.write(5, b"BYTES")
    assert await reader.read() == b"some BYTES that are long enough"
    assert ground.content(b"/data/f") == DATA
    await kernel.setattr(node, SetAttribute.SIZE, size=10)
    assert await reader.read() == b"some BYTES"
    await writer.write(12, b"!")
    assert await reader.read() == b"some BYTES\0\0!"
    await writer.close()
    assert ground.content(b"/data/f") == b"some BYTES\0\0!"
    again = await kernel.open(node, os.O_WRONLY | os.O_TRUNC)
    assert await reader.read() == b""
    await again.write(0, b"short")
    await again.close()
    assert await reader.read() == b"short"
    await reader.close()


@pytest.mark.parametrize("data", [b"other bytes, of which there are even more", b"fewer then", b"few", b""])
async def test_a_reader_sees_what_another_zone_puts(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes
) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    theirs(ground, data)
    await kernel.told()
    assert await reader.read() == data
    late = await kernel.open(node)
    assert late.flags == PASSED and await late.read() == data
    await reader.close()
    await late.close()


async def test_a_reader_sees_what_another_zone_changes_in_place(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    ground.contents[b"\5" * 32] = b"BYTES"
    stamp = OperationId(b"other", 1), 1, 7
    assert not ground.apply(r.Write(*stamp, b"/data/f", 5, Content(b"\5" * 32, 5))).errno
    assert not ground.apply(r.Truncate(OperationId(b"other", 2), 1, 7, b"/data/f", 12)).errno
    await kernel.told()
    assert await reader.read() == b"some BYTES t"
    await reader.close()


async def test_who_opens_while_a_file_is_cut_by_its_name(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    """What passes then is what the file was, until the record is there."""
    theirs(ground, bytes(3 << 20))
    node = (await kernel.lookup(b"f")).inode
    ground.gate = asyncio.Event()
    cutting = asyncio.create_task(kernel.setattr(node, SetAttribute.SIZE, size=5))
    await ground.waiting.wait()
    reader = await kernel.open(node) if kernel.tree.pipeline is None else None
    ground.gate.set()
    await cutting
    await kernel.told()
    reader = reader or await kernel.open(node)
    assert await reader.read(0, 4 << 20) == bytes(5)
    await reader.close()


async def test_who_opens_after_a_change_reads_it_before_anybody_is_told(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    theirs(ground, b"other bytes")
    late = await kernel.open(node)
    assert await late.read() == await reader.read() == b"other bytes"
    await reader.close()
    await late.close()


async def test_what_is_not_committed_stays_when_another_zone_puts(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    writer = await kernel.open(node, os.O_WRONLY)
    await writer.write(0, b"mine")
    theirs(ground, b"other bytes")
    await kernel.told()
    assert (await reader.read())[:4] == b"mine"
    await writer.close()
    assert ground.content(b"/data/f") == b"mine" + DATA[4:]
    await reader.close()


async def test_bytes_that_cannot_be_had_are_asked_for_until_they_can(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    right, asked = ground.open_file, asyncio.Event()

    async def wrong(path: bytes) -> object:
        asked.set()
        raise UnavailableError("no node has it")

    monkeypatch.setattr(ground, "open_file", wrong)
    theirs(ground, b"other bytes")
    await asked.wait()
    assert await reader.read() == DATA
    monkeypatch.setattr(ground, "open_file", right)
    await kernel.told()
    assert await reader.read() == b"other bytes"
    await reader.close()


@pytest.mark.parametrize("is_queued", [False, True])
async def test_what_another_zone_puts_while_its_last_put_is_brought_is_brought_too(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, monkeypatch: pytest.MonkeyPatch, is_queued: bool
) -> None:
    """Also where a change of this mount is on its way: it has one version whatever comes before it."""
    node = await made(kernel)
    reader = await kernel.open(node)
    ground.gate = asyncio.Event()
    changing = asyncio.create_task(kernel.setattr(node, SetAttribute.MODE, mode=0o600)) if is_queued else None
    if changing is not None:
        await ground.waiting.wait()
    right, puts, loop = copying.replace, [b"the second one"], asyncio.get_running_loop()

    async def meanwhile() -> None:
        theirs(ground, puts.pop(), b"\6")
        for _ in range(3 * SETTLE_TURNS):  # the mount has heard of it
            await asyncio.sleep(0)

    def slow(source: int, target: int, size: int) -> None:
        right(source, target, size)
        if puts:
            asyncio.run_coroutine_threadsafe(meanwhile(), loop).result(PATIENCE_S)

    monkeypatch.setattr(copying, "replace", slow)
    theirs(ground, b"the first one")
    await kernel.told()
    assert await reader.read() == b"the second one" and not puts
    ground.gate.set()
    if changing is not None:
        await changing
    await reader.close()


async def test_a_file_without_a_name_stays_what_it_was(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    await kernel.unlink(b"f")
    await made(kernel, b"another one with that name")
    assert await reader.read() == DATA
    writer = await kernel.open(node, os.O_WRONLY)
    await writer.write(0, b"SOME")
    assert (await reader.read())[:5] == b"SOME "
    await writer.close()
    await reader.close()


# -- mappings


async def test_what_is_mapped_stays_the_file_that_it_is(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    """The mapping outlives the handle, and is to show what others write."""
    node = await made(kernel)
    reader = await kernel.open(node)
    mapped = os.dup(reader.opened.backing)
    backing.held.add(os.fstat(mapped).st_ino)
    await reader.close()
    writer = await kernel.open(node, os.O_WRONLY)
    assert writer.flags == DIRECT
    await writer.write(0, b"SOME")
    await writer.close()
    assert os.pread(mapped, 4, 0) == b"SOME"
    theirs(ground, b"other bytes")
    await kernel.told()
    assert os.pread(mapped, 99, 0) == b"other bytes"
    os.close(mapped)
    backing.held.clear()
    await over(kernel, node)
    cached = await kernel.open(node, os.O_WRONLY)
    assert not cached.passes
    await cached.close()


@pytest.mark.parametrize("by", ["fsync", "flush"])
async def test_stores_are_committed(kernel: Kernel, backing: FakeBacking, ground: MachineGround, by: str) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    writer = await kernel.open(node, os.O_RDWR)
    writer.store(0, b"SOME")
    assert await reader.read() == await writer.read() == b"SOME" + DATA[4:]
    await (writer.fsync() if by == "fsync" else writer.flush())
    assert ground.content(b"/data/f") == b"SOME" + DATA[4:]
    await writer.write(5, b"BYTES")
    await (writer.fsync() if by == "fsync" else writer.flush())
    assert ground.content(b"/data/f") == b"SOME BYTES" + DATA[10:]
    records = len(ground.order)
    await writer.flush()
    assert len(ground.order) == records
    await writer.close()
    await reader.close()


async def test_stores_that_cannot_be_read_do_not_hinder_the_rest(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount ends, and everything in it is to be committed."""
    node = await made(kernel)
    reader = await kernel.open(node)
    writer = await kernel.open(node, os.O_RDWR)
    writer.store(0, b"SOME")
    other = await kernel.create(b"other")
    await other.write(0, b"of another file")
    notice = kernel.tree.files.notice

    async def refused(file: File) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(kernel.tree.files, "notice", refused)
    await kernel.tree.commit_all()
    assert ground.content(b"/data/other") == b"of another file"
    monkeypatch.setattr(kernel.tree.files, "notice", notice)
    await kernel.tree.commit_all()
    assert ground.content(b"/data/f") == b"SOME" + DATA[4:]
    for file in (reader, writer, other):
        await file.close()


async def test_the_kernel_is_told_of_the_time_of_stores(kernel: Kernel, backing: FakeBacking) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    writer = await kernel.open(node, os.O_RDWR)
    before = await kernel.stat(node)
    backing.notices.clear()
    writer.store(0, b"SOME")
    await writer.fsync()
    await kernel.told()
    assert b"".join(wire.inode_notice(node, -1)) in backing.notices
    assert (await kernel.stat(node)).mtime_ns > before.mtime_ns
    await writer.close()
    await reader.close()


async def test_stores_that_are_synced_are_committed_soon(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    """As by msync, of which nothing is told. What is only written waits for its close; what is only stored, too."""
    node = await made(kernel)
    reader = await kernel.open(node)
    writer = await kernel.open(node, os.O_RDWR)
    backing.clean = False
    writer.store(0, b"SOME")
    asked = backing.asked
    await until(lambda: backing.asked >= asked + 3)
    assert ground.content(b"/data/f") == DATA
    backing.clean = True
    await until(lambda: ground.content(b"/data/f") == b"SOME" + DATA[4:])
    asked, records = backing.asked, len(ground.order)
    await writer.write(5, b"BYTES")
    await until(lambda: backing.asked >= asked + 2)
    assert ground.content(b"/data/f") == b"SOME" + DATA[4:]
    writer.store(0, b"more")
    await until(lambda: ground.content(b"/data/f") == b"more BYTES" + DATA[10:])
    assert len(ground.order) == records + 1, "what was only written had no record of its own"
    await writer.close()
    await reader.close()


@pytest.mark.parametrize("is_read", [True, False])
async def test_stores_after_the_last_close_are_committed(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, is_read: bool
) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    writer = await kernel.open(node, os.O_RDWR)
    mapped = os.dup(writer.opened.backing)
    backing.held.add(os.fstat(mapped).st_ino)
    await writer.close()
    if not is_read:
        await reader.close()
    os.pwrite(mapped, b"LATE", 0)
    await until(lambda: ground.content(b"/data/f") == b"LATE" + DATA[4:])
    os.close(mapped)
    backing.held.clear()
    if is_read:
        await reader.close()


async def test_stores_are_not_lost_to_what_another_zone_puts_meanwhile(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    writer = await kernel.open(node, os.O_RDWR)
    writer.store(0, b"mine")
    theirs(ground, b"other bytes")
    await kernel.told()
    await writer.close()
    assert ground.content(b"/data/f") == b"mine" + DATA[4:]
    await reader.close()


async def test_what_is_written_is_not_taken_for_stores(kernel: Kernel, backing: FakeBacking) -> None:
    """Its time is what the program has chosen for it."""
    node = await made(kernel)
    reader = await kernel.open(node)
    writer = await kernel.open(node, os.O_RDWR)
    await writer.write(0, b"SOME")
    await kernel.setattr(node, SetAttribute.MTIME, mtime_ns=5)
    await writer.close()
    assert (await kernel.stat(node)).mtime_ns == 5
    await reader.close()


async def test_who_could_store_is_not_overtaken_again(kernel: Kernel, backing: FakeBacking) -> None:
    node = await made(kernel)
    await (await kernel.open(node, os.O_RDWR)).close()
    reader = await kernel.open(node)
    assert not reader.passes
    await reader.close()


# -- where there is none


@pytest.mark.parametrize(
    ("number", "clones"), [(errno.EPERM, 1), (errno.EOPNOTSUPP, 1), (errno.ENOSPC, 2), (errno.EXDEV, 2)]
)
async def test_what_the_kernel_or_the_disk_refuses_is_as_before(
    kernel: Kernel, backing: FakeBacking, number: int, clones: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not tried again, where it will not be otherwise."""
    asked = 0

    def clone(source: int, target: int) -> None:
        nonlocal asked
        asked += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(backing, "clone", clone)
    monkeypatch.setattr("lddp.doors.fuse.files.IDLE_BYTES_MAX", 0)
    node = await made(kernel)
    for _ in range(2):
        reader = await kernel.open(node)
        assert not reader.passes and await reader.read() == DATA
        await reader.close()
    assert asked == clones


async def test_a_file_that_the_kernel_will_not_take_is_cached(kernel: Kernel, backing: FakeBacking) -> None:
    node = await made(kernel)
    backing.refuses = errno.EPERM
    reader = await kernel.open(node)
    assert not reader.passes and await reader.read() == DATA
    await reader.close()


async def test_what_is_not_on_the_disk_is_brought_there_for_a_later_open(
    kernel: Kernel, backing: FakeBacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lddp.doors.fuse.files.IDLE_BYTES_MAX", 0)
    node = await made(kernel)
    backing.clean = False
    reader = await kernel.open(node)
    assert not reader.passes
    await reader.close()
    backing.clean = True
    for _ in range(100):
        reader = await kernel.open(node)
        await reader.close()
        if reader.passes:
            return
        await asyncio.sleep(0.01)
    pytest.fail("it was never passed")


async def test_a_clone_of_what_changed_meanwhile_is_not_used(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lddp.doors.fuse.files.IDLE_BYTES_MAX", 0)
    node = await made(kernel)
    ground.intact = [False]  # as where a program changes a file at its source
    reader = await kernel.open(node)
    assert not reader.passes and await reader.read() == DATA
    await reader.close()


async def test_small_files_are_asked_for(kernel: Kernel, backing: FakeBacking) -> None:
    node = await made(kernel, b"small")
    reader = await kernel.open(node)
    assert not reader.passes
    await reader.close()


async def test_without_passthrough_nothing_is_passed(kernel: Kernel) -> None:
    node = await made(kernel)
    reader = await kernel.open(node)
    assert not reader.passes and not reader.flags & FOPEN_PASSTHROUGH
    await reader.close()


# -- at random


@pytest.mark.parametrize("seed", range(20))
async def test_opens_and_closes_in_any_order(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, seed: int
) -> None:
    """Some at the same time; all who have it open see the same, and the log gets it."""
    chosen = random.Random(seed)
    node = await made(kernel)
    opened: list[Open] = [await kernel.open(node)] if seed % 2 else []
    passed = sum(one.passes for one in opened)
    ways = [os.O_RDONLY, os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDONLY | os.O_DIRECT]
    for step in range(60):
        if step == 40:
            ways.append(os.O_RDWR)
        match chosen.randrange(5):
            case 0 | 1:
                several = [kernel.open(node, chosen.choice(ways)) for _ in range(chosen.randrange(1, 4))]
                opened += await asyncio.gather(*several)
                passed += sum(one.passes for one in opened)
            case 2 if opened:
                await opened.pop(chosen.randrange(len(opened))).close()
            case 3:
                writers = [one for one in opened if one.is_writer]
                if writers:
                    await chosen.choice(writers).write(chosen.randrange(40), b"%d" % step)
            case _:
                theirs(ground, b"%d " % step * chosen.randrange(2, 20), bytes((step + 10,)))
                await kernel.told()
        readers = [one for one in opened if not one.is_writer]
        assert len({await one.read() for one in readers}) <= 1
    assert passed or not seed % 2
    for one in opened:
        await one.close()
    reader = await kernel.open(node)
    assert await reader.read() == ground.content(b"/data/f")
    await reader.close()


async def test_the_answer_to_an_open_names_the_backing_file() -> None:
    assert wire.open_answer(7, FOPEN_PASSTHROUGH, 3) == bytes.fromhex("0700000000000000 80000000 03000000")
    assert wire.backing_map(5) == bytes.fromhex("05000000 00000000 0000000000000000")
    assert wire.backing_number(3) == bytes.fromhex("03000000")
