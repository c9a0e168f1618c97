"""What the kernel is told of changes that this mount did not make."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import Content, OperationId
from lddp.doors.fuse import protocol
from lddp.doors.fuse.protocol import Opcode, SetAttribute
from tests.doors.fuse.kernel import Kernel, MachineGround, Open, until
from tests.doors.fuse.test_data import put_elsewhere
from tests.doors.fuse.told import Told, attributes, bytes_of, name


async def test_attributes(kernel: Kernel, told: Told) -> None:
    made = await kernel.mkdir(b"d")
    assert await told.elsewhere(r.SetAttributes, b"/data/d", 0o700) == {attributes(made.inode)}


async def test_a_name_that_went(kernel: Kernel, told: Told) -> None:
    made = await kernel.mkdir(b"d")
    expected = {attributes(made.inode), name(1, b"d"), attributes(1)}
    assert await told.elsewhere(r.RemoveDirectory, b"/data/d") == expected


async def test_names_that_moved(kernel: Kernel, told: Told) -> None:
    one, two = await kernel.mkdir(b"one"), await kernel.mkdir(b"two")
    found = await told.elsewhere(r.Rename, b"/data/one", b"/data/two/in", r.RenameFlag.NONE)
    assert found == {name(1, b"one"), attributes(one.inode), attributes(two.inode), attributes(1)}
    # It is told once.
    assert await told.elsewhere(r.SetAttributes, b"/data/two/in", 0o700) == {attributes(one.inode)}


async def test_bytes(kernel: Kernel, told: Told, ground: MachineGround) -> None:
    async with kernel.writing(b"f") as file:
        await file.write(0, b"mine")
    reader = await kernel.open(file.node)
    assert await reader.read() == b"mine"
    put_elsewhere(ground, b"/data/f", b"theirs, longer")
    assert await told.next() == {bytes_of(file.node)}
    # Who has it open sees it at once, since no copy of his own is in the way.
    assert await reader.read() == b"theirs, longer"
    await reader.close()


async def test_who_writes_keeps_what_he_wrote(kernel: Kernel, told: Told, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"mine")
    put_elsewhere(ground, b"/data/f", b"theirs, longer")
    assert await told.next() == {attributes(file.node)}
    assert await file.read() == b"mine"
    await file.close()


async def test_a_writer_goes_on_from_what_came(kernel: Kernel, told: Told, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"mine")
    await file.fsync()
    put_elsewhere(ground, b"/data/f", b"theirs")
    await told.next()
    await file.write(0, b"T")
    await file.close()
    assert ground.content(b"/data/f") == b"Theirs"


async def test_nothing_is_told_of_own_changes_and_of_what_the_kernel_does_not_know(
    kernel: Kernel, told: Told, ground: MachineGround
) -> None:
    made = await kernel.mkdir(b"d")
    async with kernel.writing(b"f") as file:
        await file.write(0, b"bytes")
    await kernel.rename(b"f", b"g", above=made.inode)
    await kernel(Opcode.UNLINK, made.inode, b"g\0")
    await kernel.mkdir(b"unknown")
    await told.settled()
    kernel.filesystem.forget([((await kernel.lookup(b"unknown")).inode, 2)])
    ground.apply(r.SetAttributes(OperationId(b"other", 1), 1, 7, b"/data/unknown", 0o700))
    assert await told.elsewhere(r.SetAttributes, b"/data/d", 0o700) == {attributes(made.inode)}
    assert told.is_silent


async def test_writing_that_takes_privileges_away_is_told(kernel: Kernel, told: Told) -> None:
    file = await kernel.create(b"f", os.O_RDWR, mode=0o4755)
    await told.settled()
    assert told.is_silent
    await file.write(0, b"x", flags=protocol.WRITE_KILL_SUIDGID)
    assert await told.next() == {attributes(file.node)}
    await file.close()


async def test_what_the_kernel_has_moved_instead_of_what_has_the_name(
    kernel: Kernel, told: Told, ground: MachineGround
) -> None:
    """It knew another object by it, and has not heard yet that another zone has replaced that."""
    await kernel.mkdir(b"d")
    await told.settled()
    stamp = OperationId(b"other", 1), 1, 7
    assert not ground.apply(r.RemoveDirectory(*stamp, b"/data/d")).errno
    stamp = OperationId(b"other", 2), 1, 7
    made = ground.apply(r.MakeDirectory(*stamp, b"/data/d", 0o755, 0, 0))
    await kernel.rename(b"d", b"e")
    found = await told.next()
    await told.settled()
    while not told.is_silent:
        found |= await told.next()
    assert name(protocol.ROOT, b"e") in found
    assert (await kernel.lookup(b"e")).inode == made.inode


@pytest.mark.parametrize("mode", [WriteMode.SYNC])
async def test_what_the_kernel_has_learned_while_a_rename_was_on_its_way(
    kernel: Kernel, told: Told, ground: MachineGround
) -> None:
    await kernel.mknod(b"f", 0o100644)
    ground.gate, ground.waiting = asyncio.Event(), asyncio.Event()
    renaming = asyncio.ensure_future(kernel.rename(b"f", b"g", flags=2))
    await ground.waiting.wait()
    gate, ground.gate = ground.gate, None
    await kernel.mknod(b"g", 0o100644)
    gate.set()
    await renaming
    await told.rest()
    assert name(protocol.ROOT, b"f") in await told.elsewhere(r.Unlink, b"/data/f")


async def test_two_names_of_one_file_that_changed_places(kernel: Kernel, told: Told) -> None:
    """Both are still known, so that the kernel hears when one of them goes."""
    async with kernel.writing(b"f") as file:
        await file.write(0, b"x")
    await kernel(Opcode.LINK, protocol.ROOT, struct.pack("<Q", file.node) + b"g\0")
    await kernel.rename(b"f", b"g", flags=2)
    assert name(protocol.ROOT, b"f") in await told.elsewhere(r.Unlink, b"/data/f")


async def test_who_has_an_empty_file_open_reads_what_another_zone_puts(
    kernel: Kernel, ground: MachineGround, told: Told
) -> None:
    async with kernel.writing(b"f") as file:
        pass
    reader = await kernel.open(file.node)
    assert await reader.read() == b""
    put_elsewhere(ground, b"/data/f", b"not empty any more")
    await told.settled()
    assert await reader.read() == b"not empty any more"
    await reader.close()


async def test_a_name_that_another_zone_changed_while_it_was_moved(kernel: Kernel, told: Told) -> None:
    """The kernel has both directories locked for as long as it renames, and moves what it knew by the names before."""
    for one in (b"one", b"two", b"three"):
        await kernel.mkdir(one)
    moves = kernel.tree.orders.moves
    async with moves.shared():
        exchanging = asyncio.ensure_future(kernel.rename(b"one", b"two", flags=2))
        await until(lambda: moves.is_alone)
        await told.elsewhere(r.Rename, b"/data/three", b"/data/two", r.RenameFlag.NONE)
    await exchanging
    assert name(1, b"one") in await told.next()


async def test_what_another_zone_has_put_right_before_an_own_change_is_told(
    told: Told, kernel: Kernel, ground: MachineGround
) -> None:
    """Both are found in one look; who changed the file last is not all there is to know."""
    file = await kernel.create(b"f")
    await file.write(0, b"mine")
    await file.close()
    await told.settled()
    while not told.is_silent:
        await told.next()
    reader = await kernel.open(file.node)
    assert await reader.read() == b"mine"
    put_elsewhere(ground, b"/data/f", b"theirs")
    await kernel.rename(b"f", b"g")
    await told.settled()
    assert bytes_of(file.node) in await told.rest()
    assert await reader.read() == b"theirs"
    await reader.close()


@asynccontextmanager
async def reading(kernel: Kernel, node: int) -> AsyncIterator[Open]:
    opened = await kernel.open(node)
    yield opened
    await opened.close()


FLAGS = {flag: Content(flag * 32, 1, flag) for flag in (b"0", b"1")}
"""What a file has that says yes or no."""


@pytest.fixture
def put(ground: MachineGround) -> Callable[[bytes], None]:
    """Another zone writes one of them into a file, in place."""
    ground.contents |= {content.digest: flag for flag, content in FLAGS.items()}
    opened: list[bool] = []

    def put(flag: bytes) -> None:
        nonlocal opened
        id = OperationId(b"other", len(ground.order))
        assert not ground.apply(r.Put(id, 1, 7, b"/data/f", 0o644, 0, 0, FLAGS[flag])).errno
        opened += [False] * 100
        opened = ground.intact = []

    return put


async def test_bytes_that_come_back_are_not_those_that_the_kernel_has(
    kernel: Kernel, told: Told, put: Callable[[bytes], None]
) -> None:
    put(b"0")
    await told.rest()
    reader = await kernel.open((await kernel.lookup(b"f")).inode)
    for flag in (b"1", b"0", b"1", b"0"):
        put(flag)
        assert await told.next() == {bytes_of(reader.node)}
        assert await reader.read() == flag  # and the kernel keeps that page
    again = await kernel.open(reader.node)
    assert not again.keeps_cache  # the last one may have come in the middle of a read
    await again.close()
    await reader.close()


async def test_bytes_that_come_back_while_the_kernel_is_told_of_something_else(
    kernel: Kernel, told: Told, put: Callable[[bytes], None]
) -> None:
    put(b"0")
    await told.rest()
    reader = await kernel.open((await kernel.lookup(b"f")).inode)
    await kernel.mkdir(b"d")
    told.going_on.clear()
    await told.elsewhere(r.SetAttributes, b"/data/d", 0o700)
    put(b"1")
    assert await reader.read() == b"1"
    put(b"0")
    assert await reader.read() == b"0"  # of another page, perhaps
    told.going_on.set()
    assert bytes_of(reader.node) in await told.next()
    await reader.close()


async def test_what_the_kernel_has_of_before_goes_where_somebody_writes(
    kernel: Kernel, told: Told, put: Callable[[bytes], None]
) -> None:
    """What he writes is put into what the other zone has put, and the kernel has one page of it."""
    put(b"0")
    await told.rest()
    file = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR)
    assert await file.read() == b"0"
    put(b"1")
    await file.write(1, b"mine")
    assert await told.next() == {bytes_of(file.node)}
    assert await file.read() == b"1mine"
    await file.close()


async def test_bytes_that_come_back_after_a_cut(kernel: Kernel, told: Told, ground: MachineGround) -> None:
    """The kernel has cut the page, and filled it up with zeros."""
    put_elsewhere(ground, b"/data/f", b"a" * (3 << 20))
    node = (await kernel.lookup(b"f")).inode
    async with reading(kernel, node) as reader:
        assert await reader.read(0, 4) == b"aaaa"
    await kernel.setattr(node, SetAttribute.SIZE, size=2)
    await told.rest()
    put_elsewhere(ground, b"/data/f", b"a" * (3 << 20))
    assert await told.next() == {bytes_of(node)}
    async with reading(kernel, node) as reader:
        assert not reader.keeps_cache


@pytest.mark.parametrize("is_taken", [False, True])
async def test_seeking_while_bytes_of_another_zone_come(
    kernel: Kernel, told: Told, ground: MachineGround, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    """The descriptor that was to be asked is closed by then, or `is_taken` by another file."""
    put_elsewhere(ground, b"/data/f", b"a" * 5000)
    reader = await kernel.open((await kernel.lookup(b"f")).inode)
    await told.rest()
    ground.contents[b"b" * 32] = b"b" * 9000
    run, other = kernel.tree.files.run, os.memfd_create("other")
    taken: list[int] = []

    async def late(function: Callable[..., object], descriptor: int, *arguments: int) -> object:
        if function is os.lseek and not taken:
            taken.append(descriptor)
            await told.elsewhere(r.Put, b"/data/f", 0o644, 0, 0, Content(b"b" * 32, 9000))
            await told.settled()
            assert await reader.read(0, 1) == b"b"
            if is_taken:
                os.dup2(other, descriptor)
        return await run(function, descriptor, *arguments)

    monkeypatch.setattr(kernel.tree.files, "run", late)
    body = struct.pack("<QQII", reader.handle, 0, os.SEEK_HOLE, 0)
    assert struct.unpack("<Q", await kernel(Opcode.LSEEK, reader.node, body)) == (9000,)
    await reader.close()
    for descriptor in (other, *(taken if is_taken else [])):
        os.close(descriptor)
