"""A node that was cut off for longer than outcomes are remembered, and comes back with what had waited there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lddp.admin.wire import content_of
from lddp.client import Client, Settings
from lddp.consensus import transport
from lddp.content.connections import Connections
from lddp.core import records as r
from lddp.core import sessions
from lddp.errors import OutcomeUnknownError, UnavailableError
from tests.node.trio import PATIENCE_S
from tests.node.zones import TOKEN, Zones, zones

WINDOW_RECORDS = 2048
FILE = "/data/f"
AWAY, HERE = "zone-2", "zone-1"


class Cut:
    """`AWAY` hears nobody and is heard by nobody, while it is on."""

    def __init__(self, group: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = False
        self._group = group
        connect, fetch = transport.connect, Connections._open

        async def linked(*arguments: Any, me: str, expected_peer: str, **more: Any) -> Any:
            if self.is_on and AWAY in (me, expected_peer):
                raise UnavailableError("cut")
            return await connect(*arguments, me=me, expected_peer=expected_peer, **more)

        async def fetched(*arguments: Any) -> Any:
            if self.is_on:
                raise UnavailableError("cut")
            return await fetch(*arguments)

        monkeypatch.setattr(transport, "connect", linked)
        monkeypatch.setattr(Connections, "_open", fetched)

    def on(self) -> None:
        self.is_on = True
        for connection in list(self._group.nodes[AWAY].member._links._connections.values()):
            connection.writer.transport.abort()

    async def off(self) -> None:
        """Until it is back, and everything that it brings is shown everywhere."""
        self.is_on = False
        away = self._group.nodes[AWAY].member
        await self._group.until(lambda: away.leader is not None and not away.pending_records)
        backend = self._group.backend(AWAY)
        for _ in range(2):  # what it gives the leader stands before this
            await self._group.shown((await backend.submit(r.Barrier(backend.next_id(), 1, "data"), PATIENCE_S))[0])


@pytest.fixture
async def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Zones]:
    monkeypatch.setattr(sessions, "SESSION_WINDOW_RECORDS", WINDOW_RECORDS)
    async with zones(tmp_path, 2, witness=True) as started:
        yield started


def client_of(group: Zones, name: str) -> Client:
    return Client(Settings(endpoints=(group.url(name),), token=TOKEN))


async def others_work(group: Zones) -> None:
    """More of it than is remembered."""
    backend = group.backend(HERE)
    for _ in range(2):
        barriers = [r.Barrier(backend.next_id(), 1, "data") for _ in range(WINDOW_RECORDS)]
        await backend.submit_many(barriers, PATIENCE_S)


def append(group: Zones) -> r.Append:
    return r.Append(group.backend(AWAY).next_id(), 1, 1, FILE.encode(), content_of(b"b"))


async def test_what_was_asked_for_elsewhere_meanwhile_is_not_done_twice(
    group: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = Cut(group, monkeypatch)
    async with client_of(group, HERE) as client:
        await client.write(FILE, b"a")
        cut.on()
        away = group.nodes[AWAY].member
        await group.until(lambda: away.leader is None and group.nodes[HERE].member.leader is not None)
        record = append(group)
        with pytest.raises(OutcomeUnknownError):
            await group.backend(AWAY).submit(record, 0.1)
        await group.backend(HERE).submit(record, PATIENCE_S)
        await others_work(group)
        await cut.off()
        assert await client.read(FILE) == b"ab"


async def test_what_its_node_waits_for_still_is_not_done_twice(group: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was ordered, and the node has not heard of it."""
    cut = Cut(group, monkeypatch)
    away = group.nodes[AWAY].member
    async with client_of(group, HERE) as client:
        await client.write(FILE, b"a")
        if away.leader == AWAY:
            away.hand_over(HERE)
        await group.until(lambda: away.leader in (HERE, "witness"))
        send = away._links.send

        def sent(peer: str, message: Any) -> None:
            send(peer, message)
            if type(message).__name__ == "Forward":
                monkeypatch.setattr(away._links, "send", send)
                asyncio.get_running_loop().call_later(0.0, cut.on)

        monkeypatch.setattr(away._links, "send", sent)
        waiting = asyncio.create_task(group.backend(AWAY).submit(append(group), PATIENCE_S))
        here = group.backend(HERE)
        await group.until(lambda: cut.is_on)
        await here.barrier(PATIENCE_S)
        was_ordered = await client.read(FILE) == b"ab"
        await others_work(group)
        assert not (was_ordered and waiting.done())
        await cut.off()
        _, outcome = await waiting
        assert outcome.errno == 0
        assert await client.read(FILE) == b"ab"
