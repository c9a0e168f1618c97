"""What another zone does to a name while a program of this one changes the object that had it: requests as the kernel
sends them, over the real state machine, whose turn comes after the other zone's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from lddp.access import OpenFile
from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import OperationId, RenameFlag
from lddp.doors.fuse import committing, protocol
from lddp.doors.fuse.protocol import Opcode, SetAttribute
from tests.doors.fuse.kernel import Kernel, MachineGround
from tests.doors.fuse.test_data import put_elsewhere
from tests.doors.fuse.test_names import ROOT, number

S = SetAttribute
BIG = committing.RANGES_FROM_BYTES * 2
Elsewhere = Callable[[MachineGround], None]


@pytest.fixture
def mode() -> WriteMode:
    """A pipelined mount hears of other zones after its answers: `test_pipeline.py`."""
    return WriteMode.SYNC


def rename(ground: MachineGround, path: bytes, to: bytes, flag: RenameFlag = RenameFlag.NONE) -> None:
    id = OperationId(b"other", len(ground.order))
    assert not ground.apply(r.Rename(id, 1, 5, path, to, flag)).errno


def unlink(ground: MachineGround, path: bytes) -> None:
    assert not ground.apply(r.Unlink(OperationId(b"other", len(ground.order)), 1, 5, path)).errno


def moved(ground: MachineGround) -> None:
    """Renamed, and another file put in its place."""
    rename(ground, b"/data/f", b"/data/g")
    put_elsewhere(ground, b"/data/f", b"theirs")


def replaced(ground: MachineGround) -> None:
    """As editors and `mv` do it."""
    put_elsewhere(ground, b"/data/new", b"theirs")
    rename(ground, b"/data/new", b"/data/f")


def removed(ground: MachineGround) -> None:
    """And made again."""
    unlink(ground, b"/data/f")
    put_elsewhere(ground, b"/data/f", b"theirs")


async def meanwhile(ground: MachineGround, calling: Coroutine[Any, Any, Any], elsewhere: Elsewhere) -> Any:
    """A call, whose first record is ordered after what happens elsewhere; what `f` is then."""
    ground.gate, ground.waiting = asyncio.Event(), asyncio.Event()
    call = asyncio.ensure_future(calling)
    await ground.waiting.wait()
    elsewhere(ground)
    found = theirs(ground)
    ground.gate.set()
    ground.gate = None
    await call
    return found


def theirs(ground: MachineGround) -> tuple[object, ...]:
    """All of the file that the other zone has put there."""
    entry = ground.entry(b"/data/f")
    return () if entry is None else (ground.files.get(entry.inode), *entry)


async def opened(kernel: Kernel, ground: MachineGround, size: int) -> Any:
    put_elsewhere(ground, b"/data/f", b"a" * size)
    return await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR)


SIZES = pytest.mark.parametrize("size", [100, BIG], ids=["whole", "in ranges"])
GONE = pytest.mark.parametrize("elsewhere", [replaced, removed])


@SIZES
async def test_what_was_written_follows_the_file(kernel: Kernel, ground: MachineGround, size: int) -> None:
    file = await opened(kernel, ground, size)
    await file.write(10, b"mine")
    await meanwhile(ground, file.fsync(), moved)
    mine = b"a" * 10 + b"mine" + b"a" * (size - 14)
    assert ground.content(b"/data/g") == mine and ground.content(b"/data/f") == b"theirs"
    sent = sum(upload.received for upload in ground.uploads)
    assert sent == (size if size < BIG else 4)  # once, and not the whole where a part is enough
    await file.write(0, b"b")
    await file.close()
    assert ground.content(b"/data/g") == b"b" + mine[1:] and ground.content(b"/data/f") == b"theirs"


@SIZES
@GONE
async def test_what_was_written_to_a_file_that_has_lost_its_name(
    kernel: Kernel, ground: MachineGround, size: int, elsewhere: Elsewhere
) -> None:
    """It is nobody's but its holders', as after an unlink in this mount."""
    file = await opened(kernel, ground, size)
    await file.write(10, b"mine")
    expected = await meanwhile(ground, file.fsync(), elsewhere)
    await file.write(size, b"more")
    assert (await file.read(0, 16), await file.read(size, 16)) == (b"a" * 10 + b"mine" + b"aa", b"more")
    shown = await kernel.stat(file.node)
    assert (shown.links, shown.size) == (0, size + 4)
    await file.close()
    assert theirs(ground) == expected and ground.content(b"/data/f") == b"theirs"
    assert all(upload.aborted for upload in ground.uploads)


@SIZES
async def test_what_was_written_goes_to_the_name_that_is_left(kernel: Kernel, ground: MachineGround, size: int) -> None:
    file = await opened(kernel, ground, size)
    await kernel(Opcode.LINK, ROOT, struct.pack("<Q", file.node) + b"link\0")
    await file.write(10, b"mine")
    await meanwhile(ground, file.close(), replaced)
    assert ground.content(b"/data/link")[:14] == b"a" * 10 + b"mine" and ground.content(b"/data/f") == b"theirs"


async def test_files_of_one_version_are_told_apart(kernel: Kernel, ground: MachineGround) -> None:
    """An exchange gives two files one version, which a directory that moves leaves to them."""
    for name in (b"a", b"b"):
        node = (await kernel.mkdir(name)).inode
        await (await kernel.create(b"f", node=node)).close()
    rename(ground, b"/data/a/f", b"/data/b/f", RenameFlag.EXCHANGE)
    above = (await kernel.lookup(b"a")).inode
    file = await kernel.open((await kernel.lookup(b"f", above)).inode, os.O_RDWR)
    await file.write(0, b"mine")
    await meanwhile(ground, file.close(), lambda ground: rename(ground, b"/data/a", b"/data/b", RenameFlag.EXCHANGE))
    assert (ground.content(b"/data/a/f"), ground.content(b"/data/b/f")) == (b"", b"mine")


async def test_a_file_that_another_zone_writes_all_the_time_can_be_closed(
    kernel: Kernel, ground: MachineGround
) -> None:
    """The last close wins: whatever version was there, it is the same file."""
    file = await opened(kernel, ground, 100)
    await file.write(0, b"mine")
    await meanwhile(ground, file.close(), lambda ground: put_elsewhere(ground, b"/data/f", b"theirs"))
    assert ground.content(b"/data/f") == b"mine" + b"a" * 96
    assert [record.zone for record in ground.order if isinstance(record, r.Put)] == [1, 1, 0]


# -- what is not bytes ------------------------------------------------------------------------------------------------


def _xattr(kernel: Kernel, node: int) -> Coroutine[Any, Any, bytes]:
    return kernel(Opcode.SETXATTR, node, struct.pack("<II", 5, 0) + b"user.a\0value")


def _no_xattr(kernel: Kernel, node: int) -> Coroutine[Any, Any, bytes]:
    return kernel(Opcode.REMOVEXATTR, node, b"user.old\0")


CHANGES: dict[str, tuple[Callable[[Kernel, int], Coroutine[Any, Any, Any]], Callable[[Any], bool]]] = {
    "chmod": (lambda kernel, node: kernel.setattr(node, S.MODE, mode=0o600), lambda entry: entry.mode == 0o600),
    "chown": (lambda kernel, node: kernel.setattr(node, S.UID, uid=77), lambda entry: entry.uid == 77),
    "utimens": (lambda kernel, node: kernel.setattr(node, S.MTIME, mtime_ns=77), lambda entry: entry.mtime_ns == 77),
    "truncate": (lambda kernel, node: kernel.setattr(node, S.SIZE, size=77), lambda entry: entry.size == 77),
    "setxattr": (_xattr, lambda entry: dict(entry.xattrs).get(b"user.a") == b"value"),
    "removexattr": (_no_xattr, lambda entry: b"user.old" not in dict(entry.xattrs)),
}


async def prepared(kernel: Kernel, ground: MachineGround) -> int:
    put_elsewhere(ground, b"/data/f", b"a" * BIG)
    ground.apply(r.SetXattr(OperationId(b"other", len(ground.order)), 1, 5, b"/data/f", b"user.old", b"1"))
    return (await kernel.lookup(b"f")).inode


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_follows_the_object(kernel: Kernel, ground: MachineGround, change: str) -> None:
    call, is_done = CHANGES[change]
    expected = await meanwhile(ground, call(kernel, await prepared(kernel, ground)), moved)
    assert theirs(ground) == expected
    assert is_done(ground.entry(b"/data/g"))


async def test_a_change_follows_a_directory(kernel: Kernel, ground: MachineGround) -> None:
    node = (await kernel.mkdir(b"f", mode=0o755)).inode

    def elsewhere(ground: MachineGround) -> None:
        rename(ground, b"/data/f", b"/data/g")
        id = OperationId(b"other", len(ground.order))
        assert not ground.apply(r.MakeDirectory(id, 1, 5, b"/data/f", 0o750, 0, 0)).errno

    await meanwhile(ground, kernel.setattr(node, S.MODE, mode=0o700), elsewhere)
    modes = [entry.mode for entry in map(ground.entry, (b"/data/f", b"/data/g")) if entry is not None]
    assert modes == [0o750, 0o700]


@pytest.mark.parametrize("change", CHANGES)
@GONE
async def test_a_change_of_what_has_lost_its_name(
    kernel: Kernel, ground: MachineGround, change: str, elsewhere: Elsewhere
) -> None:
    """Its holders see it, and nobody else."""
    call, _ = CHANGES[change]
    node = await prepared(kernel, ground)
    file = await kernel.open(node, os.O_RDWR)
    expected = await meanwhile(ground, call(kernel, node), elsewhere)
    shown = await kernel.stat(node)
    listed = await kernel(Opcode.LISTXATTR, node, struct.pack("<II", 100, 0))
    seen = {
        "chmod": shown.mode & 0o7777 == 0o600,
        "chown": shown.uid == 77,
        "utimens": shown.mtime_ns == 77,
        "truncate": shown.size == 77,
        "setxattr": b"user.a\0" in listed,
        "removexattr": listed == b"",
    }
    assert seen[change] and shown.links == 0
    await file.close()
    assert theirs(ground) == expected


async def test_attributes_that_a_nameless_file_has_or_has_not(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.open(await prepared(kernel, ground))
    unlink(ground, b"/data/f")

    def give(name: bytes, flags: int) -> Awaitable[bytes]:
        return kernel(Opcode.SETXATTR, file.node, struct.pack("<II", 1, flags) + name + b"\0x")

    assert await number(give(b"user.old", 1)) == errno.EEXIST
    assert await number(give(b"user.new", 2)) == errno.ENODATA
    assert await number(kernel(Opcode.REMOVEXATTR, file.node, b"user.new\0")) == errno.ENODATA
    await file.close()


async def test_a_link_is_another_name_of_the_object(kernel: Kernel, ground: MachineGround) -> None:
    node = await prepared(kernel, ground)
    body = struct.pack("<Q", node) + b"link\0"
    await meanwhile(ground, kernel(Opcode.LINK, ROOT, body), moved)
    assert (await kernel.lookup(b"link")).inode == node
    await meanwhile(ground, kernel(Opcode.LINK, ROOT, struct.pack("<Q", node) + b"third\0"), lambda ground: None)
    assert (await kernel.stat(node)).links == 3
    file = await kernel.create(b"short")
    other = file.node
    calling = kernel(Opcode.LINK, ROOT, struct.pack("<Q", other) + b"never\0")
    assert await number(meanwhile(ground, calling, lambda ground: unlink(ground, b"/data/short"))) == errno.ENOENT
    assert ground.entry(b"/data/never") is None
    await file.close()


async def test_privileges_of_a_nameless_file_go_with_a_write(kernel: Kernel, ground: MachineGround) -> None:
    file = await opened(kernel, ground, 100)
    await kernel.setattr(file.node, S.MODE, mode=0o6755)
    removed(ground)
    expected = theirs(ground)
    await file.write(0, b"x", flags=protocol.WRITE_KILL_SUIDGID)
    assert (await kernel.stat(file.node)).mode & 0o7777 == 0o755
    await file.close()
    assert theirs(ground) == expected


# -- reading and opening ----------------------------------------------------------------------------------------------


async def test_who_has_it_open_reads_on_when_it_was_changed_and_removed(kernel: Kernel, ground: MachineGround) -> None:
    """What was open is read: the bytes that came after it are nobody's any more."""
    file = await opened(kernel, ground, 100)
    put_elsewhere(ground, b"/data/f", b"changed")
    shared = kernel.filesystem.tree.files.get(file.node)
    assert shared is not None
    shared.is_stale = True  # as the mount is told
    removed(ground)
    assert await file.read() == b"a" * 100
    await file.write(100, b"b")
    assert await file.read(99) == b"ab"
    await file.close()
    assert ground.content(b"/data/f") == b"theirs"


