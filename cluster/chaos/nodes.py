"""The nodes of a chaos campaign: one process in each namespace, on disks of its own, and what can be done to them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from cluster.chaos.disks import Disk
from cluster.chaos.machine import BOOT_ID, faketime, run
from cluster.chaos.network import Network
from cluster.drill_nodes import RULE, Cluster, Document
from lddp.cli import ecosystem
from lddp.config import Role

PEER_PORT = 7400
HTTP_PORT = 7480
DATA_BYTES = 4 << 30
ZONE_BYTES = 2 << 30
"""Sizes of sparse files: what is not used costs nothing."""
LOG_ENTRIES_KEPT = 100_000_000
"""The judge wants all of the log."""
RESTART_S = 1.0
_START = f'if [ -n "$1" ]; then mount --bind "$1" {BOOT_ID} || exit 1; fi; shift; exec "$@"'


@dataclass
class Host:
    """One node. `held` counts the faults that want its process down; while it is 0, whatever ends is started again."""

    name: str
    home: Path
    disks: dict[str, Disk]
    clock: Path
    process: subprocess.Popen[bytes] | None = None
    held: int = 0
    boot: Path | None = None
    damaged: int = 0
    """Faults of its disks that make it right to stop."""
    ended: list[tuple[float, int, bool]] = field(default_factory=list)
    """Ends that nobody asked for: when, with which code, and whether the disks were damaged then."""

    def forget(self) -> None:
        self.damaged -= 1

    @property
    def config(self) -> Path:
        return self.home / ecosystem.CONFIG

    @property
    def log(self) -> Path:
        return self.home / "node.log"


class Nodes(Cluster):
    """As the drill's cluster, in namespaces and on small disks. `make` must come first, `remove` undoes all of it."""

    def __init__(self, home: Path, network: Network, missing: dict[str, str], nemeses: set[str]) -> None:
        self.directory = home / "ecosystem"
        self.names = network.names
        self.endpoints = {name: f"https://{address}:{HTTP_PORT}" for name, address in network.address.items()}
        self.hosts: dict[str, Host] = {}
        self.described = {}
        self.source = home / "disks" / "source"
        self._home = home
        self._network = network
        self._with_disks = "full" not in missing
        self._with_boots = "power" not in missing
        self._clock = faketime() if "clock" in nemeses else None
        self._disks: list[Disk] = []
        self._session: aiohttp.ClientSession | None = None
        self._boots = 0

    # -- making and removing ----------------------------------------------------------------------------------------

    def make(self) -> None:
        disks = self._home / "disks"
        disks.mkdir(parents=True)
        (self._home / "images").mkdir()
        # What is mounted and unmounted below must be so in the nodes' own mount namespaces too.
        run("mount", "--bind", str(disks), str(disks))
        run("mount", "--make-shared", str(disks))
        self._disk("source", ZONE_BYTES)
        ecosystem.create(self.directory, f"chaos-{os.urandom(6).hex()}")
        for name in self.names:
            self._make_host(name)
        self.token = (self.directory / ecosystem.TOKEN).read_text("ascii").strip()
        self._context = ssl.create_default_context(cafile=str(self.directory / ecosystem.AUTHORITY / "authority.pem"))
        self._context.check_hostname = False  # certificates name nodes, not addresses

    def _make_host(self, name: str) -> None:
        own = {"data": self._disk(f"{name}-data", DATA_BYTES), "zone": self._disk(f"{name}-zone", ZONE_BYTES)}
        address = self._network.address[name]
        zone = name.replace("node-", "zone-")
        plan = ecosystem.NodePlan(
            name,
            Role.VOTER,
            zone,
            f"{address}:{PEER_PORT}",
            f"https://{address}:{HTTP_PORT}",
            root=str(self._home),
            data=str(own["data"].path / "database"),
            staging=str(own["zone"].path / ".staging"),
        )
        ecosystem.add_node(self.directory, plan)
        clock = self._home / f"{name}.clock"
        clock.write_text("+0\n")
        self.hosts[name] = Host(name, self.directory / name, own, clock)
        self._new_boot(self.hosts[name])

    def _disk(self, name: str, size: int) -> Disk:
        disk = Disk(self._home / "images" / name, self._home / "disks" / name, size)
        self._disks.append(disk)
        if self._with_disks:
            disk.make()
        else:
            disk.path.mkdir()
        return disk

    def _new_boot(self, host: Host) -> None:
        if self._with_boots:
            self._boots += 1
            host.boot = self._home / f"{host.name}.boot"
            chance = random.Random(f"{host.name} {self._boots} {os.urandom(8).hex()}").randbytes(18).hex()
            host.boot.write_text(chance + "\n")

    def remove(self) -> None:
        for host in self.hosts.values():
            if host.process is not None:
                host.process.kill()
                host.process.wait()
        for disk in self._disks:
            disk.remove()
        subprocess.run(["umount", str(self._home / "disks")], capture_output=True, check=False)

    # -- what the drill's clients ask for ---------------------------------------------------------------------------

    def root_of(self, zone: str) -> Path:
        return self.hosts[zone.replace("zone-", "node-")].disks["zone"].path / RULE

    @property
    def zones(self) -> dict[str, int]:
        return {name.replace("node-", "zone-"): number for number, name in enumerate(self.names)}

    @property
    def roots(self) -> dict[str, Path]:
        return {zone: self.root_of(zone) for zone in self.zones}

    def session(self) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {self.token}"}
        return aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0, ssl=self._context))

    async def status(self, name: str, timeout_s: float = 1.0) -> Document | None:
        """What a node says of itself, if it answers."""
        if self._session is None:
            self._session = self.session()
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.get(f"{self.endpoints[name]}/v1/status", timeout=timeout) as answer:
                return dict(await answer.json()) if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    # -- processes --------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Only from the main thread: the node ends with the thread that started it."""
        host = self.hosts[name]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LDDP_")}
        environment["LDDP_LIMITS_LOG_ENTRIES_KEPT"] = str(LOG_ENTRIES_KEPT)
        if self._clock is not None:
            environment |= {
                "LD_PRELOAD": self._clock,
                "FAKETIME_TIMESTAMP_FILE": str(host.clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "NO_FAKE_STAT": "1",
            }
        node = [sys.executable, "-m", "lddp.cli.main", "node", "--config", str(host.config)]
        space = f"--net=/run/netns/{self._network.namespace(name)}"
        own = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", _START, "sh", str(host.boot or "")]
        with open(host.log, "ab") as log:
            host.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "nsenter", space, *own, *node],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=environment,
            )

    async def kill_now(self, name: str) -> None:
        """Without warning; returns when it is gone."""
        process = self.hosts[name].process
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def end(self, name: str) -> None:
        """With SIGTERM, and a limit to patience."""
        process = self.hosts[name].process
        if process is not None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, 20)
            except subprocess.TimeoutExpired:
                await self.kill_now(name)

    def signal(self, name: str, number: signal.Signals) -> None:
        process = self.hosts[name].process
        if process is not None:
            process.send_signal(number)

    async def keep(self) -> None:
        """Starts again what ended by itself, as a service manager does; until cancelled."""
        while True:
            await asyncio.sleep(RESTART_S)
            for name, host in self.hosts.items():
                if host.held or host.process is None:
                    continue
                code = host.process.poll()
                if code is not None:
                    host.ended.append((time.monotonic(), code, host.damaged > 0))
                    self.start(name)

    async def reboot(self, name: str, which: list[str]) -> None:
        """After a power cut: the disks as they were synced, and another boot of the machine."""
        await self.kill_now(name)
        host = self.hosts[name]
        for disk in which:
            await asyncio.to_thread(host.disks[disk].unmount)
            await asyncio.to_thread(host.disks[disk].mount)
        self._new_boot(host)
        self.start(name)

    async def until_ready(self, deadline_s: float) -> list[str]:
        """Waits until every node serves clients; those that do not, with their reason."""
        deadline = time.monotonic() + deadline_s
        waiting = dict.fromkeys(self.names, "no answer")
        while waiting and time.monotonic() < deadline:
            for name in list(waiting):
                reason = await self._reason(name)
                if reason:
                    waiting[name] = reason
                else:
                    del waiting[name]
            await asyncio.sleep(0.05)
        return [f"{name}: {reason}" for name, reason in waiting.items()]

    async def _reason(self, name: str) -> str:
        if self._session is None:
            self._session = self.session()
        timeout = aiohttp.ClientTimeout(total=2.0)
        try:
            async with self._session.get(self.endpoints[name] + "/readyz", timeout=timeout) as answer:
                text = await answer.text()
                return "" if answer.status == 200 else text[:300]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"{error}" or type(error).__name__

    def start_all(self) -> None:
        for name in self.names:
            self.start(name)
