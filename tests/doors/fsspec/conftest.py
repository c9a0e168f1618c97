"""Three real zones, and `lddp://` over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from lddp.doors.fsspec import LddpFileSystem
from tests.doors.served import Served, in_memory
from tests.node.zones import PATIENCE_S, TOKEN


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with in_memory() as directory:
        served = Served(directory)
        yield served
        served.close()


@pytest.fixture(scope="module")
def options(served: Served) -> dict[str, Any]:
    """How to reach them."""
    return {"endpoints": tuple(served.zones.urls), "token": TOKEN, "timeout_s": PATIENCE_S}


@pytest.fixture(scope="module")
def mounted(options: dict[str, Any]) -> Iterator[LddpFileSystem]:
    made = fsspec.filesystem("lddp", skip_instance_cache=True, **options)
    assert isinstance(made, LddpFileSystem)
    yield made
    made.close()


@pytest.fixture
def fs(mounted: LddpFileSystem) -> LddpFileSystem:
    return mounted


@pytest.fixture
def directory(mounted: LddpFileSystem) -> Iterator[str]:
    """A directory for one test."""
    mounted.mkdir("/data/test")
    yield "/data/test"
    mounted.rm("/data/test", recursive=True)