async def test_a_torn_file_without_a_name_can_be_read(kernel: Kernel, ground: MachineGround) -> None:
    put_elsewhere(ground, b"/data/f", b"a" * 100)
    ground.intact = [False] * 100  # a change in place came before the removal
    file = await kernel.open((await kernel.lookup(b"f")).inode)
    unlink(ground, b"/data/f")
    assert await file.read() == b"a" * 100
    await file.close()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_TRUNC])
async def test_opening_what_was_removed_makes_the_kernel_look_again(
    kernel: Kernel, ground: MachineGround, flags: int
) -> None:
    """Bytes that a program writes to the name are not to be lost in what had it before."""
    file = await opened(kernel, ground, 100)
    await file.close()
    removed(ground)
    assert await number(kernel.open(file.node, flags)) == errno.ESTALE
    again = await kernel.open((await kernel.lookup(b"f")).inode)
    assert await again.read() == b"theirs"
    await again.close()


class Moving(MachineGround):
    """A zone in which something happens just before a file is opened."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.before: list[Elsewhere] = []

    async def open_file(self, path: bytes) -> OpenFile:
        if self.before:
            self.before.pop()(self)
        return await super().open_file(path)


@pytest.mark.parametrize("other", [True, False], ids=["another file there", "nothing there"])
async def test_bytes_are_read_from_where_the_file_has_gone(tmp_path: Path, other: bool) -> None:
    ground = Moving(tmp_path)
    kernel = Kernel(ground)
    put_elsewhere(ground, b"/data/f", b"bytes")
    node = (await kernel.lookup(b"f")).inode
    ground.before.append(moved if other else lambda ground: rename(ground, b"/data/f", b"/data/g"))
    file = await kernel.open(node)
    assert await file.read() == b"bytes"
    await file.close()
    await kernel.filesystem.close()
