"""Campaigns as programs: a process that has threads, as pytest's may have, cannot fork nodes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900.0
_CASE = re.compile(r"^([a-z-]+): (\d+)$", re.MULTILINE)
_ALL = re.compile(r"^(\d+) of \w+, (\d+) failed", re.MULTILINE)


class Done(NamedTuple):
    """How much was done, how much of it failed, how much of each case, and what was printed."""

    count: int
    failed: int
    counts: dict[str, int]
    output: str


def program(text: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process that has one thread."""
    return _run("-c", text)


def module(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a module as a program of its own."""
    return _run("-m", name, *arguments)


def campaign(*arguments: str) -> Done:
    """Runs `scripts/crash` with these arguments; a test is skipped where it cannot run here."""
    ended = _run("-m", "tests.crash.campaign", *arguments)
    output = ended.stdout + ended.stderr
    if ended.stdout.startswith("not here: "):
        pytest.skip(ended.stdout.strip())
    found = _ALL.search(ended.stdout)
    assert found is not None, output
    counts = {name: int(count) for name, count in _CASE.findall(ended.stdout)}
    return Done(int(found[1]), int(found[2]), counts, output)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
