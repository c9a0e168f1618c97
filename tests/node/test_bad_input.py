"""What a real node answers to those who mean ill, err, or go away half-way; and what is left of it."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from lddp.cli.client import Client
from lddp.client import Client as Files
from lddp.client import Options, Settings
from lddp.core.limits import FILE_BYTES_MAX
from lddp.core.records import MakeDirectory, Record
from lddp.node.backend import NodeBackend
from lddp.node.uploads import Upload
from tests.node.zones import PATIENCE_S, TOKEN, WITNESS, Zones, zones

HERE, THERE = "zone-1", "zone-2"
LARGE = os.urandom(200_000)
"""More than travels in a record."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Zones]:
    async with zones(tmp_path, 2, witness=True) as world:
        yield world


@pytest.fixture
async def http(world: Zones) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {TOKEN}"}, requote_redirect_url=False
    ) as session:
        yield session


def at(world: Zones, target: str, name: str = HERE) -> URL:
    return URL(world.url(name) + target, encoded=True)


async def status(response: aiohttp.ClientResponse) -> tuple[int, str]:
    """(HTTP status, the problem's errno)."""
    document = await response.json(content_type=None)
    return response.status, str(document.get("errno"))


def files(world: Zones) -> set[str]:
    """All that was made in or beside any zone's files by somebody other than the nodes."""
    nodes = {*world.names, "token", *(world.root(name).name for name in world.zones)}
    inside = {path.name for name in world.zones for path in world.root(name).rglob("*")}
    return inside | ({path.name for path in world.directory.iterdir()} - nodes)


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/data/../escaped",
        "/data/%2e%2e/escaped",
        "/data/%2E%2E%2Fescaped",
        "/data/..%2fescaped",
        "/data%2f..%2f..%2fescaped",
        "/data/.%2e/escaped",
        "/data/./escaped",
        "/data//escaped",
        "/data/%2fescaped",
        "/data/esc%00aped",
        "/data/escaped%00",
        "/%2e%2e/escaped",
        "/..",
        "/data/%",
        "/data/%2",
    ],
)
async def test_a_path_that_leads_out_is_refused_in_every_encoding(
    world: Zones, http: aiohttp.ClientSession, path: str
) -> None:
    before = files(world)
    for method, target in (
        ("PUT", path),
        ("POST", f"{path}?op=mkdir"),
        ("POST", f"/data/x?op=rename&to={path}"),
        ("POST", f"/data/x?op=link&to={path}"),
        ("GET", path),
        ("DELETE", path),
    ):
        async with http.request(method, at(world, "/v1/files" + target), data=b"") as response:
            # What the query cannot mean is decoded once: `%` alone stays what it is there.
            assert response.status in (400, 404), (method, target)
    assert files(world) == before


@pytest.mark.parametrize("name", ["%252e%252e", "..%5c..%5cescaped", "%c0%ae%c0%ae", "...", "%ef%bc%8e%ef%bc%8e"])
async def test_a_name_that_only_looks_like_one_is_a_name(world: Zones, http: aiohttp.ClientSession, name: str) -> None:
    async with http.put(at(world, f"/v1/files/data/{name}"), data=b"x") as response:
        assert response.status == 200
    (made,) = os.listdir(bytes(world.root(HERE)))
    assert (world.root(HERE) / os.fsdecode(made)).read_bytes() == b"x"
    assert files(world) == {os.fsdecode(made)}


async def test_names_and_paths_that_are_too_long(world: Zones, http: aiohttp.ClientSession) -> None:
    async with http.put(at(world, "/v1/files/data/" + "n" * 255), data=b"") as response:
        assert response.status == 200
    for target in ("/v1/files/data/" + "n" * 256, "/v1/files/data/" + "%ff" * 256):
        for method in ("PUT", "DELETE", "GET"):
            async with http.request(method, at(world, target), data=b"") as response:
                assert await status(response) == (400, "ENAMETOOLONG"), (method, target)
    async with http.post(at(world, "/v1/files/data/nn?op=rename&to=/data/" + "n" * 256)) as response:
        assert (await status(response))[0] in (400, 404)
    operation = {"op": "mkdir", "path": "/data" + "/d" * 40_000}
    async with http.post(at(world, "/v1/operations"), json=[operation]) as response:
        assert (await status(response))[0] == 400


