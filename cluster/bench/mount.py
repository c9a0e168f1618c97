"""Programs' work in a FUSE mount of three nodes, against the same work in a bare directory of the same disk, and
creates against those in a GlusterFS mount."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.bench import gluster
from cluster.bench.context import Context
from cluster.bench.disk import cloning_filesystem, why_no_clones, work_place
from cluster.bench.nodes import Ecosystem, ecosystem
from cluster.bench.report import progress
from lddp.config import WriteMode

RULE = "mounted"
FILES = 400
PIPELINED_FILES = 2000
FILE_BYTES = 4096
BIG_BYTES = 256 << 20
STEP_BYTES = 1 << 20
TIMES_AGAIN = 4
RANDOM_READS = 4000
ON_XFS, PASSED = ", XFS", ", XFS with passthrough"
STATS = 40_000
BESIDE_GLUSTER = {
    "creates, 1 thread": ("creates, 1 thread", 1.0),
    "creates, 16 threads": ("creates, 16 threads", 1.0),
    "pipelined creates, 1 thread": ("creates, 1 thread", 3.0),
    "pipelined creates, 16 threads": ("creates, 16 threads", 3.0),
    "stat, cached": ("stat, cached", None),
    "write, sequential": ("write, sequential", None),
    "read, sequential, again": ("read, sequential, again", None),
    "read, random 4 KiB": ("read, random 4 KiB", None),
}
"""What is compared with GlusterFS: what was measured there, and the least ratio that is aimed at (None: no goal)."""
COPIES = 3
ENOUGH_COPIES = 2
Measured = dict[str, tuple[str, float, float | None]]
"""What was measured: unit, value, and the least ratio that is aimed at (None: no goal)."""


def run(context: Context) -> None:
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        context.report.note("mount: skipped, only root with /dev/fuse can mount")
        return
    found: list[tuple[Measured, Measured]] = []
    peers: list[Measured] = []
    copied: list[float] = []
    why_not = gluster.why_not()
    for number in range(context.rounds):
        progress(f"mount, round {number + 1} of {context.rounds}")
        with work_place(context.scratch) as disk, ecosystem(disk / "lddp", "--nodes", "3") as nodes:
            bare, point, queue = disk / "bare", disk / "mnt", disk / "pipelined"
            bare.mkdir()
            archive = _archive(disk)
            nodes.create_rule(RULE, [str(node["zone"]) for node in nodes.nodes.values()])
            with _mounted(nodes, point):
                ours = _measure(point, archive)
            nodes.drain()  # what was written before is on its way to disks still
            _bring_to_disk(disk)
            with _mounted(nodes, queue, write_mode=WriteMode.PIPELINED.value):
                ours |= _pipelined(queue / "pipelined", archive)
            found.append((ours, _measure(bare, archive) | _pipelined(bare / "pipelined", archive)))
            copied.append(_write_copies(bare))
        found[-1] = _with_clones(context, *found[-1])
        if not why_not:
            with work_place(context.scratch) as disk, gluster.volume(disk / "gluster") as volume:
                peers.append(_creates(volume, FILES, "creates") | _stats(volume) | _measure_big(volume / "big"))
    for what, (unit, _, low) in found[0][0].items():
        ours, theirs = [one[what][1] for one, _ in found], [two[what][1] for _, two in found]
        if low is None:
            context.report.plain("mount", what, unit, ours, "bare", theirs)
        else:
            context.report.at_least("mount", what, unit, ours, "bare", theirs, low)
    for what, (theirs_what, low) in BESIDE_GLUSTER.items() if peers else ():
        rates = [one[what][1] for one, _ in found], [three[theirs_what][1] for three in peers]
        unit = found[0][0][what][0]
        if low is None:
            context.report.plain("mount", what, unit, rates[0], "GlusterFS", rates[1])
        else:
            context.report.at_least("mount", what, unit, rates[0], "GlusterFS", rates[1], low)
    written = [one["write, sequential"][1] for one, _ in found]
    context.report.plain("mount", "write, sequential", "MB/s", written, "bare, three copies", copied)
    if why_not:
        context.report.note(f"mount: nothing beside GlusterFS, {why_not}")
    context.report.note(
        "mount: three nodes with a zone each on one disk; a create is open, write of 4 KiB and close: two records;"
        f" creating and unpacking end with fsync of the directory, in the pipelined mode after {PIPELINED_FILES} files;"
        " writing ends with fsync, whose bytes are on two zones then, and of three copies that nothing is sent or"
        " hashed for the first two are there; reading begins with the file closed,"
        f" and again is {TIMES_AGAIN} times what was read before."
        " GlusterFS: three replicas on one disk, default settings, with which no create waits for a disk."
    )


def _with_clones(context: Context, ours: Measured, theirs: Measured) -> tuple[Measured, Measured]:
    """And large files on a filesystem with clones, where one can be made: without passthrough and with it."""
    if why := why_no_clones():
        context.report.note(f"mount: XFS skipped, {why}")
        return ours, theirs
    with cloning_filesystem(context.scratch) as disk, ecosystem(disk / "lddp", "--nodes", "3") as nodes:
        nodes.create_rule(RULE, [str(node["zone"]) for node in nodes.nodes.values()])
        for where, name in ((ON_XFS, "plain"), (PASSED, "passed")):
            bare, point = disk / f"bare-{name}", disk / f"mnt-{name}"
            bare.mkdir()
            with _mounted(nodes, point, passthrough=where == PASSED) as made:
                if made["why_no_passthrough"]:
                    context.report.note(f"mount: no passthrough, {made['why_no_passthrough']}")
                else:
                    ours |= _measure_big(point / name, where)
                    theirs |= _measure_big(bare / name, where)
    return ours, theirs


@contextmanager
def _mounted(nodes: Ecosystem, point: Path, **options: object) -> Iterator[dict[str, Any]]:
    """Nothing else is mounted meanwhile. What the node says of the mount."""
    point.mkdir()
    client = nodes.client("node-1")
    made: dict[str, Any] = client.change("POST", "/v1/mounts", body={"rule": RULE, "mountpoint": str(point)} | options)
    try:
        yield made
    finally:
        client.change("DELETE", "/v1/mounts", {"mountpoint": str(point), "lazy": "true"})


def _rate(count: float, work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return count / (time.perf_counter() - before)


def _create(path: Path) -> None:
    """As programs in C do it: Python's own files ask besides whether what they have opened is a terminal."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, bytes(FILE_BYTES))
    finally:
        os.close(descriptor)


