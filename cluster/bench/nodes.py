"""A loopback ecosystem from `lddp cluster up`, for a benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lddp.cli.client import Client

COMMAND = (sys.executable, "-m", "lddp.cli.main", "cluster")
POLL_S = 0.05
DRAIN_S = 600.0


class Ecosystem:
    """The running nodes, as cluster.json describes them."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.described = described
        self.token_file = Path(described["token_file"])
        self.nodes: dict[str, dict[str, Any]] = {node["name"]: node for node in described["nodes"]}

    @property
    def pids(self) -> list[int]:
        return list(self.described["pids"].values())

    def client(self, node: str) -> Client:
        return Client([self.nodes[node]["endpoint"]], self.token_file, None, 30.0)

    def status(self, node: str) -> dict[str, Any]:
        document: dict[str, Any] = self.client(node).get("/v1/status")
        return document

    def leader(self) -> str:
        return str(self.status(next(iter(self.nodes)))["leader"])

    def root(self, zone: str) -> Path:
        return Path(self.described["roots"][zone])

    def create_rule(self, name: str, zones: list[str]) -> None:
        """An empty rule at /`name` between these zones."""
        members = [{"zone": zone, "local_path": str(self.root(zone) / name)} for zone in zones]
        body: dict[str, Any] = {"name": name, "path": f"/{name}", "source": None, "members": members, "options": {}}
        asked = next(name for name, node in self.nodes.items() if node["zone"])
        self.client(asked).change("POST", "/v1/rules", body=body)

    def drain(self) -> None:
        """Until every node shows everything that is ordered now."""
        index = int(self.status(self.leader())["log"]["index"])
        deadline = time.monotonic() + DRAIN_S
        for node in self.nodes:
            while int(self.status(node)["log"]["projected"]) < index:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{node} did not reach index {index} in {DRAIN_S:g} s")
                time.sleep(POLL_S)


@contextmanager
def ecosystem(directory: Path, *options: str) -> Iterator[Ecosystem]:
    """Starts the nodes below `directory` and stops them at the end."""
    done = subprocess.run([*COMMAND, "up", directory, *options, "--json"], check=True, stdout=subprocess.PIPE)
    try:
        yield Ecosystem(json.loads(done.stdout))
    finally:
        subprocess.run([*COMMAND, "down", directory], check=True, stdout=subprocess.DEVNULL)
