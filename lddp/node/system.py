"""The real clock and the real source of randomness, and what the process asks of its C library."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import sys
import time

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MAPPED_BYTES_MIN = 4 << 20
_KEPT_BYTES_MAX = 64 << 20
_SWITCH_INTERVAL_S = 0.0005
_GC_THRESHOLDS = (50_000, 20, 50)


def tune_process() -> None:
    """What every process of a node asks of Python and of its C library."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # Records make and drop many objects that are in no cycle: looking for cycles often finds nothing.
    gc.set_threshold(*_GC_THRESHOLDS)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tells glibc to reuse freed memory rather than give it back at once. Every read of a TLS link asks for 256 KiB and
    returns most of it: without this, each one maps pages, faults, and unmaps them, which costs ten times the read.
    Where the C library has no `mallopt` nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES_MIN)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES_MAX)


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
