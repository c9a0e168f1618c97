"""The cluster's network: a namespace and an address for each host, a bridge between them, and rules that break links.

Links are directed and cut at the receiver, so that any pattern can be made. The rules of a host are one text, made from
what is wrong with its links now, and replaced as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cluster.chaos.machine import CannotRun, run
from cluster.chaos.relay import DEVICE

PREFIX = "lc"
"""Of the names of everything made here; the process id follows, so that what a killed campaign left is known."""

RELAY_S = 5.0
"""What the relay gets to end by itself."""


@dataclass
class Links:
    """What is wrong with the links of one host. Each is counted, because faults overlap."""

    cut_from: Counter[str] = field(default_factory=Counter)
    """Addresses whose packets do not arrive."""
    loss_percent: int = 0
    duplicate_percent: int = 0


def ruleset(links: Links, peers: list[str]) -> str:
    """The text for `nft -f`: drops what is cut or lost, and sends some packets twice."""
    cut = sorted(address for address, count in links.cut_from.items() if count > 0)
    lines = ["table ip chaos", "delete table ip chaos", "table ip chaos {"]
    lines += ["chain arriving {", "type filter hook input priority 0; policy accept;"]
    lines += [f"ip saddr {address} drop" for address in cut]
    if links.loss_percent:
        among = f"ip saddr {{ {', '.join(peers)} }}"
        lines.append(f"{among} numgen random mod 100 < {links.loss_percent} drop")
    lines += ["}", "chain leaving {", "type filter hook output priority 0; policy accept;"]
    if links.duplicate_percent:
        for address in peers:
            chosen = f"ip daddr {address} numgen random mod 100 < {links.duplicate_percent}"
            lines.append(f"{chosen} dup to {address}")
    return "\n".join([*lines, "}", "}", ""])


class Network:
    """Hosts by node name. `enter` must come first; `leave` removes all of it, whatever state it is in."""

    def __init__(self, names: list[str]) -> None:
        chance = random.SystemRandom()
        self._tag = f"{PREFIX}{os.getpid():x}"
        self._subnet = f"10.{chance.randrange(64, 250)}.{chance.randrange(1, 250)}"
        self.names = names
        self.address = {name: f"{self._subnet}.{number}" for number, name in enumerate(names, 1)}
        self.links = {name: Links() for name in names}
        self._relay: subprocess.Popen[bytes] | None = None

    def namespace(self, name: str) -> str:
        return f"{self._tag}-{self.names.index(name) + 1}"

    def enter(self) -> None:
        bridge = f"{self._tag}-br"
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self._subnet}.254/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        for number, name in enumerate(self.names, 1):
            space, outside = self.namespace(name), f"{self._tag}-v{number}"
            run("ip", "netns", "add", space)
            run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", outside, "master", bridge, "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
            run("ip", "-n", space, "addr", "add", f"{self.address[name]}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            for what in ("all", "default", "eth0"):
                run("ip", "netns", "exec", space, "sh", "-c", f"echo 0 >/proc/sys/net/ipv4/conf/{what}/rp_filter")

    def leave(self) -> None:
        self.stop_relay()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", self.namespace(name)], capture_output=True, check=False)
        for number in range(1, len(self.names) + 1):
            subprocess.run(["ip", "link", "del", f"{self._tag}-v{number}"], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", f"{self._tag}-br"], capture_output=True, check=False)

    # -- cutting, losing, doubling ----------------------------------------------------------------------------------

    def cut(self, links: list[tuple[str, str]], by: int = 1) -> None:
        """Counts directed links (from, to) as cut, or with -1 as whole again; `apply` makes it so."""
        for sender, receiver in links:
            self.links[receiver].cut_from[self.address[sender]] += by

    async def apply(self, names: list[str] | None = None) -> None:
        for name in self.names if names is None else names:
            peers = [address for other, address in self.address.items() if other != name]
            await self._in(name, "nft", "-f", "-", text=ruleset(self.links[name], peers))

    async def _in(self, name: str, *command: str, text: str = "") -> None:
        process = await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", self.namespace(name), *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate(text.encode())
        if process.returncode:
            raise CannotRun(f"{' '.join(command)} in {name}: {errors.decode(errors='replace').strip()}")

    # -- delaying ---------------------------------------------------------------------------------------------------

    def start_relay(self) -> None:
        """Once, before anything is delayed."""
        pairs = [f"{self.namespace(name)}={self.address[name]}" for name in self.names]
        command = [sys.executable, "-m", "cluster.chaos.relay", *pairs]
        root = Path(__file__).parent.parent.parent
        self._relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
        assert self._relay.stdout is not None
        if self._relay.stdout.readline() != b"ready\n":
            raise CannotRun("the relay did not start")

    def stop_relay(self) -> None:
        if self._relay is not None:
            # Whatever becomes of it: the rest is still to be removed.
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._relay.communicate(timeout=RELAY_S)
            self._relay.kill()
            self._relay.wait()
            self._relay = None

    async def delay(self, name: str, low_ms: float, high_ms: float) -> None:
        """What `name` sends to the other hosts goes by the relay."""
        assert self._relay is not None and self._relay.stdin is not None
        self._relay.stdin.write(f"{low_ms} {high_ms}\n".encode())
        self._relay.stdin.flush()
        for other, address in self.address.items():
            if other != name:
                where = (f"{address}/32", "dev", DEVICE, "src", self.address[name])
                await self._in(name, "ip", "route", "replace", *where)

    async def no_delay(self, name: str) -> None:
        for other, address in self.address.items():
            if other != name:
                await self._in(name, "ip", "route", "del", f"{address}/32", "dev", DEVICE)


def sweep() -> None:
    """Removes what campaigns left that were killed before they could clean up."""
    spaces = Path("/run/netns")
    names = [entry.name for entry in spaces.iterdir()] if spaces.is_dir() else []
    for what, name in [("netns", name) for name in names] + [("link", name) for _, name in socket.if_nameindex()]:
        found = re.fullmatch(PREFIX + r"([0-9a-f]+)-(?:\d+|v\d+|br)", name)
        if found and not Path(f"/proc/{int(found[1], 16)}").exists():
            subprocess.run(["ip", what, "del", name], capture_output=True, check=False)
