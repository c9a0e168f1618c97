"""What becomes of an upload's bytes is told to who holds them, as soon as it is known."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from typing import Any

import pytest

from lddp.access import Decided
from lddp.core.records import Outcome, Record
from lddp.errors import OutcomeUnknownError, UnavailableError
from lddp.serving.bodies import order

PATIENCE_S = 60.0


class Writer:
    def __init__(self) -> None:
        self.fate: list[str] = []

    async def abort(self) -> None:
        self.fate.append("aborted")

    def used(self) -> None:
        self.fate.append("used")


class Ordering:
    """Decides at once, and shows it when `visible` is set."""

    def __init__(self, number: int = 0, failure: Exception | None = None) -> None:
        self._answers = [(7, Outcome(number))]
        self._failure = failure
        self.decided = asyncio.Event()
        self.visible = asyncio.Event()

    async def submit_many(
        self, records: Sequence[Record], timeout_s: float, *, visible: bool = True, decided: Decided | None = None
    ) -> list[tuple[int, Outcome]]:
        if self._failure is not None:
            raise self._failure
        assert decided is not None
        decided(self._answers)
        self.decided.set()
        await self.visible.wait()
        return self._answers


def ordering(access: Any, writer: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(order(access, [], PATIENCE_S, writer))


async def test_a_zone_may_have_the_bytes_before_it_shows_them() -> None:
    access, writer = Ordering(), Writer()
    task = ordering(access, writer)
    async with asyncio.timeout(PATIENCE_S):
        await access.decided.wait()
        assert writer.fate == ["used"]
        access.visible.set()
        assert await task == [(7, Outcome(0))]
    assert writer.fate == ["used"], "once"


async def test_what_is_refused_is_dropped() -> None:
    access, writer = Ordering(errno.EEXIST), Writer()
    access.visible.set()
    await ordering(access, writer)
    assert writer.fate == ["aborted"]


async def test_what_may_come_yet_is_kept() -> None:
    for failure, fate in ((UnavailableError("no majority"), ["aborted"]), (OutcomeUnknownError("no answer"), [])):
        writer = Writer()
        with pytest.raises(type(failure)):
            await ordering(Ordering(failure=failure), writer)
        assert writer.fate == fate
