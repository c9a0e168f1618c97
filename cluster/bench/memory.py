"""Resident memory of each node with a large namespace."""

from __future__ import annotations

import time

from cluster.bench.context import Context
from cluster.bench.large import large, resident

GOAL_MIB = 300.0
SETTLE_S = 10.0
ROLES = {"node-1": "folds and projects", "node-2": "folds", "witness": "orders"}


def run(context: Context) -> None:
    nodes = large(context)
    time.sleep(SETTLE_S)
    for name, node in nodes.nodes.items():
        found = resident(int(node["pid"]))
        what = f"{context.entries:,} entries, {name} ({ROLES[name]})"
        context.report.below("memory", what, "MiB", [found["VmRSS"]], GOAL_MIB)
        context.report.plain("memory", f"{name}, its peak while they were made", "MiB", [found["VmHWM"]])
    context.report.note(
        "memory: VmRSS of the process, mapped pages of its database included; entries made by mkdir and create on the"
        " stream (1,000 to a directory), through the log of two nodes and a witness."
    )
