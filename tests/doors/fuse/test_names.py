"""Names in a mount, without one: requests as the kernel sends them, over the real state machine."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import OperationId
from lddp.doors.fuse import protocol
from lddp.doors.fuse.protocol import Opcode
from tests.doors.fuse.kernel import Kernel, MachineGround, Refused, listed, until

ROOT = protocol.ROOT
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


async def number(call: object) -> int:
    with pytest.raises(Refused) as caught:
        await call  # type: ignore[misc]
    return caught.value.number


async def test_what_is_made_is_an_operation_of_the_caller(kernel: Kernel, ground: MachineGround) -> None:
    made = await kernel.mkdir(b"d", mode=0o750)
    assert (made.mode, made.uid, made.gid) == (stat.S_IFDIR | 0o750, 1000, 1001)
    entry = ground.entry(b"/data/d")
    assert entry is not None and (entry.inode, entry.mode, entry.uid) == (kernel.real(made.inode), 0o750, 1000)
    below = await kernel.mkdir(b"e", made.inode)
    assert (await kernel.lookup(b"e", made.inode)).inode == below.inode
    assert ground.entry(b"/data/d/e") is not None


async def test_the_top_is_node_1_and_a_directory(kernel: Kernel) -> None:
    top = await kernel.stat(ROOT)
    assert top.inode == 1 and stat.S_ISDIR(top.mode) and top.links == 1


async def test_an_absent_name(kernel: Kernel) -> None:
    assert await number(kernel.lookup(b"absent")) == errno.ENOENT
    assert await number(kernel.stat(12345)) == errno.ESTALE


@pytest.mark.parametrize("name", [b"caf\xc3\xa9", b"\xff\xfe", b"x" * 255])
async def test_names_are_bytes(kernel: Kernel, name: bytes) -> None:
    await kernel.mkdir(name)
    assert name in [found for found, _ in await kernel.names()]


async def test_a_name_that_is_too_long(kernel: Kernel) -> None:
    assert await number(kernel.mkdir(b"x" * 256)) == errno.ENAMETOOLONG
    assert await number(kernel.lookup(b"x" * 256)) == errno.ENAMETOOLONG


async def test_special_files(kernel: Kernel, ground: MachineGround) -> None:
    fifo = await kernel.mknod(b"fifo", stat.S_IFIFO | 0o600)
    assert stat.S_ISFIFO(fifo.mode)
    await kernel.mknod(b"device", stat.S_IFCHR | 0o600, (5 & 0xFF) | (1 << 8) | ((0x300 & ~0xFF) << 12))
    entry = ground.entry(b"/data/device")
    assert entry is not None and entry.rdev == os.makedev(1, 0x305)
    assert await number(kernel.mknod(b"socket", stat.S_IFSOCK | 0o600)) == errno.EOPNOTSUPP
    assert stat.S_ISREG((await kernel.mknod(b"plain", 0o640)).mode)


async def test_symlinks(kernel: Kernel) -> None:
    answer = await kernel(Opcode.SYMLINK, ROOT, b"link\0" + b"../target\0")
    (node,) = struct.unpack_from("<Q", answer)
    assert await kernel(Opcode.READLINK, node) == b"../target"
    assert stat.S_ISLNK((await kernel.stat(node)).mode)
    assert await number(kernel(Opcode.READLINK, ROOT)) == errno.EINVAL


async def test_below_a_setgid_directory(kernel: Kernel) -> None:
    kernel.gid = 7
    above = await kernel.mkdir(b"shared", mode=0o2775)
    kernel.gid = 8
    below = await kernel.mkdir(b"d", above.inode)
    assert below.gid == 7 and below.mode & stat.S_ISGID
    file = await kernel.create(b"f", node=above.inode)
    found = await kernel.stat(file.node)
    assert found.gid == 7 and not found.mode & stat.S_ISGID
    await file.close()


async def test_hard_links(kernel: Kernel) -> None:
    async with kernel.writing(b"f") as file:
        await file.write(0, b"bytes")
    answer = await kernel(Opcode.LINK, ROOT, struct.pack("<Q", file.node) + b"g\0")
    assert struct.unpack_from("<Q", answer)[0] == file.node
    assert (await kernel.stat(file.node)).links == 2
    await kernel(Opcode.UNLINK, ROOT, b"f\0")
    assert (await kernel.lookup(b"g")).links == 1
    directory = await kernel.mkdir(b"d")
    assert await number(kernel(Opcode.LINK, ROOT, struct.pack("<Q", directory.inode) + b"e\0")) == errno.EPERM


async def test_taking_away(kernel: Kernel, ground: MachineGround) -> None:
    directory = await kernel.mkdir(b"d")
    await kernel.mkdir(b"e", directory.inode)
    assert await number(kernel(Opcode.RMDIR, ROOT, b"d\0")) == errno.ENOTEMPTY
    assert await number(kernel(Opcode.UNLINK, ROOT, b"d\0")) == errno.EISDIR
    await kernel(Opcode.RMDIR, directory.inode, b"e\0")
    await kernel(Opcode.RMDIR, ROOT, b"d\0")
    assert ground.entry(b"/data/d") is None
    assert (await kernel.stat(directory.inode)).links == 0  # for whoever is still in it
    assert await number(kernel.mkdir(b"x", directory.inode)) == errno.ENOENT


async def test_renames(kernel: Kernel) -> None:
    one, two = await kernel.mkdir(b"one"), await kernel.mkdir(b"two")
    file = await kernel.create(b"f", node=one.inode)
    await file.close()
    await kernel.rename(b"f", b"g", node=one.inode, above=two.inode)
    assert (await kernel.lookup(b"g", two.inode)).inode == file.node
    assert await number(kernel.lookup(b"f", one.inode)) == errno.ENOENT
    await kernel.rename(b"one", b"two", EXCHANGE)
    assert (await kernel.lookup(b"one")).inode == two.inode
    assert await number(kernel.rename(b"two", b"one", NOREPLACE)) == errno.EEXIST
    assert await number(kernel.rename(b"two", b"absent", EXCHANGE)) == errno.ENOENT
    assert await number(kernel.rename(b"two", b"x", WHITEOUT)) == errno.EINVAL
    assert await number(kernel.rename(b"two", b"one")) == errno.ENOTEMPTY
    await kernel.rename(b"one", b"in", above=one.inode)
    assert (await kernel.lookup(b"in", one.inode)).inode == two.inode
    assert await number(kernel.rename(b"two", b"x", above=two.inode)) == errno.EINVAL


@pytest.mark.parametrize("plus", [False, True])
async def test_a_listing_goes_on_where_it_was_whatever_changes(kernel: Kernel, plus: bool) -> None:
    expected = {b".": 1, b"..": 1}
    for index in range(40):
        expected[b"%03d" % index] = (await kernel.mkdir(b"%03d" % index)).inode
    # Little room, so that it takes many calls.
    assert dict(await kernel.names(room=600, plus=plus)) == expected
    assert len(await kernel.names(room=600, plus=plus)) == len(expected)


async def test_a_listing_shows_once_what_is_there_all_the_time(kernel: Kernel) -> None:
    for name in (b"a", b"m", b"z"):
        await kernel.mkdir(name)
    (handle,) = struct.unpack_from("<Q", await kernel(Opcode.OPENDIR, ROOT, bytes(8)))

    async def read(offset: int) -> tuple[bytes, int]:
        body = struct.pack("<QQIIQII", handle, offset, 32, 0, 0, 0, 0)
        data = await kernel(Opcode.READDIR, ROOT, body)
        _, offset, length, _ = struct.unpack_from("<QQII", data)
        return data[24 : 24 + length], offset

    name, offset = await read(0)
    found = [name]
    await kernel.rename(b"a", b"zz")
    await kernel.mkdir(b"b")
    for _ in range(4):
        name, offset = await read(offset)
        found.append(name)
    assert found == [b".", b"..", b"a", b"m", b"z"]
    name, _ = await read(0)  # rewinddir
    assert [name for name, _ in await kernel.names()] == [b".", b"..", b"b", b"m", b"z", b"zz"]


async def part(kernel: Kernel, handle: int, offset: int, room: int) -> list[tuple[bytes, int, int]]:
    """(name, node that the kernel is to know by it, offset of the next) of one READDIRPLUS."""
    data = await kernel(Opcode.READDIRPLUS, ROOT, struct.pack("<QQIIQII", handle, offset, room, 0, 0, 0, 0))
    return [(one.name, one.node, one.after) for one in listed(data)]


async def test_a_listing_makes_the_kernel_believe_no_name_that_is_not_so_any_more(kernel: Kernel) -> None:
    """`tmp` was renamed to `f` (as every editor does) between two reads of one listing, and `g` made again."""
    for name in (b"a", b"b", b"g", b"tmp"):
        async with kernel.writing(name) as file:
            await file.write(0, name)
    handle = await kernel.opendir()
    first = await part(kernel, handle, 0, 3 * 160)
    assert [name for name, _, _ in first] == [b".", b"..", b"a"]
    await kernel.rename(b"tmp", b"f")
    await kernel.unlink(b"g")
    await kernel.mkdir(b"g")
    rest = await part(kernel, handle, first[-1][2], 4096)
    believed = {name: node for name, node, _ in rest}
    assert believed == {b"b": (await kernel.lookup(b"b")).inode, b"g": 0, b"tmp": 0}


async def test_a_path_that_another_zone_has_moved_is_followed(kernel: Kernel, ground: MachineGround) -> None:
    directory = await kernel.mkdir(b"d")
    ground.apply(r.Rename(OperationId(b"other", 1), 1, 5, b"/data/d", b"/data/moved"))
    await kernel.mkdir(b"e", directory.inode)
    assert ground.entry(b"/data/moved/e") is not None


@pytest.mark.parametrize("mode", [WriteMode.SYNC])
async def test_changes_of_names_wait_for_the_move_of_a_directory(kernel: Kernel, ground: MachineGround) -> None:
    """Their paths would not be right any more when their turn in the log comes."""
    directory = await kernel.mkdir(b"d")
    ground.gate = asyncio.Event()
    moving = asyncio.create_task(kernel.rename(b"d", b"e"))
    await until(lambda: kernel.filesystem.tree.orders.moves.is_alone)
    making = asyncio.create_task(kernel.mkdir(b"x", directory.inode))
    for _ in range(10):
        await asyncio.sleep(0)
    ground.gate.set()
    await moving
    await making
    assert ground.entry(b"/data/e/x") is not None and ground.entry(b"/data/d") is None
