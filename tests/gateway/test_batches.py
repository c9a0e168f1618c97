"""A batch keeps its order, whoever gives it up, asks for it again, or leads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import pytest

from lddp.core.codec import encode
from lddp.core.records import Record
from lddp.errors import OutcomeUnknownError, UnavailableError

from .bench import Bench


def given(bench: Bench, records: Sequence[Record]) -> list[int]:
    """The places in `records` of what was submitted since the last call, in its order."""
    encoded = [encode(record) for record in records]
    places = [encoded.index(data) for data in bench.member.taken]
    bench.member.taken.clear()
    return places


async def to_a_new_leader(bench: Bench, records: Sequence[Record]) -> list[int]:
    await bench.change_leader()
    return given(bench, records)


async def test_a_batch_is_given_up_whole(bench: Bench) -> None:
    with pytest.raises(OutcomeUnknownError):
        await bench.gateway.submit_many([bench.record() for _ in range(3)], 0.0)
    bench.time.now += 60.0
    assert bench.late() == []


async def test_a_batch_that_is_asked_for_again_keeps_its_order(bench: Bench) -> None:
    """As a hard mount asks for it (`Orders.answers`)."""
    records = [bench.record() for _ in range(3)]
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await bench.gateway.submit_many(records, 0.0)
    bench.gateway.post(records)
    assert await to_a_new_leader(bench, records) == [0, 1, 2]


async def test_what_waits_already_comes_behind_what_is_new_before_it(bench: Bench) -> None:
    records = [bench.record() for _ in range(4)]
    first = bench.gateway.post(records[1:3])
    bench.gateway.post([bench.record()])
    bench.member.taken.clear()
    second = bench.gateway.post(records)
    assert second[1:3] == first
    assert given(bench, records) == [0, 1, 2, 3], "whoever leads may have lost them"
    await bench.change_leader()
    assert bench.member.taken[1:] == [encode(record) for record in records]
    for record in records:
        bench.fold(record)
    assert [future.result().gsn for future in second] == [1, 2, 3, 4]
    assert not bench.gateway._sharing


async def test_what_is_new_comes_behind_what_waits_already(bench: Bench) -> None:
    records = [bench.record() for _ in range(3)]
    bench.gateway.post(records[:2])
    bench.member.taken.clear()
    bench.gateway.post(records)
    assert given(bench, records) == [2]
    assert await to_a_new_leader(bench, records) == [0, 1, 2]


async def test_a_batch_that_two_wait_for_stays_whole_when_one_gives_it_up(bench: Bench) -> None:
    records = [bench.record() for _ in range(3)]
    impatient = asyncio.create_task(bench.gateway.submit_many(records, 0.0))
    patient = asyncio.create_task(bench.gateway.submit_many(records, 60.0))
    with pytest.raises(OutcomeUnknownError):
        await impatient
    assert await to_a_new_leader(bench, records) == [0, 1, 2]
    with pytest.raises(OutcomeUnknownError):
        await bench.gateway.submit_many(records[1:], 0.0)
    assert await to_a_new_leader(bench, records) == [0, 1, 2]
    for record in records:
        bench.fold(record)
    assert [one.gsn for one in await patient] == [1, 2, 3]
    assert not bench.gateway._sharing


async def test_who_gives_up_what_has_come_back_leaves_who_has_asked_anew(bench: Bench) -> None:
    """Between a fold and its commit the outcome is known, but not told."""
    records = [bench.record() for _ in range(2)]
    asking = asyncio.create_task(bench.gateway.submit_many(records, 0.0))
    await asyncio.sleep(0)
    with bench.environment.write() as tables:
        bench.gateway.apply(tables, 1, [encode(records[0])])
    (again,) = bench.gateway.post(records[:1])
    with pytest.raises(OutcomeUnknownError):
        await asking
    assert await to_a_new_leader(bench, records) == [0]
    bench.gateway.committed(1, 1)
    bench.fold(records[0])
    assert again.result().gsn == 1


async def test_a_new_leader_is_given_whole_batches(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lddp.submissions.RESENT_BYTES_MAX", 1)
    first, second = ([bench.record() for _ in range(3)] for _ in range(2))
    bench.gateway.post(first)
    bench.gateway.post(second)
    assert await to_a_new_leader(bench, first) == [0, 1, 2]
    bench.fold(first[0])
    assert given(bench, second) == [0, 1, 2]
    bench.time.now += 60.0
    bench.gateway._resubmit(deque(bench.gateway._late()))
    assert given(bench, first) == [1, 2]


async def test_what_is_refused_when_it_is_submitted_again_stays_before_what_follows(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lddp.submissions.RESENT_BYTES_MAX", 1)
    records = [bench.post() for _ in range(3)]
    bench.member.failure = UnavailableError("full")
    assert await to_a_new_leader(bench, records) == []
    bench.member.failure = None
    bench.fold(bench.post())
    assert bench.member.taken[-1] == encode(records[0])
