"""Histories on an ext4 that loses its power: the zone ends as the namespace. LDDP_EXAMPLES says how many histories,
LDDP_SEED which is the first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.support import seeds

TIMEOUT_S = 1800.0


@pytest.mark.parametrize(("of", "default"), [("small", 12), ("shared", 12), ("any", 6)])
def test_a_real_filesystem_loses_its_power(of: str, default: int) -> None:
    found = seeds(default)
    command = [sys.executable, "-m", "tests.replay.volumes", "--of", of]
    command += ["--first", str(found.start), "--count", str(len(found))]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.stdout.startswith("not here: "):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    count = re.search(r"^\d+ histories, (\d+) power cuts, 0 failed$", done.stdout, re.MULTILINE)
    assert count is not None, done.stdout
    assert int(count[1]) >= len(found) or len(found) < default, done.stdout
