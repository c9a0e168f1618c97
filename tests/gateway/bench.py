"""A gateway alone, with a member that orders nothing by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from lddp.core.codec import encode
from lddp.core.records import Barrier, Record
from lddp.errors import LddpError
from lddp.gateway import Gateway
from tests.fakes.memory import MemoryKeyValue


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class Numbers:
    def uniform(self, low: float, high: float) -> float:
        return low

    def token(self, size: int) -> bytes:
        return b"t" * size


class Member:
    """Takes records and orders nothing by itself."""

    def __init__(self) -> None:
        self.leader: str | None = "a"
        self.taken: list[bytes] = []
        self.failure: LddpError | None = None
        self.on_leader_change: list[Any] = []
        self.asked = 0
        self.folded = asyncio.Event()
        """Whether what a barrier has said is folded here."""
        self.folded.set()

    async def barrier(self, _timeout_s: float) -> int:
        self.asked += 1
        return 0

    async def wait_applied(self, _index: int, _timeout_s: float) -> None:
        await self.folded.wait()

    def submit(self, records: Sequence[bytes]) -> None:
        if self.failure is not None:
            raise self.failure
        self.taken += records


class Bench:
    def __init__(self) -> None:
        self.time = Time()
        self.member = Member()
        self.environment = MemoryKeyValue()
        self.gateway = Gateway(self.environment, 0, self.time, Numbers())
        self.gateway._member = cast(Any, self.member)
        self.index = 0

    def record(self) -> Record:
        return Barrier(self.gateway.next_id(), 1, "rule")

    def post(self) -> Record:
        record = self.record()
        self.gateway.post([record])
        return record

    async def change_leader(self) -> None:
        """Whoever led has died with all that it was given; what the next one is given first."""
        self.member.taken.clear()
        self.gateway._leader_changed("b")
        self.gateway._other_leader.clear()
        await self.gateway._look_for_lost()

    def fold(self, record: Record) -> None:
        self.index += 1
        with self.environment.write() as tables:
            self.gateway.apply(tables, self.index, [encode(record)])
        self.gateway.committed(self.index, self.index)

    def late(self) -> list[int]:
        return [operation.sequence for operation in self.gateway._late()]
