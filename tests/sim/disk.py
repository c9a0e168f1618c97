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


class SimulatedWriteAheadLog:
    """Implements `ports.WriteAheadLog` beside the database that it belongs to."""

    def __init__(self, owner: SimulatedKeyValue) -> None:
        self._owner = owner

    def create(self) -> None:
        self._owner.refuse()
        self._owner.stored.wal.create()

    def begin(self) -> bytes:
        return self._owner.stored.wal.begin()

    def append(self, era: bytes, data: bytes) -> bool:
        owner = self._owner
        wal = owner.stored.wal
        owner.process.point()
        owner.refuse()
        before = wal.era, list(wal.frames)
        if not wal.append(era, data):
            return False

        def undo() -> None:
            wal.era, wal.frames = before

        owner.sync(undo)
        return True

    def read(self, era: bytes) -> list[bytes]:
        return self._owner.stored.wal.read(era)


class SimulatedKeyValue:
    """Implements `ports.KeyValue` for one process over what the disk holds. As in LMDB, an open read transaction goes
    on seeing what it saw first. `sync_s` bounds the time of a commit; with an errno in `error` the next one fails."""

    def __init__(self, stored: MemoryKeyValue, process: Process, sync_s: tuple[float, float]) -> None:
        self.stored = stored
        self.process = process
        self.wal = SimulatedWriteAheadLog(self)
        self.sync_s = sync_s
        self.error = 0
        self.on_error: Callable[[], None] = lambda: None
        self._open: MemoryTransaction | None = None
        self._readers: list[_Undo] = []
        self._syncing: list[tuple[float, Callable[[], None]]] = []
        """What the disk is told to sync: when it has, and what a disk that has not would hold instead."""

    def refuse(self) -> None:
        """Fails where the disk is to fail now."""
        if self.error:
            self.on_error()
            raise OSError(self.error, os.strerror(self.error))

    def sync(self, undo: Callable[[], None]) -> None:
        """Takes the time of a sync; until it has passed, a kill may `undo`."""
        self.process.spend(self.process.random.uniform(*self.sync_s))
        now = self.process.loop.now
        self._syncing = [one for one in self._syncing if one[0] > now]
        self._syncing.append((self.process.now(), undo))
        self.process.point()

    @contextmanager
    def write(self) -> Iterator[MemoryTransaction]:
        self.process.point()
        with self.stored.write() as transaction:
            self._open = transaction
            try:
                yield transaction
                self.process.point()
                self.refuse()
            finally:
                self._open = None
            for overlay in self._readers:
                for changed, before in transaction.undo.items():
                    overlay.setdefault(changed, before)
        self.sync(lambda: self.stored._roll_back(transaction.undo))

    def kill(self, *, power: bool = False) -> MemoryKeyValue:
        """What the next process finds: all that was synced, whatever was being written. What was being synced when
        the process was killed may be there or not: nobody can have been told of it. A power cut takes it."""
        stored = self.stored
        if stored._open is not None:
            stored._roll_back(stored._open.undo)
            stored._open = None
        for synced_at, undo in reversed(self._syncing):
            if synced_at <= self.process.loop.now or not (power or self.process.random.random() < 0.5):
                break
            undo()
        return stored.copy()

    @contextmanager
    def read(self) -> Iterator[MemoryReadTransaction]:
        overlay: _Undo = {}

        def undo() -> _Undo:
            uncommitted: _Undo = self._open.undo if self._open is not None else {}
            return {**uncommitted, **overlay} if overlay else uncommitted

        self._readers.append(overlay)
        try:
            yield MemoryReadTransaction(self.stored._rows, self.stored._keys, undo)
        finally:
            self._readers = [one for one in self._readers if one is not overlay]
