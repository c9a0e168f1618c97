"""A node's database on a fake disk: commits take their time and may fail, and a process can be killed, or the machine
lose its power, before, during and after each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lddp.core.tables import Table
from tests.fakes.memory import MemoryKeyValue, MemoryReadTransaction, MemoryTransaction
from tests.sim.loop import Process

_Undo = dict[tuple[Table, bytes], bytes | None]


class SimulatedKeyValue:
    """Implements `ports.KeyValue` for one process over what the disk holds. As in LMDB, an open read transaction goes
    on seeing what it saw first. `sync_s` bounds the time of a commit; with an errno in `error` the next one fails."""

    def __init__(self, stored: MemoryKeyValue, process: Process, sync_s: tuple[float, float]) -> None:
        self._stored = stored
        self._process = process
        self.sync_s = sync_s
        self.error = 0
        self.on_error: Callable[[], None] = lambda: None
        self._open: MemoryTransaction | None = None
        self._readers: list[_Undo] = []
        self._latest: _Undo = {}
        self._synced_at = 0.0

    @contextmanager
    def write(self) -> Iterator[MemoryTransaction]:
        self._process.point()
        with self._stored.write() as transaction:
            self._open = transaction
            try:
                yield transaction
                self._process.point()
                if self.error:
                    self.on_error()
                    raise OSError(self.error, os.strerror(self.error))
            finally:
                self._open = None
            for overlay in self._readers:
                for changed, before in transaction.undo.items():
                    overlay.setdefault(changed, before)
        self._process.spend(self._process.random.uniform(*self.sync_s))
        self._latest, self._synced_at = transaction.undo, self._process.now()
        self._process.point()

    def kill(self, *, power: bool = False) -> MemoryKeyValue:
        """What the next process finds: all that was committed, whatever was being written. A commit during whose sync
        the process was killed may be there or not: nobody can have been told of it. A power cut takes it."""
        stored = self._stored
        if stored._open is not None:
            stored._roll_back(stored._open.undo)
            stored._open = None
        elif self._process.loop.now < self._synced_at and (power or self._process.random.random() < 0.5):
            stored._roll_back(self._latest)
        return stored.copy()

    @contextmanager
    def read(self) -> Iterator[MemoryReadTransaction]:
        overlay: _Undo = {}

        def undo() -> _Undo:
            uncommitted: _Undo = self._open.undo if self._open is not None else {}
            return {**uncommitted, **overlay} if overlay else uncommitted

        self._readers.append(overlay)
        try:
            yield MemoryReadTransaction(self._stored._rows, self._stored._keys, undo)
        finally:
            self._readers = [one for one in self._readers if one is not overlay]
