from __future__ import annotations

import pytest

from .bench import Bench


@pytest.fixture
async def bench() -> Bench:
    return Bench()
