"""Lets clients submit conflicting operations at all nodes at once, kills leaders meanwhile, and judges what came of it.

Each seed: `lddp cluster up` with three zones and one rule over all of them; clients at every node submit random
operations over the HTTP API and retry what was not answered under the same ids. With --kill N the leader is killed
under load N times and started again. At the end the log, what the clients were told, an independent model and the
three zones' real trees must all agree. What fails is kept, with the command that does it again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import aiohttp

from cluster import compare
from cluster.drill_judge import Judge
from cluster.drill_load import Client, History
from cluster.drill_nodes import Cluster, Document, Failed
from cluster.seeds import seeds_of

FLOW_WITHIN_S = 2.0
SETTLE_S = 20.0
"""Directories get their times at a checkpoint, some seconds after the last change."""
DRAIN_S = 60.0
BETWEEN_KILLS_S = (0.5, 2.0)
LOG_AT_ONCE = 5000
SHOWN_MAX = 20
SUSPICIOUS = ("Traceback", " C lddp", "AssertionError")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass
class Kill:
    """One kill of a leader. `gaps` are the seconds until each surviving node acknowledged a new write."""

    node: str
    at: float
    gaps: dict[str, float] = field(default_factory=dict)

    @property
    def first(self) -> float:
        return min(self.gaps.values())

    @property
    def all(self) -> float:
        return max(self.gaps.values())


class Drill:
    """One seed."""

    def __init__(self, seed: int, options: argparse.Namespace, home: Path) -> None:
        self.history = History()
        self.kills: list[Kill] = []
        self.doubles = 0
        self.out_of_order = 0
        self.stalled = 0.0
        self.seconds = 0.0
        self._seed = seed
        self._options = options
        self._home = home
        self._probes = 0

    def run(self) -> list[str]:
        """Violations. Raises Failed where the drill could not be carried out."""
        return in_cluster(self._home, self._run)

    async def _run(self, cluster: Cluster) -> list[str]:
        await self._load(cluster)
        logs = await self._drain(cluster)
        return self.history.violations + self._judge(cluster, logs)

    # -- load -------------------------------------------------------------------------------------------------------

    async def _load(self, cluster: Cluster) -> None:
        began = time.monotonic()
        killing = self._options.kill > 0

        def more() -> bool:
            return killing or len(self.history.operations) < int(self._options.operations)

        async with asyncio.TaskGroup() as tasks:
            for number in range(self._options.clients * len(cluster.names)):
                chance = random.Random(f"{self._seed} {number}")
                client = Client(cluster, cluster.names[number % len(cluster.names)], chance, self.history)
                tasks.create_task(client.run(more))
            if killing:
                chance = random.Random(f"{self._seed} kills")
                for _ in range(self._options.kill):
                    await asyncio.sleep(chance.uniform(*BETWEEN_KILLS_S))
                    self.kills.append(await self._kill(cluster))
                killing = False
        self.seconds = time.monotonic() - began
        waited = [
            operation.completed - kill.at
            for kill in self.kills
            for operation in self.history.operations
            if operation.invoked < kill.at < operation.completed and operation.node != kill.node
        ]
        self.stalled = max(waited, default=0.0)

    async def _kill(self, cluster: Cluster) -> Kill:
        name = await cluster.leader()
        kill = Kill(name, cluster.kill(name))
        probing = [
            asyncio.create_task(self._probe(cluster, survivor, kill)) for survivor in cluster.names if survivor != name
        ]
        await asyncio.gather(*probing)
        cluster.restart(name)
        await cluster.await_ready(name)
        return kill

    async def _probe(self, cluster: Cluster, survivor: str, kill: Kill) -> None:
        """A fresh write at a survivor: what is already under way may be answered by the killed leader's last act."""
        self._probes += 1
        client = Client(cluster, survivor, random.Random(f"{self._seed} probe {self._probes}"), self.history)
        kill.gaps[survivor] = await client.probe(b"probe-%d" % self._probes) - kill.at

    # -- the end ----------------------------------------------------------------------------------------------------

    async def _drain(self, cluster: Cluster) -> dict[str, list[Document]]:
        """Waits until all zones show the whole log; each node's copy of it."""
        await cluster.drain(DRAIN_S)
        states = {name: await cluster.ask(name, "GET", "/v1/status") for name in cluster.names}
        seen = {name: (s["log"]["index"], [rule["digest"] for rule in s["rules"]]) for name, s in states.items()}
        if len({str(one) for one in seen.values()}) > 1:
            self.history.violations.append(f"index and digests differ between nodes: {seen}")
        self.history.violations += [f"{name}: {text}" for name, s in states.items() for text in s["problems"]]
        return {name: await _log(cluster, name) for name in cluster.names}

    def _judge(self, cluster: Cluster, logs: dict[str, list[Document]]) -> list[str]:
        violations: list[str] = []
        for (one, log), (other, second) in pairwise(logs.items()):
            if log != second:
                violations.append(f"the logs of {one} and {other} differ")
        judge = Judge(self.history.operations, logs[cluster.names[0]])
        violations += judge.fold()
        violations += judge.acknowledged()
        violations += judge.real_time()
        self.doubles = judge.doubles
        self.out_of_order = judge.batches_out_of_order()
        deadline = time.monotonic() + SETTLE_S
        while (differences := list(self._trees(cluster, judge))) and time.monotonic() < deadline:
            time.sleep(0.5)
        violations += differences
        for kill in self.kills:
            if kill.all > FLOW_WITHIN_S:
                violations.append(f"{kill.all:.2f} s without a write after the kill of {kill.node}: {kill.gaps}")
        return violations

    @staticmethod
    def _trees(cluster: Cluster, judge: Judge) -> Iterator[str]:
        for (one, root), (other, second) in pairwise(cluster.roots.items()):
            yield from (f"{one} and {other}: {line}" for line in compare.differences(root, second))
        for zone, root in cluster.roots.items():
            yield from (f"{zone}: {line}" for line in judge.tree(bytes(root)))


