"""The real clock and the real source of randomness."""

from __future__ import annotations

import os
import random
import time


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def time_ns(self) -> int:
        return time.time_ns()


class SystemRandom:
    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)

    def token(self, size: int) -> bytes:
        return os.urandom(size)
