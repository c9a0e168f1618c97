"""Looks at all nodes all the time: who leads, who answers. For the picture, and for faults that want the leader."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from cluster.chaos.nemeses import Nemeses
from cluster.chaos.nodes import Nodes

EVERY_S = 0.4


@dataclass
class Watch:
    """`leaders`: (second, name) at each change, name empty while nobody leads; `up`: (second, names that answer);
    `problems`: what nodes complained of, with the second it was first seen."""

    began: float
    leaders: list[tuple[float, str]] = field(default_factory=list)
    up: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    problems: dict[str, float] = field(default_factory=dict)

    async def run(self, nodes: Nodes, nemeses: Nemeses) -> None:
        """Until cancelled."""
        while True:
            found = await asyncio.gather(*(nodes.status(name) for name in nodes.names))
            now = time.monotonic() - self.began
            leading = [
                (int(status["term"]), name)
                for name, status in zip(nodes.names, found, strict=True)
                if status is not None and status["leader"] == name
            ]
            leader = max(leading)[1] if leading else ""
            nemeses.leader = leader or nemeses.leader
            if not self.leaders or self.leaders[-1][1] != leader:
                self.leaders.append((now, leader))
            up = tuple(name for name, status in zip(nodes.names, found, strict=True) if status is not None)
            if not self.up or self.up[-1][1] != up:
                self.up.append((now, up))
            for name, status in zip(nodes.names, found, strict=True):
                for text in status["problems"] if status is not None else ():
                    self.problems.setdefault(f"{name}: {text}"[:200], now)
            await asyncio.sleep(EVERY_S)
