"""What a filesystem says of its objects: status, identity, listings, and where an object is now."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from typing import Self

from lddp.core.records import Kind
from lddp.ports import Status
from lddp.zones import syscalls
from lddp.zones.resolve import Root, failure

KIND_BY_FORMAT = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
# O_NONBLOCK: a fifo put in the file's place would otherwise block until it has a writer.
_READ_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOATIME | os.O_NOFOLLOW | os.O_CLOEXEC
_INODE_AND_BIRTH = struct.Struct("=QQq")
_DEVICE = struct.Struct("=Q")

# First bytes of identities that are not kernel handles. The kernel uses 0xff for "no handle" and never 0xfe.
_BY_INODE = b"\xff"
_BY_OTHER_DEVICE = b"\xfe"

# Where handles hold the inode number, by (type, length): ext4 and its kin; tmpfs; XFS and others with 64 bits.
_INODE_IN_HANDLE = {
    (0x01, 8): struct.Struct("=xI"),
    (0x01, 12): struct.Struct("=x4xQ"),
    (0x81, 12): struct.Struct("=xQ"),
}

_NO_HANDLE = frozenset((errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EOVERFLOW, errno.EINVAL))


def identity(kind: int, data: bytes) -> bytes:
    """`Status.handle` of an object on the root's own filesystem, from the kernel's handle type and handle bytes."""
    return bytes((kind & 0xFF,)) + data


def stamp(status: Status) -> int:
    """The object's fingerprint: its change time in nanoseconds, which nobody can set back."""
    return status.ctime_ns


def make_status(found: os.stat_result, handle: bytes) -> Status:
    mode = found.st_mode
    return Status(
        KIND_BY_FORMAT.get(mode & 0o170000),
        mode & 0o7777,
        found.st_uid,
        found.st_gid,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_dev,
        found.st_nlink,
        found.st_rdev,
        handle,
    )