def _measure(top: Path, archive: Path) -> Measured:
    found = _creates(top, FILES, "creates") | _unpack(top, archive, "tar -x")
    return found | _stats(top) | _measure_big(top / "big")


def _stats(top: Path) -> Measured:
    """Of what `_creates` made by one thread."""
    paths = [os.fspath(top / "one" / str(number)) for number in range(FILES)]
    _look(paths)  # and from then on it is in the kernel's cache
    return {"stat, cached": ("/s", _rate(STATS, lambda: [_look(paths) for _ in range(STATS // FILES)]), 1.0)}


def _look(paths: list[str]) -> None:
    for path in paths:
        os.stat(path)


def _measure_big(big: Path, where: str = "") -> Measured:
    """`where` it is, if not on the usual disk; goals are for what is measured there and for what passes."""
    found: Measured = {}
    took_s, sync_s = _write(big)
    found[f"write, sequential{where}"] = "MB/s", BIG_BYTES / 1e6 / took_s, None if where else 0.3
    found[f"write, sequential, fsync and close of it{where}"] = "s", sync_s, None
    if where:
        _bring_to_disk(big.parent.parent)
    found[f"read, sequential, first{where}"] = "MB/s", _rate(BIG_BYTES / 1e6, lambda: _read(big)), None
    again, randomly = (None, None) if where == ON_XFS else (0.9, 0.5)
    bytes_again = BIG_BYTES * TIMES_AGAIN
    found[f"read, sequential, again{where}"] = "MB/s", _rate(bytes_again / 1e6, lambda: _read(big, TIMES_AGAIN)), again
    found[f"read, random 4 KiB{where}"] = "/s", _rate(RANDOM_READS, lambda: _read_randomly(big)), randomly
    return found


def _creates(top: Path, files: int, what: str) -> Measured:
    found: Measured = {}
    one, many = top / "one", top / "many"
    one.mkdir()
    many.mkdir()

    def by_one() -> None:
        for number in range(files):
            _create(one / str(number))
        _sync(top)

    found[f"{what}, 1 thread"] = "/s", _rate(files, by_one), None
    with ThreadPoolExecutor(16) as threads:
        for number in range(16):
            (many / str(number)).mkdir()
        paths = [many / str(number % 16) / str(number) for number in range(files * 2)]

        def by_many() -> None:
            list(threads.map(_create, paths))
            _sync(top)

        found[f"{what}, 16 threads"] = "/s", _rate(files * 2, by_many), None
    return found


def _archive(disk: Path) -> Path:
    """Many small files, as one file."""
    source, archive = disk / "source", disk / "source.tar"
    for number in range(FILES):
        directory = source / str(number % 20)
        directory.mkdir(parents=True, exist_ok=True)
        _create(directory / str(number))
    subprocess.run(["tar", "-cf", archive, "-C", source, "."], check=True)
    return archive


def _unpack(top: Path, archive: Path, what: str) -> Measured:
    """By one thread, until fsync of the directory is back."""
    target = top / "unpacked"
    target.mkdir()

    def work() -> None:
        subprocess.run(["tar", "-xf", archive, "-C", target], check=True)
        _sync(target)

    return {f"{what}, files": ("/s", _rate(FILES, work), None)}


def _pipelined(top: Path, archive: Path) -> Measured:
    top.mkdir()
    return _creates(top, PIPELINED_FILES, "pipelined creates") | _unpack(top, archive, "pipelined tar -x")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _bring_to_disk(disk: Path) -> None:
    """What is in zones for longer is on their disk."""
    subprocess.run(["sync", "--file-system", disk], check=True)


def _write(path: Path) -> tuple[float, float]:
    """Seconds that it took, and those of them that fsync and close took."""
    block = random.Random(1).randbytes(STEP_BYTES)
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(BIG_BYTES // STEP_BYTES):
            file.write(block)
        written = time.perf_counter()
        os.fsync(file.fileno())
    ended = time.perf_counter()
    return ended - began, ended - written


def _write_copies(top: Path) -> float:
    """MB/s of three files that are written at once, until two are on the disk: what is left of it for a mount where all
    zones are on one."""
    with ThreadPoolExecutor(COPIES) as threads:
        began = time.perf_counter()
        for _ in islice(as_completed(threads.submit(_write, top / f"copy-{n}") for n in range(COPIES)), ENOUGH_COPIES):
            took_s = time.perf_counter() - began
    return BIG_BYTES / 1e6 / took_s


def _read(path: Path, times: int = 1) -> None:
    with open(path, "rb", buffering=0) as file:
        for _ in range(times):
            file.seek(0)
            while file.read(STEP_BYTES):
                pass


def _read_randomly(path: Path) -> None:
    chosen = random.Random(2)
    with open(path, "rb", buffering=0) as file:
        for _ in range(RANDOM_READS):
            os.pread(file.fileno(), 4096, chosen.randrange(BIG_BYTES // 4096) * 4096)
