"""Pipelined mounts: a file whose last name is removed, which is promised and then refused, since another zone has moved
the file meanwhile. What is done with it in between is done to a file that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import Content, OperationId
from lddp.doors.fuse import passthrough
from tests.doors.fuse.kernel import Kernel, MachineGround
from tests.doors.fuse.told import Told

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
