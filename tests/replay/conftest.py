"""What the tests of the projection share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.replay.bench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A bench with one rule, /data, and a projector that runs."""
    bench = Bench(tmp_path)
    bench.start()
    bench.rule()
    yield bench
    await bench.close()
