"""Attributes, extended attributes, symlinks' targets, and the volume's room."""

from __future__ import annotations

import errno
import stat
from typing import NamedTuple

from lddp.core import records as r
from lddp.core.namespace import Inode
from lddp.core.records import Kind, XattrFlag
from lddp.doors.fuse import copying, wire
from lddp.doors.fuse.ordering import refused
from lddp.doors.fuse.protocol import SetAttribute
from lddp.doors.fuse.tree import Tree

_NAMESPACES = (b"user.", b"trusted.", b"security.")
TRUNCATE_RECORD_FROM_BYTES = 1 << 20
"""A larger file that nobody has open is cut by one small record, and not by sending it again."""


class Fields(NamedTuple):
    """What a record sets; None leaves it as it is."""

    mode: int | None
    uid: int | None
    gid: int | None
    mtime_ns: int | None


def without_privileges(mode: int) -> int:
    """As the kernel takes suid and sgid away from what is written to or given away; sgid without the group's execute
    bit has another meaning."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


class Metadata:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def _number(self, request: wire.Request) -> int:
        return self._tree.inodes.number(request.node)

    def getattr(self, request: wire.Request) -> bytes:
        return self._tree.attributes(self._number(request))

    # -- setattr ------------------------------------------------------------------------------------------------------

    async def setattr(self, request: wire.Request) -> bytes:
        change = wire.change(request.body)
        number = self._number(request)
        try:
            if not await self._of_the_named(number, change):
                await self._of_the_gone(number, change)
        except BaseException:
            # A part of it may be done: the bytes have a new time or size, and a soft mount's record was not ordered.
            # Where a call failed, the kernel goes on with what it knew before.
            self._tree.tell(number)
            raise
        return self._tree.attributes(number)

    async def _of_the_named(self, number: int, change: wire.Change) -> bool:
        """False where it has no name, or loses its last one before all of it is done."""
        inode = await self._tree.certain(number)
        if inode is None or (change.valid & SetAttribute.SIZE and not await self._resize(inode, change)):
            return False
        return await self._set(inode, change)

    async def _of_the_gone(self, number: int, change: wire.Change) -> None:
        """A file without a name is its holders' own."""
        file, last = self._tree.files.get(number), self._last(number)
        if change.valid & SetAttribute.SIZE and file is not None:
            await self._tree.files.truncate(file, change.size)
        fields = self._fields(last, change)
        last.mode = last.mode if fields.mode is None else fields.mode
        last.uid = last.uid if fields.uid is None else fields.uid
        last.gid = last.gid if fields.gid is None else fields.gid
        last.mtime_ns = last.mtime_ns if fields.mtime_ns is None else fields.mtime_ns
        if file is not None and fields.mtime_ns is not None:
            file.mtime_ns = last.mtime_ns
        self._tree.inodes.changed(number, self._tree.ground.time_ns())

    def _last(self, number: int) -> Inode:
        last = self._tree.inodes.last(number)
        if last is None:
            raise refused(errno.ESTALE)
        return last

    async def _resize(self, inode: Inode, change: wire.Change) -> bool:
        tree, number, size = self._tree, inode.number, change.size
        if inode.kind is not Kind.FILE:
            raise refused(errno.EINVAL)
        file = tree.files.get(number)
        unused = file is None or file.staged < 0
        if size > inode.size:
            await tree.files.run(copying.require_room_for, tree.ground.scratch(), size)
        if unused and not change.valid & SetAttribute.FH and max(inode.size, size) >= TRUNCATE_RECORD_FROM_BYTES:
            if not await tree.change(number, lambda stamp, path: r.Truncate(*stamp, path, size)):
                return False
            tree.inodes.pages_are_lost(number)  # the kernel has cut them, and nobody has the content that was cut
            if (file := tree.files.get(number)) is not None:
                file.is_stale = True  # what it has open of the zone may be as it was before
                tree.passthrough.refresh(file)
        else:
            file = tree.files.hold(number)
            try:
                await tree.files.truncate(file, size)
                if not change.valid & SetAttribute.FH:
                    await tree.committer.commit(file)
            except BaseException:
                if not change.valid & SetAttribute.FH:
                    tree.take_back(file)
                raise
            finally:
                tree.let_go(file)
        if change.valid & SetAttribute.KILL_SUIDGID:
            await self.kill_privileges(number)
        return True

    async def kill_privileges(self, number: int) -> None:
        tree = self._tree
        with tree.ground.view() as view:
            inode = view.inode(number)
        now = self._last(number) if inode is None else inode
        mode = without_privileges(now.mode)
        if now.mode < 0 or mode == now.mode:
            return
        if not await tree.change(number, lambda stamp, path: r.SetAttributes(*stamp, path, mode=mode)):
            self._last(number).mode = mode
        # The kernel asked for bytes to be written, and does not know that this changes the mode.
        tree.tell(number)

    def _fields(self, inode: Inode, change: wire.Change) -> Fields:
        valid, now = change.valid, self._tree.ground.time_ns()
        mode = change.mode & 0o7777 if valid & SetAttribute.MODE else None
        if mode is None and valid & (SetAttribute.UID | SetAttribute.GID) and inode.kind is not Kind.DIRECTORY:
            kept = without_privileges(inode.mode)
            mode = kept if inode.mode >= 0 and kept != inode.mode else None
        mtime_ns = now if valid & SetAttribute.MTIME_NOW else change.mtime_ns if valid & SetAttribute.MTIME else None
        uid = change.uid if valid & SetAttribute.UID else None
        gid = change.gid if valid & SetAttribute.GID else None
        return Fields(mode, uid, gid, mtime_ns)

    async def _set(self, inode: Inode, change: wire.Change) -> bool:
        tree, number = self._tree, inode.number
        fields = self._fields(inode, change)
        file = tree.files.get(number)
        if file is not None and file.is_ahead and fields.mtime_ns is not None:
            # The bytes must not come after the time that was chosen for them.
            file.mtime_ns = fields.mtime_ns
            await tree.committer.commit(file)
        if fields != Fields(None, None, None, None) and not await tree.change(
            number, lambda stamp, path: r.SetAttributes(*stamp, path, *fields)
        ):
            return False
        now_ns = tree.ground.time_ns()
        if change.valid & SetAttribute.ATIME_NOW:
            tree.inodes.accessed(number, now_ns, now_ns)
        elif change.valid & SetAttribute.ATIME:
            tree.inodes.accessed(number, change.atime_ns, now_ns)
        return True

    # -- extended attributes ------------------------------------------------------------------------------------------

    def getxattr(self, request: wire.Request) -> bytes:
        size, name = wire.xattr_wanted(request.body)
        inode = self._inode(request)
        value = dict(inode.xattrs).get(name)
        if value is None:
            raise refused(errno.ENODATA)
        return _in_room(size, value)

    def listxattr(self, request: wire.Request) -> bytes:
        size, _ = wire.xattr_wanted(request.body)
        return _in_room(size, b"".join(name + b"\0" for name, _ in self._inode(request).xattrs))

    def _inode(self, request: wire.Request) -> Inode:
        number = self._number(request)
        with self._tree.ground.view() as view:
            inode = view.inode(number)
        return self._last(number) if inode is None else inode

    async def setxattr(self, request: wire.Request) -> bytes:
        name, value, flags = wire.xattr_given(request.body)
        if not name.startswith(_NAMESPACES):
            raise refused(errno.EOPNOTSUPP)
        number, flag = self._number(request), XattrFlag(flags & 3)
        if not await self._tree.change(number, lambda stamp, path: r.SetXattr(*stamp, path, name, value, flag)):
            last = self._last(number)
            xattrs = dict(last.xattrs)
            if flag is XattrFlag.CREATE and name in xattrs:
                raise refused(errno.EEXIST)
            if flag is XattrFlag.REPLACE and name not in xattrs:
                raise refused(errno.ENODATA)
            last.xattrs = tuple(sorted({**xattrs, name: value}.items()))
        return b""

    async def removexattr(self, request: wire.Request) -> bytes:
        number, name = self._number(request), wire.name_in(request.body)
        if not await self._tree.change(number, lambda stamp, path: r.RemoveXattr(*stamp, path, name)):
            last = self._last(number)
            if name not in dict(last.xattrs):
                raise refused(errno.ENODATA)
            last.xattrs = tuple(pair for pair in last.xattrs if pair[0] != name)
        return b""

    # -- the rest -----------------------------------------------------------------------------------------------------

    def readlink(self, request: wire.Request) -> bytes:
        inode = self._inode(request)
        if inode.kind is not Kind.SYMLINK:
            raise refused(errno.EINVAL)
        return inode.target

    async def statfs(self, request: wire.Request) -> bytes:
        v = await self._tree.files.run(self._tree.ground.volume, self._tree.top.rule)
        return wire.statfs_answer(
            wire.Volume(v.f_blocks, v.f_bfree, v.f_bavail, v.f_files, v.f_ffree, v.f_frsize or v.f_bsize, 255)
        )


def _in_room(size: int, value: bytes) -> bytes:
    """As getxattr(2) answers: how much there is, or all of it."""
    if not size:
        return wire.xattr_size(len(value))
    if len(value) > size:
        raise refused(errno.ERANGE)
    return value
