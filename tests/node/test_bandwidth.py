"""The limit of a rule is a limit of all its nodes, from the record that says so on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.trio import SOURCE, Trio
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may open files by their handles")
async def test_a_large_file_on_its_way_is_seen_and_goes_on_at_another_pace(tmp_path: Path) -> None:
    trio = Trio(tmp_path)
    (trio.source / "large").write_bytes(os.urandom(6 << 20))
    await trio.start()
    try:
        await trio.migrate(bandwidth=1 << 20)
        fields = ("bytes_under_way", "bytes_per_second", "eta_seconds")
        await trio.until(lambda: all(trio.migration().get(field) for field in fields))
        observer = trio.driver.observer
        assert trio.migration()["bytes_migrated"] == 0
        backend = trio.nodes[SOURCE].backend
        _, outcome = await backend.change_rule(RULE, {"bandwidth": 64 << 20}, backend.next_id(), PATIENCE_S)
        assert outcome.errno == 0
        await trio.state("live")
        await trio.caught_up()
        assert trio.driver.observer is observer, "nothing was begun anew"
        shown = trio.migration()
        assert (shown["bytes_migrated"], shown["bytes_under_way"], shown["eta_seconds"]) == (6 << 20, 0, 0)
        assert observer is not None and observer.pace.total == 6 << 20, "nothing was sent twice"
        _, outcome = await backend.change_rule(RULE, {"exclude": ["x"]}, backend.next_id(), PATIENCE_S)
        assert outcome.errno == 0
        await trio.until(lambda: trio.driver.observer not in (observer, None))
    finally:
        await trio.close()
