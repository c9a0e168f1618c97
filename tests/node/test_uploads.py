"""Uploads that no record names, at the node that took them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3

from lddp.content.push import Pushed
from lddp.content.store import Store
from lddp.core import effects as e
from lddp.core.records import Attributes, Content, ZoneMember
from lddp.core.rules import NO_SOURCE, Rule
from lddp.errors import UnavailableError
from lddp.node.uploads import Upload
from lddp.replay import outbox
from tests.fakes.memory import MemoryKeyValue

LARGE = os.urandom(200_000)


class Pusher:
    """Other zones that take what they are given, or nothing."""

    def __init__(self) -> None:
        self.peers: tuple[str, ...] = ()
        self.forgotten: list[tuple[bytes, tuple[str, ...]]] = []

    async def push_file(self, descriptor: int, size: int, *_: Any, **__: Any) -> Pushed:
        return Pushed(blake3(os.pread(descriptor, size, 0)).digest(), size, set(self.peers))

    def forget(self, digest: bytes, upload: bytes, peers: Sequence[str]) -> None:
        self.forgotten.append((digest, tuple(peers)))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Any]:
    """What an upload needs of a node."""
    with ThreadPoolExecutor(1) as threads:
        store = Store(tmp_path)
        yield SimpleNamespace(
            store=store,
            environment=MemoryKeyValue(),
            threads=threads,
            pusher=Pusher(),
            gateway=SimpleNamespace(zone=0),
            peers_of=lambda rule: ["zone-1"],
        )
        store.close()


def rule(zones: int) -> Rule:
    members = tuple(ZoneMember(number, f"zone-{number}", b"/files") for number in range(zones))
    return Rule(1, "data", b"/data", NO_SOURCE, members, b"", 1, 1)


async def upload(node: Any, zones: int = 2) -> tuple[Upload, Content]:
    writer = Upload(node, rule(zones))
    await writer.write(LARGE)
    return writer, await writer.commit()


async def test_what_no_record_names_goes(node: Any) -> None:
    writer, content = await upload(node)
    await writer.abort()
    assert node.store.open(content) is None
    await writer.abort()
    assert node.pusher.forgotten == [(content.digest, ("zone-1",)), (content.digest, ())], "the others are told once"


async def test_what_too_few_zones_took_goes(node: Any) -> None:
    writer = Upload(node, rule(3))
    await writer.write(LARGE)
    with pytest.raises(UnavailableError):
        await writer.commit()
    assert node.store.usage().blobs == 1
    await writer.abort()
    assert node.store.usage().blobs == node.store.undecided() == 0


async def test_what_a_record_names_stays(node: Any) -> None:
    writer, content = await upload(node)
    other, _ = await upload(node)
    writer.used()
    await other.abort()
    assert node.store.open(content) is not None
    assert not node.store.undecided()


async def test_bytes_that_an_effect_waits_for_stay(node: Any) -> None:
    """They may be nowhere else by now."""
    writer, content = await upload(node)
    effect = e.PutFileEffect(7 << 16, b"f", Attributes(0o644, 0, 0, 0), content, False)
    with node.environment.write() as tables:
        outbox.append(tables, 7, 1, [e.ScopedEffect(1, e.Scope(), effect)])
    await writer.abort()
    assert node.store.open(content) is not None


async def test_bytes_that_another_node_has_pushed_here_stay(node: Any) -> None:
    """It counts this node among those who have them, and its record is still to come."""
    writer, content = await upload(node)
    arrival = node.store.arrival()
    arrival.write([LARGE])
    node.store.publish(arrival, arrival.seal())
    await writer.abort()
    assert node.store.open(content) is not None


async def test_an_upload_given_up_while_it_is_stored_goes(node: Any) -> None:
    writer = Upload(node, rule(2))
    await writer.write(LARGE)
    storing = asyncio.ensure_future(writer.commit())
    await asyncio.sleep(0)  # a thread has it
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    await writer.abort()
    assert node.store.usage().blobs == node.store.undecided() == 0


async def test_what_is_sealed_is_here_and_spreads_by_commit(node: Any) -> None:
    writer = Upload(node, rule(3))
    await writer.write(LARGE)
    content = await writer.seal()
    assert node.store.open(content) is not None
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await writer.commit()
    node.pusher.peers = ("zone-1",)
    assert await writer.commit() == content
