"""Trees of edge cases, and what there is to know of a tree, by this process's own eyes."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def fill(top: Path) -> None:
    """A small tree of what is easy to get wrong."""
    root = os.fsencode(top)
    (top / "d" / "in" / "deep").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    (top / "many").mkdir()
    for number in range(200):
        (top / "many" / f"{number:03}").write_bytes(b"%d " % number * 300)
    (top / "d" / "empty").write_bytes(b"")
    (top / "d" / "small").write_bytes(b"small")
    (top / "d" / "large").write_bytes(os.urandom(700_000))
    for name in (b"\xff\xfe not UTF-8", b"new\nline", b"n" * 255, b" ", b"-rf", b"trailing. "):
        with open(root + b"/d/" + name, "wb") as file:
            file.write(name * 10)
    with open(top / "sparse", "wb") as file:
        file.truncate(3_000_000)
        file.seek(1_500_000)
        file.write(b"in the middle")
    os.link(top / "d" / "large", top / "hard")
    os.link(top / "d" / "small", top / "d" / "in" / "hard")
    os.symlink("nowhere/at/all", top / "dangling")
    os.symlink("/etc/hostname", top / "absolute")
    os.symlink(b"\xff", root + b"/d/odd link")
    os.mkfifo(top / "fifo", 0o611)
    os.setxattr(top / "d" / "small", "user.name", b"\x00value")
    os.setxattr(top / "empty", "user.of.directory", b"")
    os.chmod(top / "d" / "empty", 0o6751)
    os.chmod(top / "d" / "large", 0)
    here = os.open(top / "d", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(20):
        os.mkdir("x" * 240, dir_fd=here)  # deeper than a path may be long
        below = os.open("x" * 240, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here))
    os.close(here)
    os.utime(top / "d" / "small", ns=(0, 1_234_567_890_123_456_789))
    os.utime(top / "dangling", ns=(0, 999_999_999), follow_symlinks=False)
    os.utime(top / "empty", ns=(0, -1_000_000_001))


def describe(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Path to kind, mode, owner, times, bytes, target, xattrs, and the first of its names."""
    found: dict[bytes, tuple[object, ...]] = {}
    firsts: dict[tuple[int, int], bytes] = {}
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    _describe(root, b"", found, firsts)
    os.close(root)
    return found


def _describe(
    directory: int, path: bytes, found: dict[bytes, tuple[object, ...]], firsts: dict[tuple[int, int], bytes]
) -> None:
    about = os.fstat(directory)
    found[path] = (*_attributes(about), tuple(_xattrs(directory)))
    for name in sorted(map(os.fsencode, os.listdir(directory))):
        below = path + b"/" + name
        about = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode):
            child = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
            _describe(child, below, found, firsts)
            os.close(child)
            continue
        first = firsts.setdefault((about.st_dev, about.st_ino), below)
        detail: object = b""
        if stat.S_ISLNK(about.st_mode):
            detail = os.readlink(name, dir_fd=directory)
        elif stat.S_ISREG(about.st_mode):
            file = os.open(name, os.O_RDONLY, dir_fd=directory)
            detail = (os.pread(file, about.st_size + 1, 0), tuple(_xattrs(file)))
            os.close(file)
        found[below] = (*_attributes(about), first, detail)


def _attributes(about: os.stat_result) -> tuple[object, ...]:
    return about.st_mode, about.st_uid, about.st_gid, about.st_mtime_ns


def _xattrs(descriptor: int) -> list[tuple[str, bytes]]:
    return [(name, os.getxattr(descriptor, name)) for name in sorted(os.listxattr(descriptor))]
