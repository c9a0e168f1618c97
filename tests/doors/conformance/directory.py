"""The driver of a directory: system calls, on a plain one as the reference or on a mount."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
from pathlib import Path

from tests.doors.conformance.doors import seen, unknown
from tests.doors.conformance.steps import (
    Append,
    Exchange,
    Link,
    List,
    Mkdir,
    Move,
    Put,
    Read,
    Remove,
    RemoveTree,
    RemoveXattr,
    Rename,
    Rmdir,
    SetMode,
    SetTime,
    SetXattr,
    Stat,
    Step,
    Symlink,
    Truncate,
    Unlink,
    WriteAt,
)
from tests.doors.conformance.table import DIRECTORY

AT_CWD = -100
NO_REPLACE, EXCHANGE = 1, 2
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
_XATTR_FLAGS = {"": 0, "create": os.XATTR_CREATE, "replace": os.XATTR_REPLACE}
_libc = ctypes.CDLL(None, use_errno=True)


class Directory:
    """`top` is what the path `rule` of the namespace stands for."""

    def __init__(self, top: Path, rule: bytes, name: str = DIRECTORY) -> None:
        self.name = name
        self._top = bytes(top)
        self._rule = rule

    def close(self) -> None:
        """Nothing is kept open."""

    def _at(self, path: bytes) -> bytes:
        return self._top + path.removeprefix(self._rule)

    def perform(self, step: Step) -> object:
        path = self._at(step.path)
        to = self._at(step.to) if isinstance(step, Move) else b""
        match step:
            case Put(_, data, exclusive):
                flags = os.O_EXCL if exclusive else os.O_TRUNC
                _write(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644), data)
            case Append(_, data):
                _write(os.open(path, os.O_WRONLY | os.O_APPEND), data)
            case WriteAt(_, offset, data):
                _write(os.open(path, os.O_WRONLY), data, offset)
            case Truncate(_, size):
                os.truncate(path, size)
            case Mkdir(_, mode):
                os.mkdir(path, mode)
            case Rename(_, _, replaces):
                _rename(path, to, 0 if replaces else NO_REPLACE)
            case Exchange():
                _rename(path, to, EXCHANGE)
            case Link():
                os.link(path, to)
            case Symlink(_, target):
                os.symlink(target, path)
            case Unlink():
                os.unlink(path)
            case Rmdir():
                os.rmdir(path)
            case Remove() | RemoveTree():
                _remove(path, isinstance(step, RemoveTree))
            case _:
                return _attributes(path, step) if not isinstance(step, Read | List | Stat) else _look(path, step)
        return None


def _write(descriptor: int, data: bytes, offset: int | None = None) -> None:
    try:
        while data:
            written = os.write(descriptor, data) if offset is None else os.pwrite(descriptor, data, offset)
            data = data[written:]
            offset = None if offset is None else offset + written
    finally:
        os.close(descriptor)


def _rename(path: bytes, to: bytes, flags: int) -> None:
    if _libc.renameat2(AT_CWD, path, AT_CWD, to, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path, None, to)


def _remove(path: bytes, tree: bool) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
    elif tree:
        shutil.rmtree(path)
    else:
        os.rmdir(path)


def _attributes(path: bytes, step: Step) -> None:
    match step:
        case SetMode(_, mode):
            os.chmod(path, mode)
        case SetTime(_, mtime_ns):
            os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        case SetXattr(_, name, value, flag):
            os.setxattr(path, name, value, _XATTR_FLAGS[flag], follow_symlinks=False)
        case RemoveXattr(_, name):
            os.removexattr(path, name, follow_symlinks=False)
        case _:
            raise unknown(DIRECTORY, step)


def _look(path: bytes, step: Read | List | Stat) -> object:
    match step:
        case Read(_, start, stop):
            with open(path, "rb") as file:
                file.seek(start)
                return file.read() if stop is None else file.read(stop - start)
        case List():
            return tuple(sorted(os.listdir(path)))
        case Stat():
            found = os.lstat(path)
            kind = _KINDS[stat.S_IFMT(found.st_mode)]
            target = os.readlink(path) if kind == "symlink" else b""
            return seen(kind, found.st_size, stat.S_IMODE(found.st_mode), target)
