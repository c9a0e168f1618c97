"""A killed node with a large namespace and a long log: from its start until it is ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from cluster.bench.context import Context
from cluster.bench.large import fill, large
from cluster.bench.nodes import Ecosystem
from cluster.bench.report import progress

NODE = "node-1"
COMMAND = (sys.executable, "-m", "lddp.cli.main", "node", "--config")
TAIL = 100_000
GOAL_S = 5.0
LIMIT_S = 600.0
POLL_S = 0.01
STOP_S = 30.0


def run(context: Context) -> None:
    nodes = large(context)
    node = nodes.nodes[NODE]
    killed = int(node["pid"])
    process: subprocess.Popen[bytes] | None = None
    ready: list[float] = []
    try:
        for number in range(context.rounds):
            progress(f"restart, round {number + 1} of {context.rounds}")
            _kill(killed, process)
            process, seconds = _start(node["config"], str(node["endpoint"]))
            killed = process.pid
            ready.append(seconds)
        records = nodes.status(NODE)["log"]
        progress(f"restart, {TAIL:,} records behind")
        _kill(killed, process)
        fill(nodes, context.entries, TAIL)
        process, behind_ready = _start(node["config"], str(node["endpoint"]))
        caught_up = behind_ready + _catch_up(nodes)
    finally:
        if process is not None:
            process.terminate()
            process.wait(STOP_S)
    what = f"{context.entries:,} entries"
    context.report.below("restart", f"{what}, log of {records['index']:,} records", "s", ready, GOAL_S)
    context.report.below("restart", f"{what}, {TAIL:,} records behind, ready", "s", [behind_ready], GOAL_S)
    context.report.plain("restart", f"{what}, {TAIL:,} records behind, caught up", "s", [caught_up])
    context.report.note(
        "restart: kill -9 of the node that folds and projects, then from exec until /readyz says 200; caught up:"
        " until its namespace is where the leader's is. Before that its log had the entries"
        f" {records['first']:,} to {records['last']:,}."
    )


def _kill(pid: int, process: subprocess.Popen[bytes] | None) -> None:
    os.kill(pid, signal.SIGKILL)
    if process is not None:
        process.wait()
    while Path(f"/proc/{pid}").exists():
        time.sleep(POLL_S)


def _start(config: str, endpoint: str) -> tuple[subprocess.Popen[bytes], float]:
    """The node's process and the seconds until it was ready."""
    file = Path(config).parent / "node.log"
    with open(file, "ab") as log:
        before = time.monotonic()
        process = subprocess.Popen([*COMMAND, config], stdout=log, stderr=log)
    while not _is_ready(endpoint):
        if process.poll() is not None or time.monotonic() - before > LIMIT_S:
            process.kill()
            last = file.read_text("utf-8", "replace").splitlines()[-1:]
            raise RuntimeError(f"the node did not get ready; the last line of its log: {last}")
        time.sleep(POLL_S)
    return process, time.monotonic() - before


def _is_ready(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(f"{endpoint}/readyz", timeout=5.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def _catch_up(nodes: Ecosystem) -> float:
    """Seconds until the node's namespace is where the leader's is."""
    before = time.monotonic()
    index = int(nodes.status("node-2")["log"]["index"])
    while int(nodes.status(NODE)["log"]["index"]) < index:
        time.sleep(POLL_S)
    return time.monotonic() - before
