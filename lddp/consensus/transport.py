"""The links between Raft members: one connection a pair, made by the member whose name comes first, kept up."""

from __future__ import annotations

import asyncio
import logging
import ssl
from functools import partial
from typing import NamedTuple, Protocol

from lddp.consensus.config import RaftConfig
from lddp.consensus.wire import Message, Note, decode_message, encode_message
from lddp.errors import FormatError, LddpError, LimitError
from lddp.links.connect import connect
from lddp.links.frames import encode_frame
from lddp.links.listener import Listener
from lddp.links.reader import LinkReader
from lddp.ports import Random

CHANNEL = "raft"
_BACKOFF_MIN_S = 0.02
_BACKOFF_MAX_S = 1.0
_CONNECT_TIMEOUT_S = 2.0
_UNSENT_BYTES_MAX = 64 << 20
_UNSENT_BYTES_FOR_NOTES = 1 << 20
_STOP_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class Receiver(Protocol):
    """What the member does with links. `receive` returns a future only where the reader must wait; `received` follows
    the last of the messages that came together; after `link_failed` nobody connects to that peer any more."""

    def link_up(self, peer: str) -> None: ...

    def link_down(self, peer: str) -> None: ...

    def receive(self, peer: str, message: Message, size: int) -> asyncio.Future[None] | None: ...

    def received(self) -> None: ...

    def link_failed(self, peer: str, error: BaseException) -> None: ...


class _Connection(NamedTuple):
    reader: LinkReader
    writer: asyncio.StreamWriter


class Links:
    """Implements `Outlet`. `refused` counts messages that ended their connection; `notes_dropped` those of the
    application that found a full link."""

    def __init__(self, config: RaftConfig, receiver: Receiver, random: Random) -> None:
        self._config = config
        self._receiver = receiver
        self._random = random
        self._connections: dict[str, _Connection] = {}
        self._dialling: list[asyncio.Task[None]] = []
        self._stopping = False
        self.refused = 0
        self.notes_dropped = 0

    @property
    def connected(self) -> frozenset[str]:
        return frozenset(self._connections)

    def start(self, listener: Listener | None) -> None:
        """`listener` is needed where a peer's name comes before this one's."""
        if listener is not None:
            listener.register(CHANNEL, self._accepted)
        context = None if self._config.credentials is None else self._config.credentials.client_context()
        for peer, address in self._config.peers.items():
            if self._config.node < peer:
                task = asyncio.create_task(self._dial(peer, address, context))
                task.add_done_callback(partial(self._undialled, peer))
                self._dialling.append(task)

    async def stop(self) -> None:
        self._stopping = True
        for task in self._dialling:
            task.cancel()
        for connection in self._connections.values():
            connection.writer.transport.abort()
        if self._dialling:
            await asyncio.wait(self._dialling, timeout=_STOP_TIMEOUT_S)

    def send(self, peer: str, message: Message) -> None:
        """Nothing where the link is down: Raft says again what matters."""
        connection = self._connections.get(peer)
        if connection is None or connection.writer.is_closing():
            return
        unsent = connection.writer.transport.get_write_buffer_size()
        if type(message) is Note and unsent > _UNSENT_BYTES_FOR_NOTES:
            self.notes_dropped += 1
            return
        if unsent > _UNSENT_BYTES_MAX:
            logger.warning("%s takes nothing any more; the link is made anew", peer)
            connection.writer.transport.abort()
            return
        connection.writer.write(encode_frame(encode_message(message)))

    async def _dial(self, peer: str, address: str, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = _BACKOFF_MIN_S
        failure = ""
        while True:
            try:
                reader, writer = await connect(
                    address,
                    self._config.credentials,
                    me=self._config.node,
                    ecosystem=self._config.ecosystem,
                    channel=CHANNEL,
                    expected_peer=peer,
                    timeout_s=_CONNECT_TIMEOUT_S,
                    context=context,
                )
            except LddpError as error:
                if str(error) != failure:
                    failure = str(error)
                    logger.info("no link to %s: %s", peer, failure)
                await asyncio.sleep(self._random.uniform(backoff_s / 2, backoff_s))
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)
                continue
            failure, up_at = "", loop.time()
            try:
                whole = await self._run(peer, _Connection(reader, writer))
            finally:
                writer.close()
            # A link that ended because of what came over it would end so again at once, as one that ended soon may.
            if not whole:
                backoff_s = _BACKOFF_MAX_S
            elif loop.time() - up_at >= _BACKOFF_MAX_S:
                backoff_s = _BACKOFF_MIN_S
            await asyncio.sleep(self._random.uniform(backoff_s / 2, backoff_s))
            backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    def _undialled(self, peer: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._receiver.link_failed(peer, error)

    async def _accepted(self, reader: LinkReader, writer: asyncio.StreamWriter, peer: str) -> None:
        if peer not in self._config.peers or self._config.node < peer or self._stopping:
            logger.warning("a link from %s is not wanted: it is no voter, or this member connects to it", peer)
            return
        old = self._connections.get(peer)
        if old is not None:
            # The peer would not connect if its end of the old link were alive.
            self._lost(peer, old)
            old.writer.transport.abort()
        await self._run(peer, _Connection(reader, writer))

    async def _run(self, peer: str, connection: _Connection) -> bool:
        """Reads until the link is down; False where it had to be ended because of what came over it."""
        self._connections[peer] = connection
        logger.info("link to %s is up", peer)
        self._receiver.link_up(peer)
        try:
            await self._read(peer, connection)
        except (FormatError, LimitError) as error:
            self.refused += 1
            logger.warning("link to %s ended: %s", peer, error)
            return False
        except asyncio.IncompleteReadError:
            logger.info("link to %s is down: the peer has closed it", peer)
        except OSError as error:  # of whatever kind: where a machine is off, it is that it cannot be reached
            logger.info("link to %s is down: %s", peer, error)
        finally:
            connection.writer.transport.abort()
            self._lost(peer, connection)
        return True

    async def _read(self, peer: str, connection: _Connection) -> None:
        def take(body: bytes) -> asyncio.Future[None] | None:
            message = decode_message(body)
            if self._connections.get(peer) is not connection:
                raise ConnectionAbortedError("another link took its place")
            return self._receiver.receive(peer, message, len(body))

        await connection.reader.frames(take, self._receiver.received)

    def _lost(self, peer: str, connection: _Connection) -> None:
        if self._connections.get(peer) is connection:
            del self._connections[peer]
            self._receiver.link_down(peer)
