"""The trees of a simulated node: fake zones in the place of directories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lddp.core.rules import Rule
from lddp.migrate.options import MigrationOptions
from lddp.node.trees import Trees
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from tests.sim.files import ZoneAccess

if TYPE_CHECKING:
    from tests.sim.node import Node


class SimulatedTrees(Trees):
    """Opens fake zones in the place of directories."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.environment, node.machine.zone, Path(node.machine.directory))
        self._node = node

    def _open(self, rule: Rule, _local_path: bytes, observe_only: bool) -> None:
        node = self._node
        world, number = node.world, rule.number
        zone = ZoneAccess(
            node.machine.zone_files(number),
            node.process,
            world.descriptors,
            observe_only=observe_only,
            before_look=lambda: world.interfere(node.machine.zone, number),
            before_change=node.machine.refuse_change,
            before_sync=node.machine.refuse_sync,
            taken=node.machine.taken.setdefault(number, {}),
        )
        self.zones[number] = zone  # type: ignore[assignment]
        if not observe_only:
            options = MigrationOptions.from_bytes(rule.options)
            is_shared = rule.source == node.machine.zone
            carrier = Carrier(zone, OnExisting(options.on_existing), is_shared=is_shared)  # type: ignore[arg-type]
            self.carriers[number] = carrier
