"""The migration that runs meanwhile: a rule with a source tree that a program changes, completed at the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import aiohttp

from cluster import trees
from cluster.chaos.nodes import Nodes
from cluster.compare import differences
from cluster.drill_nodes import Document, Failed

RULE = "moved"
TARGETS = 2
WRITER_S = 20.0
TRIES = 4
ASK_AGAIN_S = 0.5
DIFFERENCES_MAX = 20


class Migration:
    """From the first zone to the next `TARGETS`. `start` begins the program too; `finish` ends it first."""

    def __init__(self, nodes: Nodes, seed: int, rate: float) -> None:
        self._nodes = nodes
        self._seed = seed
        self._rate = rate
        self._writer: subprocess.Popen[bytes] | None = None
        self._tree = nodes.source / "tree"
        self.changes = ""
        """What the program says it did."""
        self.last: Document = {}
        self.receipt: Document = {}

    @property
    def targets(self) -> dict[str, Path]:
        names = self._nodes.names[1 : 1 + TARGETS]
        return {name: self._nodes.hosts[name].disks["zone"].path / RULE for name in names}

    async def start(self) -> None:
        await asyncio.to_thread(trees.build, self._tree, "small", self._seed)
        outside = self._nodes.source / "outside"
        outside.mkdir()
        first = self._nodes.names[0]
        members = [{"zone": _zone(first), "local_path": str(self._tree), "observe_only": True}]
        members += [{"zone": _zone(name), "local_path": str(path)} for name, path in self.targets.items()]
        rule = {"name": RULE, "path": f"/{RULE}", "source": _zone(first), "members": members}
        await self._nodes.ask(first, "POST", "/v1/rules", rule | {"options": {"delete_extraneous": True}})
        self._start_writer(outside)
        await self._nodes.ask(first, "POST", f"/v1/rules/{RULE}/migrations", {"start": True})

    def _start_writer(self, outside: Path) -> None:
        command = [sys.executable, "-m", "cluster.writer", str(self._tree), str(outside)]
        self._writer = subprocess.Popen(
            [*command, "--seed", str(self._seed), "--rate", str(self._rate)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
            start_new_session=True,
        )
        assert self._writer.stdout is not None
        if self._writer.stdout.readline() != b"ready\n":
            raise Failed("the program that changes the source did not start")

    async def stop_writing(self) -> None:
        """The source holds still from now on."""
        if self._writer is not None and not self.changes:
            self._writer.terminate()
            said, _ = await asyncio.to_thread(self._writer.communicate, None, WRITER_S)
            self.changes = said.decode().partition(":")[0].strip()

    def end(self) -> None:
        if self._writer is not None and self._writer.poll() is None:
            self._writer.kill()
            self._writer.wait()

    async def finish(self, deadline_s: float) -> list[str]:
        """Completes the migration; what keeps it from being complete, with a receipt, in time."""
        deadline = time.monotonic() + deadline_s
        tries = 0
        asked = False
        while time.monotonic() < deadline:
            try:
                self.last = await self._nodes.ask(self._nodes.names[0], "GET", f"/v1/migrations/{RULE}")
                match self.last["state"]:
                    case "completed":
                        return await self._receipt()
                    case "failed" if tries < TRIES:
                        tries, asked = tries + 1, False
                        await self._nodes.ask(self._nodes.names[0], "POST", f"/v1/migrations/{RULE}/start")
                    case "failed":
                        return [f"it failed {TRIES} times with a source that holds still: {self._why()}"]
                    case "live" if not asked:
                        await self._nodes.ask(self._nodes.names[0], "POST", f"/v1/migrations/{RULE}/complete")
                        asked = True
            except (aiohttp.ClientError, OSError, TimeoutError, Failed):
                asked = False
            await asyncio.sleep(ASK_AGAIN_S)
        return [f"not completed {deadline_s:g} s after the last change and the last fault: {self.last}"]

    async def _receipt(self) -> list[str]:
        found = await self._nodes.ask(self._nodes.names[0], "GET", f"/v1/receipts?rule={RULE}")
        if not found["receipts"]:
            return ["it is completed and has no receipt"]
        self.receipt = found["receipts"][0]
        return [] if self.receipt["holds"] else [f"its receipt does not hold: {self.receipt}"]

    def _why(self) -> str:
        """What a failed migration says of itself, in short."""
        found = self.last.get("findings", {}).items()
        places = [f"zone {zone}: {finding.get('differences', finding)}" for zone, finding in found]
        return f"{self.last.get('detail')}; {'; '.join(place for place in places if not place.endswith('[]'))}"

    def differences(self) -> list[str]:
        """The source against each target, by a judge that has nothing of lddp."""
        found = []
        for name, path in self.targets.items():
            lines = differences(self._tree, path)
            found += [f"{name}: {line}" for line in lines[:DIFFERENCES_MAX]]
            if len(lines) > DIFFERENCES_MAX:
                found.append(f"{name}: and {len(lines) - DIFFERENCES_MAX} more")
        return found


def _zone(name: str) -> str:
    return name.replace("node-", "zone-")
