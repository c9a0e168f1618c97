"""What tells the kernel, for tests that have none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from lddp.doors.fuse.following import Following
from tests.doors.fuse.kernel import PATIENCE_S, Kernel


@asynccontextmanager
async def telling(kernel: Kernel, tell: Callable[[list[Sequence[bytes]]], Awaitable[None]]) -> AsyncIterator[Following]:
    """Follows as a mount does, with `tell` in place of what writes notices to the kernel."""
    following = Following(kernel.tree, tell)
    kernel.tree.ground.follow(following.changed)
    task = asyncio.create_task(following.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield following
    finally:
        kernel.tree.ground.unfollow(following.changed)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
