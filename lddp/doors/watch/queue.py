"""Reading a kernel event queue from an event loop, and proving that it was read up to a moment.

The kernel puts an event into the queue before the system call that made the change returns. So the number of events
read so far plus the number that wait (FIONREAD) is a point in the stream behind every change that was made before:
once as much was read, all of those were. This needs no marker file, and no end of the stream on a busy filesystem.

There is no queue of ours in between: events wait in the kernel, which also merges them there, until `batch` asks.
"""

from __future__ import annotations

import asyncio
import select
import threading
from abc import ABC, abstractmethod

from lddp.doors.watch.events import Batch
from lddp.errors import UnavailableError

READ_SIZE = 256 * 1024
WINDOW_S = 0.005
"""How long events gather before they are read, so that a program that writes in small pieces costs one event a
window rather than one a write. Cut short by `settle`, and left out while there is much to read."""


class KernelQueue(ABC):
    """What fanotify and inotify watchers have in common."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._descriptor = -1
        self._stopped = False
        self._poll = select.poll()
        self._lock = threading.Lock()
        """Guards reading and counting what was read as one step, against `mark`."""
        self._taken = 0
        self._returned = 0
        self._handled = 0
        self._is_flooded = False
        """The last read was half full at least: the next is not put off."""
        self._waiting: asyncio.Future[None] | None = None
        self._settlers: dict[asyncio.Future[None], int] = {}
        self._hurry = asyncio.Event()

    @abstractmethod
    def _waiting_size(self) -> int:
        """What waits in the kernel, in the unit in which `_taken` counts."""

    @abstractmethod
    async def _collect(self) -> tuple[Batch, int]:
        """Reads once. The events, and how much of the stream has been dealt with."""

    def _owes(self) -> bool:
        """Whether there is something to do even if the kernel has nothing to read."""
        return False

    def _opened(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll.register(descriptor, select.POLLIN)

    def _require_running(self) -> None:
        if self._stopped or self._descriptor < 0:
            raise UnavailableError("the watcher is not running; start a new one")

    async def batch(self) -> Batch:
        self._require_running()
        assert self._waiting is None, "a watcher has one consumer"
        self._reach(self._returned)
        while True:
            await self._readable()
            events, progress = await self._collect()
            # No await from here on: a batch that was read is returned.
            if events:
                self._returned = progress
                return events
            self._reach(progress)

    def mark(self) -> int:
        self._require_running()
        with self._lock:
            return self._taken + self._waiting_size()

    def passed(self, mark: int) -> bool:
        return self._returned >= mark

    async def settle(self) -> None:
        mark = self.mark()
        if self._handled >= mark:
            return
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settlers[settled] = mark
        self._hurry.set()
        try:
            await settled
        finally:
            self._settlers.pop(settled, None)

    def _reach(self, progress: int) -> None:
        """The consumer has dealt with the stream up to `progress`."""
        self._returned = self._handled = progress
        for settled in [one for one, mark in self._settlers.items() if mark <= progress]:
            del self._settlers[settled]
            if not settled.done():
                settled.set_result(None)
        if not self._settlers:
            self._hurry.clear()

    def _fail_settlers(self, error: Exception) -> None:
        for settled in self._settlers:
            if not settled.done():
                settled.set_exception(error)
        self._settlers.clear()
        self._hurry.clear()

    async def _readable(self) -> None:
        if self._owes():
            return
        if not self._poll.poll(0):
            await self._wait_readable()
        if self._window_s and not self._is_flooded:
            try:
                async with asyncio.timeout(self._window_s):
                    await self._hurry.wait()
            except TimeoutError:
                pass
        self._require_running()

    async def _wait_readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._waiting = ready
        loop.add_reader(self._descriptor, self._wake)
        try:
            await ready
        finally:
            self._waiting = None
            if self._descriptor >= 0:
                loop.remove_reader(self._descriptor)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _end(self) -> int:
        """Stops everything that waits; the descriptor to close, or -1."""
        self._stopped = True
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._poll.unregister(descriptor)
        stopped = UnavailableError("the watcher was stopped")
        self._fail_settlers(stopped)
        if self._waiting is not None and not self._waiting.done():
            asyncio.get_running_loop().remove_reader(descriptor)
            self._waiting.set_exception(stopped)
        return descriptor
