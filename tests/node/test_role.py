"""A node keeps its role, as long as it keeps its directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lddp.config import Role, ZoneConfig
from lddp.errors import UsageError
from lddp.node.runtime import Node
from tests.node.zones import WITNESS, zones


async def test_a_witness_that_becomes_a_voter_does_not_go_on_with_a_namespace_it_has_not_folded(tmp_path: Path) -> None:
    async with zones(tmp_path, 2, witness=True) as world:
        await world.stop(WITNESS)
        config = world._config(WITNESS)
        with pytest.raises(UsageError, match="belongs to a witness, and 'witness' is a voter now"):
            Node(dataclasses.replace(config, role=Role.VOTER, zone=ZoneConfig(name="new", number=2)))
        await world.start(WITNESS)
