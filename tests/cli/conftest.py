from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lddp.admin.app import build_app
from lddp.admin.server import Server
from lddp.cli.main import run
from lddp.config import HttpAddress, TlsConfig
from tests.admin.fake_backend import FakeBackend

TOKEN = "correct-horse-battery"


class Served(NamedTuple):
    url: str
    backend: FakeBackend
    token_file: Path


def serve(backend: FakeBackend) -> tuple[str, Callable[[], None]]:
    """Serves a backend from a thread of its own; (URL, stop)."""
    loop = asyncio.new_event_loop()
    absent = Path("/nonexistent")
    app_ready: list[Server] = []

    async def start() -> str:
        tls = TlsConfig(authority=absent, certificate=absent, key=absent)
        app_ready.append(Server(build_app(backend, TOKEN), HttpAddress("http", "127.0.0.1", 0), tls))
        return await app_ready[0].start()

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    url = asyncio.run_coroutine_threadsafe(start(), loop).result(10)

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(app_ready[0].stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    return url, stop


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(TOKEN + "\n")
    return file


@pytest.fixture
def served(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A fake node that the commands of this test talk to by default."""
    backend = FakeBackend()
    url, stop = serve(backend)
    monkeypatch.setenv("LDDP_ENDPOINT", url)
    monkeypatch.setenv("LDDP_TOKEN_FILE", str(token_file))
    yield Served(url, backend, token_file)
    stop()


class Result(NamedTuple):
    code: int
    out: bytes
    err: str


@pytest.fixture
def lddp(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Result]:
    """Runs one command line in this process, as `main` does."""

    def command(*arguments: str) -> Result:
        capfdbinary.readouterr()
        code = run(arguments)
        captured = capfdbinary.readouterr()
        return Result(code, captured.out, captured.err.decode())

    return command
