"""Ordered operations of 200 bytes, synced on a majority of three nodes, beside etcd: by the log as etcd does it, and by
whole nodes, which make a file tree of them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cluster.bench import etcd, log
from cluster.bench.context import Context
from cluster.bench.load import Task
from cluster.bench.load import run as load
from cluster.bench.nodes import Ecosystem, ecosystem
from cluster.bench.processor import seconds_of
from cluster.bench.report import progress

GOALS = ((1, 0.8), (64, 2.0), (1024, 4.0))
SECONDS = 4.0
ETCD_CONNECTIONS = 8
RULE = "bench"


@dataclass(slots=True)
class _Figures:
    """One value a round: rates of the log, of etcd, and of whole nodes; what these spent, and what an entry held."""

    log: list[float] = field(default_factory=list)
    etcd: list[float] = field(default_factory=list)
    folded: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)


def run(context: Context) -> None:
    report, rounds, scratch = context.report, context.rounds, context.scratch
    reason = etcd.why_not()
    if reason:
        report.note(f"ordered: etcd skipped, {reason}")
    program = None if reason else etcd.build(scratch)
    figures = {outstanding: _Figures() for outstanding, _ in GOALS}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="ordered-", dir=scratch) as home:
            progress(f"ordered, round {number + 1} of {rounds}: the log")
            with log.members(Path(home) / "log") as group:
                for outstanding, found in figures.items():
                    found.log.append(log.load(group, outstanding, SECONDS))
            progress(f"ordered, round {number + 1} of {rounds}: whole nodes")
            _ours(Path(home), figures)
            if program is not None:
                progress(f"ordered, round {number + 1} of {rounds}: etcd")
                with etcd.members(Path(home)) as endpoints:
                    for outstanding, found in figures.items():
                        done = etcd.load(program, endpoints, outstanding, ETCD_CONNECTIONS, SECONDS)
                        found.etcd.append(done["per_second"])
    for outstanding, goal in GOALS:
        what, found = f"{outstanding} outstanding", figures[outstanding]
        for how, rates in (("", found.log), (", and folded into a file tree", found.folded)):
            if found.etcd:
                report.at_least("ordered", what + how, "ops/s", rates, "etcd", found.etcd, goal)
            else:
                report.plain("ordered", what + how, "ops/s", rates)
        report.plain("ordered", f"{what}, that: processor time of the nodes", "us/op", found.cost)
        report.plain("ordered", f"{what}, that: operations in a log entry", "ops", found.batch)
    report.note(
        "ordered: the work that etcd does. Records of 200 bytes over 4,096 keys, ordered, synced on a majority and put"
        " into a state that keeps the last of each key, by lddp's consensus, journal and links; one client process on"
        " one connection to the leader. etcd: Go client, 8 connections, all endpoints. lddp's members and client speak"
        " TLS, etcd's do not."
    )
    report.note(
        "ordered and folded: whole nodes. Puts of 16 bytes of path and 184 of data over 4,096 names, acknowledged when"
        " ordered, synced on a majority and folded into the namespace (ack=ordered); one client process on one"
        " WebSocket to the leader; the rule has one zone, not the leader's, and its files are written meanwhile;"
        " processor time is that of all three nodes until the last answer."
    )


def _ours(home: Path, figures: dict[int, _Figures]) -> None:
    with ecosystem(home / "lddp", "--nodes", "3") as nodes:
        leader = nodes.leader()
        nodes.create_rule(RULE, [_other_zone(nodes, leader)])
        for outstanding, found in figures.items():
            node = nodes.nodes[leader]
            task = Task(node["endpoint"], str(nodes.token_file), RULE, "put", outstanding, SECONDS)
            log, used = nodes.status(leader)["log"], seconds_of(nodes.pids)
            found.folded.append(load(task)["per_second"])
            used, after = seconds_of(nodes.pids) - used, nodes.status(leader)["log"]
            operations = after["index"] - log["index"]
            found.cost.append(used / operations * 1e6)
            found.batch.append(operations / (after["last"] - log["last"]))
            nodes.drain()


def _other_zone(nodes: Ecosystem, leader: str) -> str:
    return next(str(node["zone"]) for name, node in nodes.nodes.items() if name != leader and node["zone"])
