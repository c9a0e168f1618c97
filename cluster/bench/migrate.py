"""`lddp migrate --once` beside `rsync -a` and `cp -a`."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from pathlib import Path

from cluster.bench.context import Context
from cluster.bench.disk import fresh_filesystem, why_no_images
from cluster.bench.migration import migrating, receipt_of
from cluster.bench.report import Report, progress
from cluster.bench.trees import LARGE, SMALL, Shape, count, make

GOALS = ((SMALL, 2.0), (LARGE, 1.5))


def run(context: Context) -> None:
    report = context.report
    reason = why_no_images()
    if not reason and shutil.which("rsync") is None:
        reason = "not installed: rsync"
    if reason:
        report.note(f"migrate: skipped, {reason}")
        return
    for shape, goal in GOALS:
        _shape(report, shape, goal, context.rounds, context.scratch)
    report.note(
        "migrate: copy = from the start of the process (its three nodes included) until the scan is over and the"
        " target's filesystem shows everything; the peers' whole process. Nobody syncs at the end of that time; lddp"
        " has synced its log. lddp's bytecode is compiled beforehand, as an installer does. Each run on a fresh ext4"
        " image, source and target on it."
    )


def _shape(report: Report, shape: Shape, goal: float, rounds: int, scratch: Path) -> None:
    times: dict[str, list[float]] = {"lddp": [], "rsync": [], "cp": [], "own": [], "verify": []}
    times |= {"lddp CPU": [], "rsync CPU": [], "cp CPU": []}
    peers = {"rsync": ["rsync", "-a"], "cp": ["cp", "-a"]}
    order = ["rsync", "lddp", "cp"]
    for number in range(rounds):
        for name in order[number % 3 :] + order[: number % 3]:
            progress(f"migrate {shape.name}, round {number + 1} of {rounds}: {name}")
            with fresh_filesystem(scratch) as disk:
                make(shape, disk / "source")
                subprocess.run(["sync", "-f", disk], check=True)
                if name == "lddp":
                    _lddp(disk, times)
                else:
                    before, used = time.monotonic(), children_seconds()
                    subprocess.run([*peers[name], f"{disk / 'source'}/.", f"{disk / 'target'}/"], check=True)
                    times[name].append(time.monotonic() - before)
                    times[f"{name} CPU"].append(children_seconds() - used)
                if count(disk / "target") != (shape.files, shape.bytes):
                    raise RuntimeError(f"{name} did not copy everything")
    what = shape.name
    report.at_most("migrate", what, "s", times["lddp"], "rsync -a", times["rsync"], goal)
    report.plain("migrate", what, "s", times["lddp"], "cp -a", times["cp"])
    report.plain("migrate", f"{what}, processor time", "s", times["lddp CPU"], "rsync -a", times["rsync CPU"])
    report.plain("migrate", f"{what}, copy_seconds of the receipt", "s", times["own"])
    report.plain("migrate", f"{what}, verification (verify_seconds)", "s", times["verify"])


def children_seconds() -> float:
    """Processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _lddp(disk: Path, times: dict[str, list[float]]) -> None:
    output = disk / "output"
    with migrating(disk / "source", disk / "target", "--once", "--json", output=output) as running:
        times["lddp"].append(running.wait_copied())
        times["lddp CPU"].append(running.processor_seconds())
        running.process.wait()
        running.check()
    receipt = receipt_of(output)
    if not receipt["holds"]:
        raise RuntimeError("the receipt does not hold")
    times["own"].append(float(receipt["copy_seconds"]))
    times["verify"].append(float(receipt["verify_seconds"]))
