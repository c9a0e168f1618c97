from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from lddp.config import WriteMode
from lddp.doors.fuse.following import Following
from tests.doors.fuse.kernel import Kernel, MachineGround, until
from tests.doors.fuse.passing import FakeBacking
from tests.doors.fuse.told import Told


@pytest.fixture
def ground(tmp_path: Path) -> MachineGround:
    return MachineGround(tmp_path)


@pytest.fixture(params=WriteMode)
def mode(request: pytest.FixtureRequest) -> WriteMode:
    found: WriteMode = request.param
    return found


@pytest.fixture
async def kernel(ground: MachineGround, mode: WriteMode) -> AsyncIterator[Kernel]:
    """In the pipelined mode with a barrier after each call: what is asked of the ground is the same then."""
    kernel = Kernel(ground, mode=mode, waits=True)
    yield kernel
    await kernel.filesystem.close()
    assert not ground.still_open()


@pytest.fixture
async def backing(kernel: Kernel) -> AsyncIterator[FakeBacking]:
    """Followed as a mount is; at the end nothing may be left that the kernel was given."""
    backing = kernel.passes()

    async def tell(notices: list[Sequence[bytes]]) -> None:
        backing.notices += [b"".join(notice) for notice in notices]

    following = Following(kernel.tree, tell)
    kernel.tree.ground.follow(following.changed)
    task = asyncio.create_task(following.run())
    kernel.told = following.told
    yield backing
    backing.held.clear()
    await until(lambda: not backing.files)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def told(ground: MachineGround, kernel: Kernel) -> AsyncIterator[Told]:
    told = Told(ground)
    following = Following(kernel.filesystem.tree, told.take)
    told.settled = following.told
    kernel.tree.ground.follow(following.changed)
    task = asyncio.create_task(following.run())
    yield told
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
