"""Mutants of mounts, and of the records that they send."""

from __future__ import annotations

from typing import Any

from lddp.consensus.fold import Fold
from lddp.core import records as r
from lddp.core.machine import StateMachine
from lddp.core.names import Names
from lddp.doors.fuse import pipeline
from lddp.doors.fuse.errors import Errors
from lddp.doors.fuse.passthrough import Passthrough
from lddp.doors.fuse.pipeline import Pipeline
from lddp.doors.fuse.queued import Queued
from lddp.doors.fuse.speculation import guarded
from tests.sim.mutants.faults import Mutant, Patch


def _guard_not_looked_at() -> list[Patch]:
    return [(StateMachine, "_guard", lambda _self, _record: 0)]


def _any_target() -> list[Patch]:
    rename, link = Names._rename, Names._link

    def lax_rename(self: Names, record: r.Rename) -> Any:
        return rename(self, record._replace(expected_to_parent=r.ANY_INODE))

    def lax_link(self: Names, record: r.Link) -> Any:
        return link(self, record._replace(expected_to_parent=r.ANY_INODE))

    return [(Names, "_rename", lax_rename), (Names, "_link", lax_link)]


def _sync_without_waiting() -> list[Patch]:
    async def hasty(_self: Pipeline) -> None:
        return

    return [(Pipeline, "barrier", hasty)]


def _no_row() -> list[Patch]:
    def loose(queued: Any, record: Any, _after: Any, reference: Any) -> Any:
        return guarded(queued, record, None, reference)

    return [(pipeline, "guarded", loose)]


def _any_object() -> list[Patch]:
    def lax(_queued: Any, record: Any, after: Any, _reference: Any) -> Any:
        return r.Guarded(record, None if after is None else after.record.id)

    return [(pipeline, "guarded", lax)]


def _refusal_not_told() -> list[Patch]:
    return [(Errors, "add", lambda _self, _inodes, _number: None)]


def _refusal_told_again() -> list[Patch]:
    def insistent(self: Errors, opened: Any) -> int:
        error = self._errors.get(opened.number)
        return 0 if error is None or error.sequence <= opened.since else error.number

    return [(Errors, "look", insistent)]


def _taken_in_too_late() -> list[Patch]:
    takes_in = Queued.takes_in

    def late(self: Queued, later: Queued) -> bool:
        sent, self.is_sent, self.was_sent = (self.is_sent, self.was_sent), False, False
        try:
            return takes_in(self, later)
        finally:
            self.is_sent, self.was_sent = sent

    return [(Queued, "takes_in", late)]


def _bytes_before_their_turn() -> list[Patch]:
    append = Pipeline._append

    def early(self: Pipeline, queued: Queued) -> None:
        if not any(one.takes_in(queued) for one in self._queue):
            append(self, queued)

    return [(Pipeline, "_append", early)]


def _not_contested() -> list[Patch]:
    return [(Pipeline, "_contest", lambda _self, _numbers: None)]


def _refusal_believed() -> list[Patch]:
    """Programs are told, and the kernel is not."""
    refuse = Pipeline._refuse

    def quiet(self: Pipeline, queued: Any) -> None:
        changed, self.changed = self.changed, lambda _numbers: None
        refuse(self, queued)
        self.changed = changed

    return [(Pipeline, "_refuse", quiet)]


def _not_refreshed() -> list[Patch]:
    return [(Passthrough, "refresh", lambda _self, _file: None)]


def _stores_not_looked_for() -> list[Patch]:
    async def blind(_self: Passthrough, _file: Any) -> None:
        return

    return [(Passthrough, "look", blind)]


def _shown_too_early() -> list[Patch]:
    return [(Fold, "is_settled", True)]


MOUNT_MUTANTS = (
    Mutant("guards not looked at", "mount", 2, 50, "answers and files as the model has them", _guard_not_looked_at),
    Mutant(
        "names in whatever has the target's place",
        "mount",
        8,
        50,
        "answers and files as the model has them",
        _any_target,
    ),
    Mutant(
        "fsync does not wait for the queue", "mount", 3, 50, "what a sync has covered is there", _sync_without_waiting
    ),
    Mutant("records of a batch not in a row", "mount", 59, 100, "what was promised is in the log in order", _no_row),
    Mutant(
        "records of a batch mean any object",
        "mount",
        1,
        100,
        "changes are made to the objects that were meant",
        _any_object,
    ),
    Mutant("refusals told nobody", "mount", 3, 50, "what is refused is told at the next sync", _refusal_not_told),
    Mutant(
        "refusals told again and again",
        "mount",
        5,
        100,
        "a refusal is told once",
        _refusal_told_again,
    ),
    Mutant(
        "attributes taken in after they were sent",
        "mount",
        121,
        100,
        "what a sync has covered is there",
        _taken_in_too_late,
    ),
    Mutant(
        "bytes put where their file was made",
        "mount",
        21,
        100,
        "what was promised is in the log in order",
        _bytes_before_their_turn,
    ),
    Mutant(
        "changes of others taken for the mount's own",
        "mount",
        40,
        100,
        "what the kernel believes is so",
        _not_contested,
    ),
    Mutant("the kernel is not told of refusals", "mount", 8, 100, "what the kernel believes is so", _refusal_believed),
    Mutant(
        "bytes of others not brought to readers",
        "mount",
        3,
        100,
        "who has a file open for long reads what the log has",
        _not_refreshed,
    ),
    Mutant(
        "stores not looked for",
        "mount",
        100,
        100,
        "who has a file open for long reads what the log has",
        _stores_not_looked_for,
    ),
    Mutant(
        "a start shows what it has",
        "mount",
        8,
        200,
        "a mount after a start shows what one before it did",
        _shown_too_early,
    ),
)
