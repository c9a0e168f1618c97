"""Which request means what."""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from typing import Any

from lddp.doors.fuse import wire
from lddp.doors.fuse.data import Data
from lddp.doors.fuse.metadata import Metadata
from lddp.doors.fuse.names import Names
from lddp.doors.fuse.ordering import refused
from lddp.doors.fuse.protocol import Opcode
from lddp.doors.fuse.session import Answer
from lddp.doors.fuse.tree import Tree


class Filesystem:
    """Serves the requests of one mount, whoever brings them: a session, or a test."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        names = Names(tree)
        metadata = Metadata(tree)
        self._data = Data(tree, names, metadata)
        data = self._data
        self._operations: dict[int, Callable[[wire.Request], Any]] = {
            Opcode.LOOKUP: names.lookup,
            Opcode.GETATTR: metadata.getattr,
            Opcode.SETATTR: metadata.setattr,
            Opcode.READLINK: metadata.readlink,
            Opcode.SYMLINK: names.symlink,
            Opcode.MKNOD: names.mknod,
            Opcode.MKDIR: names.mkdir,
            Opcode.UNLINK: names.unlink,
            Opcode.RMDIR: names.rmdir,
            Opcode.RENAME: names.rename,
            Opcode.RENAME2: names.rename2,
            Opcode.LINK: names.link,
            Opcode.OPEN: data.open,
            Opcode.CREATE: data.create,
            Opcode.READ: data.read,
            Opcode.WRITE: data.write,
            Opcode.FLUSH: data.flush,
            Opcode.FSYNC: data.fsync,
            Opcode.RELEASE: data.release,
            Opcode.FALLOCATE: data.fallocate,
            Opcode.LSEEK: data.lseek,
            Opcode.STATFS: metadata.statfs,
            Opcode.SETXATTR: metadata.setxattr,
            Opcode.GETXATTR: metadata.getxattr,
            Opcode.LISTXATTR: metadata.listxattr,
            Opcode.REMOVEXATTR: metadata.removexattr,
            Opcode.OPENDIR: names.opendir,
            Opcode.READDIR: names.readdir,
            Opcode.READDIRPLUS: names.readdirplus,
            Opcode.RELEASEDIR: names.releasedir,
            Opcode.FSYNCDIR: names.fsyncdir,
        }

    def handle(self, request: wire.Request) -> Answer | Coroutine[Any, Any, Answer]:
        operation = self._operations.get(request.opcode)
        if operation is None:
            # The kernel does without: access by default_permissions, copy_file_range by reading and writing, ...
            raise refused(errno.ENOSYS)
        answer: Answer | Coroutine[Any, Any, Answer] = operation(request)
        return answer

    def forget(self, pairs: list[tuple[int, int]]) -> None:
        self.tree.inodes.forget(pairs)

    async def close(self) -> None:
        """Nothing is committed here: `Tree.commit_all` comes first."""
        await self.tree.passthrough.close()
        await self._data.close()
        await self.tree.close()
        self.tree.files.close()
