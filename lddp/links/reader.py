"""A stream's reader whose frames can go to a callback as they arrive, without a task that is woken for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from lddp.errors import FormatError, LimitError
from lddp.links.frames import FRAME_BYTES_MAX, LENGTH_BYTES, frame_length

BUFFER_BYTES = 1 << 18

Take = Callable[[bytes], asyncio.Future[None] | None]
"""Gets the body of a frame. The future that it may return ends when more may come. FormatError, LimitError and
ConnectionError end the stream."""


class LinkReader(asyncio.StreamReader):
    """An `asyncio.StreamReader` until `frames` is called."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(limit=BUFFER_BYTES, loop=loop)
        self._ended: asyncio.Future[None] = loop.create_future()
        self._take: Take | None = None
        self._taken: Callable[[], None] = lambda: None
        self._rest = bytearray()
        self._wanted = LENGTH_BYTES
        """Bytes in `_rest` before anything can be done with it."""
        self._waits = False
        self._link: Any = None

    def set_transport(self, transport: asyncio.BaseTransport) -> None:
        super().set_transport(transport)
        self._link = transport

    async def frames(self, take: Take, taken: Callable[[], None]) -> None:
        """Gives every frame from here on to `take`, as soon as it is whole, and calls `taken` after those that came
        together. Returns by an exception only: that of the stream (asyncio.IncompleteReadError at its end), or what
        `take` raised."""
        assert self._take is None, "asked for frames twice"
        exception = self.exception()
        if exception is not None:
            raise exception
        self._take, self._taken = take, taken
        unread: bytearray = vars(self)["_buffer"]  # what came behind the last frame that was read
        data = bytes(unread)
        unread.clear()
        self._link.resume_reading()
        if data:
            self.feed_data(data)
        if self.at_eof():
            self._end(asyncio.IncompleteReadError(b"", None))
        await self._ended

    # -- what asyncio calls -----------------------------------------------------------------------------------------

    def feed_data(self, data: Any) -> None:
        if self._take is None:
            super().feed_data(data)
            return
        self._rest += data
        if len(self._rest) >= self._wanted and not self._waits:
            self._give()

    def feed_eof(self) -> None:
        super().feed_eof()
        if self._take is not None:
            self._end(asyncio.IncompleteReadError(bytes(self._rest[:LENGTH_BYTES]), None))

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        if self._take is not None:
            self._end(exc)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _give(self) -> None:
        take = self._take
        assert take is not None
        data = bytes(self._rest)
        at, size = 0, len(data)
        try:
            while not self._ended.done() and not self._waits:
                self._wanted = LENGTH_BYTES
                if size - at < self._wanted:
                    break
                self._wanted += frame_length(data, at, bytes_max=FRAME_BYTES_MAX)
                if size - at < self._wanted:
                    break
                body = data[at + LENGTH_BYTES : at + self._wanted]
                at += self._wanted
                room = take(body)
                if room is not None:
                    self._wait_for(room)
        except (FormatError, LimitError, ConnectionError) as error:
            self._end(error)
        except BaseException:
            self._end(ConnectionAbortedError("a frame could not be taken"))
            raise
        finally:
            del self._rest[:at]
        if at:
            self._taken()

    def _wait_for(self, room: asyncio.Future[None]) -> None:
        self._waits = True
        self._link.pause_reading()
        room.add_done_callback(self._go_on)

    def _go_on(self, _room: asyncio.Future[None]) -> None:
        self._waits = False
        if self._ended.done():
            return
        self._link.resume_reading()
        self._give()

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)


async def open_link(
    connect: Callable[[Callable[[], asyncio.Protocol]], Any],
) -> tuple[LinkReader, asyncio.StreamWriter]:
    """As `asyncio.open_connection`, by a `create_connection` that is given the protocol's factory."""
    loop = asyncio.get_running_loop()
    reader = LinkReader()
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await connect(lambda: protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
