"""Deliberate faults of the node, each of which the tests here must notice. They are made in the process that dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import lmdb

from lddp.consensus.fold import Fold
from lddp.core import sessions
from lddp.core.tables import Tables
from lddp.replay import outbox, progress
from lddp.replay.batches import Batches, Ready
from lddp.replay.progress import Progress
from lddp.replay.projector import Projector
from lddp.storage import environment
from lddp.zones.posix import PosixZone


class Mutant(NamedTuple):
    """`noticed_by` is the kind of test (points, images or cuts), and what of it at most: the first failure is enough,
    and what the kernel had written back before a cut is chance. What it `says` then."""

    name: str
    patch: Callable[[], None]
    noticed_by: tuple[str, str]
    says: str


def _mark_before_effect() -> None:
    """A killed node finds effects marked that were never carried out."""
    carry = Batches._carry_one

    def carry_one(self: Batches, item: outbox.Item, source: Any) -> Any:
        self._progress.mark(item.order)
        return carry(self, item, source)

    Batches._carry_one = carry_one  # type: ignore[method-assign]


def _index_before_effect() -> None:
    """The outbox forgets effects before they are in the zone."""
    carry = Projector._carry

    async def carry_all(self: Projector, ready: list[Ready]) -> None:
        def forget(tables: Tables) -> None:
            for item, _ in ready:
                outbox.discard(tables, item.order[0])

        await self._transact(forget)
        await carry(self, ready)

    Projector._carry = carry_all  # type: ignore[method-assign]


def _no_marks() -> None:
    """A killed node carries out again what it had done."""

    def mark(self: Progress, order: Any, withheld: bool = False) -> None:
        return

    Progress.mark = Progress.begin = mark  # type: ignore[method-assign,assignment]


def _no_memory_of_requests() -> None:
    """A retry takes effect again."""
    sessions.recall = lambda _tables, _operation: None


def _no_sync() -> None:
    """LMDB leaves it to the kernel when pages reach the disk."""
    opened = lmdb.open

    def open_unsynced(*args: Any, **kwargs: Any) -> Any:
        return opened(*args, **kwargs, sync=False)

    environment.lmdb.open = open_unsynced  # type: ignore[attr-defined]


def _state_before_index() -> None:
    """The state is written in one transaction, and in the next one how far it is."""
    transaction = Fold._transaction

    def two(self: Fold, changes: Any, folded: Any) -> bool:
        if folded is not None:
            with self.keyvalue.write() as tables:
                folded.flush(tables)
        return transaction(self, changes, folded)

    Fold._transaction = two  # type: ignore[method-assign]


def _marks_of_another_boot() -> None:
    """What was marked before the power was cut is believed."""
    progress.boot_id = lambda: bytes(36)


def _zone_not_synced() -> None:
    """A checkpoint says that files are durable which are not."""
    PosixZone.sync = lambda _self: None  # type: ignore[method-assign]


MUTANTS = {
    mutant.name: mutant
    for mutant in (
        Mutant("mark-before-effect", _mark_before_effect, ("points", "put-inline"), "the zone is not"),
        Mutant("index-before-effect", _index_before_effect, ("points", "put-inline"), "the zone is not"),
        Mutant("no-marks", _no_marks, ("points", "rename-chain"), "rename-chain, killed at"),
        Mutant("no-memory-of-requests", _no_memory_of_requests, ("points", "append"), "took effect at"),
        Mutant("no-sync", _no_sync, ("images", "1-60"), "restore this node"),
        Mutant("state-before-index", _state_before_index, ("images", "1-60"), "the state is at"),
        Mutant("database-not-synced", _no_sync, ("cuts", "1-40"), "after a cut"),
        Mutant("zone-not-synced", _zone_not_synced, ("cuts", "1-40"), "the zone is not"),
        Mutant("marks-of-another-boot", _marks_of_another_boot, ("cuts", "1-40"), "marks of another boot"),
    )
}
