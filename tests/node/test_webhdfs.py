"""WebHDFS at real nodes: what is done through the door of one zone is in the files of the other."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from lddp.admin.backend import MemberRequest, RuleRequest
from lddp.node.runtime import Node
from tests.node.trees import describe
from tests.node.trio import PATIENCE_S, SOURCE, TARGET, WITNESS, Trio

TOKEN = "a-token-of-some-length"
LARGE = os.urandom(3_000_000)


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Trio]:
    """Two zones that both may change a rule's files, and a witness."""
    trio = Trio(tmp_path)
    await trio.start()
    await trio.until(lambda: all(node.member.leader is not None for node in trio.nodes.values()))
    members = (MemberRequest(SOURCE, bytes(trio.source), False), MemberRequest(TARGET, bytes(trio.target), False))
    backend = trio.nodes[SOURCE].backend
    request = RuleRequest("data", b"/data", "", members, {})
    gsn, outcome = await backend.create_rule(request, backend.next_id(), PATIENCE_S)
    assert outcome.errno == 0
    await trio.nodes[TARGET].backend.wait(gsn, PATIENCE_S)
    yield trio
    await trio.close()


class Door:
    def __init__(self, session: aiohttp.ClientSession, node: Node) -> None:
        self._session = session
        self._base = f"{node.url}/webhdfs/v1"

    async def __call__(self, method: str, target: str, data: bytes | None = None) -> tuple[int, bytes]:
        """The answer, but for `RetriableException`: what was between two leaders did surely not happen."""
        url = URL(self._base + target, encoded=True)
        async with asyncio.timeout(PATIENCE_S):
            return await self._ask(method, url, data)

    async def _ask(self, method: str, url: URL, data: bytes | None) -> tuple[int, bytes]:
        while True:
            async with self._session.request(method, url, data=data and io.BytesIO(data)) as response:
                body = await response.read()
            if b"RetriableException" not in body:
                return response.status, body


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield session


async def settled(trio: Trio) -> None:
    """Both zones' files show everything."""
    gsn = max(trio.nodes[name].gateway.gsn for name in (SOURCE, TARGET))
    for name in (SOURCE, TARGET):
        await trio.nodes[name].backend.wait(gsn, PATIENCE_S)


def stored(trio: Trio, name: str) -> list[str]:
    """What the content store of a node has on its disk, contents and what becomes one."""
    top = trio.config(name).staging_directory / "content"
    return [str(path) for below in ("blobs", "incoming", "parts", "packs") for path in (top / below).iterdir()]


async def emptied(trio: Trio, name: str) -> None:
    """Nothing is stored, once both zones have all of it durably and have said so: here at once, not at their time."""
    async with asyncio.timeout(PATIENCE_S):
        while stored(trio, name):
            for node in (trio.nodes[SOURCE], trio.nodes[TARGET]):
                assert node.projector is not None
                await node.projector.checkpoint()
                node.gossip.tell()
            await asyncio.sleep(0.01)


