"""Accepts connections from the ecosystem's nodes and hands each to the handler of its channel."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable

from lddp.errors import FormatError, LddpError, LimitError, NotAllowedError, UsageError
from lddp.links.address import HostPort, UnixPath, parse_address, reachable_unix_path
from lddp.links.credentials import Credentials, certified_name, report_failed_handshakes
from lddp.links.frames import read_frame, write_frame
from lddp.links.handshake import HELLO_BYTES_MAX, Hello, check_hello, decode_hello
from lddp.links.local import prepare_socket_directory, require_same_user
from lddp.links.reader import LinkReader
from lddp.links.tuning import tune

HANDSHAKE_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 1024
GREETING_MAX = 64
STRANGERS_SAID_EVERY_S = 1.0
"""Whoever has no certificate does not fill the log's disk."""

logger = logging.getLogger(__name__)

Handler = Callable[[LinkReader, asyncio.StreamWriter, str], Awaitable[None]]
"""(reader, writer, name of the peer). The connection is closed when it returns."""


class Listener:
    """One listening address of a node.

    `knows` tells whether a name is a node of the ecosystem. Over `host:port` a peer is who its certificate says
    (`credentials` must be given); over `unix:` it is a process of the same user, and its hello is believed.
    `refused` counts refused connections by reason: `certificate`, `user`, `hello`, `node`, `channel`, `busy`.
    """

    def __init__(
        self,
        address: str,
        *,
        me: str,
        ecosystem: str,
        credentials: Credentials | None,
        knows: Callable[[str], bool],
    ) -> None:
        self._where = parse_address(address)
        if isinstance(self._where, HostPort) and credentials is None:
            raise UsageError(f"{address} needs credentials; only unix: addresses go without")
        self._me = me
        self._ecosystem = ecosystem
        self._credentials = credentials
        self._knows = knows
        self._handlers: dict[str, Handler] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._greeting = 0
        self._stranger_said_at = float("-inf")
        self.refused: Counter[str] = Counter()
        self.address = address

    def register(self, channel: str, handler: Handler) -> None:
        """From now on connections for `channel` go to `handler`."""
        assert channel not in self._handlers, f"channel {channel} is registered already"
        self._handlers[channel] = handler

    async def start(self) -> None:
        """Listens. Afterwards `address` is the real one where port 0 was asked for. Raises UsageError."""
        match self._where:
            case UnixPath(path):
                await self._start_unix(path)
            case HostPort(host, port):
                await self._start_tls(host, port)

    async def stop(self) -> None:
        """Stops listening, ends all connections, and waits a bounded time for their handlers."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=STOP_TIMEOUT_S)
        if isinstance(self._where, UnixPath) and os.path.exists(self._where.path):
            os.unlink(self._where.path)

    async def _start_unix(self, path: str) -> None:
        prepare_socket_directory(path)
        with reachable_unix_path(path) as short:
            _remove_stale_socket(path, short)
            self._server = await asyncio.get_running_loop().create_unix_server(self._protocol, short)
        os.chmod(path, 0o600)

    async def _start_tls(self, host: str, port: int) -> None:
        assert self._credentials is not None, "checked by the constructor"
        context = self._credentials.server_context()
        report_failed_handshakes(context, self._refuse_stranger)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._protocol, host, port, ssl=context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
        except OSError as error:
            raise UsageError(f"cannot listen on {self.address} ({error.strerror}); choose another address") from error
        actual = self._server.sockets[0].getsockname()[1]
        self.address = f"[{host}]:{actual}" if ":" in host else f"{host}:{actual}"

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = LinkReader()
        return asyncio.StreamReaderProtocol(reader, lambda _, writer: self._accept(reader, writer))

    async def _accept(self, reader: LinkReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs this in a task"
        if len(self._connections) >= CONNECTIONS_MAX or self._greeting >= GREETING_MAX:
            self._refuse(writer, "busy", "too many connections")
            return
        self._connections.add(task)
        try:
            greeted = await self._greet(reader, writer)
            if greeted is not None:
                handler, peer = greeted
                await handler(reader, writer, peer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError) as error:
            logger.debug("connection ended: %s", error)
        except (LddpError, OSError) as error:
            logger.warning("connection ended: %s", error)
        except asyncio.CancelledError:
            # Only `stop` cancels; a cancelled connection callback would be reported as an error by asyncio.
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _greet(self, reader: LinkReader, writer: asyncio.StreamWriter) -> tuple[Handler, str] | None:
        self._greeting += 1
        try:
            certified = self._vouched_name(writer)
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                body = await read_frame(reader, bytes_max=HELLO_BYTES_MAX)
            hello = decode_hello(body)
            check_hello(hello, ecosystem=self._ecosystem, certified=certified)
        except NotAllowedError as error:
            reason = "user" if isinstance(self._where, UnixPath) else "certificate"
            self._refuse(writer, reason, str(error))
            return None
        except (FormatError, LimitError) as error:
            self._refuse(writer, "hello", str(error))
            return None
        except (OSError, asyncio.IncompleteReadError):
            self._refuse(writer, "hello", "no hello came")
            return None
        finally:
            self._greeting -= 1
        if hello.node == self._me or not self._knows(hello.node):
            self._refuse(writer, "node", f"node {hello.node!r} is not a peer of this one")
            return None
        handler = self._handlers.get(hello.channel)
        if handler is None:
            self._refuse(writer, "channel", f"node {hello.node!r} asked for unknown channel {hello.channel!r}")
            return None
        tune(writer)
        write_frame(writer, Hello(self._ecosystem, self._me, hello.channel).encode())
        return handler, hello.node

    def _vouched_name(self, writer: asyncio.StreamWriter) -> str | None:
        """What TLS says who the peer is; None where the kernel vouches for it instead."""
        if isinstance(self._where, UnixPath):
            require_same_user(writer)
            return None
        return certified_name(writer.get_extra_info("peercert"), self._ecosystem)

    def _refuse_stranger(self, message: str) -> None:
        """TLS has ended the connection before it was one; each is counted, and one in a while is named."""
        self.refused["certificate"] += 1
        now = asyncio.get_running_loop().time()
        if now >= self._stranger_said_at + STRANGERS_SAID_EVERY_S:
            self._stranger_said_at = now
            logger.warning("connection to %s refused (certificate): %s", self.address, message)

    def _refuse(self, writer: asyncio.StreamWriter, reason: str, message: str) -> None:
        self.refused[reason] += 1
        logger.warning("connection to %s refused (%s): %s", self.address, reason, message)
        writer.transport.abort()


def _remove_stale_socket(path: str, short: str) -> None:
    """A socket file outlives its process. Raises UsageError where a process still answers on it."""
    if not os.path.exists(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(short)
        except OSError:
            os.unlink(path)
            return
    raise UsageError(f"{path} is in use by another process; stop that node first")
