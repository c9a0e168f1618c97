"""What the kernel knows of the tree, and what it is shown of an inode."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, field

from lddp.core.namespace import Inode
from lddp.core.records import Kind
from lddp.doors.fuse import protocol, wire
from lddp.doors.fuse.ordering import KINDS

TIMES_MAX = 65_536


@dataclass(slots=True)
class _Known:
    count: int
    last: Inode
    cached: bytes = b""
    """The digest of the content whose pages the kernel may hold."""
    names: set[tuple[int, bytes]] = field(default_factory=set)
    """(directory, name) by which the kernel knows it."""


@dataclass(slots=True)
class _Times:
    change_ns: int
    access_ns: int | None = None


class Inodes:
    """Nodes that the kernel has looked up, and times that the log does not keep: those of changes and accesses live as
    long as the mount, for as many inodes as there is room for."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._known: dict[int, _Known] = {}
        self._by_name: dict[tuple[int, bytes], int] = {}
        self._times: OrderedDict[int, _Times] = OrderedDict()

    # -- numbers ------------------------------------------------------------------------------------------------------

    def number(self, node: int) -> int:
        return self.root if node == protocol.ROOT else node

    def node(self, number: int) -> int:
        return protocol.ROOT if number == self.root else number

    # -- what the kernel holds ----------------------------------------------------------------------------------------

    def looked_up(self, inode: Inode, directory: int, name: bytes) -> None:
        known = self._known.get(inode.number)
        if known is None:
            known = self._known[inode.number] = _Known(1, inode)
        else:
            known.count += 1
            known.last = inode
        known.names.add((directory, name))
        self._by_name[directory, name] = inode.number

    def __contains__(self, number: int) -> bool:
        return number in self._known or number == self.root

    def names(self, number: int) -> list[tuple[int, bytes]]:
        known = self._known.get(number)
        return [] if known is None else list(known.names)

    def believed(self, directory: int, name: bytes) -> int:
        """What the kernel knows by this name, 0 for nothing: not always what has it, before the kernel was told."""
        return self._by_name.get((directory, name), 0)

    def lost_name(self, number: int, directory: int, name: bytes) -> None:
        known = self._known.get(number)
        if known is not None:
            known.names.discard((directory, name))
        self._forget_name(number, (directory, name))

    def got_name(self, number: int, directory: int, name: bytes) -> None:
        """The kernel has moved what it knew."""
        known = self._known.get(number)
        if known is not None:
            known.names.add((directory, name))
            self._by_name[directory, name] = number

    def _forget_name(self, number: int, name: tuple[int, bytes]) -> None:
        if self._by_name.get(name) == number:
            del self._by_name[name]

    def has_pages_of_another(self, number: int, digest: bytes) -> bool:
        """Whether pages that the kernel may have are of another content than this."""
        known = self._known.get(number)
        return known is not None and known.cached != digest

    def seen(self, inode: Inode) -> None:
        known = self._known.get(inode.number)
        if known is not None:
            known.last = inode

    def last(self, number: int) -> Inode | None:
        """As it was before it was removed, for who still holds it."""
        known = self._known.get(number)
        return None if known is None else known.last

    def forget(self, pairs: list[tuple[int, int]]) -> None:
        for node, count in pairs:
            number = self.number(node)
            known = self._known.get(number)
            if known is not None:
                known.count -= count
                if known.count <= 0:
                    del self._known[number]
                    for name in known.names:
                        self._forget_name(number, name)

    def __len__(self) -> int:
        return len(self._known)

    def keeps_pages(self, number: int, digest: bytes) -> bool:
        """Whether pages that the kernel may have are of this content; from now on they are."""
        known = self._known.get(number)
        if known is None:
            return False
        same = known.cached == digest
        known.cached = digest
        return same

    def pages_are_now(self, number: int, before: bytes, digest: bytes) -> None:
        """The content became another one by writes that went through the kernel's pages."""
        known = self._known.get(number)
        if known is not None:
            known.cached = digest if known.cached == before else b""

    def pages_come(self, number: int, digest: bytes) -> None:
        """Pages that the kernel gets from here on are of this content; what it has may be of another one."""
        known = self._known.get(number)
        if known is not None and known.cached != digest:
            known.cached = b""

    def pages_are_lost(self, number: int) -> None:
        """What was written through the kernel's pages is not in the content: they are of none from now on."""
        known = self._known.get(number)
        if known is not None:
            known.cached = b""

    # -- times --------------------------------------------------------------------------------------------------------

    def changed(self, number: int, time_ns: int) -> None:
        times = self._times.get(number)
        if times is None:
            self._times[number] = _Times(time_ns)
            if len(self._times) > TIMES_MAX:
                self._times.popitem(last=False)
        else:
            times.change_ns = time_ns
            self._times.move_to_end(number)

    def accessed(self, number: int, time_ns: int, now_ns: int) -> None:
        self.changed(number, now_ns)
        self._times[number].access_ns = time_ns

    # -- attributes ---------------------------------------------------------------------------------------------------

    def attributes(self, inode: Inode, size: int, mtime_ns: int) -> wire.Attributes:
        """`size` and `mtime_ns` are the inode's own unless somebody writes to it."""
        times = self._times.get(inode.number)
        changed = mtime_ns if times is None else times.change_ns
        accessed = mtime_ns if times is None or times.access_ns is None else times.access_ns
        known = inode.mode >= 0
        return wire.Attributes(
            self.node(inode.number),
            4096 if inode.kind is Kind.DIRECTORY else size,
            KINDS[inode.kind] | (inode.mode if known else 0o755),
            inode.nlink or (1 if inode.number == self.root else 0),
            inode.uid if known else 0,
            inode.gid if known else 0,
            _kernel_device(inode.rdev),
            accessed,
            mtime_ns,
            changed,
        )


def _kernel_device(rdev: int) -> int:
    """A device number as the kernel's 32-bit form has it (new_encode_dev)."""
    major, minor = os.major(rdev), os.minor(rdev)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def user_device(encoded: int) -> int:
    """The other way round (new_decode_dev)."""
    return os.makedev((encoded & 0xFFF00) >> 8, (encoded & 0xFF) | ((encoded >> 12) & 0xFFF00))
