"""Judges whether two trees are the same, with nothing of lddp: rsync, and a walk of its own for what rsync cannot."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster.trees import DEEP

BLOCKS_SLACK = 1024
"""512-byte blocks by which the space of a sparse file may differ: holes are found in pieces."""
_RSYNC_PATH_BYTES_MAX = 2000
"""rsync knows no path of more than 4,096 bytes, nor such a pattern; in a pattern, each byte may take two."""
_PATTERN = re.compile(rb"[\\*?\[]")
"""What means something else in a pattern of rsync's than itself."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_LOCAL_XATTRS = ("security.selinux", "security.apparmor", "security.ima", "security.evm")

Facts = dict[str, object]


def differences(source: Path, target: Path) -> list[str]:
    """What is not the same, a line each; empty if all is."""
    return [f"rsync: {line}" for line in by_rsync(source, target)] + list(_by_walk(source, target))


def by_rsync(source: Path, target: Path) -> list[str]:
    """What rsync says is not the same, a line each. It does not look at what is deeper than it can go: programs that
    move directories into each other get there."""
    deep = sorted({path for root in (source, target) for path in _deep(os.fsencode(root))})
    found = subprocess.run(
        [
            "rsync",
            "-aHAXcn",
            "--delete",
            "--itemize-changes",
            "--modify-window=-1",
            f"--exclude=/{os.fsdecode(DEEP)}/*",
            *(b"--exclude=/" + _PATTERN.sub(rb"\\\g<0>", path) + b"/*" for path in deep),
            f"{source}/",
            f"{target}/",
        ],
        capture_output=True,
        check=False,
    )
    lines = [line.decode(errors="backslashreplace") for line in (found.stdout + found.stderr).splitlines() if line]
    lines = [line for line in lines if line[1:2] != "S"]  # sockets, which are not migrated
    if found.returncode and not lines:
        lines.append(f"ended with {found.returncode}")
    return lines


def _deep(root: bytes) -> Iterator[bytes]:
    """Directories in which rsync cannot be sure to reach everything, and none below them."""
    for path, directory, inside in _directories(root):
        if len(path) > _RSYNC_PATH_BYTES_MAX:
            yield path
        else:
            with os.scandir(directory) as entries:
                inside += [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _directories(root: bytes) -> Iterator[tuple[bytes, int, list[bytes]]]:
    """(path, descriptor, directories in it) of `root` and of what is put into those lists: each before what is in it,
    and as deep as there are descriptors, which is deeper than functions can call themselves."""
    opened = [(b"", os.open(root, os.O_RDONLY | os.O_DIRECTORY))]
    waiting: list[list[bytes]] = []
    try:
        while opened:
            above, directory = opened[-1]
            if len(waiting) < len(opened):
                waiting.append([])
                yield above, directory, waiting[-1]
            elif waiting[-1]:
                name = waiting[-1].pop()
                opened.append((_below(above, name), os.open(name, _DIRECTORY, dir_fd=directory)))
            else:
                waiting.pop()
                os.close(opened.pop()[1])
    finally:
        for _, descriptor in opened:
            os.close(descriptor)


def _below(above: bytes, name: bytes) -> bytes:
    return above + b"/" + name if above else name


def _by_walk(source: Path, target: Path) -> Iterator[str]:
    one, other = facts(os.fsencode(source)), facts(os.fsencode(target))
    for path in sorted(one.keys() | other.keys()):
        name = path.decode(errors="backslashreplace")
        if path not in other:
            yield f"walk: only in the source: {name}"
        elif path not in one:
            yield f"walk: only in the target: {name}"
        else:
            for what in one[path] | other[path]:
                value, there = one[path].get(what), other[path].get(what)
                if what == "blocks" and isinstance(value, int) and isinstance(there, int):
                    if abs(value - there) > max(BLOCKS_SLACK, value // 10):
                        yield f"walk: {name}: {value} blocks, {there} in the target"
                elif there != value:
                    yield f"walk: {name}: {what}: {_short(value)}, {_short(there)} in the target"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 100 else text[:97] + "..."


def facts(root: bytes) -> dict[bytes, Facts]:
    """Everything about every object below `root`, by path; works relative to descriptors, so paths may be of any
    length."""
    found: dict[bytes, Facts] = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    for above, directory, inside in _directories(root):
        if not above:
            found[b""] = _facts(directory, b".", os.fstat(directory))
        for entry in map(os.fsencode, os.listdir(directory)):
            path = _below(above, entry)
            status = os.stat(entry, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                continue  # not migrated
            found[path] = _facts(directory, entry, status)
            if stat.S_ISDIR(status.st_mode):
                inside.append(entry)
            else:
                names.setdefault((status.st_dev, status.st_ino), []).append(path)
    for same in names.values():
        if len(same) > 1:
            for path in same:
                found[path]["names"] = sorted(same)
    return found


def _facts(directory: int, name: bytes, status: os.stat_result) -> Facts:
    found: Facts = {
        "mode": oct(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "modification time": status.st_mtime_ns,
        "names": None,
    }
    if stat.S_ISLNK(status.st_mode):
        found["target"] = os.readlink(name, dir_fd=directory)
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        found["device"] = status.st_rdev
    if stat.S_ISREG(status.st_mode):
        found["size"] = status.st_size
        found["bytes"] = _digest(directory, name)
        if status.st_size >= 1 << 20:
            found["blocks"] = status.st_blocks
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        where = f"/proc/self/fd/{descriptor}"
        wanted = [one for one in sorted(os.listxattr(where)) if one not in _LOCAL_XATTRS]
        found["extended attributes"] = [(one, os.getxattr(where, one)) for one in wanted]
    finally:
        os.close(descriptor)
    return found


def _digest(directory: int, name: bytes) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME, dir_fd=directory)
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()
