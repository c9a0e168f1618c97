"""Live chaos, half a minute a seed: a real cluster in namespaces, faults of all kinds that can be made here, judged.

`LDDP_TEST_CHAOS_SEEDS` (such as 1-20) says which seeds, in place of 1-3.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.chaos import machine
from cluster.seeds import seeds_of

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 660
"""Beyond the campaign's own, which is reached only when something hangs."""
END_S = 60
NEMESES = "kill,stop,kill-all,roll,isolate,one-way,minority,ring,loss,duplicate,delay,full"
"""Without EIO and power cuts, for which half a minute has no room beside these; campaigns make them too, and so do
`tests/crash` and `tests/replay`."""
SEEDS = seeds_of(os.environ.get("LDDP_TEST_CHAOS_SEEDS", "1-3"))


@pytest.fixture(autouse=True)
def able() -> None:
    reason = machine.why_not()
    if reason:
        pytest.skip(f"no live chaos here: {reason}")


@pytest.fixture(autouse=True)
def alone(able: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cluster at a time, whichever processes run these tests."""
    with open(tmp_path_factory.getbasetemp().parent / "chaos.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def chaos(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A campaign that is gone afterwards, whatever happens."""
    command = [sys.executable, "-m", "cluster.chaos", "--directory", str(directory), *options]
    command += ["--report", str(directory / "report.html")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        assert not left(process.pid, directory)


def left(pid: int, directory: Path) -> list[str]:
    """Namespaces, devices, mounts and processes of a campaign."""
    found = [entry.name for where in ("/run/netns", "/sys/class/net") for entry in Path(where).iterdir()]
    found = [name for name in found if name.startswith(f"lc{pid:x}-")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = process.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.fsencode(directory) in arguments and b"lddp.cli.main" in arguments:
            found.append(str(process))
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_holds(tmp_path: Path, seed: int) -> None:
    options = ("--seconds", "30", "--every", "2.5", "--seed", str(seed), "--nemeses", NEMESES)
    with chaos(tmp_path, *options) as process:
        said, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, said
        page = (tmp_path / "report.html").read_text("utf-8")
        assert "Held: all" in page


def test_an_interrupted_campaign_leaves_nothing_behind(tmp_path: Path) -> None:
    with chaos(tmp_path, "--seconds", "60", "--every", "1") as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if " for " in line:  # the first fault
                break
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=END_S)
        assert process.returncode == 130, "".join(said) + rest
        assert not list(tmp_path.iterdir())
