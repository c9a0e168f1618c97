"""What the API says of paths, as values."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lddp.errors import UsageError

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""Absolute in the global namespace. Text stands for its UTF-8; a name that is not UTF-8 is given as bytes, or as text
with surrogates (PEP 383)."""

_FORMATS = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "character_device": stat.S_IFCHR,
    "block_device": stat.S_IFBLK,
}


def path_bytes(path: Path) -> bytes:
    """Raises UsageError for a path that is not absolute."""
    given = os.fspath(path)
    found = given.encode("utf-8", "surrogateescape") if isinstance(given, str) else given
    if not found.startswith(b"/"):
        raise UsageError(f"{path_text(found)!r} is not absolute; paths of the namespace start with /")
    return found


def target_bytes(target: Path) -> bytes:
    """What a symlink holds, whatever it is."""
    given = os.fspath(target)
    return given.encode("utf-8", "surrogateescape") if isinstance(given, str) else given


def path_text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the namespace. `size` in bytes; `version` is the index of the last record that touched it."""

    name: bytes
    kind: str
    """`file`, `directory`, `symlink`, `fifo`, `character_device` or `block_device`."""
    version: int
    mode: int
    """The twelve permission bits."""
    uid: int
    gid: int
    size: int
    mtime_ns: int
    links: int
    inode: int
    pending: bool
    """A migration has not brought its bytes, or its listing, into the log yet."""
    digest: str = ""
    """BLAKE3 of a file's bytes in hexadecimal, where it is known."""
    target: bytes = b""
    rdev: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def is_directory(self) -> bool:
        return self.kind == "directory"

    @property
    def is_file(self) -> bool:
        return self.kind == "file"

    @property
    def st_mode(self) -> int:
        """Kind and permissions, as `os.stat` has them."""
        return _FORMATS[self.kind] | self.mode

    @property
    def mtime(self) -> float:
        """Seconds since the epoch."""
        return self.mtime_ns / 1e9


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a change: the log index at which it took effect, and the version of what it changed."""

    index: int
    version: int
    inode: int


def bytes_of(document: Mapping[str, Any], key: str) -> bytes:
    """A name as the API writes it: text, and base64 where it is not UTF-8."""
    encoded = document.get(f"{key}_base64")
    if encoded is not None:
        return base64.b64decode(encoded)
    return str(document.get(key, "")).encode("utf-8", "surrogateescape")


def entry_of(document: Mapping[str, Any], name: bytes) -> Entry:
    """An entry from the API's JSON."""
    return Entry(
        name,
        str(document["kind"]),
        int(document["version"]),
        int(document["mode"], 8),
        int(document["uid"]),
        int(document["gid"]),
        int(document["size"]),
        int(document["mtime_ns"]),
        int(document["links"]),
        int(document["inode"]),
        bool(document["pending"]),
        str(document.get("digest", "")),
        bytes_of(document, "target"),
        int(document.get("rdev", 0)),
        tuple((bytes_of(one, "name"), bytes_of(one, "value")) for one in document.get("xattrs", ())),
    )


def written_of(document: Mapping[str, Any]) -> Written:
    return Written(int(document["index"]), int(document.get("version", 0)), int(document.get("inode", 0)))
