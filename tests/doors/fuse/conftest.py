from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.doors.fuse.kernel import Kernel, MachineGround


@pytest.fixture
def ground(tmp_path: Path) -> MachineGround:
    return MachineGround(tmp_path)


@pytest.fixture
async def kernel(ground: MachineGround) -> AsyncIterator[Kernel]:
    kernel = Kernel(ground)
    yield kernel
    await kernel.filesystem.close()
    assert not ground.still_open()
