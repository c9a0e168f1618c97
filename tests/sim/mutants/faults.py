"""The mutants: small patches of production code, each a mistake that somebody could make.

What is patched is named by its place; each function gives the patches of one mutant as (object, name, value).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lddp.consensus.journal import RaftJournal
from lddp.consensus.reads import LeaderReads
from lddp.consensus.replica import Replica
from lddp.core import sessions
from lddp.core.facts import Facts
from lddp.core.namespace import NUMBER, Inode, Namespace
from lddp.core.places import Places
from lddp.core.tables import Table
from lddp.doors.intake import Intake
from lddp.migrate.observer import Observer
from lddp.replay import projector
from lddp.replay.batches import Batches
from lddp.replay.checkpoints import Checkpoints
from lddp.replay.retained import Retained

Patch = tuple[Any, str, Any]


class Mutant(NamedTuple):
    """A mistake, and the `kind` of simulation that shows it within `seeds_max` seeds. `seed` is one that did once,
    and is tried first; `noticed_by` says which check it fails."""

    name: str
    kind: str
    seed: int
    seeds_max: int
    noticed_by: str
    patches: Callable[[], Sequence[Patch]]


def _vote_not_saved() -> list[Patch]:
    flush = RaftJournal.flush

    def forgetful(self: RaftJournal, tables: Any, **more: Any) -> None:
        vote, self._vote = self._vote, None
        flush(self, tables, **more)
        self._vote = vote

    return [(RaftJournal, "flush", forgetful)]


def _answer_before_sync() -> list[Patch]:
    finish = Replica.finish

    def hasty(self: Replica, hurry: bool = False) -> None:
        held, self._held = self._held, []
        for peer, message in held:
            self._outlet.send(peer, message)
        finish(self, hurry)

    return [(Replica, "finish", hasty)]


def _projected_ahead() -> list[Patch]:
    return [(Checkpoints, "projected", property(lambda self: self._scanned))]


def _marked_before_carried() -> list[Patch]:
    carry = Batches.carry

    def hasty(self: Batches, ready: Any) -> Any:
        for item, _ in ready:
            self._progress.mark(item.order)
        return carry(self, ready)

    return [(Batches, "carry", hasty)]


def _zone_not_synced() -> list[Patch]:
    async def forgetful(_self: Checkpoints, _rule: int, _carrier: object) -> None:
        return

    return [(Checkpoints, "_sync", forgetful)]


def _nothing_put_back() -> list[Patch]:
    return [(projector, "rewind", lambda _zone, _past: None)]


def _applied_apart_from_state() -> list[Patch]:
    load = RaftJournal._load

    def behind(self: RaftJournal) -> None:
        load(self)
        self.applied = max(self.first, self.applied - 1)

    return [(RaftJournal, "_load", behind)]


def _no_deduplication() -> list[Patch]:
    return [(sessions, "recall", lambda _tables, _operation: None)]


def _whatever_has_the_name() -> list[Patch]:
    return [(Places, "_expect_inode", lambda _self, _inode, _record: None)]


def _whatever_has_the_place() -> list[Patch]:
    return [(Places, "_expect_parent", lambda _self, _parent, _expected: None)]


def _stale_read() -> list[Patch]:
    make = LeaderReads.__init__

    def trusting(self: LeaderReads, *, majority: int, asks_max: int) -> None:
        make(self, majority=1, asks_max=asks_max)

    return [(LeaderReads, "__init__", trusting)]


def _blind_overwrite() -> list[Patch]:
    return [(Facts, "is_newer", lambda _self, _inode: False), (Facts, "has_lost_names", lambda _self, _inode: False)]


def _write_ahead_not_read() -> list[Patch]:
    return [(RaftJournal, "_load_ahead", lambda _self: None)]


def _era_not_ended() -> list[Patch]:
    flushed = RaftJournal.flushed

    def endless(self: RaftJournal) -> None:
        era = self._era
        flushed(self)
        self._era = era or self._era

    return [(RaftJournal, "flushed", endless)]


def _conflict_not_cut() -> list[Patch]:
    add = RaftJournal.add

    def stubborn(self: RaftJournal, command: bytes, idx: int, term: int) -> None:
        if idx > self.last:
            add(self, command, idx, term)

    return [(RaftJournal, "add", stubborn)]


def _void_not_repeated() -> list[Patch]:
    def content(self: Observer, _record: Any, _applied: Any) -> None:
        self.counters.observations += 1

    return [(Observer, "_look_again", content)]


def _released_too_early() -> list[Patch]:
    make = Retained.__init__

    def careless(self: Retained, store: Any, _everywhere: Any, tables: Any, sources: Any = None) -> None:
        make(self, store, lambda _rule: 1 << 60, tables, sources)

    return [(Retained, "__init__", careless)]


def _overflow_ignored() -> list[Patch]:
    return [(Observer, "scrub", lambda _self: None)]


def _resubmitted_as_new() -> list[Patch]:
    remember = sessions.remember

    def short(tables: Any, operation: Any, gsn: int, outcome: Any) -> None:
        if gsn % 3:
            remember(tables, operation, gsn, outcome)

    return [(sessions, "remember", short)]


def _renames_not_told() -> list[Patch]:
    take = Intake._take

    def deaf(self: Intake, view: Any, event: Any) -> None:
        if not event.new_name:
            take(self, view, event)

    return [(Intake, "_take", deaf)]


def _overflow_forgets_listings() -> list[Patch]:
    return [(Observer, "scrub", lambda self: self.backlog.scrub())]


def _tombstone_forgotten() -> list[Patch]:
    unlink = Namespace.unlink

    def forgetful(self: Namespace, parent: Inode, name: bytes, child: Inode, gsn: int, tombstone: bool) -> None:
        unlink(self, parent, name, child, gsn, tombstone)
        if tombstone:
            self.tables.delete(Table.DENTRIES, NUMBER.pack(parent.number) + name)

    return [(Namespace, "unlink", forgetful)]


def _commit_trusted() -> list[Patch]:
    load = RaftJournal._load

    def trusting(self: RaftJournal) -> None:
        load(self)
        self.commit = self.last  # what is in the log will have been committed

    return [(RaftJournal, "_load", trusting)]


def _truncation_unguarded() -> list[Patch]:
    def cut(self: RaftJournal, position: int) -> None:
        if self.first + position <= self.last:
            self._cut(self.first + position)

    return [(RaftJournal, "deleteEntriesFrom", cut)]


MUTANTS = (
    Mutant(
        "tombstone forgotten",
        "writable",
        403,
        500,
        "no observation brings back a removed name",
        _tombstone_forgotten,
    ),
    Mutant("write-ahead log not read", "operations", 63, 100, "all comes to rest in time", _write_ahead_not_read),
    Mutant(
        "entries written ahead under an old era",
        "operations",
        1,
        100,
        "what a message promises is on the disk when it leaves",
        _era_not_ended,
    ),
    Mutant(
        "commit index trusted unverified",
        "operations",
        48,
        400,
        "committed prefixes equal",
        _commit_trusted,
    ),
    Mutant(
        "truncation guard off",
        "operations",
        113,
        400,
        "a node stops by itself",
        _truncation_unguarded,
    ),
    Mutant(
        "vote not saved", "operations", 1, 400, "what a message promises is on the disk when it leaves", _vote_not_saved
    ),
    Mutant(
        "answer before sync",
        "operations",
        1,
        200,
        "what a message promises is on the disk when it leaves",
        _answer_before_sync,
    ),
    Mutant(
        "projected index ahead of the effect",
        "operations",
        2,
        200,
        "a zone is where it says that it is",
        _projected_ahead,
    ),
    Mutant(
        "effect marked before it is carried out",
        "operations",
        99,
        200,
        "a zone is where it says that it is",
        _marked_before_carried,
    ),
    Mutant("checkpoint without a sync", "operations", 2, 100, "a zone is where it says that it is", _zone_not_synced),
    Mutant(
        "nothing put back after a power cut", "power", 28, 100, "a zone is where it says that it is", _nothing_put_back
    ),
    Mutant(
        "applied index apart from the state",
        "operations",
        1,
        20,
        "each entry is folded once",
        _applied_apart_from_state,
    ),
    Mutant(
        "changes whatever has the name",
        "operations",
        2,
        50,
        "answers and files as the model has them",
        _whatever_has_the_name,
    ),
    Mutant(
        "names in whatever has the place",
        "operations",
        6,
        50,
        "answers and files as the model has them",
        _whatever_has_the_place,
    ),
    Mutant("no de-duplication", "operations", 1, 100, "a retry is told where it first took effect", _no_deduplication),
    Mutant(
        "some outcomes forgotten",
        "operations",
        58,
        100,
        "a retry is told where it first took effect",
        _resubmitted_as_new,
    ),
    Mutant(
        "stale read served as linearizable",
        "operations",
        7,
        400,
        "a read point covers what was acknowledged",
        _stale_read,
    ),
    Mutant(
        "blind overwrite by a scan record",
        "writable",
        9,
        200,
        "no observation brings back a removed name",
        _blind_overwrite,
    ),
    Mutant("conflicting entries not cut off", "operations", 68, 200, "committed prefixes equal", _conflict_not_cut),
    Mutant("void observation not repeated", "migration", 65, 100, "all comes to rest in time", _void_not_repeated),
    Mutant("content released too early", "operations", 2, 100, "all comes to rest in time", _released_too_early),
    Mutant("overflow ignored", "migration", 4, 50, "source equals namespace once drained", _overflow_ignored),
    Mutant(
        "overflow forgets what is on its way",
        "migration",
        8,
        200,
        "source equals namespace once drained",
        _overflow_forgets_listings,
    ),
    Mutant("renames not followed", "migration", 11, 50, "source equals namespace once drained", _renames_not_told),
)
