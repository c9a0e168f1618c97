from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lddp.client import Client, Settings
from tests.node.zones import TOKEN, Zones, zones


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Zones]:
    """Three zones and a witness."""
    async with zones(tmp_path, 3, witness=True) as world:
        yield world


@pytest.fixture
async def client(world: Zones) -> AsyncIterator[Client]:
    async with Client(Settings(tuple(world.urls), TOKEN)) as client:
        yield client