async def test_offsets_and_sizes_beyond_the_limits(world: Zones, http: aiohttp.ClientSession) -> None:
    async with http.put(at(world, "/v1/files/data/f"), data=b"0123456789") as response:
        assert response.status == 200
    for query in (
        f"op=write&offset={FILE_BYTES_MAX}",
        f"op=write&offset={FILE_BYTES_MAX + 1}",
        "op=write&offset=-1",
        "op=write&offset=1e9",
        f"op=truncate&size={2**64}",
        "op=truncate&size=-1",
    ):
        async with http.post(at(world, f"/v1/files/data/f?{query}"), data=b"x") as response:
            assert (await status(response))[0] == 400, query
    for header, expected in ((f"bytes={2**70}-", 416), ("bytes=10-", 416), (f"bytes=5-{2**70}", 206)):
        async with http.get(at(world, "/v1/files/data/f"), headers={"Range": header}) as response:
            assert response.status == expected, header
    async with http.get(at(world, "/v1/files/data/f")) as response:
        assert await response.read() == b"0123456789"


# -- who asks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["", "Bearer wrong-token-of-some-length", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer"]
)
async def test_a_wrong_token_changes_and_shows_nothing(world: Zones, given: str) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": given} if given else {}) as http:
        for method, target in (
            ("PUT", "/v1/files/data/f"),
            ("DELETE", "/v1/files/data"),
            ("GET", "/v1/files/"),
            ("GET", "/v1/rules"),
            ("POST", "/v1/operations"),
            ("GET", "/v1/log"),
        ):
            async with http.request(method, at(world, target), data=LARGE if method == "PUT" else None) as response:
                assert await status(response) == (401, "EACCES"), (method, target)
    assert files(world) == set()
    assert world.blobs(HERE) == []


@pytest.mark.parametrize(
    "options",
    [
        {"bandwidth": 1 << 70},
        {"exclude": ["\ud800"]},
        {"exclude_regex": ["(" * 3000]},
        {"exclude_regex": ["a{99999999999999999}"]},
    ],
)
async def test_options_that_cannot_be_used(
    world: Zones, http: aiohttp.ClientSession, options: dict[str, object]
) -> None:
    member = {"zone": HERE, "local_path": str(world.root(HERE) / "more")}
    rule = {"name": "more", "path": "/more", "members": [member], "options": options}
    for method, target, body in (
        ("POST", "/v1/rules", rule),
        ("PUT", "/v1/rules/data", {"options": options}),
        ("PATCH", "/v1/rules/data", {"options": options}),
    ):
        async with http.request(method, at(world, target), json=body) as response:
            assert await status(response) == (400, "EINVAL"), (method, target)
    assert [rule["name"] for rule in world.nodes[HERE].backend.rules()] == ["data"]


async def test_a_witness_sends_readers_to_those_who_know(world: Zones, http: aiohttp.ClientSession) -> None:
    async with http.put(at(world, "/v1/files/data/f"), data=b"x") as response:
        assert response.status == 200
    for method, target in (
        ("GET", "/v1/files/data/f"),
        ("GET", "/v1/files/data/f?op=stat"),
        ("GET", "/v1/files/"),
        ("GET", "/v1/files/data"),
        ("PUT", "/v1/files/data/f"),
        ("DELETE", "/v1/files/data/f"),
        ("POST", "/v1/files/data/d?op=mkdir"),
        ("GET", "/v1/rules"),
        ("GET", "/v1/rules/data"),
        ("GET", "/v1/migrations"),
        ("GET", "/v1/receipts"),
    ):
        headers = {"If-Match": '"1"'} if method in ("PUT", "DELETE") else {}
        async with http.request(method, at(world, target, WITNESS), headers=headers) as response:
            document = await response.json(content_type=None)
            assert (response.status, document["type"]) == (503, "urn:lddp:problem:elsewhere"), (method, target)
            assert document["nodes"] == [
                {"name": name, "zone": name, "http": world.url(name)} for name in (HERE, THERE)
            ]
    async with http.head(at(world, "/v1/files/data/f", WITNESS)) as response:
        assert response.status == 503


async def test_a_client_that_asks_a_witness_first_is_answered(world: Zones, http: aiohttp.ClientSession) -> None:
    async with http.put(at(world, "/v1/files/data/f"), data=b"x") as response:
        assert response.status == 200
    client = Client([world.url(WITNESS), world.url(HERE)], world.token_file, None, PATIENCE_S)
    row = await asyncio.to_thread(client.get, "/v1/files/data/f", {"op": "stat"})
    assert (row["kind"], row["size"]) == ("file", 1)


