"""The socket that clients connect to."""

from __future__ import annotations

import asyncio
import contextlib
import errno

from aiohttp import web
from aiohttp.typedefs import Middleware

from lddp.admin.app import ssl_context
from lddp.admin.problems import Handler
from lddp.config import HttpAddress, TlsConfig
from lddp.errors import ConfigError

SHUTDOWN_S = 1.0
"""How long requests may go on after the node was told to stop."""
CANCELLED_S = 10.0
"""How long those that were cancelled then may take to leave nothing behind."""
KEEPALIVE_S = 75.0
READ_BUFFER_BYTES = 256 * 1024
"""What of a body waits to be read; a connection pauses at twice as much."""
BACKLOG = 512


class Server:
    """One application on one address. `start`, then `stop`."""

    def __init__(self, app: web.Application, address: HttpAddress, tls: TlsConfig) -> None:
        self._address = address
        self._handled = 0
        self._idle = asyncio.Event()
        app.middlewares.insert(0, self._counted())
        self._context = ssl_context(address, tls)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            read_bufsize=READ_BUFFER_BYTES,
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_S,
        )

    def _counted(self) -> Middleware:
        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._handled += 1
            self._idle.clear()
            try:
                return await handler(request)
            finally:
                self._handled -= 1
                if not self._handled:
                    self._idle.set()

        return middleware

    async def start(self) -> str:
        """Listens; returns the URL, with the real port where the configuration says 0. Raises ConfigError where the
        address is taken or not this machine's."""
        address = self._address
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, address.host, address.port, ssl_context=self._context, backlog=BACKLOG, reuse_address=True
        )
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"{address} is in use; stop the other program or change 'node.http'") from None
            raise ConfigError(f"cannot listen on {address} ({error.strerror}); change 'node.http'") from None
        port = self._runner.addresses[0][1]
        return str(HttpAddress(address.scheme, address.host, port))

    async def stop(self) -> None:
        """Returns when no request is handled any more: what they work on may be closed then."""
        await self._runner.cleanup()
        if self._handled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CANCELLED_S):
                    await self._idle.wait()
