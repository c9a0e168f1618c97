"""The write transaction of a tick: journal, changes of other parts, and committed entries folded into the state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from lddp.consensus.config import RaftConfig
from lddp.consensus.inbox import ApplyCost
from lddp.consensus.journal import RaftJournal
from lddp.consensus.wire import REGULAR, decode_records
from lddp.core.tables import Tables
from lddp.ports import Apply, Clock, KeyValue


class Change:
    """Something another part of the node writes in the same transaction. `done(result, error)` runs after it."""

    __slots__ = ("_done", "error", "result", "run")

    def __init__(self, run: Callable[[Tables], Any], done: Callable[[Any, Exception | None], None]) -> None:
        self.run = run
        self.result: Any = None
        self.error: Exception | None = None
        self._done = done

    def resolve(self) -> None:
        self._done(self.result, self.error)


class _ChangeFailed(Exception):
    """Carries a failed change out of the transaction, which is undone with all that came before it."""


class Fold:
    def __init__(
        self, config: RaftConfig, keyvalue: KeyValue, journal: RaftJournal, apply: Apply, clock: Clock
    ) -> None:
        self._keyvalue = keyvalue
        self._journal = journal
        self._apply = apply
        self._clock = clock
        self._budget_s = config.apply_budget_s
        self._resolved: list[Change] = []
        self.changes: deque[Change] = deque()
        self.cost = ApplyCost(
            budget_s=config.apply_budget_s, records_max=config.entry_records_max, bytes_max=config.entry_bytes_max
        )

    @property
    def wanted(self) -> bool:
        """There is something to commit now."""
        return self._journal.dirty or bool(self.changes) or self._journal.applied < self._journal.commit

    def commit(self) -> tuple[int, int] | None:
        """Makes the transaction if there is anything for it. Returns the first and last index folded, if any.

        An exception means that the node's state in memory and on disk are no longer the same: it must stop.
        """
        if not self.wanted:
            return None
        first = self._journal.applied + 1
        changes = list(self.changes)
        self.changes.clear()
        while not self._transaction(changes):
            # One change failed and everything was undone: again without it.
            self._resolved += [change for change in changes if change.error is not None]
            changes = [change for change in changes if change.error is None]
        self._resolved += changes
        self._journal.flushed()
        last = self._journal.applied
        return (first, last) if last >= first else None

    def resolve(self) -> None:
        """Tells those who made the changes."""
        resolved, self._resolved = self._resolved, []
        for change in resolved:
            change.resolve()

    def _transaction(self, changes: list[Change]) -> bool:
        try:
            with self._keyvalue.write() as tables:
                # Changes first: one that fails undoes the transaction, and entries must not be applied twice.
                for change in changes:
                    _run(change, tables)
                self._fold(tables)
                self._journal.flush(tables)
        except _ChangeFailed:
            return False
        return True

    def _fold(self, tables: Tables) -> None:
        journal = self._journal
        before = self._clock.monotonic()
        deadline = before + self._budget_s
        for index in range(journal.applied + 1, journal.commit + 1):
            command, _, _ = journal.entry(index)
            if command[0] == REGULAR:
                records = decode_records(command[1:])
                self._apply(tables, index, records)
                now = self._clock.monotonic()
                self.cost.note(records=len(records), size=len(command), seconds=now - before)
                before = now
            journal.set_applied(index)
            if before >= deadline:
                return


def _run(change: Change, tables: Tables) -> None:
    try:
        change.result = change.run(tables)
    except Exception as error:
        change.error = error
        raise _ChangeFailed from error
