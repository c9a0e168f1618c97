"""Bytes that a client sends through this node, on their way to the rule's zones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lddp.core.records import Content
from lddp.core.rules import Rule
from lddp.errors import UnavailableError

if TYPE_CHECKING:
    from lddp.node.runtime import Node

QUORUM_ZONES_MIN = 3


class Upload:
    """Implements `lddp.admin.backend.ContentWriter` for one content of a rule.

    With three or more zones the bytes are on a majority of them, synced, before `commit` returns (durability quorum);
    with fewer they are synced here (durability origin) and the others fetch them.
    """

    def __init__(self, node: Node, rule: Rule) -> None:
        self._node = node
        self._rule = rule
        self._writer = node.store.writer()
        self._content: Content | None = None

    async def write(self, data: bytes) -> None:
        await self._node.store.disk.run(self._writer.write, data)

    async def commit(self) -> Content:
        content: Content = await self._node.store.disk.run(self._writer.commit, True)
        self._content = content
        if content.inline is None and content.size:
            await self._spread(content)
        return content

    async def _spread(self, content: Content) -> None:
        peers = self._node.peers_of(self._rule)
        zones = len(self._rule.members)
        enough = zones // 2 if zones >= QUORUM_ZONES_MIN else 0
        held = self._node.store.held_as(content)
        assert isinstance(held, int), "a large content that was just committed is a file"
        try:
            pushed = await self._node.pusher.push_file(held, content.size, bool(enough), peers, enough=enough)
        finally:
            os.close(held)
        if len(pushed.peers) < enough:
            raise UnavailableError(f"{len(pushed.peers)} other zones took the bytes, {enough} are needed: try again")

    async def abort(self) -> None:
        if self._content is None:
            await self._node.store.disk.run(self._writer.abort)
        elif self._content.inline is None:
            self._node.store.release(self._content)
