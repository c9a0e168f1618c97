"""One mount, from mount(2) to its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from subprocess import SubprocessError

from lddp.config import WriteMode
from lddp.content.disk import finished
from lddp.doors.fuse import mounting
from lddp.doors.fuse.backing import KernelBacking, why_not_passing
from lddp.doors.fuse.filesystem import Filesystem
from lddp.doors.fuse.following import Following
from lddp.doors.fuse.ground import Ground, Patience, Top
from lddp.doors.fuse.ordering import refused
from lddp.doors.fuse.session import Session
from lddp.doors.fuse.tree import Tree
from lddp.errors import LddpError, UnavailableError, ZoneError, quoted

_log = logging.getLogger(__name__)
GREET_S = 30.0
VALID_NS = 60 * 10**9
"""How long the kernel believes what it was told, unless it is told otherwise."""
COMMIT_S = 10.0
"""How long an unmount waits for what is still to be committed."""


class Mount:
    """A rule's tree at `mountpoint`, until it is unmounted by `stop` or by anybody else."""

    def __init__(
        self, top: Top, mountpoint: bytes, patience: Patience, tree: Tree, descriptor: int, *, passes: bool = False
    ) -> None:
        self.top = top
        self.mountpoint = mountpoint
        self.patience = patience
        self.tree = tree
        self._filesystem = Filesystem(tree)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="fuse-mount")
        self.session = Session(descriptor, self._filesystem.handle, self._filesystem.forget, asks_to_pass=passes)
        self.why_not_passing = ""
        """Why there is no passthrough, where that was wanted."""
        self._closing: asyncio.Task[None] | None = None
        self._commit_s = COMMIT_S
        self._following = Following(tree, self.session.notify, self.session.notify_apart)
        self._task = asyncio.get_running_loop().create_task(self._following.run())
        self._task.add_done_callback(self._not_followed)
        tree.ground.follow(self._following.changed)

    @classmethod
    async def start(
        cls,
        ground: Ground,
        top: Top,
        mountpoint: bytes,
        patience: Patience,
        mode: WriteMode = WriteMode.SYNC,
        *,
        passes: bool = False,
    ) -> Mount:
        """Mounts; returns once the kernel has been greeted, so that programs can be let loose. `passes`: where it can,
        the kernel reads files by itself. Raises UsageError, ZoneError and UnavailableError."""
        loop = asyncio.get_running_loop()
        try:
            mounted = loop.run_in_executor(None, mounting.mount, mountpoint, b"lddp:" + os.fsencode(top.name))
            descriptor = await finished(mounted, partial(_abandon, mountpoint))
        except (OSError, SubprocessError) as error:
            raise _cannot_be_served(mountpoint, error) from error
        tree: Tree | None = None
        try:
            tree = Tree(ground, top, patience, VALID_NS, mode)
            # Only who may administer the machine can give the kernel files.
            mount = cls(top, mountpoint, patience, tree, descriptor, passes=passes and os.geteuid() == 0)
        except OSError as error:
            _abandon(mountpoint, descriptor)
            if tree is not None:
                await tree.close()
            raise _cannot_be_served(mountpoint, error) from error
        try:
            await mount._begin(ground, passes=passes)
        except BaseException:
            await mount._undo()
            raise
        return mount

    async def _begin(self, ground: Ground, *, passes: bool) -> None:
        try:
            async with asyncio.timeout(GREET_S):
                await asyncio.shield(self.session.started)
            self.tree.appends_directly = self.session.maps_direct
            if passes:
                await self._pass(ground)
        except TimeoutError:
            point = quoted(self.mountpoint)
            raise UnavailableError(f"the kernel did not greet the mount at {point}; try again") from None
        except OSError as error:
            raise _cannot_be_served(self.mountpoint, error) from error

    async def _undo(self) -> None:
        """Nobody would know of the mount, so that nobody could unmount it."""
        try:
            await self.stop(lazily=True)
        except OSError as error:
            _log.error("%s stays mounted, and is dead: %s", os.fsdecode(self.mountpoint), error.strerror)
            await self.close()

    async def _pass(self, ground: Ground) -> None:
        """Lets the kernel read files by itself, or says why not."""
        kernel = KernelBacking(self.session.descriptor, self.session.ended.done)
        if os.geteuid() != 0:
            self.why_not_passing = "only root can let the kernel read files by itself"
        elif not self.session.passes:
            self.why_not_passing = "this kernel has no FUSE passthrough (Linux 6.9 and later have it)"
        else:
            loop, directory = asyncio.get_running_loop(), ground.scratch()
            self.why_not_passing = await loop.run_in_executor(self._threads, why_not_passing, kernel, directory)
        if self.why_not_passing:
            _log.warning("%s is without passthrough: %s", os.fsdecode(self.mountpoint), self.why_not_passing)
        else:
            self.tree.passthrough.kernel = kernel

    @property
    def passes(self) -> bool:
        return self.tree.passthrough.kernel is not None

    def _not_followed(self, task: asyncio.Task[None]) -> None:
        """What the kernel believes would not be true for long: better no mount than that one."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("the mount at %s ends", os.fsdecode(self.mountpoint), exc_info=error)
            self._closing = self._closing or asyncio.get_running_loop().create_task(self._close())

    async def stop(self, *, lazily: bool = False, commit_s: float = COMMIT_S) -> None:
        """Commits what is still to be, if that takes no more than `commit_s`, and unmounts. OSError(EBUSY) where
        programs have files open there, and ETIMEDOUT where what was written or promised could not be ordered; `lazily`
        unmounts nevertheless."""
        self._commit_s = commit_s
        is_done = await self._commit()
        if self.queued or (not is_done and self.tree.uncommitted()):
            if not lazily:
                raise refused(errno.ETIMEDOUT)
            self._commit_s = 0.0  # it has been waited for
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

    @property
    def write_mode(self) -> WriteMode:
        return WriteMode.SYNC if self.tree.pipeline is None else WriteMode.PIPELINED

    @property
    def queued(self) -> int:
        """Changes that are promised and not in the log yet."""
        return 0 if self.tree.pipeline is None else len(self.tree.pipeline)

    @property
    def is_told(self) -> bool:
        """Whether `told` would return at once."""
        return self._following.is_told or self.session.ended.done()

    async def told(self) -> None:
        """Returns when the mount shows every change that the node has folded so far, or has ended."""
        told = asyncio.ensure_future(self._following.told())
        await asyncio.wait([told, self.session.ended], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()

    async def ended(self) -> None:
        """Returns when somebody has unmounted it."""
        await asyncio.shield(self.session.ended)

    async def close(self) -> None:
        """Ends the serving, once."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _commit(self) -> bool:
        """False where there was not enough time; what is not committed is logged at the end."""
        try:
            async with asyncio.timeout(self._commit_s):
                await self.tree.commit_all()
        except (OSError, LddpError):  # a TimeoutError is one
            return False
        return True

    async def _close(self) -> None:
        await self._commit()
        self.tree.ground.unfollow(self._following.changed)
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.session.close()
        await self._filesystem.close()
        self._threads.shutdown(wait=False)


def _cannot_be_served(mountpoint: bytes, error: OSError | SubprocessError) -> ZoneError:
    number, why = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
    return ZoneError(number or errno.EIO, f"{quoted(mountpoint)} cannot be served: {why or error}")


def _abandon(mountpoint: bytes, descriptor: int) -> None:
    """Nobody serves what has just been mounted."""
    os.close(descriptor)
    asyncio.get_running_loop().run_in_executor(None, _unmount_dead, mountpoint)


def _unmount_dead(mountpoint: bytes) -> None:
    with contextlib.suppress(OSError):  # the next mount there finds it
        mounting.clear_dead(mountpoint)
