"""What a tree holds, as JSON: for a process of its own, because the tree may be a mount of the one that asks."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from typing import Any


def describe(path: str) -> list[Any]:
    found = os.lstat(path)
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False).hex() for name in os.listxattr(path, follow_symlinks=False)
    }
    common = [oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, xattrs]
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            return [*common, found.st_nlink, found.st_size, hashlib.file_digest(file, "sha256").hexdigest()]
    if stat.S_ISLNK(found.st_mode):
        return [*common, os.readlink(path)]
    return [*common, found.st_rdev]


def main(top: str) -> None:
    tree = {".": describe(top)}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            tree[os.path.relpath(path, top)] = describe(path)
    json.dump(tree, sys.stdout)


main(sys.argv[1])
