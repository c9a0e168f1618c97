"""Bodies of requests and answers, in constant memory, with a deadline for every pause of the other side."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from aiohttp import StreamReader, web

from lddp.access import Access, ContentWriter, OpenFile
from lddp.core.records import Content, Outcome, Record
from lddp.errors import LddpError, OutcomeUnknownError, UnavailableError, ZoneError, quoted

logger = logging.getLogger(__name__)

IDLE_S_MAX = 60.0
"""How long a body may pause, in either direction, before it is given up."""
CHUNK_BYTES = 512 * 1024
UNREAD_BYTES_MAX = 64 * 1024
"""What a connection keeps of an answer that nobody reads, without waiting for the reader."""
TRIES_MAX = 16
"""How often a file is opened that is changed in place before it was read."""

Got = TypeVar("Got")


# -- in ---------------------------------------------------------------------------------------------------------------


async def receive(body: StreamReader, writer: ContentWriter, idle_s: float = IDLE_S_MAX) -> Content:
    """Streams a request's body into the content plane. What stops it, the client's leaving included, leaves nothing
    there. UnavailableError where the body pauses for `idle_s` seconds."""
    try:
        while chunk := await _next(body, idle_s):
            await writer.write(chunk)
        return await writer.commit()
    except BaseException:
        await writer.abort()
        raise


async def take(body: StreamReader, bytes_max: int, idle_s: float = IDLE_S_MAX) -> bytes | None:
    """All of a request's body, None where it has more than `bytes_max` bytes. UnavailableError as for `receive`."""
    whole = bytearray()
    while chunk := await _next(body, idle_s):
        whole += chunk
        if len(whole) > bytes_max:
            return None
    return bytes(whole)


async def _next(body: StreamReader, idle_s: float) -> bytes:
    try:
        async with asyncio.timeout(idle_s):
            return await body.readany()
    except TimeoutError:
        raise UnavailableError(f"the body paused for more than {idle_s:g} s; send it again") from None


async def order(
    access: Access, records: Sequence[Record], timeout_s: float, writer: ContentWriter
) -> list[tuple[int, Outcome]]:
    """Orders records, the last of which names what `writer` took, and says what became of that. The writer is told as
    soon as it is decided: then the zone need not copy the bytes, but can take them for its file."""

    def decided(results: Sequence[tuple[int, Outcome]]) -> None:
        if not results[-1][1].errno:
            writer.used()

    try:
        results = await access.submit_many(records, timeout_s, decided=decided)
    except OutcomeUnknownError:
        raise  # the record may come yet, and need the bytes
    except LddpError:
        await writer.abort()
        raise
    if results[-1][1].errno:
        await writer.abort()
    return results


# -- out --------------------------------------------------------------------------------------------------------------


@contextmanager
def begun(request: web.Request) -> Iterator[None]:
    """Around what follows the headers of an answer: an error there can only break the connection, so that the client
    does not take a part for the whole."""
    try:
        yield
    except ConnectionError:
        raise
    except Exception as error:
        expected = isinstance(error, LddpError)
        logger.warning("%s %s: answer broken off: %s", request.method, request.path, error, exc_info=not expected)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("answer broken off") from error


async def read_intact(access: Access, path: bytes, read: Callable[[OpenFile], Awaitable[Got | None]]) -> Got:
    """What `read` makes of a file, all of it bytes of one version. None from it means that the file was changed in
    place before that was certain: it is opened again. Raises what `Access.open_file` does, and UnavailableError."""
    for _ in range(TRIES_MAX):
        opened = await access.open_file(path)
        try:
            got = await read(opened)
        finally:
            opened.close()
        if got is not None:
            return got
    raise UnavailableError(f"{quoted(path)} is changed all the time; try again, or ask another node")


async def send(
    request: web.Request,
    response: web.StreamResponse,
    opened: OpenFile,
    start: int,
    stop: int,
    idle_s: float = IDLE_S_MAX,
) -> bool:
    """Answers with the bytes of an open file from `start` up to `stop`, headers first. False where it was changed in
    place before that, and then nothing is sent. A reader that takes nothing for `idle_s` seconds is cut off, so that it
    cannot hold the file for ever."""

    async def read() -> bytes:
        return await asyncio.to_thread(os.pread, opened.descriptor, min(CHUNK_BYTES, stop - start), start)

    chunk = await read()
    if not opened.is_intact():
        return False
    response.content_length = stop - start
    await response.prepare(request)
    with begun(request):
        while start < stop:
            if not chunk or not opened.is_intact():
                raise ZoneError(errno.ESTALE, "the file was changed while it was sent; read it again")
            await write(response, chunk, idle_s)
            start += len(chunk)
            chunk = await read() if start < stop else b""
        await response.write_eof()
    return True


async def send_whole(
    request: web.Request, answer: web.StreamResponse, body: bytes, idle_s: float = IDLE_S_MAX
) -> web.StreamResponse:
    """Sends an answer whose bytes are in memory, and cuts off a reader that takes nothing for `idle_s` seconds."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(body)
    await response.prepare(request)
    with begun(request):
        for start in range(0, len(body), UNREAD_BYTES_MAX):
            await write(response, body[start : start + UNREAD_BYTES_MAX], idle_s)
        await response.write_eof()
    return response


async def write(response: web.StreamResponse, data: bytes, idle_s: float = IDLE_S_MAX) -> None:
    """Sends a part of an answer; UnavailableError where the reader makes no room for it in `idle_s` seconds."""
    try:
        async with asyncio.timeout(idle_s):
            await response.write(data)
    except TimeoutError:
        raise UnavailableError(f"the reader took nothing for {idle_s:g} s; read again from there") from None
