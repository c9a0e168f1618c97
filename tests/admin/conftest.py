from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from lddp.admin.app import build_app
from lddp.admin.server import Server
from lddp.config import HttpAddress, TlsConfig
from tests.admin.fake_backend import FakeBackend

TOKEN = "correct-horse-battery"


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
async def url(backend: FakeBackend, no_tls: TlsConfig) -> AsyncIterator[str]:
    server = Server(build_app(backend, TOKEN), HttpAddress("http", "127.0.0.1", 0), no_tls)
    yield await server.start()
    await server.stop()


@pytest.fixture
def no_tls(tmp_path_factory: pytest.TempPathFactory) -> TlsConfig:
    """Paths that plain HTTP never opens."""
    absent = tmp_path_factory.mktemp("tls") / "absent.pem"
    return TlsConfig(authority=absent, certificate=absent, key=absent)


@pytest.fixture
async def http(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that shows the token and sends URLs as they are written."""
    async with aiohttp.ClientSession(
        url, headers={"Authorization": f"Bearer {TOKEN}"}, requote_redirect_url=False
    ) as session:
        yield session
