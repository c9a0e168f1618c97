"""Seeds of the simulator: what failed once, some of each kind, and that a seed is the same story everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.support import examples
from tests.sim.campaign import command, failed_seeds, run
from tests.sim.faults import Faults
from tests.sim.world import Settings, World

ROOT = Path(__file__).parents[2]
FINGERPRINT = "from tests.sim.campaign import run; print(run({kind!r}, {seed}).fingerprint)"


@pytest.mark.parametrize(("kind", "seed"), failed_seeds(), ids=lambda value: str(value))
def test_a_seed_that_failed_once_holds(kind: str, seed: int) -> None:
    result = run(kind, seed)
    assert not result.failure, f"{command(result)}: {result.failure}"


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("operations", 25),
        ("migration", 25),
        ("mixed", 25),
        ("writable", 25),
        ("power", 25),
        ("elections", 15),
        ("mount", 8),
    ],
)
def test_random_seeds_hold(kind: str, count: int) -> None:
    for seed in range(1, 1 + examples(count)):
        result = run(kind, seed)
        assert not result.failure, f"{command(result)}: {result.failure}"


@pytest.mark.parametrize(
    ("kind", "seed"),
    [("operations", 3), ("migration", 8), ("mixed", 5), ("writable", 4), ("power", 3), ("elections", 2), ("mount", 3)],
)
def test_a_seed_is_the_same_in_another_process(kind: str, seed: int) -> None:
    here = run(kind, seed)
    assert not here.failure, f"{command(here)}: {here.failure}"
    for hash_seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        program = FINGERPRINT.format(kind=kind, seed=seed)
        there = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
        assert there.stdout.decode().strip() == here.fingerprint


def test_the_leadership_follows_the_work() -> None:
    """Whose records they are is a matter of timing; one of these has somebody who does nearly all."""
    seeds = (14, 21, 50, 65)
    assert any("hand-over of the leadership" in run("mount", seed).faults for seed in seeds)


def test_the_faults_are_injected() -> None:
    """Each kind that there is, and what it is to bring about."""
    results = [run("operations", seed) for seed in range(100, 125)]
    results += [run("elections", seed) for seed in range(100, 104)]
    results += [run("migration", seed) for seed in range(1, 21)]
    injected = {what for result in results for what in result.faults}
    with World("kinds", Settings()) as world:
        assert {name for name, _, _ in Faults(world, "kinds").kinds} <= injected
    assert {"commit refused with EIO", "commit refused with ENOSPC"} <= injected
    assert {"change refused with EIO", "change refused with ENOSPC"} <= injected
    assert {f"target changed behind the back: {what}" for what in ("bytes", "mode", "xattr", "name")} <= injected
    assert sum(result.records for result in results) > 500
