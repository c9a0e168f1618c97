"""What nodes tell each other beside the log: how far they are. Lost messages do no harm; the next one says more."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from lddp.config import NodeConfig
from lddp.consensus.member import RaftMember
from lddp.core.namespace import NUMBER
from lddp.core.tables import Table, Tables
from lddp.gateway import Gateway
from lddp.node.fields import number, several
from lddp.node.neighbours import Neighbours
from lddp.replay.projector import Projector

EVERY_S = 1.0
WITHOUT_LEADER_S = 0.05
COMPACT_ENTRIES_MIN = 10_000
COMPACT_ENTRIES_MAX = 20_000
"""Entries that are dropped at once: more come to be dropped when a node that was away for long is back, and dropping
them takes the loop's time, and a transaction for each thousand."""


class Gossip:
    """Tells peers this node's progress and keeps what they tell. `local` is what it tells those on the same host."""

    def __init__(
        self,
        gateway: Gateway,
        member: RaftMember,
        projector: Projector | None,
        config: NodeConfig,
        local: Callable[[], dict[str, Any]],
    ) -> None:
        self._gateway = gateway
        self._member = member
        self._projector = projector
        self._config = config
        self._local = local
        self.projected: dict[str, int] = {}
        """Projected GSN of the other nodes, as they last told."""
        self.durable: dict[str, int] = {}
        """The same, as far as it would survive a power cut there."""
        self.neighbours = Neighbours()
        self._applied_by: dict[str, int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.tell()
            self.neighbours.keep(self._member.connected_peers)
            self._compact()
            await asyncio.sleep(EVERY_S if self._member.leader is not None else WITHOUT_LEADER_S)

    def tell(self) -> None:
        """At once: something has changed that others should know soon."""
        projected = self._gateway.gsn if self._projector is None else self._projector.projected
        durable = 0 if self._projector is None else self._projector.durable
        for peer, about in self._config.peers.items():
            local = about.address.path and self._config.peer.path
            message = {
                "type": "progress",
                "gsn": projected,
                "durable": durable,
                "applied": self._member.applied_index,
            }
            if local:
                message |= self._local()
            self._member.send(peer, message)

    def hear(self, peer: str, message: dict[str, Any]) -> None:
        """FormatError, with nothing of it taken, where it is no such message."""
        projected, durable = number(message, "gsn"), number(message, "durable", 0)
        applied = number(message, "applied")
        processes, scratch = several(message, "processes", int), several(message, "scratch", bytes)
        self.projected[peer], self.durable[peer], self._applied_by[peer] = projected, durable, applied
        if self._projector is not None and self._projector.retained is not None:
            self._projector.retained.release_due()
        self.neighbours.hear(peer, processes, scratch)

    def _compact(self) -> None:
        """Drops log entries that every node has folded, but for those kept for history."""
        if set(self._applied_by) != set(self._config.peers):
            return
        common = min([self._member.applied_index, *self._applied_by.values()])
        through = common - self._config.limits.log_entries_kept
        if through < self._member.first_index + COMPACT_ENTRIES_MIN:
            return
        through = min(through, self._member.first_index + COMPACT_ENTRIES_MAX - 1)
        self._member.compact(through)

        def forget(tables: Tables) -> None:
            for key, value in list(itertools.islice(tables.scan(Table.ENTRY_GSNS), COMPACT_ENTRIES_MAX)):
                if NUMBER.unpack(value)[0] > through:
                    break
                tables.delete(Table.ENTRY_GSNS, key)

        self._member.transact(forget)
