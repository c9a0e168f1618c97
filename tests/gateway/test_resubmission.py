"""What a gateway submits again, and what it does not."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from lddp.core.codec import encode
from lddp.core.records import Barrier
from lddp.errors import FormatError, LimitError, OutcomeUnknownError, UnavailableError
from lddp.submissions import RESUBMIT_AFTER_S

from .bench import Bench


async def test_work_is_not_given_twice_to_a_leader_that_is_only_busy(bench: Bench) -> None:
    records = []
    for _ in range(20):
        records.append(bench.post())
        bench.time.now += 0.1
    for number in range(10):
        bench.fold(records[number])
        bench.time.now += 0.5
        assert bench.late() == []


async def test_a_record_that_a_later_one_overtook_is_late(bench: Bench) -> None:
    lost = bench.post()
    bench.time.now += 0.1
    later = bench.post()
    bench.fold(later)
    assert bench.late() == []
    bench.time.now += RESUBMIT_AFTER_S
    assert bench.late() == [lost.id.sequence]


async def test_everything_is_late_when_nothing_comes_back_but_less_and_less_often(bench: Bench) -> None:
    record = bench.post()
    submitted = []
    for tick in range(30):
        bench.time.now += RESUBMIT_AFTER_S
        late = bench.gateway._late()
        if late:
            submitted.append(tick)
            bench.gateway._resubmit(deque(late))
    assert submitted[0] <= 1
    assert 3 <= len(submitted) <= 8
    assert bench.member.taken == [encode(record)] * (1 + len(submitted))


async def test_what_was_refused_is_not_submitted_later(bench: Bench) -> None:
    earlier = bench.post()
    for failure in (UnavailableError("full"), LimitError("large")):
        bench.member.failure = failure
        with pytest.raises(type(failure)):
            bench.gateway.post([earlier, bench.record()])
    bench.member.failure = None
    bench.time.now += 60.0
    assert bench.late() == [earlier.id.sequence]


async def test_a_record_that_cannot_be_written_leaves_nothing_of_its_batch(bench: Bench) -> None:
    earlier = bench.post()
    bench.member.taken.clear()
    for bad in (
        Barrier(bench.gateway.next_id(), 1 << 70, "rule"),
        Barrier(bench.gateway.next_id(), 1, "r" * (5 << 20)),
    ):
        with pytest.raises((FormatError, LimitError)):
            bench.gateway.post([earlier, bench.record(), bad])
    assert bench.member.taken == []
    bench.time.now += 60.0
    assert bench.late() == [earlier.id.sequence]


async def test_a_post_that_was_refused_does_not_count_as_one_that_waits(bench: Bench) -> None:
    record = bench.record()
    waiting = asyncio.create_task(bench.gateway.submit(record, 0.0))
    await asyncio.sleep(0)
    bench.member.failure = UnavailableError("full")
    with pytest.raises(UnavailableError):
        bench.gateway.post([record, bench.record()])
    bench.member.failure = None
    with pytest.raises(OutcomeUnknownError):
        await waiting
    bench.time.now += 60.0
    assert bench.late() == [], "the only one that waited has gone"


async def test_a_change_of_leader_brings_all_of_it_at_once(bench: Bench) -> None:
    records = [bench.post() for _ in range(3)]
    await bench.change_leader()
    assert bench.member.taken == [encode(record) for record in records]


async def test_nothing_is_submitted_again_before_all_that_was_agreed_on_is_folded(bench: Bench) -> None:
    """It may have been done long ago, and its outcome be forgotten."""
    done, lost = bench.post(), bench.post()
    bench.member.folded.clear()
    changing = asyncio.create_task(bench.change_leader())
    await asyncio.sleep(0)
    assert bench.member.asked == 1
    assert bench.member.taken == []
    bench.fold(done)
    assert bench.member.taken == []
    bench.member.folded.set()
    await changing
    assert bench.member.taken == [encode(lost)]


async def test_nor_where_much_was_agreed_on_while_it_was_folded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lddp.submissions.BEHIND_RECORDS_MAX", 2)
    lost = bench.post()
    bench.member.folded.clear()
    changing = asyncio.create_task(bench.change_leader())
    await asyncio.sleep(0)
    for _ in range(3):
        bench.fold(bench.record())
    bench.member.folded.set()
    await changing
    assert bench.member.asked == 2, "again, since it was far behind at the first time"
    assert bench.member.taken == [encode(lost)]


async def test_what_another_leader_comes_for_meanwhile_is_not_given_to_it_yet(bench: Bench) -> None:
    bench.post()
    bench.member.folded.clear()
    changing = asyncio.create_task(bench.change_leader())
    await asyncio.sleep(0)
    bench.gateway._leader_changed("c")
    bench.member.folded.set()
    await changing
    assert bench.member.taken == []


async def test_what_has_waited_for_some_time_is_not_submitted_with_what_is_new(bench: Bench) -> None:
    old, new = bench.post(), bench.record()
    bench.member.taken.clear()
    bench.time.now += 2 * RESUBMIT_AFTER_S
    with pytest.raises(UnavailableError):
        bench.gateway.post([new, old])
    bench.gateway.post([old, new])
    assert bench.member.taken == [encode(new)], "where it comes first it stays where it is"


async def test_a_retry_is_told_the_place_of_the_first_try(bench: Bench) -> None:
    record = bench.post()
    bench.fold(record)
    bench.fold(bench.post())
    (again,) = bench.gateway.post([record])
    bench.fold(record)
    assert again.result().gsn == 1
    assert bench.gateway.gsn == 3


async def test_a_new_leader_is_given_the_rest_as_it_brings_back_the_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [bench.post() for _ in range(6)]
    size = len(encode(records[0]))
    monkeypatch.setattr("lddp.submissions.RESENT_BYTES_MAX", 2 * size - 1)
    await bench.change_leader()
    assert bench.member.taken == [encode(record) for record in records[:2]]
    bench.fold(records[3])
    bench.fold(records[0])
    assert bench.member.taken == [encode(records[number]) for number in (0, 1, 2, 4, 5)], "what has come is left out"
    bench.fold(records[1])
    assert len(bench.member.taken) == 5


async def test_one_caller_that_gives_up_leaves_the_others_waiting(bench: Bench) -> None:
    record = bench.record()
    impatient = asyncio.create_task(bench.gateway.submit(record, 0.0))
    patient = asyncio.create_task(bench.gateway.submit(record, 60.0))
    with pytest.raises(OutcomeUnknownError):
        await impatient
    assert not patient.done()
    bench.fold(record)
    assert (await patient).gsn == 1
    with pytest.raises(OutcomeUnknownError):
        await bench.gateway.submit(bench.record(), 0.0)
    assert bench.gateway._waiters == {}, "the last one takes it along"


async def test_who_is_cancelled_waits_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that have left fill nothing, and their operations take no effect when a majority is back."""
    monkeypatch.setattr("lddp.submissions.WAITING_MAX", 3)
    for _ in range(3):
        records = [bench.record() for _ in range(3)]
        asking = asyncio.create_task(bench.gateway.submit_many(records, 60.0))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    bench.time.now += 60.0
    assert bench.late() == []
    assert not bench.gateway._own


async def test_who_is_cancelled_in_the_middle_of_a_batch_leaves_nothing_of_it(bench: Bench) -> None:
    records = [bench.record() for _ in range(3)]
    asking = asyncio.create_task(bench.gateway.submit_many(records, 60.0))
    await asyncio.sleep(0)
    bench.fold(records[0])
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    bench.time.now += 60.0
    assert bench.late() == []


async def test_one_caller_that_is_cancelled_leaves_the_others_waiting(bench: Bench) -> None:
    records = [bench.record() for _ in range(2)]
    leaving, staying = (asyncio.create_task(bench.gateway.submit_many(records, 60.0)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    bench.time.now += 60.0
    assert bench.late() == [record.id.sequence for record in records]
    for record in records:
        bench.fold(record)
    assert [one.gsn for one in await staying] == [1, 2]


async def test_what_comes_back_with_other_bytes_leaves_none_of_its_own(bench: Bench) -> None:
    """A client asked two nodes for the same operation, and the other one's time is in the log."""
    record = bench.record()
    (future,) = bench.gateway.post([record])
    bench.fold(Barrier(record.id, 2, "rule"))
    assert future.result().gsn == 1
    assert not bench.gateway._own
