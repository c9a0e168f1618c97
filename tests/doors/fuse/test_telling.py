"""Calls after which the kernel is to be told something. It may hold what an earlier notice waits for until the call is
answered, so no call waits for a notice."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from lddp.core.records import Record
from lddp.doors.fuse import protocol, wire
from lddp.doors.fuse.ground import Patience
from lddp.doors.fuse.protocol import SetAttribute
from lddp.errors import UnavailableError
from tests.doors.fuse.kernel import PATIENCE_S, Kernel, MachineGround
from tests.doors.fuse.live import abort, can_mount, trio
from tests.doors.fuse.telling import telling
from tests.doors.fuse.test_mounted import trio_mount_at_target
from tests.doors.fuse.test_names import number
from tests.node.trio import SOURCE, TARGET


class Blocked:
    """Notices that the kernel takes once it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.notices: list[tuple[bytes, ...]] = []

    async def take(self, notices: list[Sequence[bytes]]) -> None:
        await self.let.wait()
        self.notices += [tuple(notice) for notice in notices]


async def test_attributes_of_a_directory_that_cannot_be_set(ground: MachineGround) -> None:
    """On a soft mount. A notice of a name in the directory waits until the kernel lets go of it."""
    kernel, blocked = Kernel(ground, Patience(0.01)), Blocked()
    async with telling(kernel, blocked.take) as following:
        node = (await kernel.mkdir(b"d")).inode
        ground.failure = UnavailableError("no majority")
        assert await number(kernel.setattr(node, SetAttribute.MODE, mode=0o700)) == errno.EIO
        assert not following.is_told
        blocked.let.set()
        await following.told()
        assert tuple(wire.inode_notice(node, -1)) in blocked.notices
    await kernel.filesystem.close()


async def test_attributes_of_a_directory_whose_program_is_killed(ground: MachineGround) -> None:
    """On a hard mount, or when the node stops: each call is cancelled once, and waited for."""
    kernel, blocked = Kernel(ground), Blocked()
    async with telling(kernel, blocked.take) as following:
        node = (await kernel.mkdir(b"d")).inode
        ground.gate = asyncio.Event()
        ground.waiting.clear()
        call = asyncio.create_task(kernel.setattr(node, SetAttribute.MODE, mode=0o700))
        await ground.waiting.wait()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled() and not following.is_told
        blocked.let.set()
        await following.told()
        assert tuple(wire.inode_notice(node, -1)) in blocked.notices
    await kernel.filesystem.close()


async def test_a_write_that_takes_privileges_away(ground: MachineGround) -> None:
    """The kernel holds the page, and a notice of the bytes waits for that."""
    kernel, blocked = Kernel(ground), Blocked()
    async with telling(kernel, blocked.take) as following:
        file = await kernel.create(b"f", os.O_RDWR, mode=0o4755)
        assert await file.write(0, b"x", flags=protocol.WRITE_KILL_SUIDGID) == 1
        assert not following.is_told
        blocked.let.set()
        await following.told()
        assert tuple(wire.inode_notice(file.node, -1)) in blocked.notices
        await file.close()
    await kernel.filesystem.close()


@can_mount
async def test_another_zone_takes_a_name_in_a_directory_whose_attributes_cannot_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio(tmp_path, mounted=False) as nodes:
        await nodes.make_rule()
        await nodes.mount(soft_s=1.0)
        async with trio_mount_at_target(nodes) as there:
            await nodes.programs.sh("mkdir d; : > d/x; stat d/x")
            await nodes.nodes[TARGET].backend.wait(nodes.nodes[SOURCE].gateway.latest_gsn, PATIENCE_S)
            (mount,) = nodes.nodes[SOURCE].mounts.mounts.values()

            async def nothing(records: Sequence[Record], timeout_s: float) -> None:
                raise UnavailableError("no majority")

            monkeypatch.setattr(mount.tree.ground, "submit_folded", nothing)
            chmod = await nodes.programs.start("chmod", "700", "d")
            await nodes.until(lambda: mount.session.in_flight == 1)
            await there.sh("rm d/x")
            try:
                async with asyncio.timeout(PATIENCE_S):
                    assert await chmod.wait() == 1
            finally:
                await asyncio.to_thread(abort, nodes.point)
