"""A program that takes a node's place in tests of `lddp cluster`: the real configuration and HTTP, a fake node behind.

`--fail` ends at once with a message; `--stubborn` ignores SIGTERM; `--leaderless` is never ready.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from lddp.admin.app import build_app, read_token
from lddp.admin.server import Server
from lddp.config import load
from tests.admin.fake_backend import FakeBackend


async def main(file: str, options: list[str]) -> None:
    config = load(file, os.environ)
    if "--fail" in options:
        sys.exit("lddp: the database is of a newer format; use a newer lddp")
    backend = FakeBackend(config.name, config.zones())
    backend.not_ready = "no leader" if "--leaderless" in options else ""
    server = Server(build_app(backend, read_token(config.token_file)), config.http, config.tls)
    await server.start()
    stopped = asyncio.Event()
    if "--stubborn" not in options:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await stopped.wait()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1], sys.argv[1:-1]))
