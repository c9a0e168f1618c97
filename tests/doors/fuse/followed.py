"""What another zone does, and what the kernel is told of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from blake3 import blake3

from lddp.core.records import Content, OperationId, Put
from lddp.doors.fuse.following import Following
from tests.doors.fuse.kernel import Kernel, MachineGround


def put(ground: MachineGround, path: bytes, data: bytes) -> None:
    """Another zone's, with the digest that the bytes have."""
    digest = blake3(data).digest()
    ground.contents[digest] = data
    content = Content(digest, len(data), data if len(data) <= 16 else None)
    record = Put(OperationId(b"other", len(ground.order)), 1, 7, path, 0o644, 0, 0, content)
    assert not ground.apply(record).errno


class Told:
    """`notices`: all that the kernel was told since they were cleared last."""

    def __init__(self, kernel: Kernel) -> None:
        self.notices: list[bytes] = []
        self.following = Following(kernel.tree, self._tell)

    async def _tell(self, notices: list[Sequence[bytes]]) -> None:
        self.notices += [b"".join(notice) for notice in notices]

    async def all(self) -> None:
        """Returns when it was told of every change so far."""
        await self.following.told()


@asynccontextmanager
async def followed(kernel: Kernel) -> AsyncIterator[Told]:
    told = Told(kernel)
    kernel.tree.ground.follow(told.following.changed)
    task = asyncio.create_task(told.following.run())
    yield told
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
