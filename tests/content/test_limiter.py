from __future__ import annotations

import asyncio

import pytest

from lddp.content.limiter import BURST_SECONDS, ByteBudget, Limiter, TokenBucket

from .world import FakeClock


class Waiter:
    """Passes the time on the fake clock instead of waiting; `meanwhile` runs at the first wait."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.waited: list[float] = []
        self.meanwhile = lambda: None

    async def __call__(self, event: asyncio.Event, seconds: float) -> None:
        self.waited.append(seconds)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if not event.is_set():
            self.clock.now += seconds
        await asyncio.sleep(0)


def test_bucket_arithmetic() -> None:
    bucket = TokenBucket(1000.0, 0.0)
    burst = 1000 * BURST_SECONDS
    assert bucket.delay(0.0) == 0
    bucket.spend(int(burst) + 500, 0.0)
    assert bucket.delay(0.0) == pytest.approx(0.5)
    assert bucket.delay(0.4) == pytest.approx(0.1)
    assert bucket.delay(0.5) == pytest.approx(0, abs=1e-9)
    assert bucket.delay(100.0) == 0
    bucket.spend(int(burst), 100.0)
    assert bucket.delay(100.0) == 0, "the bucket fills to its burst, not beyond and not less"
    bucket.spend(100, 100.0)
    assert bucket.delay(100.0) == pytest.approx(0.1)
    bucket.change(100.0, 100.0)
    assert bucket.delay(100.0) == pytest.approx(1.0)


async def test_many_takes_come_at_the_rate() -> None:
    clock = FakeClock()
    limiter = Limiter(clock, 1_000_000, wait=Waiter(clock))
    begin = clock.now
    for _ in range(100):
        await limiter.take("a", 100_000)
    assert clock.now - begin == pytest.approx((100 * 100_000 - 250_000) / 1e6, abs=0.11)


async def test_each_peer_has_its_own_rate_and_each_taker_its_turn() -> None:
    clock = FakeClock()
    limiter = Limiter(clock, 1000, wait=Waiter(clock))
    order: list[str] = []

    async def take(name: str, peer: str) -> None:
        await limiter.take(peer, 1000)
        order.append(name)

    await asyncio.gather(*(take(f"a{number}", "a") for number in range(4)), take("b0", "b"))
    assert [name for name in order if name[0] == "a"] == ["a0", "a1", "a2", "a3"]
    assert order.index("b0") <= 1


async def test_a_change_of_rate_wakes_who_waits() -> None:
    clock = FakeClock()
    wait = Waiter(clock)
    limiter = Limiter(clock, 10, wait=wait)
    await limiter.take("a", 10_000)
    wait.meanwhile = lambda: limiter.set_rate(1_000_000)
    await limiter.take("a", 1)
    assert wait.waited[0] == pytest.approx(1000, rel=0.01)
    assert sum(wait.waited[1:]) == pytest.approx(0.01, rel=0.01)
    limiter.set_rate(1)
    await limiter.take("a", 10_000)
    wait.meanwhile = lambda: limiter.set_rate(None)
    begin = clock.now
    await limiter.take("a", 1)
    assert clock.now == begin
    with pytest.raises(ValueError):
        limiter.set_rate(0)


async def test_no_rate_does_not_wait() -> None:
    limiter = Limiter(FakeClock())
    await limiter.take("a", 10**15)
    assert limiter.quantum() == 1024 * 1024
    limiter.set_rate(100_000)
    assert limiter.quantum() == 25_000


async def test_budget_is_first_come_first_served() -> None:
    budget = ByteBudget(100)
    await budget.acquire(60)
    order: list[str] = []

    async def acquire(name: str, size: int) -> None:
        await budget.acquire(size)
        order.append(name)

    large = asyncio.create_task(acquire("large", 90))
    cancelled = asyncio.create_task(acquire("cancelled", 10))
    small = asyncio.create_task(acquire("small", 10))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == [], "small would fit, but large came first"
    cancelled.cancel()
    budget.release(60)
    await asyncio.gather(large, small)
    assert order == ["large", "small"]
    assert budget.bytes_out == 100
    budget.release(90)
    budget.release(10)
    await budget.acquire(1000)
    assert budget.bytes_out == 1000


async def test_a_cancelled_head_lets_the_next_one_through() -> None:
    budget = ByteBudget(100)
    await budget.acquire(60)
    head = asyncio.create_task(budget.acquire(90))
    behind = asyncio.create_task(budget.acquire(30))
    await asyncio.sleep(0)
    head.cancel()
    await asyncio.wait((head,))
    await asyncio.wait_for(behind, 5)
    assert budget.bytes_out == 90


async def test_cancelled_in_the_turn_of_the_grant_gives_back() -> None:
    budget = ByteBudget(100)
    await budget.acquire(100)
    waiting = asyncio.create_task(budget.acquire(50))
    await asyncio.sleep(0)
    budget.release(100)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert waiting.cancelled() and budget.bytes_out == 0
