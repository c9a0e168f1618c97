"""Reading a file of this node's zone as it was at one index of the log.

The namespace says which version a path has, the zone's filesystem has the bytes, and the two move on independently:
between the look into the one and the opening of the other, the file may be replaced or the path lead elsewhere. So the
namespace is looked at again once the file is open. Effects are carried out only after the transaction that folded their
record; where the second look finds the same version and the same trail of entries to it as the first, nothing of the
path had been moved or replaced in the zone when the file was opened. What is changed in place afterwards is told to the
reader (`Readings`), and what other programs change at a source shows in the file's size and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

from lddp.access import OpenFile
from lddp.core.namespace import Inode
from lddp.core.records import Kind
from lddp.core.rules import Rule
from lddp.errors import ElsewhereError, OperationError, UnavailableError, quoted
from lddp.node.describe import entry_of
from lddp.node.lookup import entry_at, find
from lddp.replay.readings import Reading
from lddp.zones.posix import PosixZone

if TYPE_CHECKING:
    from lddp.node.runtime import Node

SETTLE_S = 30.0
"""How long a path is looked for that changes all the time, or that this zone is still to be brought to."""
FOLLOW_S = 2.0
"""How long a file waits for the log that a source's own programs have changed."""
_COARSE_NS = 10**9
"""Some filesystems keep whole seconds."""


class Seen(NamedTuple):
    """What the namespace says of a path. `trail`: the entries that lead to it (`View.trail`)."""

    gsn: int
    rule: Rule
    inode: Inode
    path: bytes
    """Relative to the rule's root."""
    trail: tuple[tuple[int, int], ...]

    @property
    def since(self) -> int:
        """The record that made it so: from there on the zone shows it."""
        return max(self.inode.version, *(gsn for _, gsn in self.trail), 0)

    def is_still(self, later: Seen) -> bool:
        return self.trail == later.trail and self.inode.version == later.inode.version


def elsewhere(node: Node, message: str, zones: Iterable[int] | None = None) -> ElsewhereError:
    """Names the nodes of these zones, or of all."""
    peers = node.config.peers
    own = node.gateway.zone
    wanted = node.nodes_by_zone if zones is None else [zone for zone in zones if zone in node.nodes_by_zone]
    names = [node.nodes_by_zone[zone] for zone in wanted if zone != own]
    return ElsewhereError(
        message, [{"name": name, "zone": peers[name].zone, "http": peers[name].http or None} for name in sorted(names)]
    )


class Reader:
    """Opens files of this node's zone."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def open(self, path: bytes) -> OpenFile:
        """`Backend.open_file`."""
        clock = self._node.clock
        deadline = clock.monotonic() + SETTLE_S
        follow_until = clock.monotonic() + FOLLOW_S
        while True:
            seen = self._look(path)
            opened = await self._try(seen, path, max(0.0, deadline - clock.monotonic()))
            if opened is not None:
                return opened
            if clock.monotonic() > deadline:
                raise UnavailableError(f"{quoted(path)} changes all the time; try again, or ask another node")
            if self._look(path).is_still(seen):
                # A program has changed it at the source; the log will tell.
                left = follow_until - clock.monotonic()
                if left <= 0:
                    raise self._others(seen, f"{quoted(path)} was changed here, and the log has not got it yet")
                with contextlib.suppress(UnavailableError):
                    await self._node.gateway.wait(seen.gsn + 1, left)

    def _look(self, path: bytes) -> Seen:
        with self._node.gateway.latest() as view:
            found = None if path == b"/" else find(view, path)
            rule, inode, relative = found or (None, None, b"")
            if rule is None or inode is None:
                if entry_at(view, path) is not None:
                    raise OperationError(errno.EISDIR, f"{quoted(path)} is a directory that leads to rules")
                raise OperationError(errno.ENOENT, f"{quoted(path)} does not exist")
            if inode.kind is Kind.DIRECTORY:
                raise OperationError(errno.EISDIR, f"{quoted(path)} is a directory")
            if inode.kind is not Kind.FILE:
                raise OperationError(errno.EINVAL, f"{quoted(path)} is not a regular file")
            return Seen(view.gsn, rule, inode, relative, view.trail(rule.root, relative))

    def _others(self, seen: Seen, message: str) -> ElsewhereError:
        """The other nodes that may have the file."""
        members = [member.zone for member in seen.rule.members]
        zones = members if seen.inode.visible else [zone for zone in members if zone == seen.rule.source]
        return elsewhere(self._node, f"{message}; try again, or ask another node", zones)

    async def _try(self, seen: Seen, path: bytes, timeout_s: float) -> OpenFile | None:
        """The file as it was seen; None where it is not so any more."""
        zone = self._node.trees.zones.get(seen.rule.number)
        projector = self._node.projector
        if zone is None or projector is None:
            raise self._others(seen, "this node has no zone of the rule")
        if seen.since > self._node.gateway.gsn:
            await self._node.gateway.wait(seen.since, timeout_s)  # no file shows what may have to be folded again
        await projector.wait(seen.since, timeout_s)
        # Not before: what brought the file to this version may have changed it in place. What comes after that version
        # is in the namespace before it touches the file, where the second look finds it.
        reading = projector.readings.begin(seen.inode.number)
        descriptor = -1
        opened: OpenFile | None = None
        try:
            descriptor = await self._open(zone, seen.path)
            opened = self._checked(seen, path, descriptor, reading)
        except OSError as error:
            if self._look(path).is_still(seen):
                raise self._others(seen, f"this zone has not got the bytes ({error.strerror})") from None
        finally:
            if opened is None:
                if descriptor >= 0:
                    os.close(descriptor)
                projector.readings.end(reading)
        return opened

    def _checked(self, seen: Seen, path: bytes, descriptor: int, reading: Reading) -> OpenFile | None:
        """The open file, if it is the one that was seen and what the log says of it is true of it."""
        now = self._look(path)
        found = os.fstat(descriptor)
        foreign = seen.rule.source == self._node.gateway.zone and not seen.inode.pending
        if not now.is_still(seen) or reading.torn or (foreign and not _agrees(found, seen.inode)):
            return None
        projector = self._node.projector
        assert projector is not None, "looked at by who opened the file"

        def is_intact() -> bool:
            if reading.torn:
                return False
            after = os.fstat(descriptor)
            return not foreign or (after.st_size, after.st_mtime_ns) == (found.st_size, found.st_mtime_ns)

        entry = entry_of(seen.inode)._replace(size=found.st_size)
        return OpenFile(descriptor, entry, now.gsn, is_intact, lambda: projector.readings.end(reading))

    async def _open(self, zone: PosixZone, path: bytes) -> int:
        """A descriptor, closed where nobody waits for it any more."""
        opening = self._node.threads.submit(zone.open_read, path)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_result)
            raise


def _close_result(opening: Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def _agrees(found: os.stat_result, inode: Inode) -> bool:
    """Whether a source's file is the one that the log knows."""
    mtime_ns = found.st_mtime_ns
    same = mtime_ns in (inode.mtime_ns, inode.mtime_ns // _COARSE_NS * _COARSE_NS)
    return same and found.st_size == inode.size
