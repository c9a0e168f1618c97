"""A zone in memory, with errors on demand."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from lddp.core.records import Attributes, Kind, Xattrs
from lddp.errors import LddpError
from lddp.ports import ContentSource, NewFile, Status, Takeable
from lddp.zones.attributes import Shortfalls


class Bytes:
    """A ContentSource of plain bytes, or of (offset, bytes) pieces with zeros between them."""

    def __init__(self, data: bytes = b"", *, pieces: list[tuple[int, bytes]] | None = None, size: int = -1) -> None:
        self.pieces = [(0, data)] if pieces is None else pieces
        self.size = size if size >= 0 else max((at + len(piece) for at, piece in self.pieces), default=0)

    def to_take(self) -> Takeable | None:
        return None

    def open_to_clone(self) -> int | None:
        return None

    def chunks(self) -> Iterator[tuple[int, bytes | memoryview]]:
        return iter([(at, piece) for at, piece in self.pieces if piece])


@dataclass
class Inode:
    number: int
    kind: Kind | None
    attributes: Attributes
    ctime_ns: int
    links: int = 0
    data: bytearray = field(default_factory=bytearray)
    target: bytes = b""
    rdev: int = 0
    entries: dict[bytes, Inode] = field(default_factory=dict)


Place = tuple[Inode, bytes]


@dataclass
class Fault:
    """`method` "" is any; `remaining` None is for ever."""

    errno: int
    method: str = ""
    path: bytes | None = None
    remaining: int | None = None


def _failure(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), path)


@dataclass
class FakeDirectory:
    """`ports.OpenDirectory` of a fake zone."""

    zone: FakeZone
    path: bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def names(self) -> list[tuple[bytes, bool]]:
        return [(name, status.kind is Kind.DIRECTORY) for name, status in self.zone.list(self.path)]

    def status(self, name: bytes) -> Status:
        return self.zone.status(self._path_of(name))

    def open_read(self, name: bytes) -> int:
        return self.zone.open_read(self._path_of(name))

    def _path_of(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


class FakeZone:
    """`ports.ZoneFilesystem` in memory.

    `fail` makes later calls raise; `capacity` bounds the bytes of all files (ENOSPC). `calls` lists what was done as
    (method, path) so that tests can see order. Times of change come from a counter, one a change.
    """

    def __init__(self, *, observe_only: bool = False, capacity: int | None = None) -> None:
        self.observe_only = observe_only
        self.capacity = capacity
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, bytes]] = []
        self.syncs = 0
        self.shortfalls = Shortfalls()
        self._ticks = 0
        self._inodes: dict[int, Inode] = {}
        self._numbers = 1
        self.parked: dict[bytes, Inode] = {}
        self.root = self._new(Kind.DIRECTORY, Attributes(0o755, 0, 0, 0))
        self.root.links = 1

    # -- faults -----------------------------------------------------------------------------------------------------

    def fail(self, number: int, *, method: str = "", path: bytes | None = None, times: int | None = None) -> Fault:
        """Makes calls of `method` (any) on `path` (any) raise this errno, `times` times (for ever)."""
        fault = Fault(number, method, path, times)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        self.faults.clear()

    def _enter(self, method: str, *paths: bytes, changes: bool = True) -> None:
        if changes and self.observe_only:
            raise _failure(errno.EROFS, paths[0] if paths else b"")
        for fault in self.faults:
            if fault.remaining != 0 and fault.method in ("", method) and (fault.path is None or fault.path in paths):
                if fault.remaining is not None:
                    fault.remaining -= 1
                raise _failure(fault.errno, paths[0] if paths else b"")
        self.calls.append((method, paths[0] if paths else b""))

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def _new(self, kind: Kind, attributes: Attributes) -> Inode:
        sorted_attributes = attributes._replace(xattrs=tuple(sorted(attributes.xattrs)))
        inode = Inode(self._numbers, kind, sorted_attributes, self._tick())
        self._inodes[self._numbers] = inode
        self._numbers += 1
        return inode

    def _components(self, path: bytes) -> list[bytes]:
        names = path.split(b"/") if path else []
        for name in names:
            if name in (b"", b".", b"..") or b"\0" in name:
                raise _failure(errno.EINVAL, path)
            if len(name) > 255:
                raise _failure(errno.ENAMETOOLONG, path)
        return names

    def _walk(self, names: list[bytes], path: bytes) -> Inode:
        here = self.root
        for name in names:
            if here.kind is not Kind.DIRECTORY:
                raise _failure(errno.ENOTDIR, path)
            if name not in here.entries:
                raise _failure(errno.ENOENT, path)
            here = here.entries[name]
        return here

    def _find(self, path: bytes) -> Inode:
        return self._walk(self._components(path), path)

    def _place(self, path: bytes) -> Place:
        names = self._components(path)
        if not names:
            raise _failure(errno.EBUSY, path)
        parent = self._walk(names[:-1], path)
        if parent.kind is not Kind.DIRECTORY:
            raise _failure(errno.ENOTDIR, path)
        return parent, names[-1]

    def _entry(self, place: Place, to: Place, path: bytes) -> tuple[Inode, Place]:
        """The object at a place, looked up after both directories were found, as the kernel does."""
        parent, name = place
        if name not in parent.entries:
            raise _failure(errno.ENOENT, path)
        return parent.entries[name], to

    def _attach(self, parent: Inode, name: bytes, inode: Inode) -> Status:
        if name in parent.entries:
            self._detach(parent, name)
        parent.entries[name] = inode
        inode.links += 1
        inode.ctime_ns = self._tick()
        self._touch(parent)
        return self._status(inode)

    def _detach(self, parent: Inode, name: bytes) -> Inode:
        inode = parent.entries.pop(name)
        self._touch(parent)
        inode.ctime_ns = self._tick()
        self._drop(inode)
        return inode

    def _drop(self, inode: Inode) -> None:
        inode.links -= 1
        if inode.links == 0:
            for child in inode.entries.values():
                self._drop(child)

    def _take(self, parent: Inode, name: bytes) -> Inode:
        """Removes a name without giving up the inode."""
        inode = parent.entries.pop(name)
        inode.links -= 1
        self._touch(parent)
        return inode

    def _touch(self, directory: Inode) -> None:
        tick = self._tick()
        directory.ctime_ns = tick
        directory.attributes = directory.attributes._replace(mtime_ns=tick)

    def _status(self, inode: Inode) -> Status:
        size = len(inode.target) if inode.kind is Kind.SYMLINK else len(inode.data)
        mode, uid, gid, mtime_ns, _ = inode.attributes
        mode = 0o777 if inode.kind is Kind.SYMLINK else mode
        handle = b"\x01" + inode.number.to_bytes(8, "little")
        return Status(
            inode.kind, mode, uid, gid, size, mtime_ns, inode.ctime_ns, inode.number, 1, inode.links, inode.rdev, handle
        )

    def _set(self, inode: Inode, attributes: Attributes) -> None:
        inode.attributes = attributes._replace(xattrs=tuple(sorted(attributes.xattrs)))
        inode.ctime_ns = self._tick()

    def _used(self) -> int:
        return sum(len(inode.data) for inode in self._inodes.values() if inode.links)

    def _reserve(self, more: int, path: bytes) -> None:
        if self.capacity is not None and self._used() + more > self.capacity:
            raise _failure(errno.ENOSPC, path)

    # -- looking ----------------------------------------------------------------------------------------------------

    def status(self, path: bytes) -> Status:
        self._enter("status", path, changes=False)
        return self._status(self._find(path))

    def list(self, path: bytes) -> list[tuple[bytes, Status]]:
        self._enter("list", path, changes=False)
        inode = self._find(path)
        if inode.kind is not Kind.DIRECTORY:
            raise _failure(errno.ENOTDIR, path)
        return [(name, self._status(inode.entries[name])) for name in sorted(inode.entries)]

    def open_directory(self, path: bytes) -> FakeDirectory:
        return FakeDirectory(self, path)

    @property
    def gives_owners(self) -> bool:
        return True

    def xattrs(self, path: bytes) -> Xattrs:
        self._enter("xattrs", path, changes=False)
        return self._find(path).attributes.xattrs

    def read_link(self, path: bytes) -> tuple[Status, bytes]:
        self._enter("read_link", path, changes=False)
        inode = self._find(path)
        if inode.kind is not Kind.SYMLINK:
            raise _failure(errno.EINVAL, path)
        return self._status(inode), inode.target

    def open_read(self, path: bytes) -> int:
        self._enter("open_read", path, changes=False)
        inode = self._find(path)
        if inode.kind is not Kind.FILE:
            raise _failure(errno.EISDIR if inode.kind is Kind.DIRECTORY else errno.EINVAL, path)
        descriptor = os.memfd_create("fake", os.MFD_CLOEXEC)
        os.pwrite(descriptor, bytes(inode.data), 0)
        return descriptor

    def alive(self, handle: bytes) -> bool | None:
        inode = self._inodes.get(int.from_bytes(handle[1:], "little"))
        return inode is not None and inode.links > 0

    def locate(self, handle: bytes) -> bytes | None:
        todo = [(b"", self.root)]
        while todo:
            path, inode = todo.pop()
            if inode.number == int.from_bytes(handle[1:], "little"):
                return path
            todo += [(path + b"/" + name if path else name, child) for name, child in inode.entries.items()]
        return None

    # -- making -----------------------------------------------------------------------------------------------------

    def make_directory(self, path: bytes, attributes: Attributes, parked: bytes = b"") -> None:
        self._enter("make_directory", path)
        if path:
            parent, name = self._place(path)
            is_there = name in parent.entries and parent.entries[name].kind is Kind.DIRECTORY
            if parked in self.parked:
                if is_there:
                    raise _failure(errno.EEXIST, path)
                self._attach(parent, name, self._unparked(parked))
            elif not is_there:
                self._attach(parent, name, self._new(Kind.DIRECTORY, attributes))
        self._set(self._find(path), attributes)

    def put_file(self, path: bytes, attributes: Attributes, source: ContentSource, *, look: bool = True) -> Status:
        self._enter("put_file", path)
        parent, name = self._place(path)
        data = bytearray(source.size)
        for offset, piece in source.chunks():
            data[offset : offset + len(piece)] = piece
        assert len(data) == source.size
        self._reserve(source.size, path)
        inode = self._new(Kind.FILE, attributes)
        inode.data = data
        return self._attach(parent, name, inode)

    def put_files(self, files: Sequence[NewFile]) -> tuple[int, OSError | LddpError | None]:
        for count, file in enumerate(files):
            try:
                self.put_file(*file, look=False)
            except (OSError, LddpError) as error:
                return count, error
        return len(files), None

    def make_node(self, path: bytes, kind: Kind, attributes: Attributes, target: bytes, rdev: int) -> Status:
        self._enter("make_node", path)
        if kind in (Kind.FILE, Kind.DIRECTORY):
            raise _failure(errno.EINVAL, path)
        parent, name = self._place(path)
        inode = self._new(kind, attributes)
        inode.target = target
        inode.rdev = rdev if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) else 0
        return self._attach(parent, name, inode)

    # -- names ------------------------------------------------------------------------------------------------------

    def link(self, path: bytes, to: bytes) -> None:
        self._enter("link", path, to)
        inode, (parent, name) = self._entry(self._place(path), self._place(to), path)
        if inode.kind is Kind.DIRECTORY:
            raise _failure(errno.EPERM, path)
        if parent.entries.get(name) is not inode:
            self._attach(parent, name, inode)

    def rename(self, path: bytes, to: bytes) -> None:
        self._enter("rename", path, to)
        parent, name = self._place(path)
        _, (to_parent, to_name) = self._entry((parent, name), self._place(to), path)
        if path == to:
            return
        if to.startswith(path + b"/"):
            raise _failure(errno.EINVAL, to)
        if path.startswith(to + b"/"):
            raise _failure(errno.ENOTEMPTY, to)
        self._attach(to_parent, to_name, self._take(parent, name))

    def exchange(self, path: bytes, to: bytes) -> None:
        self._enter("exchange", path, to)
        parent, name = self._place(path)
        one, (to_parent, to_name) = self._entry((parent, name), self._place(to), path)
        if to_name not in to_parent.entries:
            raise _failure(errno.ENOENT, to)
        other = to_parent.entries[to_name]
        if path.startswith(to + b"/") or to.startswith(path + b"/"):
            raise _failure(errno.EINVAL, path)
        parent.entries[name], to_parent.entries[to_name] = other, one
        self._touch(parent)
        self._touch(to_parent)

    def park(self, path: bytes, name: bytes) -> None:
        self._enter("park", path)
        parent, leaf = self._place(path)
        if leaf not in parent.entries:
            raise _failure(errno.ENOENT, path)
        inode = self._take(parent, leaf)
        if name in self.parked:
            self._drop(self.parked[name])
        inode.links += 1
        self.parked[name] = inode

    def unpark(self, name: bytes, to: bytes) -> None:
        self._enter("unpark", to)
        parent, leaf = self._place(to)
        if name not in self.parked:
            raise _failure(errno.ENOENT, name)
        self._attach(parent, leaf, self._unparked(name))

    def _unparked(self, name: bytes) -> Inode:
        inode = self.parked.pop(name)
        inode.links -= 1
        return inode

    def make_parked(self, name: bytes) -> bytes:
        self._enter("make_parked", name)
        if name in self.parked:
            raise _failure(errno.EEXIST, name)
        inode = self.parked[name] = self._new(Kind.DIRECTORY, Attributes(0o700, 0, 0, 0))
        inode.links += 1
        return self._status(inode).handle

    def parked_handle(self, name: bytes) -> bytes:
        self._enter("parked_handle", name, changes=False)
        return self._status(self.parked[name]).handle if name in self.parked else b""

    def remove(self, path: bytes) -> None:
        self._enter("remove", path)
        try:
            parent, name = self._place(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        if name in parent.entries:
            self._detach(parent, name)

    def remove_parked(self, name: bytes) -> None:
        self._enter("remove_parked", name)
        if name in self.parked:
            self._drop(self.parked.pop(name))

    def discard_leftovers(self) -> None:
        self._enter("discard_leftovers")

    # -- changing ---------------------------------------------------------------------------------------------------

    def set_attributes(self, path: bytes, kind: Kind, attributes: Attributes) -> bytes:
        self._enter("set_attributes", path)
        inode = self._of_kind(path, kind)
        self._set(inode, attributes)
        return self._handle_of_several(inode)

    def _handle_of_several(self, inode: Inode) -> bytes:
        has_several = inode.links > 1 and inode.kind is not Kind.DIRECTORY
        return self._status(inode).handle if has_several else b""

    def write(self, path: bytes, offset: int, source: ContentSource, size: int, attributes: Attributes) -> bytes:
        self._enter("write", path)
        inode = self._of_kind(path, Kind.FILE)
        self._reserve(max(0, size - len(inode.data)), path)
        piece = bytearray(source.size)
        for at, data in source.chunks():
            piece[at : at + len(data)] = data
        if len(inode.data) < offset + len(piece):
            inode.data.extend(bytes(offset + len(piece) - len(inode.data)))
        inode.data[offset : offset + len(piece)] = piece
        self._resize(inode, size)
        self._set(inode, attributes)
        return self._handle_of_several(inode)

    def truncate(self, path: bytes, size: int, attributes: Attributes) -> bytes:
        self._enter("truncate", path)
        inode = self._of_kind(path, Kind.FILE)
        self._reserve(max(0, size - len(inode.data)), path)
        self._resize(inode, size)
        self._set(inode, attributes)
        return self._handle_of_several(inode)

    def _of_kind(self, path: bytes, kind: Kind) -> Inode:
        inode = self._find(path)
        if inode.kind is kind:
            return inode
        if inode.kind is Kind.DIRECTORY:
            raise _failure(errno.EISDIR, path)
        raise _failure(errno.ENOTDIR if kind is Kind.DIRECTORY else errno.EINVAL, path)

    def _resize(self, inode: Inode, size: int) -> None:
        del inode.data[size:]
        inode.data.extend(bytes(size - len(inode.data)))

    def sync(self) -> None:
        self._enter("sync", changes=False)
        self.syncs += 1

    def free_bytes(self) -> int:
        return (self.capacity - self._used()) if self.capacity is not None else 1 << 40

    def close(self) -> None:
        pass
