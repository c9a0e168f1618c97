"""Three real zones in a thread of their own, for callers that block."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.memory import memory_directory
from tests.node.zones import PATIENCE_S, Zones

T = TypeVar("T")


class Served:
    """Zones whose loop runs elsewhere, with the rules /data and /notes."""

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

    def settle(self) -> None:
        """Every zone's files show everything that was ordered before, times of directories included."""
        self.run(self._settle())

    async def _settle(self) -> None:
        await self.zones.shown(await self.zones.backend("zone-1").barrier(PATIENCE_S))
        for node in self.zones.nodes.values():
            if node.projector is not None:
                await node.projector.checkpoint()  # directories get their times back

    def describe(self, directory: Path) -> None:
        """Writes what `lddp cluster up` would, so that clients find the zones by a directory."""
        document = {"nodes": [{"endpoint": url} for url in self.zones.urls], "token_file": str(self.zones.token_file)}
        (directory / "cluster.json").write_text(json.dumps(document))

    def close(self) -> None:
        self.run(self.zones.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A directory in memory where there is room: tests of doors do many small operations."""
    with tempfile.TemporaryDirectory(prefix="lddp-", dir=memory_directory()) as directory:
        yield Path(directory)
