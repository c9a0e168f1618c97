"""Real nodes in this process, over unix sockets: as many zones as wanted, a rule that all of them write, and a witness
where that is wanted. Their HTTP is on loopback, at ports that the kernel chooses."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from lddp.admin.backend import MemberRequest, RuleRequest
from lddp.config import Address, HttpAddress, NodeConfig, PeerConfig, RaftConfig, Role, TlsConfig, ZoneConfig
from lddp.node.backend import NodeBackend
from lddp.node.runtime import Node
from tests.node.trio import PATIENCE_S, until

TOKEN = "a-token-of-some-length"
WITNESS = "witness"
RULE, ROOT = "data", b"/data"


class Zones:
    """`zone-1` to `zone-N`, each named as its node is."""

    def __init__(self, directory: Path, zones: int = 3, witness: bool = False) -> None:
        self.directory = directory
        self.zones = {f"zone-{number + 1}": number for number in range(zones)}
        self.names = [*self.zones, *([WITNESS] if witness else [])]
        self.nodes: dict[str, Node] = {}
        self.token_file = directory / "token"
        self.token_file.write_text(TOKEN + "\n")
        self._sockets = Path(tempfile.mkdtemp(prefix="lddp-"))
        self._held = {name: _held_port() for name in self.names}
        self.ports = {name: held.getsockname()[1] for name, held in self._held.items()}

    def root(self, name: str) -> Path:
        """Where the rule's files are in a zone."""
        return self.directory / f"files-{name}"

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def urls(self) -> list[str]:
        return [self.url(name) for name in self.names]

    def _config(self, name: str) -> NodeConfig:
        unused = self.directory / "unused"
        peers = {
            other: PeerConfig(
                address=Address(path=str(self._sockets / other)),
                role=Role.WITNESS if other == WITNESS else Role.VOTER,
                zone=other if other in self.zones else "",
                zone_number=self.zones.get(other, -1),
                http=self.url(other),
            )
            for other in self.names
            if other != name
        }
        return NodeConfig(
            name=name,
            ecosystem="test",
            role=Role.WITNESS if name == WITNESS else Role.VOTER,
            peer=Address(path=str(self._sockets / name)),
            http=HttpAddress("http", "127.0.0.1", self.ports[name]),
            data_directory=self.directory / name / "data",
            staging_directory=self.directory / name / "staging",
            token_file=self.token_file,
            tls=TlsConfig(authority=unused, certificate=unused, key=unused),
            zone=ZoneConfig(name=name, number=self.zones[name]) if name in self.zones else None,
            peers=peers,
            raft=RaftConfig(heartbeat_s=0.05, election_timeout_s_min=0.3, election_timeout_s_max=0.6),
        )

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, *names: str) -> None:
        for name in names or self.names:
            self.nodes[name] = Node(self._config(name))
            await self.nodes[name].start()

    async def stop(self, *names: str) -> None:
        for name in names or tuple(self.nodes):
            await self.nodes.pop(name).stop()

    async def close(self) -> None:
        await self.stop()
        for held in self._held.values():
            held.close()
        shutil.rmtree(self._sockets)

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(self.nodes, condition)

    async def make_rule(self, name: str = RULE, path: bytes = ROOT, *zones: str) -> None:
        """A rule of these zones, or of all, known to every node."""
        await self.until(lambda: all(node.member.leader is not None for node in self.nodes.values()))
        backend = self.backend(next(iter(self.zones)))
        members = [
            MemberRequest(zone, bytes(self.directory / f"{'files' if name == RULE else name}-{zone}"), False)
            for zone in zones or self.zones
        ]
        request = RuleRequest(name, path, "", tuple(members), {})
        gsn, outcome = await backend.create_rule(request, backend.next_id(), PATIENCE_S)
        assert outcome.errno == 0, outcome
        await self.shown(gsn)

    async def shown(self, gsn: int) -> None:
        """Every node shows `gsn`."""
        for node in self.nodes.values():
            await node.backend.wait(gsn, PATIENCE_S)

    def backend(self, name: str) -> NodeBackend:
        return self.nodes[name].backend

    def blobs(self, name: str) -> list[str]:
        """What a node's content store has on disk."""
        content = self.directory / name / "staging" / "content"
        return sorted(path.name for part in ("blobs", "incoming", "parts") for path in (content / part).iterdir())


@contextlib.asynccontextmanager
async def zones(directory: Path, count: int = 3, witness: bool = False) -> AsyncIterator[Zones]:
    """Started, with the rule."""
    found = Zones(directory, count, witness)
    try:
        await found.start()
        await found.make_rule()
        yield found
    finally:
        await found.close()


def _held_port() -> socket.socket:
    """A port that nobody else is given: bound and not listening, beside the node's socket (both SO_REUSEADDR)."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held
