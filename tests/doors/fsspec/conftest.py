"""Three real zones in a thread of their own, for callers that block."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pytest

from lddp.doors.fsspec import LddpFileSystem
from tests.memory import memory_directory
from tests.node.zones import PATIENCE_S, TOKEN, Zones

T = TypeVar("T")


class Served:
    """Zones whose loop runs elsewhere."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="zones")
        self._thread.start()
        self.zones = Zones(directory, 3)
        self.run(self._start())

    async def _start(self) -> None:
        await self.zones.start()
        await self.zones.make_rule()
        await self.zones.make_rule("notes", b"/notes")

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def describe(self, directory: Path) -> None:
        """Writes what `lddp cluster up` would, so that clients find the zones by a directory."""
        document = {"nodes": [{"endpoint": url} for url in self.zones.urls], "token_file": str(self.zones.token_file)}
        (directory / "cluster.json").write_text(json.dumps(document))

    def close(self) -> None:
        self.run(self.zones.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """In memory where there is room: these tests are of the door, and do many small operations."""
    with tempfile.TemporaryDirectory(prefix="lddp-", dir=memory_directory()) as directory:
        served = Served(Path(directory))
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
