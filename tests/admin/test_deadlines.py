"""Clients that stop in the middle: of what they send, and of what they are sent."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.admin.conftest import TOKEN
from tests.admin.fake_backend import FakeBackend

PATIENCE_S = 60.0
IDLE_S = 0.05


def head(method: str, target: str, *more: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("target", "begin"),
    [
        ("/v1/rules", b'{"name": '),
        ("/v1/operations", b'[{"op": "mkdir"'),
        ("/v1/files/f?op=setxattr&name=user.a", b"abc"),
    ],
)
async def test_a_body_that_pauses_is_given_up(
    url: str, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, target: str, begin: bytes
) -> None:
    monkeypatch.setattr("lddp.admin.request.IDLE_S_MAX", IDLE_S)
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head("POST", target, "Content-Length: 1000") + begin)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 503 ") and b"the body paused" in answer
    assert not backend.submitted
    writer.close()
    await writer.wait_closed()


async def test_a_body_without_a_length_has_a_limit(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    for target, size in (("/v1/rules", 1024 * 1024), ("/v1/files/f?op=setxattr&name=user.a", 64 * 1024)):

        async def body(size: int = size) -> AsyncIterator[bytes]:
            yield b" " * (size + 1)

        async with http.post(target, data=body()) as response:
            assert response.status == 413
            assert f"at most {size} bytes" in (await response.json(content_type=None))["detail"]
    assert not backend.submitted


class Told(logging.Handler):
    """Sets an event when a line with this text is logged."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self.event.set()


async def test_a_reader_of_a_large_answer_that_takes_nothing_is_cut_off(
    url: str, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lddp.admin.app.IDLE_S_MAX", IDLE_S)
    size = 64 * 1024 * 1024
    backend.rule_documents["r"] = {"name": "x" * size}
    told = Told("GET /v1/rules: answer broken off")
    logging.getLogger("lddp").addHandler(told)
    host, port = url.removeprefix("http://").split(":")
    try:
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head("GET", "/v1/rules"))
            async with asyncio.timeout(PATIENCE_S):
                await told.event.wait()
            slow.settimeout(PATIENCE_S)
            assert await asyncio.to_thread(_read_to_the_end, slow) < size
    finally:
        logging.getLogger("lddp").removeHandler(told)


def _read_to_the_end(connection: socket.socket) -> int:
    count = 0
    try:
        while data := connection.recv(1024 * 1024):
            count += len(data)
    except ConnectionResetError:
        pass
    return count


async def test_a_large_answer_is_as_a_small_one(http: aiohttp.ClientSession, backend: FakeBackend) -> None:
    for size in (10, 10_000_000):
        backend.rule_documents["r"] = {"name": "x" * size}
        async with http.get("/v1/rules") as response:
            assert response.status == 200 and response.content_type == "application/json"
            assert response.headers["Lddp-Index"] == "0"
            assert int(response.headers["Content-Length"]) > size
            assert (await response.json())["rules"] == [{"name": "x" * size}]
        async with http.head("/v1/rules") as response:
            assert int(response.headers["Content-Length"]) > size and not await response.read()
