"""A change at the source of a live `lddp migrate` until it can be read at the target."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from cluster.bench.context import Context
from cluster.bench.disk import work_place
from cluster.bench.migration import Running, migrating
from cluster.bench.report import percentile, progress
from cluster.bench.trees import Shape, make

CHANGES = 200
FILES = 50
PAUSE_S = 0.05
LOOK_S = 0.0005
WAIT_S = 60.0
MOVED = Shape("5,000 x 4 KiB", 5000, 4096, 5000)
GOAL_MS = 50.0
SENT = ("lddp_content_sent_bytes_total", "lddp_content_handed_bytes_total")


def run(context: Context) -> None:
    report, rounds = context.report, context.rounds
    middles: list[float] = []
    ends: list[float] = []
    renames: list[float] = []
    moved: list[float] = []
    for number in range(rounds):
        progress(f"visibility, round {number + 1} of {rounds}")
        with work_place(context.scratch) as disk:
            source, target = disk / "source", disk / "target"
            make(MOVED, source)
            (source / "changed").mkdir()
            with migrating(source, target, output=disk / "output") as running:
                running.wait_copied()
                took = _changes(source / "changed", target / "changed")
                middles.append(statistics.median(took))
                ends.append(percentile(took, 0.99))
                seconds, sent = _rename(running, source, target)
                renames.append(seconds)
                moved.append(sent)
    report.below("visibility", f"p50 of {CHANGES} changes", "ms", middles, GOAL_MS)
    report.plain("visibility", f"p99 of {CHANGES} changes", "ms", ends)
    report.plain("visibility", "renamed directory of 5,000 files", "s", renames)
    report.plain("visibility", "bytes moved for it", "B", moved)
    report.note(
        "visibility: a file of 4 KiB created or rewritten and closed at SRC, one every 50 ms, until DST reads the same"
        " bytes; looked at every 0.5 ms. Bytes moved: content that the source's node sent or handed over meanwhile."
    )


def _changes(source: Path, target: Path) -> list[float]:
    """Milliseconds from before the write until the target reads the same, change by change."""
    took = []
    for number in range(CHANGES):
        name = f"file-{number % FILES}"
        data = os.urandom(4096)
        before = time.monotonic()
        (source / name).write_bytes(data)
        while _read(target / name) != data:
            if time.monotonic() - before > WAIT_S:
                raise TimeoutError(f"change {number} was not visible after {WAIT_S:g} s")
            time.sleep(LOOK_S)
        took.append((time.monotonic() - before) * 1000)
        time.sleep(PAUSE_S)
    return took


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _rename(running: Running, source: Path, target: Path) -> tuple[float, float]:
    """(seconds, content bytes sent) of a renamed directory."""
    nodes = running.nodes()
    before_bytes = sum(running.metric(nodes.source, name) for name in SENT)
    before = time.monotonic()
    (source / "d0000").rename(source / "renamed")
    while (target / "d0000").exists() or not (target / "renamed").is_dir():
        running.check()
        time.sleep(LOOK_S)
    while len(os.listdir(target / "renamed")) != MOVED.files:
        running.check()
        time.sleep(LOOK_S)
    took = time.monotonic() - before
    return took, sum(running.metric(nodes.source, name) for name in SENT) - before_bytes
