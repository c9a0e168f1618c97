from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lddp.config import WriteMode
from tests.doors.fuse.kernel import Kernel, MachineGround


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
