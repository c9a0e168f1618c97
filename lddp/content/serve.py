"""The answering end of transfers: one request after the other from each connection of an authenticated peer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from lddp.content.frames import STALL_SECONDS, Connection, Header, Type
from lddp.content.give import Doubt, Giver, Locate
from lddp.content.handover import Handover
from lddp.content.limiter import Limiter
from lddp.content.store import Store
from lddp.content.take import BODIES_BYTES_MAX, Taker
from lddp.content.traffic import Traffic
from lddp.errors import FormatError, UnavailableError

logger = logging.getLogger(__name__)

IDLE_SECONDS_MAX = 300.0


class ContentServer:
    """Serves any number of connections; who accepts them bounds their number."""

    def __init__(
        self,
        store: Store,
        limiter: Limiter,
        traffic: Traffic,
        *,
        locate: Locate | None = None,
        doubt: Doubt | None = None,
        handover: Handover | None = None,
        stall_seconds: float = STALL_SECONDS,
        idle_seconds: float = IDLE_SECONDS_MAX,
        bodies_bytes_max: int = BODIES_BYTES_MAX,
        is_needed: Callable[[bytes], bool] = lambda _digest: False,
    ) -> None:
        """`is_needed`: whether effects still to be carried out make files of a content. Blocking."""
        self._taker = Taker(store, traffic, handover, bodies_bytes_max, is_needed)
        self._giver = Giver(store, limiter, traffic, locate, doubt)
        self._stall_seconds = stall_seconds
        self._idle_seconds = idle_seconds

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        """Until the peer closes or the connection breaks. Raises FormatError or LimitError where the peer breaks the
        protocol. The connection is closed in any case."""
        connection = Connection(reader, writer, peer, self._stall_seconds)
        try:
            while (header := await connection.receive_header(self._idle_seconds)) is not None:
                await self._answer(connection, header)
        except UnavailableError as error:
            logger.info("%s", error)
        finally:
            connection.abort()

    async def _answer(self, connection: Connection, header: Header) -> None:
        match header.type:
            case Type.PUSH_PACK:
                await self._taker.take_pack(connection, header)
            case Type.PUSH_BEGIN:
                await self._taker.take_file(connection, header)
            case Type.OFFER:
                await self._taker.take_offer(connection, header)
            case Type.FORGET:
                await self._taker.forget(connection, header)
            case Type.PULL:
                await self._giver.give(connection, header)
            case Type.PULL_PACK:
                await self._giver.give_pack(connection, header)
            case _:
                raise FormatError(f"{connection.peer} sent {header.type.name} where a request was due")
