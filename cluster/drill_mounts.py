"""Mounts of a drill's nodes, and whether all zones show at the end what the mount shows."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode

from cluster import compare
from cluster.drill_nodes import RULE, Cluster
from lddp.config import WriteMode

DRAIN_S = 120.0
SETTLE_S = 30.0
"""Directories get their times at a checkpoint, some seconds after the last change."""


@dataclass(frozen=True)
class Settled:
    """What was found when nobody changed anything any more."""

    entries: int
    index: int
    differences: list[str]

    def __str__(self) -> str:
        return f"{self.entries} entries, {self.index} records, {len(self.differences)} differences"


async def mount(cluster: Cluster, node: str, point: Path, mode: WriteMode) -> None:
    body = {"rule": RULE, "mountpoint": str(point), "write_mode": mode.value}
    await cluster.ask(node, "POST", "/v1/mounts", body)


async def unmount(cluster: Cluster, node: str, point: Path) -> None:
    await cluster.ask(node, "DELETE", f"/v1/mounts?{urlencode({'mountpoint': str(point)})}")


async def settled(cluster: Cluster, point: Path) -> Settled:
    """Compares the mount at `point` and the real trees of all zones. In threads: who waits for the mount must not be
    who is asked by it."""
    await asyncio.to_thread(_sync, point)
    index = await cluster.drain(DRAIN_S)
    deadline = time.monotonic() + SETTLE_S
    while True:
        differences = await asyncio.to_thread(_differences, cluster, point)
        if not differences or time.monotonic() > deadline:
            break
        await asyncio.sleep(1.0)
    entries = await asyncio.to_thread(lambda: sum(1 for _ in point.rglob("*")))
    return Settled(entries, index, differences)


def _differences(cluster: Cluster, point: Path) -> list[str]:
    found = [f"mount: {line}" for line in compare.by_rsync(point, next(iter(cluster.roots.values())))]
    for (one, root), (other, second) in pairwise(cluster.roots.items()):
        found += [f"{one} and {other}: {line}" for line in compare.differences(root, second)]
    return found


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
