"""A short drill: conflicting operations at three nodes at once, judged. `scripts/drill` does more of it, with kills."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is missing; it is one of the judges")
def test_conflicting_operations_at_three_nodes_come_out_in_one_order(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.drill", "--seeds", "1", "--operations", "400", "--clients", "2"]
    result = subprocess.run(
        [*command, "--directory", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
