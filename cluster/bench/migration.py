"""A running `lddp migrate`, watched from outside through its nodes' HTTP API."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cluster.bench.processor import seconds_of
from lddp.cli.client import Client
from lddp.errors import LddpError

RULE = "data"
POLL_S = 0.05
REACH_S = 900.0
STOP_S = 30.0
COMMAND = (sys.executable, "-m", "lddp.cli.main", "migrate")


@functools.cache
def installed_environment() -> dict[str, str]:
    """The environment of the command as it is once installed: compiled, which an installer does and not each start."""
    directory = tempfile.mkdtemp(prefix="lddp-bytecode-")
    atexit.register(shutil.rmtree, directory)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = directory
    subprocess.run(
        [sys.executable, "-c", "import lddp.cli.migrate, lddp.node as n; n.warm_up()"], env=environment, check=True
    )
    return environment


class Nodes(NamedTuple):
    """Clients of the two nodes that have a zone."""

    source: Client
    target: Client


class Running:
    """The command, its state directory and its nodes."""

    def __init__(self, process: subprocess.Popen[bytes], target: Path) -> None:
        self.process = process
        self.began = time.monotonic()
        self._state = target.parent / f".{target.name}.lddp"

    def cluster(self) -> dict[str, Any] | None:
        """What the command wrote about its nodes; None before it did."""
        try:
            document: dict[str, Any] = json.loads((self._state / "cluster.json").read_bytes())
        except FileNotFoundError:
            return None
        return document

    def nodes(self) -> Nodes:
        """Waits until the nodes are known."""
        while (described := self.cluster()) is None:
            self.check()
            time.sleep(POLL_S)
        token = Path(described["token_file"])
        source, target = (Client([url], token, None, 5.0) for url in described["endpoints"][:2])
        return Nodes(source, target)

    def check(self) -> None:
        if self.process.poll() not in (None, 0):
            raise RuntimeError(f"lddp migrate ended with exit code {self.process.returncode}")
        if time.monotonic() - self.began > REACH_S:
            raise TimeoutError(f"lddp migrate was not done after {REACH_S:g} s")

    def wait_copied(self) -> float:
        """Seconds from the start of the process until the scan is over and the target's filesystem shows all of it."""
        nodes = self.nodes()
        index = 0
        while True:
            self.check()
            try:
                if not index:
                    document = nodes.source.get(f"/v1/migrations/{RULE}")
                    if document["state"] in ("live", "completed"):
                        index = int(document["index"])
                if index and int(nodes.target.get("/v1/status")["log"]["projected"]) >= index:
                    return time.monotonic() - self.began
            except LddpError:
                if self.process.poll() == 0:
                    raise RuntimeError("lddp migrate ended before its target was seen to hold all") from None
            time.sleep(POLL_S)

    def processor_seconds(self) -> float:
        """Processor time of the command, its nodes and their workers so far."""
        return seconds_of([self.process.pid])

    def metric(self, client: Client, name: str) -> float:
        """The sum of a metric over its labels."""
        with client.request("GET", "/metrics") as answer:
            lines = [line.decode() for line in answer.lines()]
        return sum(float(line.rsplit(None, 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@contextmanager
def migrating(source: Path, target: Path, *options: str, output: Path) -> Iterator[Running]:
    """Starts the command; it is interrupted at the end if it still runs. Standard output goes to a file."""
    command, environment = [*COMMAND, source, target, *options], installed_environment()
    with open(output, "wb") as stream:
        running = Running(subprocess.Popen(command, stdout=stream, env=environment), target)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGINT)
            try:
                running.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()


def receipt_of(output: Path) -> dict[str, Any]:
    """The receipt among the JSON lines that the command wrote."""
    for line in output.read_text("utf-8").splitlines():
        document: dict[str, Any] = json.loads(line)
        if document.get("event") == "receipt":
            return document
    raise RuntimeError("lddp migrate wrote no receipt")
