"""Pipelined mounts: a file whose last name is removed, which is promised and then refused, since another zone has moved
the file meanwhile. What is done with it in between is done to a file that is there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.namespace import Inode
from lddp.core.records import Content, OperationId
from lddp.doors.fuse import passthrough, protocol
from lddp.doors.fuse.protocol import Opcode, SetAttribute
from tests.doors.fuse.kernel import Kernel, MachineGround, Open, Refused
from tests.doors.fuse.told import Told

S = SetAttribute
FIRST, SECOND = (Content(name * 32, 10, name * 10) for name in (b"1", b"2"))


@pytest.fixture
async def kernel(ground: MachineGround) -> AsyncIterator[Kernel]:
    kernel = Kernel(ground, mode=WriteMode.PIPELINED)
    yield kernel
    await kernel.filesystem.close()
    assert not ground.still_open()


def elsewhere(ground: MachineGround, kind: Callable[..., r.Record], *fields: object) -> None:
    assert not ground.apply(kind(OperationId(b"other", len(ground.order)), 1, 7, *fields)).errno


def put(ground: MachineGround, path: bytes, content: Content) -> None:
    ground.contents[content.digest] = content.inline or b""
    elsewhere(ground, r.Put, path, 0o644, 0, 0, content)


async def remove(kernel: Kernel) -> None:
    """Promised only."""
    kernel.ground.gate = asyncio.Event()
    await kernel.unlink(b"f")


async def refuse(kernel: Kernel) -> None:
    ground = kernel.ground
    elsewhere(ground, r.Rename, b"/data/f", b"/data/g", r.RenameFlag.NONE)
    assert ground.gate is not None
    ground.gate.set()
    await kernel.tree.barrier()
    assert ground.entry(b"/data/g") is not None


@pytest.mark.parametrize("passes", [False, True])
async def test_who_has_it_open_reads_what_others_put_then(
    kernel: Kernel, ground: MachineGround, told: Told, monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    if passes:
        monkeypatch.setattr(passthrough, "PASS_FROM_BYTES", 1)
        kernel.passes()
    put(ground, b"/data/f", FIRST)
    reader = await kernel.open((await kernel.lookup(b"f")).inode)
    assert (await reader.read(), reader.passes) == (FIRST.inline, passes)
    await remove(kernel)
    second = await kernel.open(reader.node)  # by /proc/self/fd; it is looked what the file is by now
    assert await second.read() == FIRST.inline
    await refuse(kernel)
    put(ground, b"/data/g", SECOND)
    await told.settled()
    assert (await reader.read(), await second.read()) == (SECOND.inline, SECOND.inline)
    await reader.close()
    await second.close()


def _setxattr(file: Open) -> Coroutine[Any, Any, object]:
    return file.kernel(Opcode.SETXATTR, file.node, struct.pack("<II", 1, 0) + b"user.a\0b")


ATTRIBUTES: dict[str, tuple[Callable[[Open], Coroutine[Any, Any, object]], Callable[[Inode], bool]]] = {
    "fchmod": (
        lambda file: file.kernel.setattr(file.node, S.MODE | S.FH, mode=0o600, handle=file.handle),
        lambda inode: inode.mode == 0o600,
    ),
    "futimens": (
        lambda file: file.kernel.setattr(file.node, S.MTIME | S.FH, mtime_ns=10**18, handle=file.handle),
        lambda inode: inode.mtime_ns == 10**18,
    ),
    "ftruncate": (
        lambda file: file.kernel.setattr(file.node, S.SIZE | S.FH, size=3, handle=file.handle),
        lambda inode: inode.size == 3,
    ),
    "fsetxattr": (_setxattr, lambda inode: inode.xattrs == ((b"user.a", b"b"),)),
    "fremovexattr": (
        lambda file: file.kernel(Opcode.REMOVEXATTR, file.node, b"user.old\0"),
        lambda inode: not inode.xattrs,
    ),
    "write": (
        lambda file: file.write(0, b"x", protocol.WRITE_KILL_SUIDGID),
        lambda inode: inode.mode == 0o755,
    ),
}


@pytest.mark.parametrize("call", ATTRIBUTES)
async def test_its_attributes_are_set(kernel: Kernel, ground: MachineGround, call: str) -> None:
    """The program was told that they were."""
    put(ground, b"/data/f", FIRST)
    elsewhere(ground, r.SetAttributes, b"/data/f", 0o4755)
    if call == "fremovexattr":
        elsewhere(ground, r.SetXattr, b"/data/f", b"user.old", b"")
    file = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR)
    await remove(kernel)
    setting, is_set = ATTRIBUTES[call]
    calling = asyncio.ensure_future(setting(file))
    for _ in range(100):
        await asyncio.sleep(0)
    await refuse(kernel)
    await calling
    with contextlib.suppress(Refused):
        await file.flush()  # tells of the removal
    await file.release()
    await kernel.tree.barrier()
    with ground.view() as view:
        inode = view.inode(file.node)
    assert inode is not None and is_set(inode)


async def test_attributes_of_what_is_removed_are_its_holders(kernel: Kernel, ground: MachineGround) -> None:
    put(ground, b"/data/f", FIRST)
    file = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR)
    await kernel.unlink(b"f")
    shown = await kernel.setattr(file.node, S.MODE | S.FH, mode=0o600, handle=file.handle)
    assert (shown.mode & 0o7777, shown.links) == (0o600, 0) and ground.entry(b"/data/f") is None
    await file.close()
