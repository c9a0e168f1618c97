"""Starting and ending the node processes of a loopback ecosystem."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lddp.cli import ecosystem
from lddp.cli.client import Client
from lddp.client.settings import CLUSTER_FILE, MIGRATION_FILE
from lddp.config import NodeConfig, Role
from lddp.errors import LddpError, UnavailableError, UsageError

NODE_COMMAND = (sys.executable, "-m", "lddp.cli.main", "node", "--config")
POLL_S = 0.05
TERMINATE_S = 15.0
LOG = "node.log"

Document = dict[str, Any]


def up(directory: Path, nodes: int, witness: bool, timeout_s: float, command: Sequence[str] = NODE_COMMAND) -> Document:
    """Makes what is missing in `directory`, starts all nodes and waits until they are ready; the content of
    cluster.json. `command` plus the path of a configuration runs a node. When it fails, nothing is left running."""
    if (directory / MIGRATION_FILE).exists():
        raise UsageError(f"{directory} is the state of a 'lddp migrate'; choose another directory")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    configs = _prepare(directory, nodes, witness)
    _refuse_running(directory)
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in configs:
            started[name] = _start(directory / name, command)
        described = _describe(directory, configs, {name: process.pid for name, process in started.items()})
        _write_description(directory, described)
        _await_ready(directory, described, started, time.monotonic() + timeout_s)
    except BaseException:
        for name, process in started.items():
            _end(process.pid, directory / name / ecosystem.CONFIG)
            process.wait()
        raise
    for process in started.values():
        process.returncode = 0  # they are to outlive this process: nothing is to be waited for or warned about
    return described


def down(directory: Path, described: Document) -> list[str]:
    """Ends the recorded processes, each only while its command line still names its configuration; their names."""
    ended = []
    for node in described["nodes"]:
        if node.get("pid") is not None and _end(int(node["pid"]), Path(node["config"])):
            ended.append(str(node["name"]))
        node["pid"] = None
    described["pids"] = {}
    _write_description(directory, described)
    return ended


# -- making -----------------------------------------------------------------------------------------------------------


def _prepare(directory: Path, nodes: int, witness: bool) -> dict[str, NodeConfig]:
    wanted = [f"node-{number}" for number in range(1, nodes + 1)] + (["witness"] if witness else [])
    if not (directory / ecosystem.AUTHORITY).exists():
        ecosystem.create(directory, f"loopback-{os.urandom(6).hex()}")
    known = ecosystem.nodes_of(directory)
    surplus = known.keys() - set(wanted)
    if surplus:
        raise UsageError(
            f"{directory} has the nodes {', '.join(sorted(known))}; bring up the same number, or use another directory"
        )
    for name in wanted:
        if name not in known:
            _add(directory, name)
    return ecosystem.nodes_of(directory)


def _add(directory: Path, name: str) -> None:
    peer, http_port = _free_ports(2)
    role = Role.WITNESS if name == "witness" else Role.VOTER
    zone = "" if role is Role.WITNESS else name.replace("node-", "zone-")
    if zone:
        (directory / "zones" / zone).mkdir(parents=True, exist_ok=True)
    staging = str(directory / "zones" / f".{zone}.staging") if zone else "staging"
    plan = ecosystem.NodePlan(name, role, zone, f"127.0.0.1:{peer}", f"http://127.0.0.1:{http_port}", staging=staging)
    ecosystem.add_node(directory, plan)


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now. All are held until all are known, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _describe(directory: Path, configs: dict[str, NodeConfig], pids: dict[str, int]) -> Document:
    nodes = []
    for name, config in configs.items():
        home = directory / name
        nodes.append(
            {
                "name": name,
                "role": str(config.role),
                "zone": config.zone.name if config.zone else None,
                "endpoint": str(config.http),
                "peer": str(config.peer),
                "pid": pids[name],
                "config": str(home / ecosystem.CONFIG),
                "data_directory": str(config.data_directory),
                "log": str(home / LOG),
            }
        )
    zones = {config.zone.name: config.zone.number for config in configs.values() if config.zone}
    return {
        "ecosystem": next(iter(configs.values())).ecosystem,
        "directory": str(directory),
        "endpoints": [node["endpoint"] for node in nodes],
        "token_file": str(directory / ecosystem.TOKEN),
        "ca_file": str(directory / ecosystem.AUTHORITY / "authority.pem"),
        "zones": zones,
        "roots": {zone: str(directory / "zones" / zone) for zone in zones},
        "pids": pids,
        "nodes": nodes,
    }


def _write_description(directory: Path, described: Document) -> None:
    fresh = directory / f".{CLUSTER_FILE}.new"
    fresh.write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    fresh.replace(directory / CLUSTER_FILE)


# -- running ----------------------------------------------------------------------------------------------------------


def _start(home: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    with open(home / LOG, "ab") as log:
        return subprocess.Popen(
            [*command, str(home / ecosystem.CONFIG)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )


def _await_ready(
    directory: Path, described: Document, started: dict[str, subprocess.Popen[bytes]], deadline: float
) -> None:
    """Polls: a process that starts has no other way to tell a stranger that it is ready."""
    waiting = {str(node["name"]): node for node in described["nodes"]}
    reasons: dict[str, str] = {}
    while waiting:
        for name, node in list(waiting.items()):
            if started[name].poll() is not None:
                raise UnavailableError(f"node {name} ended at its start: {_last_line(Path(node['log']))}")
            reason = _not_ready(str(node["endpoint"]), Path(described["token_file"]))
            if reason:
                reasons[name] = reason
            else:
                del waiting[name]
        if waiting and time.monotonic() > deadline:
            slow = "; ".join(f"{name}: {reasons[name]}" for name in waiting)
            raise UnavailableError(f"not all nodes became ready ({slow}); see {directory}/NODE/{LOG}")
        if waiting:
            time.sleep(POLL_S)


def _not_ready(endpoint: str, token_file: Path) -> str:
    """Why a node is not ready; empty when it is and knows a leader."""
    host, _, port = endpoint.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            with contextlib.suppress(ValueError, AttributeError):
                return str(json.loads(body).get("detail", "not ready"))
            return f"HTTP status {response.status}"
        status = Client([endpoint], token_file, None, 5.0).get("/v1/status")
        return "" if status.get("leader") else "no leader is elected yet"
    except (OSError, http.client.HTTPException, LddpError) as error:
        return f"{error}" or type(error).__name__
    finally:
        connection.close()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("lddp: ") if lines else f"it left no message in {log}"


def _refuse_running(directory: Path) -> None:
    for file in directory.glob(f"*/{ecosystem.CONFIG}"):
        for pid in _pids_with(file):
            raise UsageError(
                f"node {file.parent.name} is running (process {pid}); 'lddp cluster down {directory}' first"
            )


def _pids_with(config: Path) -> list[int]:
    recorded = config.parent.parent / CLUSTER_FILE
    try:
        described = json.loads(recorded.read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    pids = [node["pid"] for node in described["nodes"] if node["config"] == str(config) and node["pid"] is not None]
    return [pid for pid in pids if _runs(pid, config)]


def _runs(pid: int, config: Path) -> bool:
    """Whether the process is a node with this configuration; its number may belong to a stranger by now."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return os.fsencode(config) in arguments


def _end(pid: int, config: Path) -> bool:
    """Ends a node's process, gently first. The descriptor holds on to this very process while its number is checked."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not _runs(pid, config):
            return False
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not poll.poll(TERMINATE_S * 1000):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poll.poll(TERMINATE_S * 1000)
        return True
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