async def test_a_zone_that_a_rule_has_not_sends_readers_on(world: Zones, http: aiohttp.ClientSession) -> None:
    await world.make_rule("there", b"/there", THERE)
    async with http.put(at(world, "/v1/files/there/f", THERE), data=b"x") as response:
        assert response.status == 200
        index = int(response.headers["Lddp-Index"])
    await world.shown(index)
    async with http.get(at(world, "/v1/files/there/f")) as response:
        document = await response.json(content_type=None)
    assert (response.status, document["type"]) == (503, "urn:lddp:problem:elsewhere")
    assert [node["name"] for node in document["nodes"]] == [THERE]


# -- uploads ----------------------------------------------------------------------------------------------------------


async def test_a_half_finished_upload_leaves_nothing(world: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a name, nor bytes in the content store."""
    arrived, gone = asyncio.Event(), asyncio.Event()
    write, abort = Upload.write, Upload.abort
    count = Counter[str]()

    async def writing(self: Upload, data: bytes) -> None:
        await write(self, data)
        count["bytes"] += len(data)
        if count["bytes"] >= 3_000_000:
            arrived.set()

    async def aborting(self: Upload) -> None:
        await abort(self)
        gone.set()

    monkeypatch.setattr(Upload, "write", writing)
    monkeypatch.setattr(Upload, "abort", aborting)
    fields = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/octet-stream\r\n"
    for target in ("/v1/files/data/f", "/v1/files/data/d/e/f", "/webhdfs/v1/data/f?op=CREATE&data=true"):
        arrived.clear()
        gone.clear()
        count.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", world.ports[HERE])
        head = f"PUT {target} HTTP/1.1\r\n{fields}Content-Length: 9000000\r\n\r\n"
        writer.write(head.encode() + bytes(3_000_000))
        async with asyncio.timeout(PATIENCE_S):
            await arrived.wait()
            assert world.blobs(HERE), "it had begun to arrive"
            writer.close()
            await gone.wait()
        assert world.blobs(HERE) == []
    assert files(world) == set()


async def test_the_bytes_of_a_refused_change_go(world: Zones, http: aiohttp.ClientSession) -> None:
    async with http.put(at(world, "/v1/files/data/f"), data=b"x") as response:
        assert response.status == 200
    for target, headers, expected in (
        ("/data/f", {"If-None-Match": "*"}, 412),
        ("/data/f", {"If-Match": '"1"'}, 412),
        ("/data/none/f", {}, 404),
        ("/data", {}, 409),
        ("/data/g", {"Lddp-Digest": "00" * 32}, 400),
    ):
        async with http.put(at(world, "/v1/files" + target), data=LARGE, headers=headers) as response:
            assert response.status == expected, target
        assert world.blobs(HERE) == [], target
    assert not world.nodes[HERE].store.undecided()
    await world.until(lambda: world.blobs(THERE) == [])


async def test_the_bytes_that_a_majority_took_of_a_refused_change_go(tmp_path: Path) -> None:
    """Of three zones one more is waited for, and the third gets them meanwhile."""
    async with zones(tmp_path, 3) as world, Files(Settings((world.url(HERE),), TOKEN), Options(PATIENCE_S)) as client:
        await client.write("/data/f", b"x")
        with pytest.raises(FileExistsError):
            await client.write("/data/f", LARGE, exclusive=True)
        await world.until(lambda: not any(world.blobs(name) for name in world.names))
        await client.write("/data/g", LARGE)
        with pytest.raises(FileExistsError):
            await client.write("/data/f", LARGE, exclusive=True)
        await world.shown(client.index)
        assert [(world.root(name) / "g").read_bytes() for name in world.names] == [LARGE] * 3


async def test_bytes_that_another_upload_has_use_for_stay(world: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal bytes are one content: who gives it up must not take it from the others."""
    node = world.nodes[HERE]
    one, other = (node.backend.content_writer(b"/data/f", None) for _ in range(2))
    for writer in (one, other):
        await writer.write(LARGE)
    content = await one.commit()
    assert await other.commit() == content
    await other.abort()
    assert world.blobs(HERE) == [content.digest.hex()]
    await one.abort()
    assert world.blobs(HERE) == []


async def test_two_clients_that_make_the_same_file(world: Zones, http: aiohttp.ClientSession) -> None:
    """At different zones, at once: exactly one of them has made it, and it is what that one sent."""

    async def make(number: int) -> tuple[int, bytes]:
        data = b"%d" % number * 30_000
        url = at(world, "/v1/files/data/mine", (HERE, THERE)[number % 2])
        async with http.put(url, data=data, headers={"If-None-Match": "*"}) as response:
            await response.read()
            return response.status, data

    answers = await asyncio.gather(*map(make, range(8)))
    assert Counter(code for code, _ in answers) == {200: 1, 412: 7}
    (made,) = [data for code, data in answers if code == 200]
    await world.shown(world.backend(HERE).applied())
    for name in (HERE, THERE):
        async with http.get(at(world, "/v1/files/data/mine", name)) as response:
            assert await response.read() == made


async def test_a_retry_at_another_node_gets_the_first_outcome(world: Zones, http: aiohttp.ClientSession) -> None:
    async with http.put(at(world, "/v1/files/data/f"), data=b"1") as response:
        tag = response.headers["ETag"]
    headers = {"If-Match": tag, "Lddp-Operation-Id": "abcd:1"}
    answers = []
    for name in (HERE, THERE, HERE):
        async with http.put(at(world, "/v1/files/data/f", name), data=LARGE, headers=headers) as response:
            answers.append((response.status, await response.json()))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] == 200
    removal = {"If-Match": f'"{answers[0][1]["version"]}"', "Lddp-Operation-Id": "abcd:2"}
    for name in (THERE, HERE):
        async with http.delete(at(world, "/v1/files/data/f", name), headers=removal) as response:
            assert response.status == 200


