"""A node of production code that is alone in its ecosystem, in this process: what is killed and started again.

Only what surrounds it is not real: no peers, and the bytes that another node would have come from a function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from lddp.config import Address, HttpAddress, NodeConfig
from lddp.config.values import RaftConfig, TlsConfig, ZoneConfig
from lddp.core.records import Content, Outcome, Record
from lddp.node import process
from lddp.node.process import warm_up
from lddp.node.runtime import Node
from tests.crash.process import Gate

HERE, ELSEWHERE = 2, 1
"""The node's zone, and one that no node has."""
PATIENCE_S = 240.0
ECOSYSTEM, NAME = "crash", "alone"


def config(directory: Path) -> NodeConfig:
    """Everything of the node is below `directory`; its zone is `directory`/zone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = directory / "token"
    token.write_text("sixteen-characters\n")
    token.chmod(0o600)
    return NodeConfig(
        name=NAME,
        ecosystem=ECOSYSTEM,
        peer=Address(path=str(directory / "peer")),
        http=HttpAddress("http", "127.0.0.1", 0),
        data_directory=directory / "data",
        staging_directory=directory / "staging",
        token_file=token,
        tls=TlsConfig(authority=token, certificate=token, key=token),
        zone=ZoneConfig(name="here", number=HERE, root=directory),
        # Without peers an entry is committed by the next sign of life.
        raft=RaftConfig(heartbeat_s=0.002),
    )


def prepare() -> None:
    """What can be done once, before processes are forked."""
    warm_up()


class Lone:
    """The node, started. `elsewhere` has bytes by their digest, as a source's node would."""

    def __init__(self, node: Node, elsewhere: dict[bytes, bytes]) -> None:
        self.node = node
        self.directory = node.config.data_directory.parent
        self.elsewhere = elsewhere
        node.store.use(self._fetch)

    async def _fetch(self, content: Content, _inode: int, _holders: Sequence[str]) -> None:
        if self.node.store.open(content) is None:
            arrival = self.node.store.arrival()
            arrival.write([self.elsewhere[content.digest]])
            self.node.store.publish(arrival, content.digest, sealed=content.sealed)

    async def settle(self) -> None:
        """Everything in the log is in the zone, durably, with directory times."""
        projector = self.node.projector
        assert projector is not None
        await self.node.gateway.barrier(PATIENCE_S)
        await projector.wait_through(self.node.gateway.gsn, PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            await projector.checkpoint()

    async def make_durable(self) -> None:
        """What has been acknowledged is in the zone; a checkpoint says so in the database."""
        assert self.node.projector is not None
        async with asyncio.timeout(PATIENCE_S):
            await self.node.projector.checkpoint()

    async def submit_done(self, records: Sequence[Record]) -> None:
        """Records that must be done, in one batch."""
        for record, (_, outcome) in zip(records, await self.submit(records), strict=True):
            assert outcome.errno == 0, (record, outcome)

    async def submit(self, records: Sequence[Record]) -> list[tuple[int, Outcome]]:
        """As a client does: acknowledged when it is visible in this zone. Whole contents that are not in a record are
        uploaded before."""
        for record in records:
            content: Content | None = getattr(record, "content", None)
            if content is not None and content.pack:
                await self.node.store.add_pack(content.pack, self.elsewhere[content.pack])
            elif content is not None and content.inline is None:
                await self._upload(getattr(record, "path", b""), content)
        return await self.node.backend.submit_many(records, PATIENCE_S)

    async def _upload(self, path: bytes, content: Content) -> None:
        writer = self.node.backend.content_writer(path, content.size)
        await writer.write(self.elsewhere[content.digest])
        committed = await writer.commit()
        assert committed.digest == content.digest

    def log(self) -> list[bytes]:
        """The records of the whole log, in order."""
        member = self.node.member
        return [data for at in range(member.first_index, member.applied_index + 1) for data in member.records_at(at)]


def live(
    gate: Gate,
    directory: Path,
    body: Callable[[Lone], Awaitable[None]],
    elsewhere: dict[bytes, bytes],
    *,
    workers: bool = False,
) -> None:
    """Starts a node in this process, as `lddp node` does, and runs `body` beside it; then the process ends."""

    async def serve(settings: NodeConfig, helpers: Any) -> NoReturn:
        try:
            lone = Lone(Node(settings, helpers), elsewhere)
            await lone.node.start()
            work = asyncio.ensure_future(body(lone))
            await asyncio.wait([work, lone.node.member.failed], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                lone.node.member.failed.result()
            work.result()
        except BaseException:  # noqa: BLE001 - told to the parent
            gate.fail()
        gate.end()

    with patch.object(process, "serve", serve):
        process.run(config(directory), writes=workers)
