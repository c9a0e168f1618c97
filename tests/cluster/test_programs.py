"""Programs in a mount while leaders are killed, in short. `scripts/programs` has more of them, and both write modes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.programs_work import NAMES
from tests.doors.fuse.live import can_mount

ROOT = Path(__file__).parent.parent.parent


def programs(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.programs", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@can_mount
@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is missing; it is one of the judges")
def test_programs_notice_nothing_of_kills(tmp_path: Path) -> None:
    options = ("--write-mode", "pipelined", "--only", "sqlite,rsync", "--kill", "3")
    result = programs(*options, "--directory", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("good") == 2 and "0 differences" in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_program_that_is_not_there_is_refused() -> None:
    result = programs("--only", "git,emacs")
    assert result.returncode == 2 and "emacs" in result.stderr and NAMES[-1] in result.stderr
