"""The nodes of a drill: brought up by `lddp cluster up`, killed without warning, started again, and asked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from lddp.cli.processes import NODE_COMMAND
from lddp.client.settings import CLUSTER_FILE

RULE = "drill"
ROOT = b"/drill"
POLL_S = 0.02
ASK_TIMEOUT_S = 20.0
READY_TIMEOUT_S = 60.0

Document = dict[str, Any]


class Failed(Exception):
    """The drill itself could not go on."""


class Cluster:
    """Three nodes on loopback, each with a zone, and one rule over all zones that has no source."""

    def __init__(self, directory: Path, nodes: int) -> None:
        self.directory = directory
        lddp = [sys.executable, "-m", "lddp.cli.main"]
        made = subprocess.run(
            [*lddp, "cluster", "up", str(directory), "--nodes", str(nodes)], capture_output=True, check=False
        )
        if made.returncode:
            raise Failed(f"'lddp cluster up' ended with {made.returncode}: {made.stderr.decode(errors='replace')}")
        self._read()
        self.names = [str(node["name"]) for node in self.described["nodes"]]
        self.endpoints = {str(node["name"]): str(node["endpoint"]) for node in self.described["nodes"]}
        self.token = Path(self.described["token_file"]).read_text("ascii").strip()
        self._restarted: dict[str, subprocess.Popen[bytes]] = {}
        self._session: aiohttp.ClientSession | None = None

    def _read(self) -> None:
        self.described: Document = json.loads((self.directory / CLUSTER_FILE).read_bytes())

    def root_of(self, zone: str) -> Path:
        """The real tree of the rule in a zone."""
        return Path(self.described["roots"][zone]) / RULE

    @property
    def roots(self) -> dict[str, Path]:
        return {zone: self.root_of(zone) for zone in self.described["zones"]}

    @property
    def zones(self) -> dict[str, int]:
        return dict(self.described["zones"])

    # -- asking -----------------------------------------------------------------------------------------------------

    def session(self) -> aiohttp.ClientSession:
        """A connection pool of one client."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0))

    async def ask(self, node: str, method: str, target: str, body: object = None) -> Document:
        if self._session is None:
            self._session = self.session()
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
        async with self._session.request(method, self.endpoints[node] + target, json=body, timeout=timeout) as answer:
            document = await answer.json(content_type=None)
            if answer.status >= 300:
                raise Failed(f"{node} answers {method} {target} with {answer.status}: {document}")
            return dict(document)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def make_rule(self) -> None:
        members = [{"zone": zone, "local_path": str(root)} for zone, root in self.roots.items()]
        body = {"name": RULE, "path": ROOT.decode(), "source": None, "members": members}
        await self.ask(self.names[0], "POST", "/v1/rules", body)

    async def leader(self, besides: str = "", within_s: float = READY_TIMEOUT_S) -> str:
        """The node that says of itself that it leads, in the highest term; `besides` is not asked."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            found: list[tuple[int, str]] = []
            for name in (name for name in self.names if name != besides):
                try:
                    status = await self.ask(name, "GET", "/v1/status")
                except (aiohttp.ClientError, OSError, TimeoutError):
                    continue
                if status["leader"] == name:
                    found.append((int(status["term"]), name))
            if found:
                return max(found)[1]
            await asyncio.sleep(POLL_S)
        raise Failed("no node leads")

    async def await_ready(self, name: str, within_s: float = READY_TIMEOUT_S) -> float:
        """Until a node serves clients; seconds it took."""
        began = time.monotonic()
        while True:
            try:
                session = self._session or self.session()
                self._session = session
                async with session.get(self.endpoints[name] + "/readyz") as answer:
                    if answer.status == 200:
                        return time.monotonic() - began
            except (aiohttp.ClientError, OSError):
                pass
            if time.monotonic() - began > within_s:
                raise Failed(f"{name} is not ready {within_s:g} s after its start; see its log")
            await asyncio.sleep(POLL_S)

    async def drain(self, within_s: float) -> int:
        """Waits until all zones show everything that is ordered now; the log index of that."""
        index = int((await self.ask(self.names[0], "POST", "/v1/barrier"))["index"])
        deadline = time.monotonic() + within_s
        for name in self.names:
            while (where := (await self.ask(name, "GET", "/v1/status"))["log"])["projected"] < index:
                if time.monotonic() > deadline:
                    raise Failed(f"{name} does not project up to {index} within {within_s:g} s: {where}")
                await asyncio.sleep(0.05)
        return index

    # -- killing ----------------------------------------------------------------------------------------------------

    def _node(self, name: str) -> Document:
        return next(node for node in self.described["nodes"] if node["name"] == name)

    def kill(self, name: str) -> float:
        """Kills a node without warning; when that was."""
        return self.send(name, signal.SIGKILL)

    def send(self, name: str, number: signal.Signals) -> float:
        """Sends a signal to a node that runs; when that was."""
        node = self._node(name)
        descriptor = os.pidfd_open(int(node["pid"]))
        try:
            # The number may be a stranger's by now.
            if os.fsencode(node["config"]) not in Path(f"/proc/{node['pid']}/cmdline").read_bytes().split(b"\0"):
                raise Failed(f"process {node['pid']} is not {name} any more: it ended by itself; see its log")
            signal.pidfd_send_signal(descriptor, number)
            return time.monotonic()
        finally:
            os.close(descriptor)

    def restart(self, name: str) -> None:
        node = self._node(name)
        earlier = self._restarted.get(name)
        if earlier is not None:
            earlier.wait()
        with open(node["log"], "ab") as log:
            process = subprocess.Popen(
                [*NODE_COMMAND, node["config"]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        self._restarted[name] = process
        node["pid"] = self.described["pids"][name] = process.pid
        fresh = self.directory / f".{CLUSTER_FILE}.new"
        fresh.write_text(json.dumps(self.described, indent=2) + "\n", "utf-8")
        fresh.replace(self.directory / CLUSTER_FILE)

    def down(self) -> None:
        subprocess.run(
            [sys.executable, "-m", "lddp.cli.main", "cluster", "down", str(self.directory)],
            stdout=subprocess.DEVNULL,
            check=False,
        )
        for process in self._restarted.values():
            process.wait()
