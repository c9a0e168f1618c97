"""Processor time of running processes, as the kernel counts it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def seconds_of(pids: Iterable[int]) -> float:
    """Of these processes and of the ones they have started, as far as those still run."""
    ticks = 0
    waiting = list(pids)
    while waiting:
        home = Path(f"/proc/{waiting.pop()}")
        try:
            fields = (home / "stat").read_text().rpartition(")")[2].split()
            started = [(task / "children").read_text() for task in (home / "task").iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])
        waiting += [int(child) for line in started for child in line.split()]
    return ticks / TICKS
