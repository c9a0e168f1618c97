"""System calls that change what is on a disk, by the kernel's numbers for each architecture."""

from __future__ import annotations

import os
import platform

_X86_64 = {
    "write": 1, "close": 3, "pwrite64": 18, "writev": 20, "msync": 26, "fsync": 74, "fdatasync": 75, "truncate": 76,
    "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87, "symlink": 88,
    "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "mknod": 133, "setxattr": 188,
    "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "open": 2,
    "openat": 257, "mkdirat": 258, "mknodat": 259, "fchownat": 260, "unlinkat": 263, "renameat": 264, "linkat": 265,
    "symlinkat": 266, "fchmodat": 268, "utimensat": 280, "fallocate": 285, "pwritev": 296, "syncfs": 306,
    "renameat2": 316, "copy_file_range": 326, "pwritev2": 328, "fchmodat2": 452,
}  # fmt: skip
_AARCH64 = {
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
    "mknodat": 33, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36, "linkat": 37, "renameat": 38, "truncate": 45,
    "ftruncate": 46, "fallocate": 47, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "openat": 56,
    "close": 57, "write": 64, "writev": 66, "pwrite64": 68, "pwritev": 70, "fsync": 82, "fdatasync": 83,
    "utimensat": 88, "msync": 227, "syncfs": 267, "renameat2": 276, "copy_file_range": 285, "pwritev2": 287,
    "fchmodat2": 452,
}  # fmt: skip
NUMBERS = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(platform.machine(), {})
"""By name; empty on an architecture that is not known here."""
NAMES = {number: name for name, number in NUMBERS.items()}

OPENS = {"open": 1, "openat": 2}
"""Calls that make a file only with some flags, and which argument has them."""
WRITES = frozenset(("write", "writev", "pwrite64", "pwritev", "pwritev2"))
SYNCS = frozenset(("fsync", "fdatasync", "msync", "syncfs"))
_MAKING = os.O_CREAT | os.O_TRUNC


def changes(name: str, arguments: tuple[int, ...]) -> bool:
    """Whether a call may change a file, a directory, or how much of them is durable. Writes also go to sockets."""
    if not name or name == "close":
        return False
    return name not in OPENS or bool(arguments[OPENS[name]] & _MAKING)
