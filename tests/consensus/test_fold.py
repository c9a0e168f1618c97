"""When what has been folded becomes durable: after a moment, in one transaction, or at once where somebody waits."""

from __future__ import annotations

from typing import Any

import pytest

from lddp.consensus.config import RaftConfig
from lddp.consensus.fold import Change
from lddp.consensus.wire import Append, Appended, Entry
from lddp.core.tables import Table, Tables
from tests.consensus.member import Member
from tests.consensus.member import entry as entry_of

DELAY_S: float = RaftConfig.__dataclass_fields__["fold_delay_s"].default


def entry(index: int) -> Entry:
    return entry_of(index, 1, b"record %d" % index)


class Watched(Member):
    """A follower whose second entry has been committed by its leader but for the news of it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for = False
        self.folded: list[tuple[int, int]] = []
        self.committed: list[tuple[int, int]] = []
        self.replica.on_folded.append(lambda first, last: self.folded.append((first, last)))
        self.replica.on_committed.append(lambda first, last: self.committed.append((first, last)))
        self.append("b", 1, (1, 0), 1, entry(2))
        self.commits, self.ahead = self.keyvalue.commits, self.keyvalue.wal.appended

    def stored(self) -> list[bytes]:
        with self.keyvalue.read() as tables:
            return [record for _, record in tables.scan(Table.CONTROL)]


def test_entries_are_written_at_once_and_what_is_folded_together() -> None:
    member = Watched()
    member.append("b", 1, (2, 1), 2)
    assert member.folded == [(2, 2)]
    assert (member.committed, member.stored(), member.keyvalue.commits) == ([], [], member.commits)
    assert member.taken(Appended)[-1].next == 3, "an answer that depends on nothing new does not wait"
    member.append("b", 1, (2, 1), 2, entry(3))
    assert (member.keyvalue.commits, member.keyvalue.wal.appended) == (member.commits, member.ahead + 1)
    assert member.taken(Appended)[-1].next == 4, "which is durable"
    assert (member.committed, member.stored()) == ([], [])
    member.append("b", 1, (3, 1), 3)
    assert (member.folded, member.committed) == ([(2, 2), (3, 3)], [])
    member.cycle(0.1)
    assert (member.committed, member.stored()) == ([(2, 3)], [b"record 2", b"record 3"])
    assert member.keyvalue.commits == member.commits + 1


def test_what_is_written_together_is_what_the_state_says() -> None:
    """A start in between finds the log ahead of the fold, and folds the rest once."""
    member = Watched()
    member.append("b", 1, (2, 1), 2, entry(3))
    member.append("b", 1, (3, 1), 3)
    member.replica.close()
    again = Member("bc", member.keyvalue)
    again.append("b", 1, (3, 1), 3)
    assert again.applied == [(2, b"record 2"), (3, b"record 3")]


def test_a_fold_that_nothing_follows_is_durable_after_the_delay() -> None:
    member = Watched()
    member.append("b", 1, (2, 1), 2)
    due = member.replica.next_at()
    assert member.clock.now < due < member.clock.now + 0.1
    member.cycle(due - member.clock.now - 0.001)
    assert member.committed == []
    member.cycle(0.002)
    assert (member.committed, member.stored()) == ([(2, 2)], [b"record 2"])
    assert member.replica.next_at() > member.clock.now


def test_a_fold_that_somebody_asks_for_later_is_durable_with_the_next_cycle() -> None:
    member = Watched()
    member.append("b", 1, (2, 1), 2)
    member.replica.fold.hurry()
    assert member.replica.next_at() < member.clock.now
    member.cycle()
    assert (member.committed, member.stored()) == ([(2, 2)], [b"record 2"])
    member.replica.fold.hurry()
    assert member.replica.next_at() > member.clock.now, "there is nothing left to be hurried"


def test_what_keeps_coming_is_written_together_and_not_put_off_for_ever() -> None:
    member, began, index = Watched(), 0.0, 2
    while not member.committed:
        member.append("b", 1, (index, 1), index, entry(index + 1))
        began, index = began or member.clock.now, index + 1
        member.cycle(0.003)
        assert member.clock.now < began + 0.1
    assert member.committed == [(2, index - 1)] and index > 6, "several of them in one transaction"
    assert member.clock.now - began == pytest.approx(DELAY_S, abs=0.004)


def test_what_comes_one_after_the_other_is_waited_for() -> None:
    """Slower than the shortest delay, and not yet rare."""
    member = Watched()
    for index in (2, 3):
        member.append("b", 1, (index, 1), index, entry(index + 1))
        member.cycle(0.008)
    assert member.committed == [(2, 2)], "of the first one nobody knew that more would come"
    member.append("b", 1, (4, 1), 4, entry(5))
    member.cycle(0.008)
    assert member.committed == [(2, 2)]
    member.cycle(0.1)
    assert member.committed == [(2, 2), (3, 4)]


@pytest.mark.parametrize("by_apply", [True, False])
def test_a_fold_that_somebody_waits_for_is_durable_at_once(by_apply: bool) -> None:
    member = Watched()
    member.waited_for = by_apply
    member.replica.deliver("b", Append(1, 2, 2, 1, ()))
    member.replica.begin()
    member.replica.finish(hurry=not by_apply)
    assert (member.committed, member.stored()) == ([(2, 2)], [b"record 2"])


def test_what_was_not_committed_is_folded_again() -> None:
    member = Watched()
    member.append("b", 1, (2, 1), 2)
    member.replica.close()
    assert (member.stored(), member.keyvalue.commits) == ([], member.commits)
    again = Member("bc", member.keyvalue)
    again.append("b", 1, (2, 1), 2)
    assert again.applied == [(2, b"record 2")]


def test_a_change_that_fails_takes_no_fold_with_it() -> None:
    member = Watched()
    member.append("b", 1, (2, 1), 2)
    told: list[Any] = []

    def refuse(_tables: object) -> None:
        raise ValueError("no")

    change = Change(refuse, lambda _result, error: told.append(error))
    other = Change(lambda tables: tables.put(Table.LOCAL, b"key", b"value"), lambda _r, error: told.append(error))
    member.replica.change(change)
    member.replica.change(other)
    member.cycle()
    assert [str(error) for error in told] == ["no", "None"]
    assert (member.committed, member.stored()) == ([(2, 2)], [b"record 2"])
    assert member.applied == [(2, b"record 2")], "applied once, whatever else failed"
    with member.keyvalue.read() as tables:
        assert tables.get(Table.LOCAL, b"key") == b"value"


def test_a_failed_change_does_not_keep_entries_from_the_disk() -> None:
    member = Watched()

    def refuse(_tables: object) -> None:
        raise ValueError("no")

    told: list[Any] = []
    member.replica.change(Change(refuse, lambda _result, error: told.append(error)))
    member.append("b", 1, (2, 1), 1, entry(3))
    assert len(told) == 1
    with member.keyvalue.copy().read() as tables:
        assert tables.get(Table.LOG, (3).to_bytes(8, "big")) is not None
    assert not member.replica.journal.dirty


def rows(tables: Tables) -> list[bytes]:
    return [record for _, record in tables.scan(Table.CONTROL)]


def test_what_is_folded_is_shown_before_it_is_durable() -> None:
    member = Watched()
    fold = member.replica.fold
    with fold.latest() as tables:
        assert rows(tables) == []
    member.append("b", 1, (2, 1), 2)
    with fold.latest() as tables:
        assert (rows(tables), tables.get(Table.CONTROL, (2).to_bytes(8, "big"))) == ([b"record 2"], b"record 2")
    assert (member.committed, member.stored()) == ([], [])
    member.cycle(0.1)
    with fold.latest() as tables:
        assert (rows(tables), member.stored()) == ([b"record 2"], [b"record 2"])


@pytest.mark.parametrize("is_folded", [True, False])
def test_a_look_ends_when_more_is_folded_or_it_is_written(is_folded: bool) -> None:
    """Whoever keeps one is refused rather than shown two states as one."""
    member = Watched()
    if is_folded:
        member.append("b", 1, (2, 1), 2)
    index = 3 if is_folded else 2
    member.append("b", 1, (2, 1), 1, entry(3))
    key = (2).to_bytes(8, "big")
    with member.replica.fold.latest() as tables:
        scanning = tables.scan(Table.META if not is_folded else Table.CONTROL)
        assert next(scanning, (b"", b""))[1] in (b"", b"record 2")
        tables.get(Table.CONTROL, key)
        member.append("b", 1, (index, 1), index)
        with pytest.raises(AssertionError):
            tables.get(Table.CONTROL, key)
        with pytest.raises(AssertionError):
            list(tables.scan(Table.CONTROL))
        if is_folded:
            with pytest.raises(AssertionError):
                next(scanning)
    with member.replica.fold.latest() as tables:
        member.cycle(0.1)  # it is written
        with pytest.raises(AssertionError):
            tables.get(Table.CONTROL, key)
    with pytest.raises(AssertionError):
        tables.get(Table.CONTROL, key)


def test_nobody_writes_into_what_is_folded() -> None:
    member = Watched()
    member.append("b", 1, (2, 1), 2)
    with member.replica.fold.latest() as tables:
        with pytest.raises(AssertionError):
            tables.put(Table.CONTROL, b"key", b"value")
        with pytest.raises(AssertionError):
            tables.delete(Table.CONTROL, (2).to_bytes(8, "big"))


def test_a_start_is_settled_when_it_has_folded_what_it_may_have_folded_before() -> None:
    """What was shown of a fold that was not written is in the log; what of that is agreed only a leader knows."""
    member = Watched()
    assert member.replica.fold.is_settled, "a new log has nothing"
    member.append("b", 1, (2, 1), 2, entry(3))
    member.append("b", 1, (3, 1), 3)
    assert member.folded == [(2, 2), (3, 3)] and member.committed == []
    again = Member("bc", member.keyvalue.copy())
    assert not again.replica.fold.is_settled
    again.append("b", 1, (3, 1), 2)
    assert not again.replica.fold.is_settled
    again.append("b", 1, (3, 1), 3)
    assert again.replica.fold.is_settled
    assert Member("bc", again.keyvalue.copy()).replica.fold.is_settled, "which was written"


def test_a_start_waits_for_nothing_that_another_leader_has_cut_off() -> None:
    member = Watched()
    member.append("b", 1, (2, 1), 1, entry(3), entry(4))
    again = Member("bc", member.keyvalue.copy())
    again.append("c", 2, (2, 1), 2, entry_of(3, 2, b"another"))
    assert again.replica.journal.last == 3
    assert again.replica.fold.is_settled, "the rest was never agreed, so it was never folded"
    again.append("c", 2, (3, 2), 3)
    assert again.replica.fold.is_settled
