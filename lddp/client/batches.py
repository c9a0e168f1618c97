"""Many operations in one request.

They enter the log in their order, each with an outcome of its own: a batch is no transaction. One that is refused does
not undo those before it nor keep those after it from being tried, and others may see the first ones before the last.
A batch that is sent again, because its answer was lost, takes effect once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import msgpack

from lddp.client.entries import Path, path_bytes, target_bytes
from lddp.client.problems import FileError, outcome_error

OPERATIONS_MAX = 4096
BYTES_MAX = 8 * 1024 * 1024
"""Of one request; a longer batch is sent in several, one after the other."""
DATA_BYTES_MAX = 16 * 1024
"""What one operation can carry; larger contents are sent by themselves (`Client.write`)."""
_OVERHEAD_BYTES = 64

_pack = msgpack.Packer(use_bin_type=True).pack


@dataclass(frozen=True, slots=True)
class Result:
    """`errno` is 0 where the operation took effect, at `index` of the log."""

    operation: str
    path: bytes
    errno: int
    index: int

    def error(self) -> FileError | None:
        return outcome_error(self.errno, f"{self.operation} {self.path!r}") if self.errno else None


class Batch:
    """Collects operations; `Client.submit` sends them. Its methods can be chained."""

    def __init__(self) -> None:
        self._operations: list[tuple[str, bytes, tuple[Any, ...]]] = []

    def __len__(self) -> int:
        return len(self._operations)

    def _add(self, name: str, path: Path, *arguments: Any) -> Self:
        self._operations.append((name, path_bytes(path), arguments))
        return self

    def mkdir(self, path: Path, mode: int = 0o755) -> Self:
        return self._add("mkdir", path, mode)

    def put(self, path: Path, data: bytes, mode: int = 0o644, version: int = -1) -> Self:
        """`version` as in `Client.write`, as a number: -1 any, 0 none, -2 some."""
        return self._add("put", path, bytes(data), mode, None, None, version)

    def append(self, path: Path, data: bytes) -> Self:
        return self._add("append", path, bytes(data))

    def write(self, path: Path, offset: int, data: bytes) -> Self:
        return self._add("write", path, offset, bytes(data))

    def truncate(self, path: Path, size: int) -> Self:
        return self._add("truncate", path, size)

    def rename(self, path: Path, to: Path, *, replace: bool = True) -> Self:
        return self._add("rename", path, path_bytes(to), 0 if replace else 1)

    def exchange(self, path: Path, to: Path) -> Self:
        return self._add("rename", path, path_bytes(to), 2)

    def remove(self, path: Path, version: int = -1) -> Self:
        """A file's name, or an empty directory."""
        return self._add("remove", path, version)

    def unlink(self, path: Path) -> Self:
        """A name that is no directory's; EISDIR where it is."""
        return self._add("unlink", path)

    def rmdir(self, path: Path) -> Self:
        """An empty directory; ENOTDIR where it is none."""
        return self._add("rmdir", path)

    def link(self, path: Path, to: Path) -> Self:
        return self._add("link", path, path_bytes(to))

    def symlink(self, path: Path, target: Path) -> Self:
        return self._add("symlink", path, target_bytes(target))

    def setattr(
        self,
        path: Path,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        mtime_ns: int | None = None,
    ) -> Self:
        return self._add("setattr", path, mode, uid, gid, mtime_ns)

    def setxattr(self, path: Path, name: bytes, value: bytes) -> Self:
        return self._add("setxattr", path, name, value)

    def removexattr(self, path: Path, name: bytes) -> Self:
        return self._add("removexattr", path, name)

    def named(self) -> list[tuple[str, bytes]]:
        """(operation, path) of each."""
        return [(name, path) for name, path, _ in self._operations]

    def parts(self, first: int) -> Iterator[list[list[Any]]]:
        """The operations as the API takes them, numbered from `first`, in parts that one request can carry."""
        part: list[list[Any]] = []
        size = 0
        for number, (name, path, arguments) in enumerate(self._operations, first):
            length = _OVERHEAD_BYTES + len(path) + sum(len(one) for one in arguments if isinstance(one, bytes))
            if part and (len(part) == OPERATIONS_MAX or size + length > BYTES_MAX):
                yield part
                part, size = [], 0
            part.append([number, name, path, *arguments])
            size += length
        if part:
            yield part


def packed(part: list[list[Any]]) -> bytes:
    return bytes(_pack(part))


def answers_of(data: bytes) -> dict[int, tuple[int, int]]:
    """(errno, index) by number."""
    return {number: (code, index) for number, code, index in msgpack.unpackb(data)}
