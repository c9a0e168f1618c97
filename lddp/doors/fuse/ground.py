"""What a mount stands on: what every door needs of a node, and the namespace by inode numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lddp.access import Access
from lddp.core.records import Outcome, Record
from lddp.core.view import View


class Ground(Access, Protocol):
    def view(self) -> AbstractContextManager[View]:
        """The namespace as of the last fold. Not to be kept across an await."""
        ...

    async def submit_folded(self, records: Sequence[Record], timeout_s: float) -> list[tuple[int, Outcome]]:
        """As `submit_many`: the answers once `view` shows the records, whatever the zone's files show by then."""
        ...

    def follow(self, listener: Callable[[set[int]], None]) -> None:
        """Calls `listener` after each fold with the inodes that its records have touched or taken away."""
        ...

    def unfollow(self, listener: Callable[[set[int]], None]) -> None: ...

    def volume(self, rule: int) -> os.statvfs_result:
        """Of the filesystem that has the rule's tree in this zone. Blocking."""
        ...

    def scratch(self) -> Path:
        """A directory for private copies of files, on the zone's filesystem where that can be."""
        ...


@dataclass(frozen=True, slots=True)
class Top:
    """What is mounted. `path` is the rule's in the global namespace, `root` the inode number of its top directory."""

    rule: int
    name: str
    path: bytes
    root: int


@dataclass(frozen=True, slots=True)
class Patience:
    """What a call does while the log takes nothing. `soft_s` seconds later it fails with EIO; None: it waits for ever,
    until it is interrupted (hard)."""

    soft_s: float | None = None
