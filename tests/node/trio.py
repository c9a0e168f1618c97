"""Three nodes in this process, as `lddp migrate` starts them: a source, a target and a witness, over unix sockets."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lddp.admin.backend import MemberRequest, RuleRequest
from lddp.config import Address, HttpAddress, NodeConfig, PeerConfig, RaftConfig, Role, TlsConfig, ZoneConfig
from lddp.core.records import MigrationAction
from lddp.node.migration import MigrationDriver
from lddp.node.runtime import Node

SOURCE, TARGET, WITNESS = "source", "target", "witness"
ZONES = {SOURCE: 0, TARGET: 1}
RULE = "data"
PATIENCE_S = 240.0


async def until(nodes: Mapping[str, Node], condition: Callable[[], bool]) -> None:
    """A failed node ends the wait."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            for node in nodes.values():
                if node.member.failed.done():
                    node.member.failed.result()
            await asyncio.sleep(0.01)


class Trio:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = directory / "from"
        self.target = directory / "to"
        self.source.mkdir()
        (directory / "token").write_text("a-token-of-some-length\n")
        self._sockets = Path(tempfile.mkdtemp(prefix="lddp-"))
        self.nodes: dict[str, Node] = {}

    def config(self, name: str) -> NodeConfig:
        unused = self.directory / "unused"
        peers = {
            other: PeerConfig(
                address=Address(path=str(self._sockets / other)),
                role=Role.WITNESS if other == WITNESS else Role.VOTER,
                zone=other if other in ZONES else "",
                zone_number=ZONES.get(other, -1),
            )
            for other in (SOURCE, TARGET, WITNESS)
            if other != name
        }
        return NodeConfig(
            name=name,
            ecosystem="test",
            role=Role.WITNESS if name == WITNESS else Role.VOTER,
            peer=Address(path=str(self._sockets / name)),
            http=HttpAddress("http", "127.0.0.1", 0),
            data_directory=self.directory / name / "data",
            staging_directory=self.directory / name / "staging",
            token_file=self.directory / "token",
            tls=TlsConfig(authority=unused, certificate=unused, key=unused),
            zone=ZoneConfig(name=name, number=ZONES[name]) if name in ZONES else None,
            peers=peers,
            raft=RaftConfig(heartbeat_s=0.05, election_timeout_s_min=0.3, election_timeout_s_max=0.6),
        )

    async def start(self, *names: str) -> None:
        for name in names or (SOURCE, TARGET, WITNESS):
            self.nodes[name] = Node(self.config(name))
            await self.nodes[name].start()

    async def stop(self, *names: str) -> None:
        for name in names or tuple(self.nodes):
            await self.nodes.pop(name).stop()

    async def close(self) -> None:
        await self.stop()
        shutil.rmtree(self._sockets)

    # -- what the nodes say -----------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(self.nodes, condition)

    def migration(self) -> dict[str, Any]:
        found = self.nodes[SOURCE].backend.migration(RULE)
        assert found is not None
        return found

    @property
    def driver(self) -> MigrationDriver:
        (driver,) = self.nodes[SOURCE].drivers.values()
        return driver

    def content_bytes(self) -> int:
        observer = self.driver.observer
        assert observer is not None
        return observer.pace.total

    async def state(self, *states: str) -> dict[str, Any]:
        await self.until(lambda: self.migration()["state"] in states)
        return self.migration()

    async def caught_up(self) -> None:
        """Everything done to the source before this call is in the log and in the target."""
        await self.until(lambda: self.driver.observer is not None)
        observer = self.driver.observer
        assert observer is not None
        async with asyncio.timeout(PATIENCE_S):
            await observer.drained()
        gsn = self.nodes[SOURCE].gateway.gsn
        target = self.nodes[TARGET]
        assert target.projector is not None
        await target.gateway.wait(gsn, PATIENCE_S)
        await target.projector.wait_through(gsn, PATIENCE_S)

    # -- what operators do ------------------------------------------------------------------------------------------

    async def migrate(self, *, observe_only: bool = True, **options: object) -> None:
        """Makes rule and migration, and starts it."""
        backend = self.nodes[SOURCE].backend
        members = (
            MemberRequest(SOURCE, bytes(self.source), observe_only),
            MemberRequest(TARGET, bytes(self.target), False),
        )
        await self.until(lambda: self.nodes[SOURCE].member.leader is not None)
        request = RuleRequest(RULE, b"/data", SOURCE, members, options)
        _, outcome = await backend.create_rule(request, backend.next_id(), PATIENCE_S)
        assert outcome.errno == 0
        await self.change(MigrationAction.CREATE)
        await self.change(MigrationAction.START)

    async def change(self, action: MigrationAction) -> None:
        backend = self.nodes[SOURCE].backend
        _, outcome = await backend.change_migration(RULE, action, backend.next_id(), PATIENCE_S)
        assert outcome.errno == 0, action

    async def outside(self, script: str) -> None:
        """A shell in the source: another process, because a node does not watch what it does itself."""
        process = await asyncio.create_subprocess_exec("/bin/sh", "-ec", script, cwd=self.source)
        assert await process.wait() == 0
