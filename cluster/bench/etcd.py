"""Three etcd members on loopback, and the Go program that loads them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

MEMBERS = ("etcd-1", "etcd-2", "etcd-3")
GOPATH = "/usr/share/gocode"
LIBRARY = Path(GOPATH, "src/go.etcd.io/etcd/clientv3")
SOURCE = Path(__file__).parent / "etcd_load"
START_S = 30.0
STOP_S = 10.0


def why_not() -> str:
    """Why etcd cannot be measured here; empty when it can."""
    missing = [tool for tool in ("etcd", "go") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: etcd-server golang-go golang-etcd-server-dev)"
    return "" if LIBRARY.is_dir() else "etcd's Go client is not installed (Debian: golang-etcd-server-dev)"


def build(scratch: Path) -> Path:
    """Compiles the load program; its path."""
    program = scratch / "etcd_load"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": GOPATH, "GOCACHE": str(scratch / "gocache")}
    subprocess.run(["go", "build", "-o", program, "."], cwd=SOURCE, env=environment, check=True)
    return program


@contextmanager
def members(scratch: Path) -> Iterator[list[str]]:
    """Runs the members with their default settings, data below `scratch`; gives their client addresses."""
    ports = free_ports(2 * len(MEMBERS))
    clients = [f"http://127.0.0.1:{port}" for port in ports[:3]]
    peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
    cluster = ",".join(f"{name}={url}" for name, url in zip(MEMBERS, peers, strict=True))
    processes = []
    with open(scratch / "etcd.log", "wb") as log:
        for name, client, peer in zip(MEMBERS, clients, peers, strict=True):
            command = ["etcd", "--name", name, "--data-dir", str(scratch / name), "--log-level", "error"]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--initial-cluster", cluster, "--initial-cluster-token", scratch.name]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    try:
        for client in clients:
            _await_health(client)
        yield [url.removeprefix("http://") for url in clients]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(STOP_S)


def load(program: Path, endpoints: list[str], outstanding: int, connections: int, seconds: float) -> dict[str, Any]:
    """Runs the load program; what it found."""
    arguments = ["-endpoints", ",".join(endpoints), "-outstanding", str(outstanding)]
    arguments += ["-connections", str(min(connections, outstanding)), "-measure", f"{seconds}s"]
    done = subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, timeout=seconds + 60)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} puts failed")
    return found


def _await_health(client: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urlopen(f"{client}/health", timeout=2.0) as answer:
                if json.load(answer)["health"] == "true":
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"etcd at {client} was not healthy after {START_S:g} s")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
