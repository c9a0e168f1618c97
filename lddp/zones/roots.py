"""Which directory a tree's root is, so that it is known again at a later start: an empty directory, or another
filesystem, at the path of one that is not mounted must not be taken for it."""

from __future__ import annotations

import datetime
import errno
import os
import sys
from typing import NamedTuple

import msgpack

from lddp.zones import syscalls

_EXT, _XFS, _BTRFS, _TMPFS = 0xEF53, 0x58465342, 0x9123683E, 0x01021994
_ZFS, _F2FS, _BCACHEFS = 0x2FC12FC1, 0xF2F52010, 0xCA451A4E
_LASTING = frozenset((_EXT, _XFS, _BTRFS, _TMPFS, _ZFS, _F2FS, _BCACHEFS))
"""Kinds of filesystem whose handles, inode numbers and times of birth are known to last. Others make some of them up at
each mount, as exFAT the birth of its root, or are told them by a server that may."""
_OVERLAY = 0x794C7630
"""A directory of a lower layer is copied up by the first change in it, and born anew. Between layers on more than one
filesystem, its inode number is of the mount. Its filesystem's id lasts, and its handle, which is that of the layer and
cannot be opened."""
_NO_HANDLE = frozenset((errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EOVERFLOW, errno.EINVAL))
_DEVICE_MAX = 0xFFFFFFFF
"""The number of a device, which may be another one after each boot, has 32 bits; an id made of a UUID has 64."""
_XFS_INODE_32, _XFS_INODE_64 = b"\x01", b"\x81"
"""Types of handles: an inode number in as many bits, and a generation in 32."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class RootIdentity(NamedTuple):
    """What is known of a directory. All but `device` outlasts a reboot."""

    filesystem: int
    """The kind of filesystem, `f_type`."""
    volume: int
    """`f_fsid`; 0 where the filesystem does not say, or says the number of its device, as XFS does."""
    handle: bytes
    """Type and bytes of the kernel's handle; empty where there is none that lasts. Nearly every root of a filesystem
    of one kind has the same."""
    born_ns: int
    """When it was made, in nanoseconds since the epoch; 0 where the filesystem does not keep it."""
    device: int
    """`st_dev`."""
    inode: int = 0
    """`st_ino`; 0 where it does not last, or was not noted."""

    def is_same(self, other: RootIdentity) -> bool:
        """Whether both are of one directory, as far as both say: a newer kernel may tell more."""
        if self.filesystem != other.filesystem:
            return False
        if self.handle and other.handle and self.handle != other.handle:
            return False
        if self.inode and other.inode and self.inode != other.inode:
            return False
        has_born = bool(self.born_ns and other.born_ns)
        # The root of these was born in a second, and more than one can have been made in that.
        lasts = self.filesystem in (_EXT, _BTRFS) or not has_born
        is_compared = lasts and self.volume and other.volume
        return (not has_born or self.born_ns == other.born_ns) and (not is_compared or self.volume == other.volume)

    def described(self) -> str:
        """For people."""
        kind = f"filesystem {self.volume:x} of type {self.filesystem:x}"
        if not self.born_ns:
            return f"on {kind}"
        born = datetime.datetime.fromtimestamp(self.born_ns // 10**9, datetime.UTC)
        return f"made {born:%Y-%m-%d %H:%M:%S} UTC on {kind}"

    def to_bytes(self) -> bytes:
        packed: bytes = msgpack.packb(self)
        return packed


def root_from_bytes(data: bytes) -> RootIdentity:
    """Also as another version has noted it, which took other things for lasting."""
    return _what_lasts(RootIdentity(*msgpack.unpackb(data)))


def identity_at(path: str | bytes | os.PathLike[str]) -> RootIdentity:
    """Of the directory at a path."""
    descriptor = os.open(path, _DIRECTORY)
    try:
        return identity_of(descriptor)
    finally:
        os.close(descriptor)


def identity_of(descriptor: int) -> RootIdentity:
    """Of an open directory."""
    kind, status = syscalls.filesystem_type(descriptor), os.fstat(descriptor)
    if kind not in _LASTING and kind != _OVERLAY:
        return RootIdentity(kind, 0, b"", 0, status.st_dev)
    volume = os.fstatvfs(descriptor).f_fsid
    handle = _handle(descriptor, syscalls.AT_HANDLE_FID if kind == _OVERLAY else 0)
    born_ns = syscalls.birth_time_ns(descriptor, b"", syscalls.AT_EMPTY_PATH)
    return _what_lasts(RootIdentity(kind, volume, handle, born_ns, status.st_dev, status.st_ino))


def _handle(descriptor: int, flags: int) -> bytes:
    try:
        handle_type, data = syscalls.handle_at(descriptor, b"", syscalls.AT_EMPTY_PATH | flags)
    except OSError as error:
        if error.errno not in _NO_HANDLE:
            raise
        return b""
    return bytes((handle_type & 0xFF,)) + data


def _what_lasts(root: RootIdentity) -> RootIdentity:
    if root.filesystem not in _LASTING and root.filesystem != _OVERLAY:
        return RootIdentity(root.filesystem, 0, b"", 0, root.device)
    if root.handle.isdigit():
        # An earlier version noted the inode number there where it got no handle; no type of handle is a digit.
        root = root._replace(handle=b"", inode=int(root.handle))
    if root.filesystem == _OVERLAY:
        root = root._replace(born_ns=0, inode=0)
    if root.filesystem == _XFS and root.handle[:1] == _XFS_INODE_32:
        # Mounted with inode64 it gives another type of handle for the same directory.
        inode = int.from_bytes(root.handle[1:-4], sys.byteorder)
        wide = _XFS_INODE_64 + inode.to_bytes(8, sys.byteorder) + root.handle[-4:]
        root = root._replace(handle=wide)
    return root if root.volume > _DEVICE_MAX else root._replace(volume=0)
