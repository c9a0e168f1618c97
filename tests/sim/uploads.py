"""Uploads of the simulated world."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from lddp.core.records import Content
from lddp.core.rules import Rule
from lddp.errors import UnavailableError
from lddp.node.uploads import QUORUM_ZONES_MIN, is_needed

if TYPE_CHECKING:
    from tests.sim.node import Node


class Upload:
    """The bytes of one content at a node, and on their way to the rule's other zones, as `lddp.node.uploads` has them.
    Nothing is swept: what is undecided for ever stays."""

    def __init__(self, node: Node, rule: Rule, data: bytes) -> None:
        self._node = node
        self._rule = rule
        self._data = data
        self._name = b"%016d" % next(node.world.uploads)
        self._told: set[str] = set()
        self.content: Content = node.store.add(data, self)

    async def spread(self, random: Random) -> None:
        """With three or more zones a majority has the bytes first."""
        node, zones = self._node, len(self._rule.members)
        enough = zones // 2 if zones >= QUORUM_ZONES_MIN else 0
        peers = node.peers_of(self._rule)
        random.shuffle(peers)
        if random.random() < 0.5:
            del peers[enough:]  # the others were slow, and pull it
        self._told |= set(peers)
        taken = await node.pusher.push_blob(self.content, self._data, peers, enough=enough, upload=self._name)
        if len(taken) < enough:
            raise UnavailableError(f"{len(taken)} other zones took the bytes, {enough} are needed")

    async def abort(self) -> None:
        node, digest = self._node, self.content.digest
        looks = partial(is_needed, node.environment, digest)
        needed = await asyncio.get_running_loop().run_in_executor(node.looking, looks)
        node.store.take_back(self.content, self, is_needed=needed)
        told, self._told = self._told, set()
        node.pusher.forget(digest, self._name, sorted(told))

    def used(self) -> None:
        self._node.store.confirm(self.content, self)


async def abort_all(uploads: Sequence[Upload]) -> None:
    for upload in uploads:
        await upload.abort()


def use_all(uploads: Sequence[Upload]) -> None:
    for upload in uploads:
        upload.used()
