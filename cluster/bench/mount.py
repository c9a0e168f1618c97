"""Programs' work in a FUSE mount of three nodes, against the same work in a bare directory of the same disk."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster.bench.context import Context
from cluster.bench.disk import work_place
from cluster.bench.nodes import Ecosystem, ecosystem
from cluster.bench.report import progress

RULE = "mounted"
FILES = 400
FILE_BYTES = 4096
BIG_BYTES = 256 << 20
STEP_BYTES = 1 << 20
RANDOM_READS = 4000
STATS = 4000
Measured = dict[str, tuple[str, float, float | None]]
"""What was measured: unit, value, and the least ratio that is aimed at (None: no goal)."""


def run(context: Context) -> None:
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        context.report.note("mount: skipped, only root with /dev/fuse can mount")
        return
    found: list[tuple[Measured, Measured]] = []
    for number in range(context.rounds):
        progress(f"mount, round {number + 1} of {context.rounds}")
        with work_place(context.scratch) as disk, ecosystem(disk / "lddp", "--nodes", "3") as nodes:
            bare, point = disk / "bare", disk / "mnt"
            bare.mkdir()
            point.mkdir()
            _mount(nodes, point)
            found.append((_measure(point), _measure(bare)))
            nodes.client("node-1").change("DELETE", "/v1/mounts", {"mountpoint": str(point), "lazy": "true"})
    for what, (unit, _, low) in found[0][0].items():
        ours, theirs = [one[what][1] for one, _ in found], [two[what][1] for _, two in found]
        if low is None:
            context.report.plain("mount", what, unit, ours, "bare", theirs)
        else:
            context.report.at_least("mount", what, unit, ours, "bare", theirs, low)
    context.report.note(
        "mount: three nodes with a zone each on one disk, hard and sync; a create is open, write of 4 KiB and close,"
        " two records; writing ends with fsync, whose bytes are on two zones then; reading begins with the file closed."
    )


def _mount(nodes: Ecosystem, point: Path) -> None:
    nodes.create_rule(RULE, [str(node["zone"]) for node in nodes.nodes.values()])
    nodes.client("node-1").change("POST", "/v1/mounts", body={"rule": RULE, "mountpoint": str(point)})


def _rate(count: float, work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return count / (time.perf_counter() - before)


def _create(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(bytes(FILE_BYTES))


def _measure(top: Path) -> Measured:
    found: Measured = {}
    one, many = top / "one", top / "many"
    one.mkdir()
    many.mkdir()
    found["creates, 1 thread"] = "/s", _rate(FILES, lambda: [_create(one / str(n)) for n in range(FILES)]), None
    with ThreadPoolExecutor(16) as threads:
        for number in range(16):
            (many / str(number)).mkdir()
        paths = [many / str(number % 16) / str(number) for number in range(FILES * 2)]
        found["creates, 16 threads"] = "/s", _rate(FILES * 2, lambda: list(threads.map(_create, paths))), None
    found["stat"] = "/s", _rate(STATS, lambda: [os.stat(one / str(n % FILES)) for n in range(STATS)]), None
    big = top / "big"
    found["write, sequential"] = "MB/s", _rate(BIG_BYTES / 1e6, lambda: _write(big)), 0.3
    found["read, sequential, first"] = "MB/s", _rate(BIG_BYTES / 1e6, lambda: _read(big)), None
    found["read, sequential, again"] = "MB/s", _rate(BIG_BYTES / 1e6, lambda: _read(big)), 0.9
    found["read, random 4 KiB"] = "/s", _rate(RANDOM_READS, lambda: _read_randomly(big)), 0.5
    return found


def _write(path: Path) -> None:
    block = random.Random(1).randbytes(STEP_BYTES)
    with open(path, "wb", buffering=0) as file:
        for _ in range(BIG_BYTES // STEP_BYTES):
            file.write(block)
        os.fsync(file.fileno())


def _read(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(STEP_BYTES):
            pass


def _read_randomly(path: Path) -> None:
    chosen = random.Random(2)
    with open(path, "rb", buffering=0) as file:
        for _ in range(RANDOM_READS):
            os.pread(file.fileno(), 4096, chosen.randrange(BIG_BYTES // 4096) * 4096)