async def slow_get(world: Zones, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A GET whose answer's first byte has come, and of which the kernel holds little."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", world.ports[HERE]))
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    return reader, writer


async def test_a_slow_reader_has_the_version_that_it_began_with(world: Zones, http: aiohttp.ClientSession) -> None:
    """And holds nobody up."""
    old, new = os.urandom(24_000_000), b"new"
    async with http.put(at(world, "/v1/files/data/f"), data=io.BytesIO(old)) as response:
        assert response.status == 200
    reader, writer = await slow_get(world, "/v1/files/data/f")
    async with http.put(at(world, "/v1/files/data/f"), data=new) as response:
        assert response.status == 200
    async with http.get(at(world, "/v1/files/data/f")) as response:
        assert await response.read() == new
    assert await reader.readexactly(len(old)) == old
    writer.close()


async def test_a_slow_reader_never_has_bytes_of_two_versions(world: Zones, http: aiohttp.ClientSession) -> None:
    """What was changed in place under its hands is not sent: the answer breaks off."""
    data = os.urandom(24_000_000)
    async with http.put(at(world, "/v1/files/data/f"), data=io.BytesIO(data)) as response:
        assert response.status == 200
    reader, writer = await slow_get(world, "/v1/files/data/f")
    offset = len(data) - 10
    async with http.post(at(world, f"/v1/files/data/f?op=write&offset={offset}"), data=b"x" * 10) as response:
        assert response.status == 200
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)) as caught:
        await reader.readexactly(len(data))
    if isinstance(caught.value, asyncio.IncompleteReadError):
        assert data.startswith(caught.value.partial)
    writer.close()


async def test_nodes_that_stop_leave_no_future_behind(tmp_path: Path) -> None:
    """Also where somebody still waits for outcomes that no majority is there for."""
    said: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(str(context)))
    async with zones(tmp_path, 3) as world:
        await world.stop("zone-2", "zone-3")
        backend = world.backend(HERE)
        writing = [asyncio.create_task(backend.submit(_record(backend, number), PATIENCE_S)) for number in range(20)]
        await asyncio.sleep(0)
        for task in writing[:10]:
            task.cancel()
        await world.stop()
        results = await asyncio.gather(*writing, return_exceptions=True)
    assert all(isinstance(result, BaseException) for result in results)
    writing.clear()
    del results, task
    gc.collect()
    await asyncio.sleep(0)
    assert said == []


def _record(backend: NodeBackend, number: int) -> Record:
    return MakeDirectory(backend.next_id(), 0, 5, b"/data/%d" % number, 0o755, 0, 0)
