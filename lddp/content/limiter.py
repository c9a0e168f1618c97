"""Bounds on what transfers use: bytes a second towards each peer, and bytes in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from lddp.ports import Clock

QUANTUM_BYTES_MIN = 4 * 1024
QUANTUM_BYTES_MAX = 1024 * 1024
BURST_SECONDS = 0.25
DEBT_BYTES_NONE = 0.5
"""Less than a byte is rounding: waiting for it could be too short to move the clock, for ever."""

Wait = Callable[[asyncio.Event, float], Awaitable[None]]
"""Returns when the event is set or the seconds have passed."""


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


class TokenBucket:
    """Tokens are bytes. They flow in at `rate` a second, up to `burst`; one spender may overdraw the bucket, the next
    waits until it is paid. Turner, "New directions in communications", 1986."""

    __slots__ = ("burst", "rate", "tokens", "updated")

    def __init__(self, rate: float, now: float) -> None:
        assert rate > 0
        self.rate = rate
        self.burst = rate * BURST_SECONDS
        self.tokens = self.burst
        self.updated = now

    def _refill(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self.updated) * self.rate)
        self.updated = now

    def delay(self, now: float) -> float:
        """Seconds until the bucket is no longer overdrawn; 0 when something may be spent now."""
        self._refill(now)
        if self.tokens > -DEBT_BYTES_NONE:
            return 0.0
        return -self.tokens / self.rate

    def spend(self, size: int, now: float) -> None:
        self._refill(now)
        self.tokens -= size

    def change(self, rate: float, now: float) -> None:
        """A debt keeps its bytes and is paid at the new rate."""
        self._refill(now)
        self.rate = rate
        self.burst = rate * BURST_SECONDS
        self.tokens = min(self.tokens, self.burst)


@dataclass(slots=True)
class _Lane:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    bucket: TokenBucket | None = None


class Limiter:
    """Bytes a second towards each peer; transfers to one peer take turns, one quantum each."""

    def __init__(self, clock: Clock, rate: int | None = None, *, wait: Wait = wait_for_event) -> None:
        self._clock = clock
        self._wait = wait
        self._rate = self._checked(rate)
        self._lanes: dict[str, _Lane] = {}
        self._changed = asyncio.Event()

    @property
    def rate(self) -> int | None:
        return self._rate

    @staticmethod
    def _checked(rate: int | None) -> int | None:
        if rate is not None and rate <= 0:
            raise ValueError("a rate is at least 1 byte a second; None does not limit")
        return rate

    def set_rate(self, rate: int | None) -> None:
        """Bytes a second from now on, also for those who wait already; None does not limit."""
        self._rate = self._checked(rate)
        now = self._clock.monotonic()
        for lane in self._lanes.values():
            if rate is None:
                lane.bucket = None
            elif lane.bucket is not None:
                lane.bucket.change(rate, now)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def quantum(self) -> int:
        """How many bytes to take at once, so that a slow rate does not come in long silences."""
        if self._rate is None:
            return QUANTUM_BYTES_MAX
        return max(QUANTUM_BYTES_MIN, min(QUANTUM_BYTES_MAX, int(self._rate * BURST_SECONDS)))

    async def take(self, peer: str, size: int) -> None:
        """Waits until `size` bytes may go to `peer`. First come, first served."""
        if self._rate is None:
            return
        lane = self._lanes.setdefault(peer, _Lane())
        async with lane.turn:
            while self._rate is not None:
                if lane.bucket is None:
                    lane.bucket = TokenBucket(self._rate, self._clock.monotonic())
                delay = lane.bucket.delay(self._clock.monotonic())
                if delay <= 0:
                    lane.bucket.spend(size, self._clock.monotonic())
                    return
                await self._wait(self._changed, delay)


class ByteBudget:
    """Bytes that may be in memory at once; who asks for more waits in line. One request larger than all of it is
    granted when nothing else is out."""

    def __init__(self, bytes_max: int) -> None:
        assert bytes_max > 0
        self._bytes_max = bytes_max
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.bytes_out = 0

    def _fits(self, size: int) -> bool:
        return self.bytes_out == 0 or self.bytes_out + size <= self._bytes_max

    async def acquire(self, size: int) -> None:
        if not self._line and self._fits(size):
            self.bytes_out += size
            return
        granted = asyncio.get_running_loop().create_future()
        self._line.append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(size)  # granted and cancelled in the same turn of the loop
            else:
                self._line = deque(entry for entry in self._line if entry[1] is not granted)
                self._grant()
            raise

    def release(self, size: int) -> None:
        self.bytes_out -= size
        assert self.bytes_out >= 0
        self._grant()

    def _grant(self) -> None:
        while self._line and (self._line[0][1].done() or self._fits(self._line[0][0])):
            size, granted = self._line.popleft()
            if not granted.done():
                self.bytes_out += size
                granted.set_result(None)
