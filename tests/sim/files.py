"""A zone's files as one process reaches them, and open descriptors of them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch

import lddp.migrate.look
import lddp.migrate.observer
import lddp.migrate.rounds
import lddp.migrate.verify
import lddp.replay.existing
import lddp.replay.retained
import lddp.zones.attributes
from lddp.core.records import Attributes, Kind
from lddp.errors import LddpError
from lddp.ports import ContentSource, Status
from tests.fakes.zone import FakeZone, Inode
from tests.sim.loop import Process

if TYPE_CHECKING:
    from lddp.ports import NewFile
    from tests.sim.content import Blob

_READS = ("status", "parked_handle", "list", "xattrs", "read_link", "locate", "alive", "free_bytes")
_CHANGES = (
    "make_directory",
    "make_node",
    "link",
    "rename",
    "exchange",
    "park",
    "unpark",
    "remove",
    "make_parked",
    "remove_parked",
    "set_attributes",
    "write",
    "truncate",
)
_FORMATS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
FIRST_DESCRIPTOR = 1 << 24
"""Beyond all real descriptors."""


class Descriptors:
    """Open files of all fake zones, and what of the `os` module is asked about them. Other things of `os` are real.

    An open file is the object, not its name: what is written to it later shows, as in a kernel.
    """

    def __init__(self) -> None:
        self._open: dict[int, tuple[FakeZone, Inode]] = {}
        self._next = FIRST_DESCRIPTOR
        self.before_read: Callable[[FakeZone], None] = lambda _zone: None

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, zone: FakeZone, inode: Inode) -> int:
        self._next += 1
        self._open[self._next] = (zone, inode)
        return self._next

    def inode(self, descriptor: int) -> Inode:
        return self._open[descriptor][1]

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        zone, inode = self._open[descriptor]
        self.before_read(zone)
        return bytes(inode.data[offset : offset + size])

    def fstat(self, descriptor: int) -> os.stat_result:
        zone, inode = self._open[descriptor]
        self.before_read(zone)
        return stat_of(zone, inode)

    def listxattr(self, where: int) -> list[str]:
        return [os.fsdecode(name) for name, _ in self._open[where][1].attributes.xattrs]

    def getxattr(self, where: int, name: bytes) -> bytes:
        found = dict(self._open[where][1].attributes.xattrs)
        if name not in found:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return found[name]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The modules that read open files find these."""
        modules: list[ModuleType] = [
            lddp.migrate.look,
            lddp.migrate.observer,
            lddp.migrate.rounds,
            lddp.migrate.verify,
            lddp.replay.existing,
            lddp.replay.retained,
            lddp.zones.attributes,
        ]
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(patch.object(module, "os", self))
            yield


def stat_of(zone: FakeZone, inode: Inode) -> os.stat_result:
    """What the kernel would say of an open file."""
    found = zone._status(inode)
    assert found.kind is not None
    ten = (
        _FORMATS[found.kind] | found.mode,
        found.inode,
        found.device,
        found.links,
        found.uid,
        found.gid,
        found.size,
        0,
        found.mtime_ns // 10**9,
        found.ctime_ns // 10**9,
    )
    more = {"st_atime_ns": 0, "st_mtime_ns": found.mtime_ns, "st_ctime_ns": found.ctime_ns}
    return os.stat_result(ten, more)


class OpenedDirectory:
    """`ports.OpenDirectory`: the object, wherever it has been moved since it was opened."""

    def __init__(self, zone: ZoneAccess, path: bytes, inode: Inode) -> None:
        self._zone = zone
        self._path = path
        self._inode = inode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def names(self) -> list[tuple[bytes, bool]]:
        self._zone.before_look()
        return [(name, inode.kind is Kind.DIRECTORY) for name, inode in sorted(self._inode.entries.items())]

    def status(self, name: bytes) -> Status:
        self._zone.before_look()
        inode = self._inode.entries.get(name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return self._zone.files._status(inode)

    def open_read(self, name: bytes) -> int:
        self._zone.before_look()
        inode = self._inode.entries.get(name)
        if inode is None:
            return self._zone.open_read(self._path + b"/" + name if self._path else name)
        return self._zone.open_file(inode, name)


class ZoneAccess:
    """Implements `ports.ZoneFilesystem` for one process over files that outlive it. Between any two calls the process
    may be killed; before each look `before_look` runs, so that others can change the files meanwhile, and before each
    change `before_change`, which may refuse it, as `before_sync` each sync."""

    gives_owners = True

    def __init__(
        self,
        files: FakeZone,
        process: Process,
        descriptors: Descriptors,
        *,
        observe_only: bool = False,
        before_look: Callable[[], None] = lambda: None,
        before_change: Callable[[], None] = lambda: None,
        before_sync: Callable[[], None] = lambda: None,
        sync_s: tuple[float, float] = (0.0, 0.01),
        taken: dict[tuple[bytes, bool], bytes] | None = None,
    ) -> None:
        self.files = files
        self.descriptors = descriptors
        self.changes = 0
        self._process = process
        self._observe_only = observe_only
        self.before_look = before_look
        self._before_change = before_change
        self._before_sync = before_sync
        self._sync_s = sync_s
        self._taken = {} if taken is None else taken
        for name in _READS:
            setattr(self, name, self._reading(getattr(files, name)))
        for name in _CHANGES:
            setattr(self, name, self._changing(getattr(files, name)))

    def _reading(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.before_look()
            return method(*arguments)

        return call

    def _changing(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._change()
            found = method(*arguments)
            self._process.point()
            return found

        return call

    def _change(self) -> None:
        self._process.point()
        if self._observe_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self._before_change()
        self.changes += 1

    def open_read(self, path: bytes) -> int:
        self.before_look()
        return self.open_file(self.files._find(path), path)

    def open_file(self, inode: Inode, path: bytes) -> int:
        if inode.kind is not Kind.FILE:
            number = errno.EISDIR if inode.kind is Kind.DIRECTORY else errno.EINVAL
            raise OSError(number, os.strerror(number), path)
        return self.descriptors.open(self.files, inode)

    def open_directory(self, path: bytes) -> OpenedDirectory:
        self.before_look()
        inode = self.files._find(path)
        if inode.kind is not Kind.DIRECTORY:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return OpenedDirectory(self, path, inode)

    def put_files(self, files: Sequence[NewFile]) -> tuple[int, OSError | LddpError | None]:
        for count, file in enumerate(files):
            try:
                self.put_file(*file, look=False)
            except (OSError, LddpError) as error:
                return count, error
        return len(files), None

    def put_file(
        self, path: bytes, attributes: Attributes, source: ContentSource, *, look: bool = True
    ) -> Status | None:
        self._change()
        blob: Blob | None = source if hasattr(source, "take") else None  # type: ignore[assignment]
        data = blob.data() if blob is not None else b""
        found = self.files.put_file(path, attributes, source)
        if blob is not None:
            self._taken[blob.key] = data
            blob.take()  # a zone on the store's own filesystem moves the blob into place
        self._process.point()
        return found if look else None

    def sync(self) -> None:
        self._process.point()
        self._before_sync()
        self.files.sync()
        self._taken.clear()
        self._process.spend(self._process.random.uniform(*self._sync_s))

    def discard_leftovers(self) -> None:
        self.files.discard_leftovers()

    def close(self) -> None:
        pass
