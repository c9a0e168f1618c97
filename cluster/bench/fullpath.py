"""Small puts and mkdirs all the way: ordered, folded, and in the files of three zones."""

from __future__ import annotations

import statistics
import time

from cluster.bench.context import Context
from cluster.bench.disk import work_place
from cluster.bench.load import Task
from cluster.bench.load import run as load
from cluster.bench.nodes import Ecosystem, ecosystem
from cluster.bench.report import Report, percentile, progress

OPERATIONS = 6000
LONE = 100
OUTSTANDING = 64
KINDS = ("put", "mkdir")


def run(context: Context) -> None:
    report, rounds = context.report, context.rounds
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    middles: dict[str, list[float]] = {kind: [] for kind in KINDS}
    ends: dict[str, list[float]] = {kind: [] for kind in KINDS}
    lone: list[float] = []
    for number in range(rounds):
        progress(f"fullpath, round {number + 1} of {rounds}")
        with work_place(context.scratch) as disk, ecosystem(disk / "lddp", "--nodes", "3") as nodes:
            zones = [str(node["zone"]) for node in nodes.nodes.values()]
            for kind in KINDS:
                nodes.create_rule(kind, zones)
                nodes.drain()
                began = time.monotonic()
                found = load(_task(nodes, kind, OPERATIONS))
                nodes.drain()
                # The client's own start is not the nodes' work.
                rates[kind].append(OPERATIONS / (time.monotonic() - began - found["start_seconds"]))
                middles[kind].append(found["p50_ms"])
                ends[kind].append(found["p99_ms"])
            lone += _everywhere(nodes)
    for kind in KINDS:
        what = f"{kind}, {OUTSTANDING} outstanding"
        report.plain("fullpath", f"{what}, until in three zones", "ops/s", rates[kind])
        report.plain("fullpath", f"{what}, p50 until in the asked zone", "ms", middles[kind])
        report.plain("fullpath", f"{what}, p99 until in the asked zone", "ms", ends[kind])
    _lone(report, lone)
    report.note(
        "fullpath: puts of 184 bytes of data and mkdirs, each at a new path; latency as the client of the leader"
        " sees it (ack=visible); the lone ones are sent one by one and waited for at all three nodes (/v1/wait)."
    )


def _task(nodes: Ecosystem, kind: str, operations: int) -> Task:
    node = nodes.nodes[nodes.leader()]
    return Task(
        node["endpoint"],
        str(nodes.token_file),
        kind,
        kind,
        OUTSTANDING,
        seconds=600.0,
        warm_seconds=0.0,
        ack="visible",
        keys=operations,
        operations=operations,
    )


def _everywhere(nodes: Ecosystem) -> list[float]:
    """Milliseconds from asking for a mkdir until all three zones have it, one at a time."""
    leader = nodes.leader()
    clients = [nodes.client(name) for name in nodes.nodes]
    asked = nodes.client(leader)
    took = []
    for number in range(LONE):
        before = time.monotonic()
        index = asked.change("POST", f"/v1/files/mkdir/lone-{number}", {"op": "mkdir"})["index"]
        for client in clients:
            client.get("/v1/wait", {"index": index, "timeout": 30})
        took.append((time.monotonic() - before) * 1000)
    return took


def _lone(report: Report, took: list[float]) -> None:
    report.plain("fullpath", "mkdir, alone, p50 until in three zones", "ms", [statistics.median(took)])
    report.plain("fullpath", "mkdir, alone, p99 until in three zones", "ms", [percentile(took, 0.99)])
