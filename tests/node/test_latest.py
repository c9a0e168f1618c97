"""What has been folded and is not written yet: shown by every door at once, and never taken back by a start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lddp.config import WriteMode
from lddp.consensus.fold import Fold
from lddp.errors import UnavailableError
from lddp.gateway import NOT_SETTLED
from lddp.node import mounts
from lddp.node.runtime import Node
from tests.node.test_reading import HERE, Client
from tests.node.zones import RULE, Zones, zones

NEVER_S = 3600.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Zones]:
    """One zone, whose node writes what it has folded for who waits for that alone."""
    async with zones(tmp_path, 1) as world:
        yield world


def fold_of(world: Zones) -> Fold:
    return world.nodes[HERE].member._replica.fold


def write_for_nobody(world: Zones) -> None:
    fold_of(world)._quiet_s = fold_of(world)._delay_s = NEVER_S


async def test_it_is_shown_at_once_and_read_when_the_zone_has_it(world: Zones) -> None:
    client = Client(world)
    write_for_nobody(world)
    version = await client.do("put", b"/data/f", b"bytes", visible=False)
    gateway = client.node.gateway
    assert gateway.gsn < version == gateway.latest_gsn == client.backend.applied()
    entry = client.backend.entry(b"/data/f")
    assert entry is not None and entry.version == version
    assert [name for name, _ in client.backend.listing(b"/data", b"", 10)] == [b"f"]
    assert await client.read(b"/data/f") == (version, b"bytes")
    assert gateway.gsn == version, "who reads the zone's file waits until it is written"


async def test_a_start_shows_it_or_nothing(world: Zones) -> None:
    client = Client(world)
    write_for_nobody(world)
    version = await client.do("put", b"/data/f", b"bytes", visible=False)
    fold_of(world).close()  # as where the node is killed: what was not written is forgotten
    await world.stop(HERE)
    node = world.nodes[HERE] = Node(world._config(HERE))
    backend = node.backend
    assert not node.member.is_settled and node.gateway.latest_gsn < version
    for look in (lambda: backend.entry(b"/data/f"), lambda: backend.listing(b"/data", b"", 10)):
        with pytest.raises(UnavailableError, match="agreed on before its start"):
            look()
    with pytest.raises(UnavailableError, match="agreed on before its start"):
        await backend.open_file(b"/data/f")
    assert backend.readiness() in (NOT_SETTLED, "no leader is known")
    await node.start()
    await node.gateway.settled()
    assert await Client(world).read(b"/data/f") == (version, b"bytes")


async def test_a_mount_waits_for_a_node_that_may_have_shown_more(
    world: Zones, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mounts, "SETTLE_S", 0.01)
    world.nodes[HERE].gateway._settled.clear()
    journal = world.nodes[HERE].member._replica.journal
    journal.inherited = journal.last + 1
    with pytest.raises(UnavailableError, match="agreed on before its start"):
        await world.backend(HERE).mount(RULE, bytes(tmp_path), None, WriteMode.SYNC)


async def test_a_node_that_stops_writes_it(world: Zones) -> None:
    client = Client(world)
    write_for_nobody(world)
    version = await client.do("put", b"/data/f", b"bytes", visible=False)
    await world.stop(HERE)
    await world.start(HERE)
    node = world.nodes[HERE]
    assert node.member.is_settled and node.gateway.gsn == version
    assert world.backend(HERE).entry(b"/data/f") is not None
