"""An ecosystem whose namespace is large, made through the log as clients would."""

from __future__ import annotations

import os
import time

from cluster.bench.context import Context
from cluster.bench.disk import fresh_filesystem, why_no_images
from cluster.bench.load import Task
from cluster.bench.load import run as load
from cluster.bench.nodes import Ecosystem, ecosystem
from cluster.bench.report import progress

RULE = "large"
IN_EACH = 1000
OUTSTANDING = 16_384
LIMIT_S = 7200.0
ROOM_INODES = 500_000


def large(context: Context) -> Ecosystem:
    """The ecosystem, made at the first call: two nodes with a zone, and a witness. The rule has one of the zones, so
    that one node folds and projects, one folds, and one only orders."""
    if context.large is None:
        disk = context.scratch
        if not why_no_images():
            disk = context.stack.enter_context(fresh_filesystem(disk, context.entries + ROOM_INODES))
        nodes = context.stack.enter_context(ecosystem(disk / "lddp", "--nodes", "2", "--witness"))
        nodes.create_rule(RULE, [str(nodes.nodes["node-1"]["zone"])])
        before = time.monotonic()
        fill(nodes, 0, context.entries)
        progress(f"{context.entries:,} entries in the namespace after {time.monotonic() - before:.0f} s")
        nodes.drain()
        progress(f"and in the files of its zone after {time.monotonic() - before:.0f} s")
        context.large = nodes
    return context.large


def fill(nodes: Ecosystem, first: int, operations: int) -> None:
    """Makes entries number `first` and following: directories with 999 empty files each."""
    node = nodes.nodes["node-2"]
    task = Task(
        node["endpoint"],
        str(nodes.token_file),
        RULE,
        "fill",
        min(OUTSTANDING, operations),
        seconds=LIMIT_S,
        warm_seconds=0.0,
        keys=IN_EACH,
        frames=OUTSTANDING // 1024,
        operations=operations,
        first=first,
    )
    load(task)


def resident(pid: int) -> dict[str, float]:
    """MiB of a process: VmRSS, VmHWM (its peak), RssAnon, RssFile."""
    found = {}
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in ("VmRSS", "VmHWM", "RssAnon", "RssFile"):
                found[name] = int(value.split()[0]) / 1024
    if "VmRSS" not in found:
        raise ProcessLookupError(f"process {pid} has ended ({os.strerror(3)})")
    return found
