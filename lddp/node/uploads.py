"""Bytes that a client sends through this node, on their way to the rule's zones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lddp.content.disk import STEP_BYTES
from lddp.content.frames import UPLOAD_BYTES
from lddp.core.limits import INLINE_BYTES_MAX
from lddp.core.records import Content
from lddp.core.rules import Rule
from lddp.errors import UnavailableError
from lddp.ports import KeyValue
from lddp.replay import outbox

if TYPE_CHECKING:
    from lddp.node.runtime import Node

QUORUM_ZONES_MIN = 3


class Upload:
    """Implements `lddp.access.ContentWriter` for one content of a rule.

    With three or more zones the bytes are on a majority of them, synced, before `commit` returns (durability quorum);
    with fewer they are synced here (durability origin) and the others fetch them. The store knows which uploads of the
    same bytes are undecided (`lddp.content.claims`).
    """

    def __init__(self, node: Node, rule: Rule) -> None:
        self._node = node
        self._rule = rule
        self._writer = node.store.writer(self)
        self._content: Content | None = None
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._writing: asyncio.Task[None] | None = None
        self._name = os.urandom(UPLOAD_BYTES)
        self._told: Sequence[str] = ()
        """Peers that have been sent the bytes, or a part of them."""

    async def write(self, data: bytes) -> None:
        """While one step goes to the disk, the next one comes in."""
        self._pieces.append(data)
        self._waiting += len(data)
        if self._waiting >= STEP_BYTES:
            await self._idle()
            self._writing = asyncio.create_task(self._node.store.disk.run(self._write, self._taken()))

    def _taken(self) -> list[bytes]:
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        return pieces

    def _write(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._writer.write(piece)

    async def _idle(self) -> None:
        """Until nothing is on its way to the disk. Raises what went wrong there."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    async def seal(self) -> Content:
        await self._idle()
        if self._writer.size + self._waiting <= INLINE_BYTES_MAX:
            return self._commit(self._taken())  # goes with its record, and never touches the disk
        return await self._node.store.disk.run(self._commit, self._taken())

    async def commit(self) -> Content:
        content = await self.seal() if self._content is None else self._content
        if content.inline is None and content.size:
            await self._spread(content)
        return content

    def _commit(self, pieces: list[bytes]) -> Content:
        """In a thread: known to `abort` also where nobody waits for the end any more."""
        self._write(pieces)
        self._content = content = self._writer.commit(True)
        return content

    async def _spread(self, content: Content) -> None:
        peers = self._node.peers_of(self._rule)
        zones = len(self._rule.members)
        enough = zones // 2 if zones >= QUORUM_ZONES_MIN else 0
        if not peers and not enough:
            return
        held = self._node.store.held_as(content, share=False)
        if not isinstance(held, int):
            raise UnavailableError("the bytes that were just stored are gone: send them again")
        self._told = peers
        try:
            pushed = await self._node.pusher.push_file(
                held, content.size, bool(enough), peers, enough=enough, upload=self._name
            )
        finally:
            os.close(held)
        if len(pushed.peers) < enough:
            raise UnavailableError(f"{len(pushed.peers)} other zones took the bytes, {enough} are needed: try again")

    async def abort(self) -> None:
        if self._writing is not None:
            await asyncio.wait((self._writing,))
            self._writing.exception()  # whoever wrote was told, or nobody waits any more
        if self._content is None:
            await self._node.store.disk.run(self._writer.abort)
        elif self._content.inline is None and self._content.size:
            needed = await asyncio.get_running_loop().run_in_executor(
                self._node.threads, is_needed, self._node.environment, self._content.digest
            )
            await self._node.store.disk.run(self._node.store.take_back, self._content, self, is_needed=needed)
            told, self._told = self._told, ()
            self._node.pusher.forget(self._content.digest, self._name, told)

    def used(self) -> None:
        if self._content is not None:
            self._node.store.confirm(self._content, self)


def is_needed(environment: KeyValue, digest: bytes) -> bool:
    """Whether effects still to be carried out make files of the same bytes. Blocking."""
    with environment.read() as tables:
        return outbox.names(tables, digest)
