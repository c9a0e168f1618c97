"""Where an upload's bytes have to be before its record may be ordered: between real stores, over real unix sockets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lddp.core.records import Content, ZoneMember
from lddp.core.rules import NO_SOURCE, Rule
from lddp.errors import CorruptError, UnavailableError
from lddp.node.runtime import Node as WholeNode
from lddp.node.uploads import GROW_FROM_BYTES, Upload
from tests.content.world import Node, World, content_of, read, until
from tests.fakes.memory import MemoryKeyValue

DATA = os.urandom(200_000)
ZONES = {0: "a", 1: "b", 2: "c"}
"""Others are configured and never there."""


def rule(*zones: int) -> Rule:
    members = tuple(ZoneMember(number, str(number), b"/files") for number in zones)
    return Rule(1, "data", b"/data", NO_SOURCE, members, b"", 1, 1)


class Zones:
    """Uploads come by node `a`, whose zone is 0."""

    def __init__(self, world: World, threads: ThreadPoolExecutor) -> None:
        self.world = world
        self.a, self.b, self.c = (world.nodes[name] for name in "abc")
        self.node: Any = SimpleNamespace(
            store=self.a.store,
            environment=MemoryKeyValue(),
            threads=threads,
            pusher=self.a.pusher,
            gateway=SimpleNamespace(zone=0),
            peers_of=lambda rule: [ZONES.get(member.zone, "down") for member in rule.members if member.zone],
        )

    def come_back(self) -> None:
        """Nobody is away any more, nor left alone because he was."""
        self.world.refusing.clear()
        self.world.clock.now += 60

    def spoil(self, content: Content) -> Path:
        """The disk of `a` gives other bytes from now on."""
        path = self.a.directory / "store" / "blobs" / content.digest.hex()
        with path.open("r+b") as file:
            file.write(b"rotten")
        return path


@pytest.fixture
async def zones(tmp_path: Path) -> AsyncIterator[Zones]:
    world = World(tmp_path)
    for name in "abc":
        await world.node(name)
    with ThreadPoolExecutor(1) as threads:
        yield Zones(world, threads)
        await world.close()


@pytest.mark.parametrize("data", [DATA, os.urandom(GROW_FROM_BYTES * 2)], ids=["small", "large"])
async def test_bytes_that_came_by_a_node_without_the_rule_can_be_had(zones: Zones, data: bytes) -> None:
    """Both zones of the rule are away for a moment when the upload ends. Each asks nobody but the other one."""
    two = rule(1, 2)
    zones.world.refusing |= {"b", "c"}
    upload = Upload(zones.node, two)
    for at in range(0, len(data), 1 << 20):
        await upload.write(data[at : at + (1 << 20)])
    with pytest.raises(UnavailableError):
        await upload.commit()
    zones.come_back()
    zones.world.refusing.add("c")
    content = await upload.commit()
    zones.come_back()
    as_node: Any = SimpleNamespace(trees=SimpleNamespace(rules={1: two}), nodes_by_zone={1: "b", 2: "c"})
    await zones.c.store.fetch(content, 1, [name for name in WholeNode._holders(as_node, 1) if name != "c"])
    assert read(zones.c.store, content) == data


async def test_a_node_without_the_rule_is_none_of_a_majority(zones: Zones) -> None:
    """One of the three zones is down, and then another one too."""
    zones.world.refusing.add("c")
    upload = Upload(zones.node, rule(1, 2, 3))
    await upload.write(DATA)
    with pytest.raises(UnavailableError):
        await upload.commit()
    zones.come_back()
    content = await upload.commit()
    assert zones.b.store.open(content) is not None and zones.c.store.open(content) is not None


@pytest.mark.parametrize(("members", "reached"), [((0, 1), ""), ((0, 1, 2), "b"), ((0, 1, 2, 3, 4), "bc")])
async def test_a_member_is_one_of_those_who_have_it(zones: Zones, members: tuple[int, ...], reached: str) -> None:
    zones.world.refusing |= {"b", "c"} - set(reached)
    upload = Upload(zones.node, rule(*members))
    await upload.write(DATA)
    content = await upload.commit()
    assert all(zones.world.nodes[name].store.open(content) is not None for name in reached)


async def tried_once(zones: Zones) -> Upload:
    """An upload of five zones that `b` took alone, of those who are needed."""
    upload = Upload(zones.node, rule(0, 1, 2, 3, 4))
    await upload.write(DATA)
    zones.world.refusing.add("c")
    with pytest.raises(UnavailableError):
        await upload.commit()
    assert zones.b.names("blobs") and not zones.c.names("blobs")
    zones.come_back()
    return upload


def let_go(node: Node, content: Content) -> None:
    """The record of another client that names the same bytes is folded, carried out, and durable everywhere."""
    node.store.named(content)
    node.store.keep(content)
    node.store.unkeep(content)
    node.store.release(content)


async def test_a_peer_that_has_let_it_go_since_an_earlier_try_takes_it_again(zones: Zones) -> None:
    upload, content = await tried_once(zones), content_of(DATA)
    let_go(zones.b, content)
    assert not zones.b.names("blobs")
    assert await upload.commit() == content
    assert all(node.store.open(content) is not None for node in (zones.a, zones.b, zones.c))


async def test_a_peer_that_took_it_at_an_earlier_try_and_is_away_does_not_count(zones: Zones) -> None:
    """Nobody knows whether he has let it go. Once he can be asked, he counts, with those who took it meanwhile."""
    upload = await tried_once(zones)
    zones.world.refusing.add("b")
    await zones.a.connections.close()  # `b` is not to be had by a connection of before
    with pytest.raises(UnavailableError):
        await upload.commit()
    assert zones.c.names("blobs")
    zones.come_back()
    content = await upload.commit()
    assert all(node.store.open(content) is not None for node in (zones.a, zones.b, zones.c))


async def test_a_peer_that_took_it_is_sent_it_again_only_where_that_may_be_enough(zones: Zones) -> None:
    upload = await tried_once(zones)
    sent = zones.a.traffic["b"].pushed
    zones.world.refusing.add("c")
    with pytest.raises(UnavailableError):
        await upload.commit()
    assert zones.a.traffic["b"].pushed == sent == len(DATA)


async def test_bytes_that_this_disk_has_spoilt_are_nowhere(zones: Zones) -> None:
    """Peers would have them by another digest, and be taken for those who have the content."""
    upload = Upload(zones.node, rule(0, 1, 2))
    await upload.write(DATA)
    content = await upload.seal()
    zones.spoil(content)
    with pytest.raises(CorruptError, match="send the bytes again"):
        await upload.commit()
    await upload.abort()
    await until(lambda: not any(node.names("blobs") for node in zones.world.nodes.values()))
    again = Upload(zones.node, rule(0, 1, 2))
    await again.write(DATA)
    assert await again.commit() == content
    assert read(zones.a.store, content) == DATA


async def test_what_is_spoilt_does_not_take_along_what_came_in_its_place(zones: Zones) -> None:
    """Another client sends the same bytes while the spoilt ones are on their way."""
    upload = Upload(zones.node, rule(0, 1, 2))
    await upload.write(DATA)
    content = await upload.seal()
    path = zones.spoil(content)
    push_file = zones.a.pusher.push_file

    async def pushed(*arguments: Any, **more: Any) -> Any:
        done = await push_file(*arguments, **more)
        path.unlink()
        path.write_bytes(DATA)
        return done

    zones.a.pusher.push_file = pushed  # type: ignore[method-assign]
    with pytest.raises(CorruptError):
        await upload.commit()
    assert read(zones.a.store, content) == DATA
