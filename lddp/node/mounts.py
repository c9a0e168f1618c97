"""The FUSE mounts of a node: those of its configuration, and those that an operator asks for."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lddp.admin.backend import Document
from lddp.config import MountConfig, WriteMode
from lddp.core.records import Outcome, Record
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.errors import LddpError, OperationError, UnavailableError, UsageError, ZoneError, quoted
from lddp.gateway import NOT_SETTLED
from lddp.node.backend import NodeBackend
from lddp.serving.paths import named

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from lddp.doors.fuse.mount import Mount
    from lddp.node.runtime import Node

_log = logging.getLogger(__name__)
SETTLE_S = 20.0
"""How long a mount waits for a node that has just started; see `Gateway.settled`."""
AGAIN_S = 1.0
"""How often a configured mount is tried whose rule is not in the log yet, or whose mountpoint cannot be used."""


class NodeGround(NodeBackend):
    """Implements `lddp.doors.fuse.ground.Ground`."""

    def view(self) -> AbstractContextManager[View]:
        return self._node.gateway.latest()

    async def submit_folded(self, records: Sequence[Record], timeout_s: float) -> list[tuple[int, Outcome]]:
        applied = await self._node.gateway.submit_many(records, timeout_s, early=True)
        return [(one.gsn, one.outcome) for one in applied]

    def follow(self, listener: Callable[[set[int]], None]) -> None:
        self._node.gateway.on_changed.append(listener)

    def unfollow(self, listener: Callable[[set[int]], None]) -> None:
        self._node.gateway.on_changed.remove(listener)

    def volume(self, rule: int) -> os.statvfs_result:
        return os.statvfs(_local_path(self._node, self._node.trees.rules[rule]))

    def scratch(self) -> Path:
        directory = self._node.config.staging_directory / "mounts"
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory


def _local_path(node: Node, rule: Rule) -> bytes:
    member = rule.member(node.gateway.zone)
    if member is None:
        raise UsageError(f"the rule {rule.name!r} has no tree in this node's zone; mount it at a node that has")
    return member.local_path


class Mounts:
    """Mounts by mountpoint."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.mounts: dict[bytes, Mount] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._change = asyncio.Lock()

    def documents(self) -> list[Document]:
        return [self._document(mount) for _, mount in sorted(self.mounts.items())]

    def _document(self, mount: Mount) -> Document:
        return {
            "rule": mount.top.name,
            **named("mountpoint", mount.mountpoint),
            "soft_timeout_s": mount.patience.soft_s,
            "write_mode": mount.write_mode,
            "passthrough": mount.passes,
            "why_no_passthrough": mount.why_not_passing,
            "calls": mount.session.in_flight,
            "queued": mount.queued,
        }

    async def told(self, timeout_s: float) -> None:
        """Returns when every mount shows what the node has folded. Raises UnavailableError after the time."""
        for mount in [mount for mount in self.mounts.values() if not mount.is_told]:
            try:
                async with asyncio.timeout(timeout_s):
                    await mount.told()
            except TimeoutError:
                raise UnavailableError(
                    f"the kernel was not told of all changes at {quoted(mount.mountpoint)} in {timeout_s:g} s"
                ) from None

    async def mount(
        self, name: str, mountpoint: bytes, soft_s: float | None, mode: WriteMode, *, passthrough: bool = False
    ) -> Document:
        """Raises UsageError, ZoneError, UnavailableError, OperationError(ENOENT) for a rule that does not exist."""
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._node.gateway.settled()
        except TimeoutError:
            raise UnavailableError(f"after {SETTLE_S:g} s {NOT_SETTLED}") from None
        async with self._change:
            with self._node.gateway.view() as view:
                rule = view.rule(name)
            if rule is None:
                raise OperationError(errno.ENOENT, f"there is no rule {name!r}; 'lddp rule list' shows them")
            mountpoint = await asyncio.to_thread(os.path.realpath, mountpoint)
            self._check(rule, mountpoint)
            # Loaded here: a node starts no later for a door that nobody uses.
            from lddp.doors.fuse.ground import Patience, Top
            from lddp.doors.fuse.mount import Mount

            top = Top(rule.number, rule.name, rule.path, rule.root)
            ground = NodeGround(self._node)
            mount = await Mount.start(ground, top, mountpoint, Patience(soft_s), mode, passes=passthrough)
            self.mounts[mountpoint] = mount
            task = asyncio.get_running_loop().create_task(self._watch(mount))
            self._watching.add(task)
            task.add_done_callback(self._watching.discard)
            _log.info("rule %s is mounted at %s", name, os.fsdecode(mountpoint))
            return self._document(mount)

    def _check(self, rule: Rule, mountpoint: bytes) -> None:
        """A node must not read or write its own files through a mount that it serves itself."""
        _local_path(self._node, rule)
        own = [os.fsencode(path) for path in (self._node.config.data_directory, self._node.config.staging_directory)]
        own += [
            member.local_path
            for one in self._node.trees.rules.values()
            if (member := one.member(self._node.gateway.zone)) is not None
        ]
        for path in map(os.path.realpath, own):
            if path == mountpoint or mountpoint.startswith(path + b"/") or path.startswith(mountpoint + b"/"):
                raise UsageError(f"{quoted(mountpoint)} overlaps {quoted(path)}, which this node uses; choose another")

    async def _watch(self, mount: Mount) -> None:
        """Anybody who may can unmount it, by umount(8)."""
        await mount.ended()
        self.mounts.pop(mount.mountpoint, None)
        await mount.close()
        _log.info("rule %s is not mounted at %s any more", mount.top.name, os.fsdecode(mount.mountpoint))

    async def unmount(self, mountpoint: bytes, *, lazily: bool) -> Document:
        async with self._change:
            mountpoint = os.path.normpath(mountpoint)
            mount = self.mounts.get(mountpoint)
            if mount is None:
                raise OperationError(errno.ENOENT, f"nothing of this node is mounted at {quoted(mountpoint)}")
            document = self._document(mount)
            try:
                await mount.stop(lazily=lazily)
            except OSError as error:
                raise ZoneError(
                    error.errno or errno.EIO,
                    f"{quoted(mountpoint)} cannot be unmounted ({error.strerror}); end what uses it, or unmount lazily",
                ) from None
            self.mounts.pop(mountpoint, None)
            return document

    async def run(self) -> None:
        """Brings the configured mounts about, whenever their rules come to be."""
        left: dict[Path, MountConfig] = dict(self._node.config.mounts)
        told: dict[Path, str] = {}
        while left:
            for mountpoint, wanted in list(left.items()):
                try:
                    soft_s = wanted.soft_timeout_s or None
                    point, passes = os.fsencode(mountpoint), wanted.passthrough
                    await self.mount(wanted.rule, point, soft_s, wanted.write_mode, passthrough=passes)
                    del left[mountpoint]
                except LddpError as error:
                    if told.get(mountpoint) != str(error):
                        told[mountpoint] = str(error)
                        _log.warning("%s is not mounted yet: %s", mountpoint, error)
            if left:
                await asyncio.sleep(AGAIN_S)

    async def stop(self) -> None:
        """Unmounts all, also from under programs that use them."""
        for mount in list(self.mounts.values()):
            failed = self._node.member.failed.done()
            try:
                # A node that has failed orders nothing any more.
                await (mount.stop(lazily=True, commit_s=0) if failed else mount.stop(lazily=True))
            except OSError as error:
                _log.error("%s stays mounted, and is dead: %s", os.fsdecode(mount.mountpoint), error.strerror)
                await mount.close()
        if self._watching:
            await asyncio.wait(self._watching)
