"""The limit of a rule is a limit of all its nodes, from the record that says so on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.zones import PATIENCE_S, RULE, Zones, zones


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Zones]:
    async with zones(tmp_path, 2) as world:
        yield world


async def test_a_rules_bandwidth_is_that_of_its_nodes_while_they_run(world: Zones) -> None:
    await world.make_rule("wide", b"/wide")
    backend = world.backend("zone-1")

    async def rates(rule: str, options: dict[str, Any]) -> set[int | None]:
        gsn, outcome = await backend.change_rule(rule, options, backend.next_id(), PATIENCE_S)
        assert outcome.errno == 0, outcome
        await world.shown(gsn)
        return {node.limiter.rate for node in world.nodes.values()}

    assert {node.limiter.rate for node in world.nodes.values()} == {None}
    assert await rates(RULE, {"bandwidth": 1000}) == {1000}
    assert await rates("wide", {"bandwidth": 2000}) == {1000}, "the narrowest holds"
    assert await rates(RULE, {}) == {2000}
    await world.stop("zone-2")
    await world.start("zone-2")
    assert world.nodes["zone-2"].limiter.rate == 2000, "also after a start"
    assert await rates("wide", {}) == {None}
