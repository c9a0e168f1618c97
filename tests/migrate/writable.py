"""A source that takes operations, and a small tree in it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from lddp.core.records import MakeDirectory, Operation, OperationId, Put
from lddp.migrate.options import MigrationOptions
from lddp.migrate.rounds import Leftover
from tests.core.support import TARGET, content, operation_id
from tests.migrate.world import World


class Writable(World):
    """A source that takes operations: `do` brings one into the log, the test does the same to the source."""

    def __init__(self, directory: Path, options: MigrationOptions | None = None) -> None:
        super().__init__(directory, options, observe_only=False)
        self._sequence = itertools.count(1)
        self.operated = 0
        """GSN of the last operation."""

    def head(self) -> tuple[OperationId, int, int]:
        return operation_id(next(self._sequence)), TARGET, 1

    def do(self, operation: Operation) -> None:
        assert not self.fold(operation).errno
        self.operated = self.view().gsn

    def make(self) -> None:
        """An operation made e/f and e/file, in the log and in the source."""
        self.do(MakeDirectory(*self.head(), b"/data/e", 0o755, 0, 0))
        self.do(MakeDirectory(*self.head(), b"/data/e/f", 0o755, 0, 0))
        self.do(Put(*self.head(), b"/data/e/file", 0o644, 0, 0, content(b"made")))
        (self.source / "e" / "f").mkdir(parents=True)
        (self.source / "e" / "file").write_bytes(b"made")
        for path in ("e/file", "e/f", "e", ""):
            os.utime(self.source / path, ns=(1, 1))

    def identity(self, path: bytes) -> bytes:
        return self.source_zone.status(path).handle

    def find(self, strays: dict[bytes, set[bytes]]) -> Leftover:
        """Rounds until nothing is left of the strays and what came of them."""
        return self.finish(self.look(strays=strays))

    def glance(self, *operated: tuple[int, str]) -> Leftover:
        """Rounds until nothing is left to do about inodes and paths that operations changed."""
        work = {(number, os.fsencode(path)): self.operated for number, path in operated}
        return self.finish(self.look(operated=work))

    def finish(self, left: Leftover) -> Leftover:
        for _ in range(5):
            left.again.compare.update(self.mistaken)
            self.mistaken.clear()
            if not left.again:
                break
            left = self.again(left)
        assert not left.again
        self.scan()
        return left
