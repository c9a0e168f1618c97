"""Rules, migrations, receipts, status, events: the rest of the API, and who may use it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lddp.admin.app import build_app, read_token, ssl_context
from lddp.admin.openapi import DESCRIBED
from lddp.admin.server import Server
from lddp.config import HttpAddress, TlsConfig
from lddp.errors import ConfigError
from lddp.links.issue import create_authority, issue
from tests.admin.conftest import TOKEN
from tests.admin.fake_backend import FakeBackend

RULE = {
    "name": "r",
    "path": "/r",
    "source": "onprem",
    "members": [
        {"zone": "onprem", "local_path": "/srv/a", "observe_only": True},
        {"zone": "eu-west", "local_path": "/srv/b"},
    ],
    "options": {"exclude": ["*.tmp"]},
}


async def detail(response: aiohttp.ClientResponse) -> str:
    document: dict[str, Any] = await response.json(content_type="application/problem+json")
    return str(document["detail"])


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"]
)
async def test_nothing_without_the_token(url: str, backend: FakeBackend, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        for method, target in (
            ("GET", "/v1/status"),
            ("GET", "/metrics"),
            ("PUT", "/v1/files/x"),
            ("POST", "/v1/operations"),
            ("GET", "/v1/operations/stream"),
            ("GET", "/absent"),
        ):
            async with session.request(method, target) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert "Authorization: Bearer" in await detail(response)
    assert backend.submitted == 0


async def test_health_is_for_everybody(url: str, backend: FakeBackend) -> None:
    async with aiohttp.ClientSession(url) as session:
        async with session.get("/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok\n")
        async with session.get("/readyz") as response:
            assert response.status == 200
        backend.not_ready = "no leader is known"
        async with session.get("/readyz") as response:
            assert response.status == 503
            assert await detail(response) == "not ready: no leader is known"


async def test_https(tmp_path: Path, backend: FakeBackend) -> None:
    create_authority(str(tmp_path / "authority"), ecosystem="orchard")
    made = issue(str(tmp_path / "authority"), str(tmp_path / "a"), node="a")
    tls = TlsConfig(authority=Path(made.authority), certificate=Path(made.certificate), key=Path(made.key))
    server = Server(build_app(backend, TOKEN), HttpAddress("https", "127.0.0.1", 0), tls)
    url = await server.start()
    context = ssl.create_default_context(cafile=made.authority)
    context.check_hostname = False
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        async with session.put("/v1/files/a", data=b"x" * 100_000, ssl=context) as response:
            assert response.status == 200
        async with session.get("/v1/files/a", ssl=context) as response:
            assert await response.read() == b"x" * 100_000
    await server.stop()


def test_addresses_that_are_refused(no_tls: TlsConfig) -> None:
    assert ssl_context(HttpAddress("http", "::1", 1), no_tls) is None
    with pytest.raises(ConfigError, match="tokens in the clear"):
        ssl_context(HttpAddress("http", "0.0.0.0", 1), no_tls)
    with pytest.raises(ConfigError, match="issue them again"):
        ssl_context(HttpAddress("https", "0.0.0.0", 1), no_tls)


async def test_a_port_in_use_is_one_line(url: str, backend: FakeBackend, no_tls: TlsConfig) -> None:
    port = int(url.rpartition(":")[2])
    second = Server(build_app(backend, TOKEN), HttpAddress("http", "127.0.0.1", port), no_tls)
    with pytest.raises(ConfigError, match=r"is in use; stop the other program or change 'node\.http'"):
        await second.start()


def test_token_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(ConfigError, match="does not exist"):
        read_token(file)
    for bad in ("short", "two words are not enough", "line one is long\nline two"):
        file.write_text(bad)
        with pytest.raises(ConfigError, match="must hold one line"):
            read_token(file)
    file.write_bytes(b"\xff" * 20)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(file)
    file.write_text(TOKEN + "\n")
    assert read_token(file) == TOKEN


def test_a_token_that_everybody_may_read_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    for mode, told in ((0o600, 0), (0o640, 0), (0o644, 1)):
        file.chmod(mode)
        caplog.clear()
        assert read_token(file) == TOKEN
        assert len(caplog.records) == told
    assert caplog.messages == [f"the token file {file} can be read by every user of this machine; chmod 600 it"]


# -- rules and migrations ---------------------------------------------------------------------------------------------


async def test_a_rule_from_creation_to_removal(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/rules", json=RULE) as response:
        assert response.status == 201
        assert (await response.json())["rule"] == "r"
    async with http.post("/v1/rules", json=RULE) as response:
        assert response.status == 409
        assert (await response.json())["next"].startswith("no other rule may have its name")
    async with http.get("/v1/rules/r") as response:
        assert (await response.json())["members"][0] == RULE["members"][0]  # type: ignore[index]
    async with http.put("/v1/rules/r", json={"options": {"bwlimit": 5}}) as response:
        assert response.status == 200
    async with http.get("/v1/rules") as response:
        assert (await response.json())["rules"][0]["options"] == {"bwlimit": 5}
    async with http.delete("/v1/rules/r") as response:
        assert response.status == 200
    async with http.get("/v1/rules/r") as response:
        assert response.status == 404
    async with http.delete("/v1/rules/r") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": ""}, "needs 'name'"),
        ({"path": None}, "needs 'path'"),
        ({"path": "r"}, "is not valid"),
        ({"path": "/a/../r"}, "is not valid"),
        ({"members": []}, "needs 'members'"),
        ({"members": ["x"]}, "must be an object"),
        ({"members": [{"zone": "onprem"}]}, "needs 'local_path'"),
        ({"members": [{"zone": "onprem", "local_path": "srv"}]}, "is not valid"),
        ({"members": [{"zone": "onprem", "local_path": "/srv/../etc"}]}, "is not valid"),
        ({"members": [{"zone": "onprem", "local_path": "/a", "observe_only": 1}]}, "true or false"),
        ({"members": [{"zone": "mars", "local_path": "/a"}], "source": None}, "there is no zone 'mars'"),
        ({"members": [{"zone": "onprem", "local_path": p} for p in ("/a", "/b")]}, "names a zone twice"),
        ({"source": "mars"}, "is not one of the members"),
        ({"source": 1}, "'source' must be"),
        ({"options": []}, "'options' must be an object"),
        ({"colour": 1}, "a rule has no 'colour'"),
    ],
)
async def test_mistakes_in_rules(
    http: aiohttp.ClientSession, backend: FakeBackend, change: dict[str, Any], expected: str
) -> None:
    async with http.post("/v1/rules", json={**RULE, **change}) as response:
        assert response.status == 400
        assert expected in await detail(response)
    assert backend.submitted == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b"[" * 100_000, b"\xff"])
async def test_bodies_that_are_no_json_object(http: aiohttp.ClientSession, body: bytes) -> None:
    async with http.post("/v1/rules", data=body) as response:
        assert response.status == 400


async def test_a_migration(http: aiohttp.ClientSession) -> None:
    await (await http.post("/v1/rules", json=RULE)).read()
    async with http.post("/v1/rules/none/migrations") as response:
        assert response.status == 404
        assert "created with a source" in (await response.json())["next"]
    async with http.post("/v1/rules/r/migrations", json={"start": True}) as response:
        assert (response.status, (await response.json())["migration"]) == (201, "r")
    async with http.get("/v1/migrations/r") as response:
        assert (await response.json())["state"] == "running"
    async with http.post("/v1/migrations/r/pause") as response:
        assert (await response.json())["migration"]["state"] == "paused"
    async with http.post("/v1/migrations/r/pause") as response:
        assert response.status == 400
        assert "(it is paused)" in await detail(response)
    async with http.post("/v1/migrations/r/live") as response:
        assert "has no action 'live'" in await detail(response)
    async with http.get("/v1/migrations") as response:
        assert [one["id"] for one in (await response.json())["migrations"]] == ["r"]
    async with http.get("/v1/migrations/none") as response:
        assert response.status == 404


async def test_creating_and_starting_in_one_request_can_be_retried(
    http: aiohttp.ClientSession, backend: FakeBackend
) -> None:
    await (await http.post("/v1/rules", json=RULE)).read()
    for _ in range(2):
        headers = {"Lddp-Operation-Id": "aabb:1"}
        async with http.post("/v1/rules/r/migrations", json={"start": True}, headers=headers) as response:
            assert response.status == 201
    assert backend.submitted == 3


async def test_receipts(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    backend.receipt_documents = [{"id": 9, "rule": "r", "holds": True}, {"id": 4, "rule": "q", "holds": False}]
    async with http.get("/v1/receipts?rule=q") as response:
        assert [one["id"] for one in (await response.json())["receipts"]] == [4]
    async with http.get("/v1/receipts/9") as response:
        assert (await response.json())["holds"] is True
    for wrong, status in (("8", 404), ("x", 400), ("9" * 30, 400)):
        async with http.get(f"/v1/receipts/{wrong}") as response:
            assert response.status == status


# -- what the node says -----------------------------------------------------------------------------------------------


async def test_status_nodes_and_log(http: aiohttp.ClientSession) -> None:
    for name in ("a", "b", "b/c"):
        await (await http.post(f"/v1/files/{name}?op=mkdir")).read()
    async with http.get("/v1/status") as response:
        assert (await response.json())["log"]["applied"] == 3
        assert response.headers["Lddp-Index"] == "3"
    async with http.get("/v1/nodes/b") as response:
        assert (await response.json())["zone"] == "eu-west"
    async with http.get("/v1/nodes/z") as response:
        assert response.status == 404

    async def log(query: str) -> list[int]:
        async with http.get(f"/v1/log{query}") as response:
            return [row["index"] for row in (await response.json())["records"]]

    assert await log("") == [1, 2, 3]
    assert await log("?from=2") == [2, 3]
    assert await log("?from=1&to=2&limit=1") == [1]
    assert await log("?path=/b") == [2, 3]
    for wrong in ("from=3&to=1", "limit=0", "limit=99999", "path=b", "form=1", "from=-1", "from=x"):
        async with http.get(f"/v1/log?{wrong}") as response:
            assert response.status == 400


async def test_a_log_says_where_it_goes_on(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    """It may have been searched in part, whatever was found."""
    for name in ("a", "b", "c"):
        await (await http.post(f"/v1/files/{name}?op=mkdir")).read()

    async def page(query: str) -> tuple[list[int], int | None]:
        async with http.get(f"/v1/log?{query}") as response:
            body = await response.json()
            return [row["index"] for row in body["records"]], body.get("next")

    assert await page("limit=2") == ([1, 2], 3)
    assert await page("limit=3") == ([1, 2, 3], None)
    backend.log_looked_max = 1
    assert await page("path=/c") == ([], 2)
    assert await page("path=/c&from=3") == ([3], None)


async def test_barrier_and_wait(http: aiohttp.ClientSession) -> None:
    await (await http.post("/v1/files/a?op=mkdir")).read()
    async with http.post("/v1/barrier") as response:
        assert await response.json() == {"index": 1}
    async with http.get("/v1/wait?index=1&timeout=1") as response:
        assert response.status == 200
    async with http.get("/v1/wait?index=2&timeout=0") as response:
        assert response.status == 503
    for wrong in ("", "?index=x", "?index=1&timeout=nan"):
        async with http.get(f"/v1/wait{wrong}") as response:
            assert response.status == 400


async def test_metrics(http: aiohttp.ClientSession) -> None:
    await (await http.get("/v1/status")).read()
    async with http.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    assert "# TYPE lddp_log_applied gauge\nlddp_log_applied 0\n" in text
    assert r'lddp_rule_pending{rule="a\"b\\c\nd"} 0.5' in text
    assert 'lddp_http_requests_total{method="GET",route="/v1/status",status="200"} 1' in text


async def test_openapi_describes_every_route_and_nothing_else(
    http: aiohttp.ClientSession, backend: FakeBackend
) -> None:
    app = build_app(backend, TOKEN)
    served = {
        (route.method, route.resource.canonical.replace("/v1/files{path}", "/v1/files/{path}"))
        for route in app.router.routes()
        if route.resource is not None
    }
    described = {(route.method, route.path) for route in DESCRIBED}
    plain = {(method, path) for method, path in served if method != "HEAD" or "files" in path}
    assert plain == described
    async with http.get("/v1/openapi.json") as response:
        document = await response.json()
    assert document["openapi"].startswith("3.1")
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) == len(DESCRIBED)


async def test_what_does_not_exist_and_what_cannot_be_done(http: aiohttp.ClientSession) -> None:
    async with http.get("/v2/status") as response:
        assert response.status == 404
        assert "openapi.json" in await detail(response)
    async with http.delete("/v1/status") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]


async def test_an_unforeseen_error_is_logged_and_told_without_its_text(
    http: aiohttp.ClientSession, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(backend, "status", broken)
    with caplog.at_level(logging.ERROR):
        async with http.get("/v1/status") as response:
            assert response.status == 500
            text = await detail(response)
    assert "RuntimeError" in text
    assert "secret" not in text
    assert "secret detail" in caplog.text


# -- events -----------------------------------------------------------------------------------------------------------


async def next_events(response: aiohttp.ClientResponse, count: int) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    current: dict[str, str] = {}
    while len(found) < count:
        line = (await response.content.readline()).decode().rstrip("\n")
        if line and not line.startswith(":"):
            key, _, value = line.partition(": ")
            current[key] = value
        elif current:
            found.append(current)
            current = {}
    return found


async def test_events_are_live(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/events") as response:
        assert response.content_type == "text/event-stream"
        assert await response.content.readline() == b": connected\n"
        await (await http.post("/v1/files/a?op=mkdir")).read()
        (event,) = await next_events(response, 1)
    assert (event["id"], event["event"]) == ("1", "operation")
    assert json.loads(event["data"]) == {"index": 1, "record": "MakeDirectory", "path": "/a"}


async def test_events_resume_behind_the_last_id(http: aiohttp.ClientSession) -> None:
    for name in ("a", "b", "c"):
        await (await http.post(f"/v1/files/{name}?op=mkdir")).read()
    async with http.get("/v1/events", headers={"Last-Event-ID": "1"}) as response:
        events = await next_events(response, 4)
    assert [json.loads(event["data"])["index"] for event in events] == [2, 2, 3, 3]
    # Only the last event of an index carries the id: who lost the connection between the two gets both again.
    assert [event.get("id") for event in events] == [None, "2", None, "3"]
    async with http.get("/v1/events?after=99") as response:
        assert response.status == 412
    async with http.get("/v1/events?after=x") as response:
        assert response.status == 400


async def test_a_listener_that_leaves_is_forgotten(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    async with http.get("/v1/events") as response:
        await response.content.readline()
        assert len(backend.listeners) == 1
    async with asyncio.timeout(10):
        await backend.listener_left.wait()
    assert backend.listeners == []


async def test_a_listener_that_does_not_read_is_cut_off(
    url: str, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lddp.admin.observe.IDLE_S_MAX", 0.05)
    backend.records += [{"index": index, "path": "x" * 1024 * 1024} for index in range(1, 65)]
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET /v1/events?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        slow.sendall(request.encode())
        async with asyncio.timeout(60):
            await backend.listener_left.wait()
    assert backend.listeners == []
