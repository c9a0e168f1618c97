"""Trees to migrate: parts of a real one, and everything odd that a filesystem permits."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
import struct
import subprocess
import sysconfig
from pathlib import Path

KINDS = ("small", "edge", "real", "all")
DEEP = b"edge/deep"
"""Below it paths become longer than PATH_MAX; tools that work with whole paths must leave it out."""
SOCKET = b"edge/kinds/socket"
REAL_FILES_MAX = 4000
LARGE_BYTES = (20 << 20, 60 << 20)
_ACL_HEAD = struct.pack("<I", 2)
_ACL_UNDEFINED = 0xFFFFFFFF


def build(root: Path, kind: str, seed: int) -> None:
    """Makes the tree at `root`, which must not exist."""
    chance = random.Random(seed)
    root.mkdir(mode=0o755)
    if kind in ("small", "all"):
        _small(root / "small", chance)
    if kind in ("real", "all"):
        _real(root / "real")
    if kind in ("edge", "all"):
        _edge(root / "edge", chance)
    os.setxattr(root, b"user.root", b"of the tree")


def _small(root: Path, chance: random.Random) -> None:
    for directory in range(12):
        at = root / f"d{directory}" / f"e{directory % 3}"
        at.mkdir(parents=True)
        for file in range(15):
            (at / f"f{file}").write_bytes(chance.randbytes(chance.choice((0, 10, 1000, 20_000))))
    os.link(root / "d0/e0/f0", root / "d1/e1/second name")


def _real(root: Path) -> None:
    """A copy of the Python library, as much of it as has about REAL_FILES_MAX files."""
    root.mkdir()
    paths = sysconfig.get_paths()
    count = 0
    for origin in dict.fromkeys((paths["stdlib"], paths["purelib"])):
        for entry in sorted(Path(origin).iterdir()):
            inside = sum(len(files) for _, _, files in os.walk(entry)) if entry.is_dir() else 1
            if entry.name != "site-packages" and inside < REAL_FILES_MAX - count and not (root / entry.name).exists():
                subprocess.run(["cp", "-a", "--", str(entry), str(root)], check=True)
                count += inside


def _edge(root: Path, chance: random.Random) -> None:
    root.mkdir()
    _names(root / "names")
    _deep(root / "deep")
    _links(root / "links")
    _sparse(root / "sparse", chance)
    _attributes(root / "attributes", chance)
    _kinds(root / "kinds")
    _times(root / "times")
    (root / "empty directory").mkdir()
    (root / "empty file").touch()
    (root / "large").mkdir()
    for number, size in enumerate(LARGE_BYTES):
        with open(root / "large" / f"file{number}", "wb") as file:
            for _ in range(size >> 20):
                file.write(chance.randbytes(1 << 20))


def _names(root: Path) -> None:
    root.mkdir()
    top = os.fsencode(root)
    odd = [
        b"latin-\xe9\xff",
        b"\x80\xfe",
        b"line\nbreak",
        b"\n",
        b" ",
        b"-rf",
        b"--help",
        b"tab\tand\rreturn",
        b"quote'\"\\",
        b"*?[a]",
        "日本語 ñ é é".encode(),
        b"\x01\x7f\x1b[31m",
        b"n" * 255,
        b"\xff" * 255,
        b".hidden",
        b"...",
        b"a (deleted)",
        b"trailing ",
    ]
    for name in odd:
        Path(os.fsdecode(os.path.join(top, name))).write_bytes(name)
        directory = os.path.join(top, b"d" + name[:254])
        os.mkdir(directory)
        with open(os.path.join(directory, name), "wb") as file:
            file.write(name * 3)


def _deep(root: Path) -> None:
    """25 levels of 200 bytes, with files all the way down."""
    root.mkdir()
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(25):
        name = b"%02d" % level + b"x" * 198
        os.mkdir(name, 0o755, dir_fd=here)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
        file = os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=here)
        os.write(file, b"level %d" % level)
        os.close(file)
        os.symlink(b"file", b"link", dir_fd=here)
    os.close(here)


def _links(root: Path) -> None:
    root.mkdir()
    os.symlink("nowhere/at all", root / "dangling")
    os.symlink("/etc/passwd", root / "absolute")
    os.symlink(".", root / "itself")
    os.symlink("x" * 4000, root / "long target")
    os.symlink(b"\xff\n", os.fsencode(root / "odd target"))
    os.symlink("loop", root / "loop")
    os.lchown(root / "dangling", 1234, 5678)
    os.utime(root / "dangling", ns=(5, 1_000_000_007), follow_symlinks=False)
    os.link(root / "dangling", root / "symlink's other name", follow_symlinks=False)
    for name in ("a", "b", "c"):
        (root / name).mkdir()
    for number in range(20):
        file = root / "a" / f"hard{number}"
        file.write_bytes(b"shared %d" % number * 50)
        os.link(file, root / "b" / f"other{number}")
        os.link(file, root / "c" / f"third{number}")
    big = root / "a" / "big"
    big.write_bytes(os.urandom(1 << 20))
    os.link(big, root / "c" / "big too")
    os.mkfifo(root / "a" / "fifo")
    os.link(root / "a" / "fifo", root / "b" / "fifo too")


def _sparse(root: Path, chance: random.Random) -> None:
    root.mkdir()
    with open(root / "hole", "wb") as file:
        file.truncate(30 << 20)
    with open(root / "islands", "wb") as file:
        for offset in (1 << 20, 5 << 20, 17 << 20):
            file.seek(offset)
            file.write(chance.randbytes(70_000))
        file.truncate(40 << 20)
    with open(root / "end", "wb") as file:
        file.seek((8 << 20) - 1)
        file.write(b"!")
    with open(root / "small hole", "wb") as file:
        file.truncate(100_000)


def _attributes(root: Path, chance: random.Random) -> None:
    root.mkdir()
    for mode in (0, 0o1, 0o400, 0o444, 0o600, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777):
        file = root / f"file {mode:o}"
        file.write_bytes(b"mode")
        file.chmod(mode)
        directory = root / f"directory {mode:o}"
        directory.mkdir()
        (directory / "inside").write_bytes(b"inside")
        directory.chmod(mode)
    for number in range(5):
        file = root / f"owned {number}"
        file.write_bytes(b"x")
        with contextlib.suppress(PermissionError):
            os.chown(file, chance.randrange(60_000), chance.randrange(60_000))
        file.chmod(0o6755)
    for name in ("xattr file", "xattr directory"):
        path = root / name
        path.mkdir() if "directory" in name else path.write_bytes(b"x")
        os.setxattr(path, b"user.plain", b"value")
        os.setxattr(path, b"user.empty", b"")
        os.setxattr(path, b"user.binary \xff\n", bytes(range(256)))
        os.setxattr(path, b"user.long", b"v" * 1500)
        with contextlib.suppress(PermissionError):
            os.setxattr(path, b"trusted.secret", b"root's own")
            os.setxattr(path, b"security.note", b"n")
        with contextlib.suppress(OSError):
            os.setxattr(path, b"system.posix_acl_access", acl(1001))
            if "directory" in name:
                os.setxattr(path, b"system.posix_acl_default", acl(1002))
                (path / "inherits").write_bytes(b"acl")


def acl(user: int) -> bytes:
    """An ACL as the xattr holds it: owner rwx, `user` r-x, group r-x, mask rwx, others nothing."""
    entries = [(0x01, 7, _ACL_UNDEFINED), (0x02, 5, user), (0x04, 5, _ACL_UNDEFINED), (0x10, 7, _ACL_UNDEFINED)]
    entries.append((0x20, 0, _ACL_UNDEFINED))
    return _ACL_HEAD + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _kinds(root: Path) -> None:
    root.mkdir()
    os.mkfifo(root / "fifo", 0o640)
    with contextlib.suppress(PermissionError):
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "loop", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{here}/{os.path.basename(os.fsdecode(SOCKET))}")
    os.close(here)


def _times(root: Path) -> None:
    root.mkdir()
    for ns in (0, 1, 999_999_999, 1_000_000_000, 1_234_567_890_123_456_789, 4_000_000_000_000_000_001, -1_000_000_001):
        file = root / f"at {ns}"
        file.write_bytes(b"time")
        os.utime(file, ns=(ns, ns))
        directory = root / f"directory at {ns}"
        directory.mkdir()
        (directory / "x").write_bytes(b"x")
        os.utime(directory, ns=(ns, ns))
    os.utime(root, ns=(0, 123_456_789_987_654_321))
