from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from yarl import URL

from lddp.admin.app import build_app
from lddp.admin.server import Server
from lddp.config import HttpAddress, TlsConfig
from lddp.doors.webhdfs.door import PREFIX, Door
from tests.doors.webhdfs.machine import MachineBackend

TOKEN = "correct-horse-battery"
ABSENT = Path("/nonexistent")
NO_TLS = TlsConfig(authority=ABSENT, certificate=ABSENT, key=ABSENT)


@pytest.fixture
def node() -> MachineBackend:
    return MachineBackend()


@pytest.fixture
def simple() -> bool:
    """Whether the door believes `user.name`; a test may say so by parametrization."""
    return False


@pytest.fixture
def idle_s() -> float:
    return 60.0


@pytest.fixture
async def url(node: MachineBackend, simple: bool, idle_s: float) -> AsyncIterator[str]:
    door = Door(node, TOKEN, simple, idle_s)
    server = Server(build_app(node, TOKEN, {PREFIX: door.handle}), HttpAddress("http", "127.0.0.1", 0), NO_TLS)
    yield await server.start()
    await server.stop()


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes
    document: Any

    @property
    def error(self) -> tuple[int, str]:
        """The status and the simple name of the exception."""
        return self.status, self.document["RemoteException"]["exception"]


class Client:
    """Sends URLs as they are written, and shows the token."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def __call__(self, method: str, target: str, data: Any = None, **headers: str) -> Answer:
        full = target if target.startswith("http") else self._url + PREFIX + target
        async with self._session.request(
            method, URL(full, encoded=True), data=data, headers=headers, allow_redirects=False
        ) as response:
            body = await response.read()
            kind = response.headers.get("Content-Type", "")
            document = await response.json() if kind.startswith("application/json") else None
            return Answer(response.status, response.headers, body, document)

    async def write(self, method: str, target: str, data: Any) -> Answer:
        """Both steps of CREATE and APPEND."""
        first = await self(method, target)
        if first.status != 307:
            return first
        assert not first.body
        return await self(method, first.headers["Location"], data)

    async def create(self, path: str, data: Any = b"", query: str = "") -> Answer:
        return await self.write("PUT", f"{path}?op=CREATE{query}", data)

    async def status(self, path: str) -> Any:
        answer = await self("GET", f"{path}?op=GETFILESTATUS")
        return answer.document["FileStatus"] if answer.status == 200 else None


@pytest.fixture
async def http(url: str) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield Client(session, url)


@pytest.fixture
async def stranger(url: str) -> AsyncIterator[Client]:
    """A client that shows nothing."""
    async with aiohttp.ClientSession() as session:
        yield Client(session, url)


class Served(NamedTuple):
    url: str
    node: MachineBackend
    call: Callable[..., Any]


@pytest.fixture
def served(simple: bool) -> Iterator[Served]:
    """The door in a thread of its own, for clients that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[MachineBackend, Server, str]:
        node = MachineBackend()
        door = Door(node, TOKEN, simple)
        server = Server(build_app(node, TOKEN, {PREFIX: door.handle}), HttpAddress("http", "127.0.0.1", 0), NO_TLS)
        return node, server, await server.start()

    def call(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    node, server, url = call(start())
    yield Served(url, node, call)
    call(server.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