class Looker:
    """Reads a tree's objects. Keeps nothing but the devices that have no handles, so threads may share it."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._without_handles: set[int] = set()

    def status(self, path: bytes) -> Status:
        descriptor = self._root.open(path, os.O_PATH)
        try:
            return self.status_of(descriptor)
        finally:
            os.close(descriptor)

    def status_of(self, descriptor: int) -> Status:
        """Of an open object; a descriptor names one object only, so nothing can come between the two calls."""
        found = os.fstat(descriptor)
        return make_status(found, self._identity(descriptor, b"", syscalls.AT_EMPTY_PATH, found))

    def read_link(self, path: bytes) -> tuple[Status, bytes]:
        descriptor = self._root.open(path, os.O_PATH)
        try:
            status = self.status_of(descriptor)
            if status.kind is not Kind.SYMLINK:
                raise failure(errno.EINVAL, path)
            return status, os.readlink(b"", dir_fd=descriptor)
        finally:
            os.close(descriptor)

    def list(self, path: bytes) -> list[tuple[bytes, Status]]:
        with self.open(path) as directory:
            return directory.list()

    def open(self, path: bytes) -> OpenDirectory:
        descriptor = open_without_atime(self._root, path, _READ_DIRECTORY)
        return OpenDirectory(self._root, path, descriptor, self._entry)

    def _entry(self, directory: int, name: bytes) -> Status:
        while True:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            handle = self._identity(directory, name, 0, found)
            # The name may have been given to another object between the two calls.
            known = _INODE_IN_HANDLE.get((handle[0], len(handle) - 1))
            if (known is not None and known.unpack_from(handle)[0] == found.st_ino) or os.stat(
                name, dir_fd=directory, follow_symlinks=False
            ).st_ino == found.st_ino:
                return make_status(found, handle)

    def _identity(self, directory: int, name: bytes, flags: int, found: os.stat_result) -> bytes:
        device = found.st_dev
        if device not in self._without_handles:
            try:
                handle = identity(*_kernel_handle(directory, name, flags))
                # A handle is only unique within its filesystem.
                return handle if device == self._root.device else _BY_OTHER_DEVICE + _DEVICE.pack(device) + handle
            except OSError as error:
                if error.errno not in _NO_HANDLE:
                    raise
                self._without_handles.add(device)
        born = syscalls.birth_time_ns(directory, name, flags | (0 if flags else syscalls.AT_SYMLINK_NOFOLLOW))
        return _BY_INODE + _INODE_AND_BIRTH.pack(device, found.st_ino, born)

    def alive(self, handle: bytes) -> bool | None:
        """Whether the object still has a name; None where that cannot be told (no privilege, no handles)."""
        descriptor = self._open_identity(handle)
        if descriptor is None:
            return None
        if descriptor < 0:
            return False
        try:
            return os.fstat(descriptor).st_nlink > 0
        finally:
            os.close(descriptor)

    def locate(self, handle: bytes) -> bytes | None:
        """Where the object is now, relative to the root. None if it is gone, outside, or cannot be found: the kernel
        knows the names of directories always, those of other objects only while they are in its cache; `alive`
        tells the cases apart."""
        descriptor = self._open_identity(handle)
        if descriptor is None or descriptor < 0:
            return None
        try:
            found = os.fstat(descriptor)
            if found.st_nlink == 0:
                return None
            try:
                path = self._path_by_kernel(descriptor)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                path = self._path_by_climbing(descriptor) if stat.S_ISDIR(found.st_mode) else None
        finally:
            os.close(descriptor)
        # The kernel's word is a hint: a name may itself end in " (deleted)", or have changed since.
        return path if path is not None and self._is_at(path, handle) else None

    def _open_identity(self, handle: bytes) -> int | None:
        """A descriptor; -1 if the object does not exist any more; None if that cannot be told."""
        if len(handle) < 2 or handle[:1] in (_BY_INODE, _BY_OTHER_DEVICE):
            return None
        try:
            return syscalls.open_handle(self._root.fd, handle[0], handle[1:])
        except OSError as error:
            if error.errno in (errno.ESTALE, errno.ENOENT):
                return -1
            # ENOMEM is also the kernel's word for an object that is just going away.
            if error.errno in _NO_HANDLE or error.errno == errno.ENOMEM:
                return None
            raise

    def _path_by_kernel(self, descriptor: int) -> bytes | None:
        top = os.readlink(b"/proc/self/fd/%d" % self._root.fd).rstrip(b"/") + b"/"
        path = os.readlink(b"/proc/self/fd/%d" % descriptor)
        if path + b"/" == top:
            return b""
        return path[len(top) :] if path.startswith(top) else None

    def _path_by_climbing(self, descriptor: int) -> bytes | None:
        """For a directory whose path is too long for the kernel to tell: from each parent, the name of the child."""
        top = os.fstat(self._root.fd)
        names: list[bytes] = []
        here = os.open(".", _READ_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
        try:
            while True:
                child = os.fstat(here)
                if (child.st_dev, child.st_ino) == (top.st_dev, top.st_ino):
                    return b"/".join(reversed(names))
                above = os.open("..", _READ_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = above
                name = _name_of_inode(here, child.st_ino)
                if name is None:
                    return None
                names.append(name)
        finally:
            os.close(here)

    def _is_at(self, path: bytes, handle: bytes) -> bool:
        try:
            return self.status(path).handle == handle
        except (FileNotFoundError, NotADirectoryError):
            return False


class OpenDirectory:
    """`ports.OpenDirectory`. What is in it is opened by its name there, which costs less than the way from the root and
    cannot lead anywhere else."""

    def __init__(self, root: Root, path: bytes, descriptor: int, status_of: Callable[[int, bytes], Status]) -> None:
        self._root = root
        self._path = path
        self._descriptor = descriptor
        self._status_of = status_of

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def names(self) -> list[tuple[bytes, bool]]:
        with os.scandir(self._descriptor) as entries:
            names = sorted([(os.fsencode(entry.name), _is_directory(entry)) for entry in entries])
        if not self._path and self._root.hidden:
            names = [found for found in names if found[0] != self._root.hidden]
        return names

    def status(self, name: bytes) -> Status:
        return self._status_of(self._descriptor, name)

    def list(self) -> list[tuple[bytes, Status]]:
        """`ZoneFilesystem.list`."""
        entries = []
        for name, _ in self.names():
            try:
                entries.append((name, self.status(name)))
            except FileNotFoundError:
                continue
        return entries

    def open_read(self, name: bytes) -> int:
        try:
            descriptor = os.open(name, _READ_FILE, dir_fd=self._descriptor)
        except OSError:
            return open_regular(self._root, self._path + b"/" + name if self._path else name)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        return open_regular(self._root, self._path + b"/" + name if self._path else name)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False  # the filesystem does not say so in its listings, and cannot be asked


def open_without_atime(root: Root, path: bytes, flags: int) -> int:
    try:
        return root.open(path, flags | os.O_NOATIME)
    except PermissionError:
        # O_NOATIME is the owner's privilege; without it reading is still allowed to those who may read.
        return root.open(path, flags)


def open_regular(root: Root, path: bytes) -> int:
    """A descriptor to read a regular file. EISDIR for a directory, EINVAL for anything else."""
    while True:
        try:
            # O_NONBLOCK: a fifo put in the file's place would otherwise block until it has a writer.
            descriptor = open_without_atime(root, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            # A symlink at the end or on the way, or a socket.
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
            descriptor = root.open(path, os.O_PATH)
            reason: OSError | None = error
        else:
            reason = None
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) and reason is None:
            return descriptor
        os.close(descriptor)
        if not stat.S_ISREG(mode):
            raise failure(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, path) from reason
        # What was in the way has made room for a file since.


def _kernel_handle(directory: int, name: bytes, flags: int) -> tuple[int, bytes]:
    try:
        return syscalls.handle_at(directory, name, flags)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    # Filesystems whose handles cannot be opened again may still name their objects (overlayfs, FUSE).
    return syscalls.handle_at(directory, name, flags | syscalls.AT_HANDLE_FID)


def _name_of_inode(directory: int, inode: int) -> bytes | None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.inode() == inode:
                return os.fsencode(entry.name)
    return None
