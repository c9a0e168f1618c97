"""Random programs in a pipelined mount without a mount: whatever is queued and whatever other zones do meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import Kind, OperationId
from lddp.doors.fuse.protocol import ROOT, Opcode, SetAttribute
from tests.core.support import seeds
from tests.doors.fuse.kernel import Kernel, MachineGround, Refused

STEPS = 80
NAMES = [b"a", b"b", b"c"]
EXCHANGE = 2
Work = Callable[[Kernel], Awaitable[object]]


async def walk(kernel: Kernel, path: list[bytes]) -> int:
    node = ROOT
    for name in path:
        node = (await kernel.lookup(name, node)).inode
    return node


async def _write(kernel: Kernel, above: list[bytes], name: bytes, data: bytes) -> None:
    node = await walk(kernel, above)
    try:
        file = await kernel.open((await kernel.lookup(name, node)).inode, os.O_WRONLY | os.O_TRUNC)
    except Refused:
        file = await kernel.create(name, node=node)
    await file.write(0, data)
    # Not closed here, where an old file's close would wait: what was written is queued by chmod.
    await kernel.setattr(file.node, SetAttribute.MTIME, mtime_ns=len(data))
    await file.release()


def work(chosen: random.Random) -> Work:
    """One thing that a program does; the same for every kernel."""
    above, below = ([chosen.choice(NAMES) for _ in range(chosen.randrange(3))] for _ in range(2))
    name, to, kind, flag = chosen.choice(NAMES), chosen.choice(NAMES), chosen.randrange(9), chosen.choice([0, 0, 1, 2])
    data = bytes(chosen.randrange(1, 60))

    async def do(kernel: Kernel) -> object:
        if kind in (0, 1):
            return (await kernel.mkdir(name, await walk(kernel, above))).mode
        if kind in (2, 3):
            return await _write(kernel, above, name, data)
        if kind == 4:
            return await kernel.unlink(name, await walk(kernel, above))
        if kind == 5:
            return await kernel(Opcode.RMDIR, await walk(kernel, above), name + b"\0")
        if kind == 6:
            node, target = await walk(kernel, above), await walk(kernel, below)
            return await kernel.rename(name, to, flag, node=node, above=target)
        if kind == 7:
            node, target = await walk(kernel, [*above, name]), await walk(kernel, below)
            await kernel(Opcode.LINK, target, node.to_bytes(8, "little") + to + b"\0")
            return None
        return (await kernel.setattr(await walk(kernel, [*above, name]), SetAttribute.MODE, mode=0o700)).mode

    return do


async def outcome(kernel: Kernel, do: Work) -> object:
    try:
        return await do(kernel)
    except Refused as refused:
        return f"errno {refused.number}"


async def shown(kernel: Kernel, node: int = ROOT, path: bytes = b"") -> dict[bytes, tuple[int, int, int]]:
    """What a program sees, by path."""
    found: dict[bytes, tuple[int, int, int]] = {}
    for name, number in (await kernel.names(node))[2:]:
        entry = await kernel.lookup(name, node)
        assert entry.inode == number
        found[path + b"/" + name] = entry.mode, entry.size, entry.links
        if entry.mode & 0o170000 == 0o040000:
            found |= await shown(kernel, number, path + b"/" + name)
    return found


def in_log(ground: MachineGround) -> dict[bytes, tuple[int, int, int]]:
    found: dict[bytes, tuple[int, int, int]] = {}
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        for name, entry in ground.listing(b"/data" + above, b"", 1000):
            path = above + b"/" + name
            is_directory = entry.kind is Kind.DIRECTORY
            type_bits = 0o040000 if is_directory else 0o100000
            found[path] = type_bits | entry.mode, 4096 if is_directory else entry.size, entry.links
            if is_directory:
                waiting.append(path)
    return found


@pytest.mark.parametrize("seed", seeds(12))
async def test_a_program_sees_the_same_in_both_modes(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    sync, pipelined = MachineGround(tmp_path), MachineGround(tmp_path)
    kernels = [Kernel(sync), Kernel(pipelined, mode=WriteMode.PIPELINED)]
    gate = pipelined.gate = asyncio.Event()
    for _ in range(STEPS):
        do = work(chosen)
        one, two = [await outcome(kernel, do) for kernel in kernels]
        assert one == two
        if chosen.random() < 0.2:
            assert await shown(kernels[0]) == await shown(kernels[1])
        if chosen.random() < 0.2:
            gate.set()
            for _ in range(chosen.randrange(20)):
                await asyncio.sleep(0)
            gate.clear()
    gate.set()
    await kernels[1].tree.barrier()
    assert await shown(kernels[0]) == await shown(kernels[1]) == in_log(pipelined) == in_log(sync)
    for kernel in kernels:
        await kernel.filesystem.close()


class Elsewhere:
    """Another zone, which does things to the same names."""

    def __init__(self, ground: MachineGround, chosen: random.Random) -> None:
        self._ground, self._chosen, self._sequence = ground, chosen, 0

    def _path(self) -> bytes:
        return b"/data/" + b"/".join(self._chosen.choice(NAMES) for _ in range(self._chosen.randrange(1, 3)))

    def act(self) -> None:
        self._sequence += 1
        stamp = OperationId(b"other", self._sequence), 1, 7
        match self._chosen.randrange(5):
            case 0:
                self._ground.apply(r.MakeDirectory(*stamp, self._path(), 0o755, 0, 0))
            case 1:
                self._ground.apply(r.Create(*stamp, self._path(), Kind.FILE, 0o644, 0, 0))
            case 2:
                self._ground.apply(r.Rename(*stamp, self._path(), self._path()))
            case 3:
                self._ground.apply(r.Remove(*stamp, self._path()))
            case _:
                self._ground.apply(r.SetAttributes(*stamp, self._path(), self._chosen.choice([0o711, 0o755])))


@pytest.mark.parametrize("seed", seeds(12))
async def test_the_mount_shows_what_is_in_the_log_whatever_comes_in_between(tmp_path: Path, seed: int) -> None:
    """And what it has made in one directory of its own is there in the order in which it was made."""
    chosen = random.Random(seed)
    ground = MachineGround(tmp_path)
    kernel = Kernel(ground, mode=WriteMode.PIPELINED)
    gate = ground.gate = asyncio.Event()
    others = Elsewhere(ground, chosen)
    own = await kernel.mkdir(b"own")
    for number in range(STEPS):
        await outcome(kernel, work(chosen))
        await kernel.mkdir(b"%04d" % number, own.inode)
        if chosen.random() < 0.3:
            others.act()
        if chosen.random() < 0.1:
            await shown(kernel)
        if chosen.random() < 0.3:
            gate.set()
            for _ in range(chosen.randrange(20)):
                await asyncio.sleep(0)
            gate.clear()
    gate.set()
    await kernel.tree.barrier()
    assert await shown(kernel) == in_log(ground)
    made = [entry.inode for _, entry in ground.listing(b"/data/own", b"", 1000)]
    assert len(made) == STEPS and made == sorted(made)
    await kernel.filesystem.close()
