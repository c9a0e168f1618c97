"""One mount, from mount(2) to its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor

from lddp.doors.fuse import mounting
from lddp.doors.fuse.filesystem import Filesystem
from lddp.doors.fuse.ground import Ground, Patience, Top
from lddp.doors.fuse.session import Session
from lddp.doors.fuse.tree import Tree
from lddp.errors import UnavailableError, quoted

_log = logging.getLogger(__name__)
GREET_S = 30.0
COMMIT_S = 10.0
"""How long an unmount waits for what is still to be committed."""


class Mount:
    """A rule's tree at `mountpoint`, until it is unmounted by `stop` or by anybody else."""

    def __init__(self, top: Top, mountpoint: bytes, patience: Patience, tree: Tree, descriptor: int) -> None:
        self.top = top
        self.mountpoint = mountpoint
        self.patience = patience
        self.tree = tree
        self._filesystem = Filesystem(tree)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="fuse-mount")
        self.session = Session(descriptor, self._filesystem.handle, self._filesystem.forget)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, ground: Ground, top: Top, mountpoint: bytes, patience: Patience, valid_ns: int = 0) -> Mount:
        """Mounts; returns once the kernel has been greeted, so that programs can be let loose. Raises UsageError,
        ZoneError and UnavailableError."""
        tree = Tree(ground, top, patience, valid_ns)
        loop = asyncio.get_running_loop()
        descriptor = await loop.run_in_executor(None, mounting.mount, mountpoint, b"lddp:" + os.fsencode(top.name))
        mount = cls(top, mountpoint, patience, tree, descriptor)
        try:
            await asyncio.wait_for(asyncio.shield(mount.session.started), GREET_S)
        except TimeoutError:
            await mount.stop(lazily=True)
            raise UnavailableError(f"the kernel did not greet the mount at {quoted(mountpoint)}; try again") from None
        return mount

    async def stop(self, *, lazily: bool = False) -> None:
        """Commits what is still to be, and unmounts. OSError(EBUSY) where programs have files open there; `lazily`
        takes it from under them."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.tree.commit_all(), COMMIT_S)
        loop = asyncio.get_running_loop()
        if not self.session.ended.done():
            try:
                await loop.run_in_executor(self._threads, self._unmount, lazily)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted any more
                    raise
        await self.close()

    def _unmount(self, lazily: bool) -> None:
        try:
            mounting.unmount(self.mountpoint)
        except OSError as error:
            if error.errno != errno.EBUSY or not lazily:
                raise
            mounting.unmount(self.mountpoint, lazily=True)

    async def ended(self) -> None:
        """Returns when somebody has unmounted it."""
        await asyncio.shield(self.session.ended)

    async def close(self) -> None:
        """Ends the serving, once."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.tree.commit_all(), COMMIT_S)
        await self.session.close()
        await self._filesystem.close()
        self._threads.shutdown(wait=False)
