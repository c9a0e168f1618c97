"""Operations of a row: each is done only where those before it were, and to the objects that were meant."""

from __future__ import annotations

import errno

from lddp.core import records as r
from lddp.core.records import Guarded, Kind, Outcome

from .support import SOURCE, TARGET, Ledger, content, create_rule, operation_id

OTHERS = 1000
"""Sequences of another client's operations."""


def ledger() -> Ledger:
    ledger = Ledger()
    ledger.apply(create_rule())
    return ledger


def apply(ledger: Ledger, record: r.Record) -> Outcome:
    return ledger.apply(record)[0]


def mkdir(sequence: int, path: bytes) -> r.MakeDirectory:
    return r.MakeDirectory(operation_id(sequence), SOURCE, 5, path, 0o755, 0, 0)


def create(sequence: int, path: bytes) -> r.Create:
    return r.Create(operation_id(sequence), SOURCE, 5, path, Kind.FILE, 0o644, 0, 0)


def foreign(record: r.MakeDirectory | r.Create | r.Rename | r.Unlink) -> r.Record:
    id = operation_id(record.id.sequence + OTHERS, b"other")
    changed: r.Record = record._replace(id=id, zone=TARGET)
    return changed


def test_a_row_is_done_one_after_the_other() -> None:
    log = ledger()
    assert not apply(log, Guarded(mkdir(1, b"/data/d"))).errno
    made = apply(log, Guarded(create(2, b"/data/d/f"), operation_id(1), above=-1))
    assert not made.errno
    put = r.Put(operation_id(3), SOURCE, 5, b"/data/d/f", 0, 0, 0, content(b"x"), r.SOME_VERSION)
    done = apply(log, Guarded(put, operation_id(2), above=-1, at=-2))
    assert (done.errno, done.inode) == (0, made.inode)
    unlink = r.Unlink(operation_id(4), SOURCE, 5, b"/data/d/f")
    assert not apply(log, Guarded(unlink, operation_id(3), at=made.inode)).errno


def test_what_follows_a_refusal_is_cancelled() -> None:
    log = ledger()
    apply(log, foreign(mkdir(1, b"/data/d")))
    assert apply(log, Guarded(mkdir(1, b"/data/d"))).errno == errno.EEXIST
    assert apply(log, Guarded(mkdir(2, b"/data/e"), operation_id(1))).errno == errno.ECANCELED
    assert apply(log, Guarded(mkdir(3, b"/data/f"), operation_id(2))).errno == errno.ECANCELED
    # Without being told to come after it, it is no part of the row: its directory was made by somebody else.
    assert apply(log, Guarded(create(4, b"/data/d/f"), above=-1)).errno == errno.ECANCELED
    assert log.apply(Guarded(mkdir(3, b"/data/f"), operation_id(2)))[0].errno == errno.ECANCELED  # as a retry too


def test_what_is_to_come_first_and_has_not_come() -> None:
    log = ledger()
    assert apply(log, Guarded(mkdir(2, b"/data/e"), operation_id(1))).errno == errno.ECANCELED
    assert apply(log, Guarded(mkdir(3, b"/data/d"), at=-1)).errno == errno.ECANCELED


def test_another_object_in_the_place_is_left_alone() -> None:
    log = ledger()
    directory = apply(log, mkdir(1, b"/data/d")).inode
    file = apply(log, create(2, b"/data/d/f")).inode
    apply(log, foreign(r.Rename(operation_id(1), TARGET, 5, b"/data/d", b"/data/old")))
    apply(log, foreign(mkdir(2, b"/data/d")))
    apply(log, foreign(create(3, b"/data/d/f")))
    assert apply(log, Guarded(create(3, b"/data/d/g"), above=directory)).errno == errno.ESTALE
    mode = r.SetAttributes(operation_id(4), SOURCE, 5, b"/data/d/f", 0o600)
    assert apply(log, Guarded(mode, at=file)).errno == errno.ESTALE
    assert apply(log, Guarded(mode._replace(id=operation_id(5), path=b"/data/old/f"), at=file)).inode == file
    assert apply(log, Guarded(mode._replace(id=operation_id(6), path=b"/data/old/x"), at=file)).errno == errno.ESTALE


def test_both_paths_of_a_rename_are_guarded() -> None:
    log = ledger()
    one, two = (apply(log, mkdir(sequence, b"/data/%d" % sequence)).inode for sequence in (1, 2))
    file = apply(log, create(3, b"/data/1/f")).inode
    move = r.Rename(operation_id(4), SOURCE, 5, b"/data/1/f", b"/data/2/g")
    assert apply(log, Guarded(move, None, one, file, one, 0)).errno == errno.ESTALE
    assert apply(log, Guarded(move._replace(id=operation_id(5)), None, one, file, two, file)).errno == errno.ESTALE
    assert not apply(log, Guarded(move._replace(id=operation_id(6)), None, one, file, two, 0)).errno


def test_a_path_that_leads_nowhere_keeps_its_errno() -> None:
    log = ledger()
    assert apply(log, Guarded(create(1, b"/data/x/f"), above=5)).errno == errno.ENOENT
    assert apply(log, Guarded(create(2, b"/data/../f"), above=5)).errno == errno.EINVAL
    root = apply(log, r.SetAttributes(operation_id(3), SOURCE, 5, b"/data", 0o700)).inode
    assert apply(log, Guarded(r.SetAttributes(operation_id(4), SOURCE, 5, b"/data", 0o755), at=root)).errno == 0
    assert apply(log, Guarded(mkdir(5, b"/data/d"), above=root)).errno == 0
