"""A file that is pushed while it is still being written. Each peer's share follows its writer: close behind it takes
bytes that are in memory still, farther behind it reads the file, so that no peer waits for a slower one."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence

from lddp.content.disk import STEP_BYTES, DiskThreads
from lddp.ports import Clock

WINDOW_BYTES = 16 * 1024 * 1024
"""How far those who are waited for may be behind the writer, before the writer waits for them."""
RECENT_BYTES_MAX = 4 * 1024 * 1024
"""What a writer has written last stays in memory, up to so much."""
IDLE_S = 5.0
"""How long a file has not grown whose place another one may take."""

Chunk = tuple[int, bytes | memoryview]


class Growing:
    """The writer's side: says how far the file has come, waits for `room`, and ends it. `enough`: how many peers the
    writer waits for."""

    def __init__(self, descriptor: int, disk: DiskThreads, clock: Clock, enough: int, upload: bytes) -> None:
        self.disk = disk
        self.enough = enough
        self.upload = upload
        self.descriptor = os.dup(descriptor)
        self.reached = 0
        """The bytes before are in the file."""
        self.rewritten: list[tuple[int, int]] = []
        """(start, stop) of what was written again, in that order."""
        self.end: tuple[int, bytes] | None = None
        """Size and digest, once nothing will be written any more."""
        self.tasks: dict[asyncio.Task[bool], str] = {}
        """Peers by what pushes to them; true where the peer has it all."""
        self._recent: deque[tuple[int, bytes]] = deque()
        self._clock = clock
        self._grown_at = clock.monotonic()
        self._shares: dict[asyncio.Task[bool], Share] = {}
        self._moved = asyncio.Event()

    def add(self, peer: str, share: Share, task: asyncio.Task[bool]) -> None:
        self.tasks[task] = peer
        self._shares[task] = share
        task.add_done_callback(self._done)

    def _done(self, _: asyncio.Task[bool]) -> None:
        self._moved.set()
        if self.is_over and self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    @property
    def is_over(self) -> bool:
        """Whether nobody takes any more of it."""
        return all(task.done() for task in self.tasks)

    @property
    def idle_s(self) -> float:
        """How long everybody has had all of it."""
        behind = any(share.offset < self.reached for task, share in self._shares.items() if not task.done())
        return 0.0 if behind or self.end is not None else self._clock.monotonic() - self._grown_at

    # -- the writer -------------------------------------------------------------------------------------------------

    def reach(self, offset: int, pieces: Sequence[bytes] = ()) -> None:
        """The file has these bytes now; `pieces` are the last of them."""
        if offset > self.reached:
            at = offset - sum(map(len, pieces))
            for piece in pieces:
                self._recent.append((at, piece))
                at += len(piece)
            while self._recent and self._recent[0][0] < offset - RECENT_BYTES_MAX:
                self._recent.popleft()
            self.reached = offset
            self._grown_at = self._clock.monotonic()
            self._tell()

    def recent(self, offset: int) -> memoryview | None:
        """The bytes from `offset` on that are in memory in one piece."""
        for start, piece in self._recent:
            if start <= offset < start + len(piece):
                return memoryview(piece)[offset - start :]
        return None

    def rewrite(self, start: int, stop: int) -> None:
        """These bytes, which had been reached, are others now."""
        self._recent.clear()
        self.rewritten.append((start, stop))
        self._tell()

    def finish(self, size: int, digest: bytes) -> None:
        """That was all."""
        self._recent.clear()
        self.reached = size
        self.end = size, digest
        self._tell()

    def _tell(self) -> None:
        for share in self._shares.values():
            share.more.set()

    async def room(self) -> None:
        """Returns when enough peers are close behind, or cannot be any more."""
        while self.enough:
            offsets = [share.offset for task, share in self._shares.items() if not task.done()]
            if len(offsets) < self.enough or sorted(offsets)[-self.enough] >= self.reached - WINDOW_BYTES:
                return
            self._moved.clear()
            await self._moved.wait()

    def moved(self) -> None:
        self._moved.set()

    def cancel(self) -> None:
        """Peers drop what they have of it, unless that is all."""
        for task in self.tasks:
            task.cancel()

    async def give_up(self) -> None:
        """As `cancel`; nothing is under way any more afterwards."""
        self.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Share:
    """What one peer has been sent. `more` is set when there may be something to send."""

    def __init__(self, growing: Growing) -> None:
        self.growing = growing
        self.offset = 0
        self.more = asyncio.Event()
        self._again = 0
        self._at = 0
        """How far the oldest of what was rewritten and not sent again has been."""

    def rewind(self) -> None:
        """Begins anew."""
        self.offset = self._at = 0
        self._again = len(self.growing.rewritten)

    @property
    def has_all(self) -> bool:
        """Whether everything that there is has been taken."""
        return self.offset == self.growing.reached and self._again == len(self.growing.rewritten)

    async def next(self) -> Chunk | None:
        """The next bytes; None where there are none at the moment, or no more."""
        growing = self.growing
        while self._again < len(growing.rewritten):
            start, stop = growing.rewritten[self._again]
            start, stop = max(start, self._at), min(stop, self.offset)  # what is behind that comes with the rest
            if start < stop:
                self._at = start + min(STEP_BYTES, stop - start)
                return start, await self._read(start, self._at)
            self._again, self._at = self._again + 1, 0
        if self.offset == growing.reached:
            return None
        start = self.offset
        data: bytes | memoryview | None = growing.recent(start)
        if data is None:
            data = await self._read(start, min(growing.reached, start + STEP_BYTES))
        self.offset = start + len(data)
        growing.moved()
        return start, data

    async def _read(self, start: int, stop: int) -> bytes:
        data = await self.growing.disk.run(os.pread, self.growing.descriptor, stop - start, start)
        assert len(data) == stop - start, "a file has fewer bytes than its writer said"
        return data