async def test_both_zones_have_what_was_done_through_either(trio: Trio, session: aiohttp.ClientSession) -> None:
    one, other = Door(session, trio.nodes[SOURCE]), Door(session, trio.nodes[TARGET])
    for door, method, target, data in (
        (one, "PUT", "/data/a/b/large?op=CREATE&data=true&permission=640", LARGE),
        (one, "PUT", "/data/a/small?op=CREATE", b"small"),
        (one, "POST", "/data/a/b/large?op=APPEND&data=true", LARGE[:100_000]),
        (one, "POST", "/data/a/small?op=APPEND", b" and more"),
        (one, "PUT", "/data/part?op=CREATE", LARGE[:50_000]),
        (one, "POST", "/data/a/small?op=CONCAT&sources=/data/part", None),
        (one, "PUT", "/data/a/small?op=SETXATTR&xattr.name=user.a&xattr.value=0x00ff", None),
        (one, "PUT", "/data/a/small?op=SETTIMES&modificationtime=1234567890123", None),
        (one, "PUT", "/data/link?op=CREATESYMLINK&destination=a/small", None),
        (one, "PUT", "/data/gone/1/2?op=MKDIRS", None),
        (one, "PUT", "/data/gone/1/x?op=CREATE", b"x"),
        (one, "DELETE", "/data/gone?op=DELETE&recursive=true", None),
        (other, "PUT", "/data/a/b?op=RENAME&destination=/data/moved", None),
        (other, "POST", "/data/moved/large?op=TRUNCATE&newlength=3050000", None),
        (other, "PUT", "/data/moved?op=SETPERMISSION&permission=1700", None),
    ):
        if door is other:
            await settled(trio)
        status, body = await door(method, target, data)
        assert status in (200, 201), (target, body)
    await settled(trio)
    assert (trio.target / "moved" / "large").read_bytes() == LARGE + LARGE[:50_000]
    assert (trio.target / "a" / "small").read_bytes() == b"small and more" + LARGE[:50_000]
    assert not (trio.target / "gone").exists()
    assert not (trio.target / "part").exists()
    assert describe(trio.target) == describe(trio.source)
    for door in (one, other):
        assert await door("GET", "/data/moved/large?op=OPEN&offset=3000000") == (200, LARGE[:50_000])
    checksums = [await door("GET", "/data/moved/large?op=GETFILECHECKSUM") for door in (one, other)]
    assert checksums[0] == checksums[1]
    assert b"MD5-of-0MD5-of-512CRC32C" in checksums[0][1]


async def test_half_an_upload_is_nowhere(trio: Trio, session: aiohttp.ClientSession) -> None:
    node = trio.nodes[SOURCE]
    host, port = node.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"PUT /webhdfs/v1/data/d/half?op=CREATE&data=true HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer a-token-of-some-length\r\nContent-Length: 1000000000000\r\n\r\n"
    )
    before = node.gateway.gsn
    while not stored(trio, SOURCE):  # the store writes once it has enough
        writer.write(LARGE)
        await writer.drain()
    writer.close()
    await writer.wait_closed()
    await trio.until(lambda: not stored(trio, SOURCE))
    assert node.gateway.gsn == before
    assert list(trio.source.iterdir()) == []
    door = Door(session, node)
    assert (await door("GET", "/data/d?op=GETFILESTATUS"))[0] == 404


async def test_of_two_creators_at_two_nodes_one_wins(trio: Trio, session: aiohttp.ClientSession) -> None:
    doors = [Door(session, trio.nodes[name]) for name in (SOURCE, TARGET)]
    for attempt in range(5):
        target = f"/data/{attempt}?op=CREATE&data=true"
        bodies = [bytes([65 + number]) * 20_000 for number in range(2)]
        answers = await asyncio.gather(*(door("PUT", target, body) for door, body in zip(doors, bodies, strict=True)))
        assert sorted(status for status, _ in answers) == [201, 403]
        won = next(number for number, (status, _) in enumerate(answers) if status == 201)
        await settled(trio)
        for top in (trio.source, trio.target):
            assert (top / str(attempt)).read_bytes() == bodies[won]


async def test_what_the_refused_creator_brought_is_gone(trio: Trio, session: aiohttp.ClientSession) -> None:
    """Also where both bring the same bytes: the one that wins needs them."""
    door = Door(session, trio.nodes[SOURCE])
    for attempt, bodies in enumerate(([b"A" * 20_000, b"B" * 20_000], [b"C" * 20_000] * 2)):
        target = f"/data/{attempt}?op=CREATE&data=true"
        answers = await asyncio.gather(*(door("PUT", target, body) for body in bodies))
        assert sorted(status for status, _ in answers) == [201, 403]
        won = next(number for number, (status, _) in enumerate(answers) if status == 201)
        await settled(trio)
        for top in (trio.source, trio.target):
            assert (top / str(attempt)).read_bytes() == bodies[won]
        if not attempt:
            await emptied(trio, SOURCE)


async def test_a_witness_sends_clients_away(trio: Trio, session: aiohttp.ClientSession) -> None:
    status, body = await Door(session, trio.nodes[WITNESS])("GET", "/data?op=LISTSTATUS")
    assert status == 403
    assert b"StandbyException" in body


def test_a_node_starts_without_loading_the_door() -> None:
    loaded = "any(name.startswith('lddp.doors.webhdfs') for name in sys.modules)"
    script = f"import sys, lddp.node.runtime; sys.exit({loaded})"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
