"""The end of the socket that clients connect to."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from lddp.admin import server as module
from lddp.admin.server import Server
from lddp.config import HttpAddress, TlsConfig
from lddp.content.disk import finished

NOTHING_S = 0.5


async def test_a_stop_waits_for_what_a_cancelled_request_still_does(
    monkeypatch: pytest.MonkeyPatch, no_tls: TlsConfig
) -> None:
    """An upload takes back what it has stored: the store is closed after the server."""
    monkeypatch.setattr(module, "SHUTDOWN_S", 0.05)
    begun, cancelled, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handle(_request: web.Request) -> web.Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            # As a thread's work is waited for, however often the one who waits is cancelled.
            await finished(asyncio.ensure_future(may_end.wait()))
            raise
        raise AssertionError

    app = web.Application()
    app.router.add_get("/", handle)
    server = Server(app, HttpAddress("http", "127.0.0.1", 0), no_tls)
    url = await server.start()
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.get(url))
        await begun.wait()
        stopping = asyncio.create_task(server.stop())
        await cancelled.wait()
        done, _ = await asyncio.wait((stopping,), timeout=NOTHING_S)
        assert not done
        may_end.set()
        await stopping
        with pytest.raises(aiohttp.ClientError):
            await asking