async def _log(cluster: Cluster, name: str) -> list[Document]:
    found: list[Document] = []
    while True:
        target = f"/v1/log?from={len(found) + 1}&limit={LOG_AT_ONCE}"
        page = (await cluster.ask(name, "GET", target))["records"]
        found += page
        if len(page) < LOG_AT_ONCE:
            return found


def in_cluster(home: Path, work: Callable[[Cluster], Awaitable[list[str]]]) -> list[str]:
    """What was wrong with work in a new cluster of three nodes with a rule, and in the logs that they leave. Raises
    Failed where it could not be carried out."""
    cluster = Cluster(home, 3)

    async def run() -> list[str]:
        try:
            await cluster.make_rule()
            return await work(cluster)
        finally:
            await cluster.close()

    try:
        found = asyncio.run(run())
    finally:
        cluster.down()
    return found + list(suspicious(home))


def suspicious(home: Path) -> Iterator[str]:
    """Lines of the nodes' logs that no run may leave."""
    for log in sorted(home.glob("*/node.log")):
        for line in log.read_text(errors="replace").splitlines():
            if any(mark in line for mark in SUSPICIOUS):
                yield f"{log.parent.name}: its log says: {line[:300]}"


# -- the table --------------------------------------------------------------------------------------------------------

HEAD = (
    "seed   operations    ops/s  refused  retries  again in log  batches mixed  kills  gap p50  gap max  longest wait"
    "  violations"
)


def row(seed: int, drill: Drill, violations: int) -> str:
    count = len(drill.history.operations)
    refused = sum(operation.errno > 0 for operation in drill.history.operations)
    gaps = [kill.all for kill in drill.kills]
    middle, most = (f"{statistics.median(gaps):.2f} s", f"{max(gaps):.2f} s") if gaps else ("-", "-")
    waited = f"{drill.stalled:.2f} s" if gaps else "-"
    return (
        f"{seed:4} {count:12} {count / max(drill.seconds, 1e-9):8.0f} {refused:8} {drill.history.retries:8}"
        f" {drill.doubles:13} {drill.out_of_order:14} {len(gaps):6} {middle:>8} {most:>8} {waited:>13} {violations:11}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/drill", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=seeds_of("1-3"), help="such as 7 or 1-20 or 1,4-6")
    parser.add_argument("--operations", type=int, default=5000, help="how many are submitted at least, without kills")
    parser.add_argument("--clients", type=int, default=4, help="clients at each node")
    parser.add_argument("--kill", type=int, default=0, metavar="N", help="kill the leader N times, under load")
    parser.add_argument("--directory", type=Path, help="where nodes and zones are made; a temporary one if not given")
    parser.add_argument("--keep", action="store_true", help="keep the files of seeds that pass too")
    options = parser.parse_args()
    base = options.directory or Path(tempfile.mkdtemp(prefix="lddp-drill-"))
    base.mkdir(parents=True, exist_ok=True)
    say(HEAD)
    failed = [seed for seed in options.seeds if not _one(seed, options, base)]
    if failed:
        say(f"{len(failed)} of {len(options.seeds)} seeds failed: {', '.join(map(str, failed))}; see {base}")
        return 1
    if not options.keep and options.directory is None:
        base.rmdir()
    return 0


def _one(seed: int, options: argparse.Namespace, base: Path) -> bool:
    home = base / f"seed-{seed}"
    if home.exists():
        shutil.rmtree(home)
    drill = Drill(seed, options, home)
    try:
        violations = drill.run()
    except (Failed, aiohttp.ClientError, TimeoutError, ExceptionGroup) as error:
        violations = [f"the drill could not go on: {error!r}"]
    say(row(seed, drill, len(violations)))
    if not violations:
        if not options.keep:
            shutil.rmtree(home)
        return True
    for line in violations[:SHOWN_MAX]:
        say(f"  {line}")
    say(
        f"  kept in {home}; again: scripts/drill --seeds {seed} --kill {options.kill}"
        f" --operations {options.operations} --clients {options.clients}"
    )
    return False


if __name__ == "__main__":
    sys.exit(main())
