"""Real nodes in this process with a rule mounted, and programs that work in the mount.

Nothing of this process may touch the mount while it waits for the answer: it is the one who answers. So programs are
processes of their own, which change into the mount themselves. Each has a deadline; past it, and at the end of every
test, the kernel is told to give up the connection, so that nothing hangs.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lddp.admin.backend import MemberRequest, RuleRequest
from lddp.config import MountConfig, NodeConfig, WriteMode
from lddp.doors.fuse import mounting
from lddp.errors import LddpError
from tests.node.trio import SOURCE, TARGET, Trio

PATIENCE_S = 240.0
RULE = "data"
SNAPSHOT = Path(__file__).with_name("snapshot.py")


def why_not() -> str:
    """Why nothing can be mounted here; empty when it can. Tried, because containers may forbid it to root as well."""
    if os.geteuid() != 0:
        return "only root mounts without a helper"
    with tempfile.TemporaryDirectory() as point:
        try:
            descriptor = mounting.mount(os.fsencode(point), b"lddp:probe")
        except LddpError as error:
            return str(error)
        os.close(descriptor)
        mounting.unmount(os.fsencode(point), lazily=True)
    return ""


WHY_NOT = why_not()
can_mount = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def abort(point: Path) -> None:
    """Ends every mount at a place, whatever state it is in."""
    for one in mounting.ours(os.fsencode(point)):
        control = Path("/sys/fs/fuse/connections", one.device.partition(":")[2], "abort")
        if control.exists():
            control.write_text("1")
        mounting.unmount(os.fsencode(point), lazily=True)


class Programs:
    """Runs programs in a directory."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self._running: list[asyncio.subprocess.Process] = []

    async def start(self, *command: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-ec", 'cd "$0"; exec "$@"', str(self.point), *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._running.append(process)
        return process

    async def result(self, process: asyncio.subprocess.Process) -> tuple[int, str, str]:
        """(exit code, output, errors)."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                out, err = await process.communicate()
        except TimeoutError:
            await asyncio.to_thread(abort, self.point)
            process.kill()
            raise
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def run(self, *command: str) -> str:
        code, out, err = await self.result(await self.start(*command))
        assert code == 0, f"{command} ended with {code}: {out}{err}"
        return out

    async def sh(self, script: str) -> str:
        return await self.run("bash", "-euo", "pipefail", "-c", script)

    async def python(self, script: str) -> str:
        return await self.run(sys.executable, "-c", script)

    async def snapshot(self, directory: Path | None = None) -> dict[str, Any]:
        """Everything of a tree that zones have in common, by path."""
        found = await self.run(sys.executable, str(SNAPSHOT), str(directory or self.point))
        result: dict[str, Any] = json.loads(found)
        return result

    async def end(self) -> None:
        for process in self._running:
            if process.returncode is None:
                process.kill()
                await process.wait()


class MountedTrio(Trio):
    """Three nodes; the rule has trees at two of them and is mounted at the first."""

    def __init__(
        self,
        directory: Path,
        configured: bool = False,
        mode: WriteMode = WriteMode.SYNC,
        *,
        passthrough: bool = False,
    ) -> None:
        super().__init__(directory)
        self.point = directory / "mnt"
        self.point.mkdir()
        self._configured = configured
        self.mode = mode
        self.passthrough = passthrough
        self.programs = Programs(self.point)

    def config(self, name: str) -> NodeConfig:
        config = super().config(name)
        if name != SOURCE or not self._configured:
            return config
        from dataclasses import replace

        wanted = MountConfig(rule=RULE, write_mode=self.mode, passthrough=self.passthrough)
        return replace(config, mounts={self.point: wanted})

    @property
    def zones(self) -> list[Path]:
        return [self.source, self.target]

    async def make_rule(self) -> None:
        await self.until(lambda: not self.nodes[SOURCE].backend.readiness())
        members = [MemberRequest(SOURCE, bytes(self.source), False), MemberRequest(TARGET, bytes(self.target), False)]
        request = RuleRequest(RULE, b"/data", "", tuple(members), {})
        backend = self.nodes[SOURCE].backend
        _, outcome = await backend.create_rule(request, backend.next_id(), PATIENCE_S)
        assert not outcome.errno

    async def mount(self, soft_s: float | None = None) -> None:
        backend = self.nodes[SOURCE].backend
        await backend.mount(RULE, bytes(self.point), soft_s, self.mode, passthrough=self.passthrough)

    async def unmount(self, *, lazily: bool = False) -> None:
        await self.nodes[SOURCE].backend.unmount(bytes(self.point), lazily=lazily)

    async def settled(self) -> None:
        """Both zones show all that is in the log, which has all that the mount has promised."""
        if self.mode is WriteMode.PIPELINED and self.is_mounted():
            await self.programs.run("sync", ".")
        gsn = self.nodes[SOURCE].gateway.latest_gsn
        for name in (SOURCE, TARGET):
            await self.nodes[name].backend.wait(gsn, PATIENCE_S)
        await self.until(lambda: not any(self._touched(name) for name in (SOURCE, TARGET)))

    def _touched(self, name: str) -> bool:
        """Whether times of directories are still to be put right."""
        return any(carrier.touched for carrier in self.nodes[name].trees.carriers.values())

    async def assert_equal(self) -> dict[str, Any]:
        """The mount and both zones hold the same."""
        mounted = await self.programs.snapshot()
        await self.settled()
        for zone in self.zones:
            found = await self.programs.snapshot(zone)
            differing = {
                path: (mounted.get(path), found.get(path))
                for path in mounted.keys() | found.keys()
                if mounted.get(path) != found.get(path)
            }
            assert not differing, (zone, differing)
        return mounted

    def is_mounted(self) -> bool:
        return bool(mounting.ours(bytes(self.point)))


@asynccontextmanager
async def trio(
    directory: Path,
    *,
    mounted: bool = True,
    configured: bool = False,
    mode: WriteMode = WriteMode.SYNC,
    passthrough: bool = False,
) -> AsyncIterator[MountedTrio]:
    nodes = MountedTrio(directory, configured, mode, passthrough=passthrough)
    try:
        await nodes.start()
        if mounted:
            await nodes.make_rule()
            await nodes.mount()
        yield nodes
    finally:
        await asyncio.to_thread(abort, nodes.point)
        await nodes.programs.end()
        await nodes.close()


def needs(*tools: str) -> pytest.MarkDecorator:
    missing: Sequence[str] = [tool for tool in tools if subprocess.run(["which", tool], capture_output=True).returncode]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")
