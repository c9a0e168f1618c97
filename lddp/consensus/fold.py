"""The write transaction of a tick: journal, changes of other parts, and committed entries folded into the state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from math import inf
from types import TracebackType
from typing import Any

from lddp.consensus.config import RaftConfig
from lddp.consensus.inbox import ApplyCost
from lddp.consensus.journal import RaftJournal
from lddp.consensus.wire import REGULAR, decode_records
from lddp.core.tables import Tables
from lddp.ports import Apply, Clock, KeyValue
from lddp.storage.lent import Lent
from lddp.storage.overlay import Overlay

_ROWS_MAX = 32_768
"""Folded rows that are not left waiting any more."""


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


class _Look:
    """At what is folded, where there is such, and at the database otherwise."""

    __slots__ = ("_fold", "_lent", "_stored")

    def __init__(self, fold: Fold) -> None:
        self._fold = fold

    def __enter__(self) -> Tables:
        fold = self._fold
        self._stored = None if fold.folded is not None else fold.keyvalue.read()
        tables = fold.folded if self._stored is None else self._stored.__enter__()
        assert tables is not None
        self._lent = fold.lend(tables)
        return self._lent

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fold.give_back(self._lent)
        if self._stored is not None:
            self._stored.__exit__(kind, error, trace)


class Fold:
    """Folding does not wait for the disk: an entry is durable on a majority when it is folded, and folding it again
    gives the same. So what has been folded stays in memory a little, for one transaction to write it all, unless
    somebody waits for it; the log itself is written at once."""

    def __init__(
        self, config: RaftConfig, keyvalue: KeyValue, journal: RaftJournal, apply: Apply, clock: Clock
    ) -> None:
        self.keyvalue = keyvalue
        self._journal = journal
        self._apply = apply
        self._clock = clock
        self._budget_s = config.apply_budget_s
        self._quiet_s = config.fold_quiet_s
        self._delay_s = config.fold_delay_s
        self._resolved: list[Change] = []
        self._reading = ExitStack()
        self.folded: Overlay | None = None
        """What has been folded and is not written yet."""
        self._lent: set[Lent] = set()
        self._folded_at = -inf
        self._commit_at = inf
        self._commit_at_last = inf
        """When that is due, and beyond which time it is not put off by what comes after it."""
        self.committed = journal.applied
        """Last index whose fold is durable."""
        self.changes: deque[Change] = deque()
        self.cost = ApplyCost(
            budget_s=config.apply_budget_s, records_max=config.entry_records_max, bytes_max=config.entry_bytes_max
        )

    @property
    def is_settled(self) -> bool:
        """Whether all has been folded that was in the log at the start, as far as it was not cut off: nothing else can
        have been folded before. Until then the state may be older than what was shown of it."""
        return self._journal.applied >= self._journal.inherited

    @property
    def next_at(self) -> float:
        """When there is something to fold or to commit; a time in the past: now."""
        if self._journal.dirty or self.changes or self._journal.applied < self._journal.commit:
            return -inf
        return self._commit_at

    def fold(self) -> tuple[int, int] | None:
        """Folds what is committed and not folded yet, for as long as one cycle may take. The first and last index
        folded, if any. An exception means the same as one of `commit`."""
        journal = self._journal
        first = journal.applied + 1
        if journal.commit < first:
            return None
        self._take_back()
        before = self._clock.monotonic()
        deadline = before + self._budget_s
        if self.folded is None:
            self.folded = Overlay(self._reading.enter_context(self.keyvalue.read()))
            self._commit_at_last = before + self._delay_s
        self._commit_at = min(before + self._quiet(before), self._commit_at_last)
        for index in range(first, journal.commit + 1):
            command, _, _ = journal.entry(index)
            if command[0] == REGULAR:
                records = decode_records(command[1:])
                if self._apply(self.folded, index, records):
                    self._commit_at = self._commit_at_last = -inf
                now = self._clock.monotonic()
                self.cost.note(records=len(records), size=len(command), seconds=now - before)
                before = now
            journal.set_applied(index)
            if before >= deadline:
                break
        return first, journal.applied

    def _quiet(self, now: float) -> float:
        """How long nothing more may come: what comes one after the other is waited for once more."""
        pause_s, self._folded_at = now - self._folded_at, now
        return max(self._quiet_s, 2 * pause_s) if pause_s < self._delay_s else self._quiet_s

    def latest(self) -> AbstractContextManager[Tables]:
        """What has been folded, durably here or not. Not to be kept across an await: it is void as soon as more is
        folded, or what is folded is written."""
        return _Look(self)

    def lend(self, tables: Tables) -> Lent:
        lent = Lent(tables)
        self._lent.add(lent)
        return lent

    def give_back(self, lent: Lent) -> None:
        self._lent.discard(lent)
        lent.end()

    def _take_back(self) -> None:
        while self._lent:
            self._lent.pop().end()

    def hurry(self) -> None:
        """Somebody waits for what has been folded."""
        if self.folded is not None:
            self._commit_at = self._commit_at_last = -inf

    def _is_fold_due(self, hurry: bool) -> bool:
        if self.folded is None:
            return False
        return hurry or self._commit_at <= self._clock.monotonic() or len(self.folded) > _ROWS_MAX

    def commit(self, *, hurry: bool = True) -> tuple[int, int] | None:
        """Makes durable what has come: the journal, the changes of others, and, where it is due, what has been folded.
        The first and last index of that, if any.

        An exception means that the node's state in memory and on disk are no longer the same: it must stop.
        """
        folded = self.folded if self._is_fold_due(hurry) or self.changes else None
        if folded is None and not self.changes and (not self._journal.dirty or self._journal.write_ahead()):
            return None
        changes = list(self.changes)
        self.changes.clear()
        while not self._transaction(changes, folded):
            # One change failed and everything was undone: again without it.
            self._resolved += [change for change in changes if change.error is not None]
            changes = [change for change in changes if change.error is None]
        self._resolved += changes
        self._journal.flushed()
        if folded is None:
            return None
        self._forget()
        self._commit_at = inf
        first, self.committed = self.committed + 1, self._journal.applied
        return first, self.committed

    def resolve(self) -> None:
        """Tells those who made the changes."""
        resolved, self._resolved = self._resolved, []
        for change in resolved:
            change.resolve()

    def close(self) -> None:
        """Forgets what is not committed: the next start folds it again."""
        self._forget()

    def _forget(self) -> None:
        self._take_back()
        self.folded = None
        self._reading.close()

    def _transaction(self, changes: list[Change], folded: Overlay | None) -> bool:
        try:
            with self.keyvalue.write() as tables:
                for change in changes:
                    _run(change, tables)
                if folded is not None:
                    folded.flush(tables)
                self._journal.flush(tables, applied=self.committed if folded is None else self._journal.applied)
        except _ChangeFailed:
            return False
        return True


def _run(change: Change, tables: Tables) -> None:
    try:
        change.result = change.run(tables)
    except Exception as error:
        change.error = error
        raise _ChangeFailed from error
