"""Where the state machine keeps its state: ordered tables of bytes, read and written inside one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol


class Table(StrEnum):
    """All tables of a node's database. Those after `LOG` are local to the node and not part of the replicated state."""

    INODES = "inodes"
    DENTRIES = "dentries"
    LINKS = "links"
    IDENTITIES = "identities"
    PENDING = "pending"
    OUTCOMES = "outcomes"
    OUTCOMES_BY_GSN = "outcomes_by_gsn"
    RULES = "rules"
    CONTROL = "control"
    META = "meta"
    LOG = "log"
    RAFT = "raft"
    ENTRY_GSNS = "entry_gsns"
    EFFECTS = "effects"
    FINGERPRINTS = "fingerprints"
    CONTENTS = "contents"
    LOCAL = "local"


class Tables(Protocol):
    """One open transaction. `scan` yields (key, value) in ascending order of key, from `start` (inclusive) to `stop`
    (exclusive; None: to the end); the table may be changed between its steps only behind the returned key."""

    def get(self, table: Table, key: bytes) -> bytes | None: ...

    def put(self, table: Table, key: bytes, value: bytes) -> None: ...

    def delete(self, table: Table, key: bytes) -> bool: ...

    def scan(self, table: Table, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]: ...
