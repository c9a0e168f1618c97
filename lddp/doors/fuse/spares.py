"""Empty files without names, made before they are wanted: who begins to write waits for no thread."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from lddp.content.disk import finished
from lddp.doors.fuse import copying

SPARES_MAX = 8


class Spares:
    """Descriptors of files in `directory`, which threads make. Who takes one closes it."""

    def __init__(self, directory: Callable[[], Path], threads: Executor) -> None:
        self._directory = directory
        self._threads = threads
        self._spares: deque[asyncio.Future[int]] = deque()

    async def take(self) -> int:
        """OSError where none can be made. More are made for those who come next."""
        spare = self._spares.popleft() if self._spares else self._made()
        for _ in range(min(2, SPARES_MAX - len(self._spares))):
            self._spares.append(self._made())
        if spare.done() and spare.exception() is not None:
            spare = self._made()  # what was in the way then may be mended
        return spare.result() if spare.done() else await finished(spare, os.close)

    def _made(self) -> asyncio.Future[int]:
        return asyncio.get_running_loop().run_in_executor(self._threads, copying.new_file, self._directory())

    def close(self) -> None:
        """Now, also where the loop turns no more; what is still being made, when it is there."""
        while self._spares:
            spare = self._spares.pop()
            if spare.done():
                _close(spare)
            else:
                spare.add_done_callback(_close)


def _close(spare: asyncio.Future[int]) -> None:
    if not spare.cancelled() and spare.exception() is None:
        os.close(spare.result())
