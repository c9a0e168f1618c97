"""Many operations in one request, and a stream of such batches over a WebSocket.

Frames of the stream are msgpack. The client sends `[[sequence, name, path, ...], ...]`, at most OPERATIONS_MAX in a
frame; the server answers `[[sequence, errno, index], ...]`, one frame for each received, in any order. Operations of
one frame enter the log in their order. The sequences belong to the session named in the request (`?session=HEX`), so a
client whose stream broke opens another, to any node, and sends again what was not answered.

An answer means that the operations are ordered, durable on a majority, and visible in the files of this node's zone;
with `?ack=ordered` it waits neither for the files nor for this node's own reads, which show every operation a little
later (`/v1/wait?index=N`): the order, the outcome and the durability are the same.

With index 0, EAGAIN means that an operation was not submitted this time, ETIMEDOUT that it may happen yet: in both
cases send it again with its sequence. EINVAL and E2BIG: it was not understood and not submitted. With any other index
the errno is final, EAGAIN too: it is not known yet what is there, and another try needs another sequence.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

import msgpack
from aiohttp import WSCloseCode, WSMsgType, web

from lddp.admin.problems import INDEX_HEADER
from lddp.admin.request import BACKEND, TIMEOUT_S_DEFAULT, json_answer, query_of, session_of, timeout_s, whole_body
from lddp.admin.wire import OPERATIONS_MAX, Origin, array_of, record_of
from lddp.core.records import Outcome
from lddp.errors import (
    LddpError,
    LimitError,
    OutcomeUnknownError,
    UnavailableError,
    UsageError,
    errno_name,
)
from lddp.serving.bodies import begun

BODY_BYTES_MAX = 16 * 1024 * 1024
WINDOW_BYTES_MAX = 32 * 1024 * 1024
"""Bytes of frames of one stream that are not answered yet; beyond it the server stops reading."""
WINDOW_FRAMES_MAX = 1024
HEARTBEAT_S = 20.0
MSGPACK_TYPES = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")
SESSION_HEADER = "Lddp-Session"


Answer = list[tuple[Any, int, int]]

_pack = msgpack.Packer(use_bin_type=True).pack


def _unpack(data: bytes) -> list[Any]:
    try:
        batch = msgpack.unpackb(data, raw=False, use_list=True, strict_map_key=True, max_ext_len=0)
    except (ValueError, msgpack.UnpackException, RecursionError):
        raise UsageError("the body is not valid msgpack; correct it") from None
    if not isinstance(batch, list):
        raise UsageError("a batch must be an array of operations")
    if len(batch) > OPERATIONS_MAX:
        raise LimitError(f"{len(batch)} operations are too many for a batch; send at most {OPERATIONS_MAX}")
    return batch


def _wants_visible(query: Mapping[str, str]) -> bool:
    """What the client wants an answer to mean: `ack=visible`, the default, or `ack=ordered`."""
    ack = query.get("ack", "visible")
    if ack not in ("visible", "ordered"):
        raise UsageError(f"'ack' must be visible or ordered, not {ack!r}")
    return ack == "visible"


def _origin(request: web.Request, session: bytes) -> Origin:
    backend = request.app[BACKEND]
    return Origin(session, backend.zone_number(), backend.time_ns(), os.getuid(), os.getgid())


async def operations(request: web.Request) -> web.Response:
    """POST /v1/operations: all of them are submitted, or, where one is malformed, none."""
    query = query_of(request, "timeout", "ack")
    visible = _wants_visible(query)
    given = request.headers.get(SESSION_HEADER)
    origin = _origin(request, session_of(given) if given is not None else secrets.token_bytes(16))
    data = await whole_body(request, "a batch", BODY_BYTES_MAX, "send it in parts")
    packed = request.content_type in MSGPACK_TYPES
    batch = _unpack(data) if packed else _json_batch(data, numbered=given is not None)
    records = []
    for position, operation in enumerate(batch):
        try:
            records.append(record_of(origin, operation))
        except LddpError as error:
            raise type(error)(f"operation {position} of the batch: {error}") from None
    if len({record.id for record in records}) < len(records):
        raise UsageError("two operations of the batch have the same sequence; give each its own")
    backend = request.app[BACKEND]
    results = await backend.submit_many(records, timeout_s(query), visible=visible) if records else []
    last = max((gsn for gsn, _ in results), default=backend.applied())
    if packed:
        body = _pack([(record.id.sequence, o.errno, gsn) for record, (gsn, o) in zip(records, results, strict=True)])
        headers = {INDEX_HEADER: str(last)}
        return web.Response(body=body, content_type="application/msgpack", headers=headers)
    rows = [_row(record.id.sequence, gsn, o) for record, (gsn, o) in zip(records, results, strict=True)]
    return json_answer({"index": last, "results": rows}, last)


def _json_batch(data: bytes, *, numbered: bool) -> list[Any]:
    """The arrays of a batch in JSON. Where it is `numbered`, each operation says its own sequence: counted anew in each
    batch of a session, the next batch would be taken for the last one again."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError("the body is not valid JSON; correct it, or send application/msgpack") from None
    batch = document.get("operations") if isinstance(document, dict) else document
    if not isinstance(batch, list):
        raise UsageError('a batch must be an array of operations, or {"operations": [...]}')
    if len(batch) > OPERATIONS_MAX:
        raise LimitError(f"{len(batch)} operations are too many for a batch; send at most {OPERATIONS_MAX}")
    for position, operation in enumerate(batch if numbered else ()):
        if isinstance(operation, dict) and "sequence" not in operation:
            raise UsageError(f"operation {position} of the batch has no 'sequence'; give each of a session its own")
    return [array_of(operation, position + 1) for position, operation in enumerate(batch)]


def _row(sequence: int, gsn: int, outcome: Outcome) -> dict[str, object]:
    row: dict[str, object] = {"sequence": sequence, "errno": outcome.errno, "index": gsn}
    if outcome.errno:
        return {**row, "error": errno_name(outcome.errno)}
    return {**row, "inode": outcome.inode, "version": outcome.version}


# -- the stream -------------------------------------------------------------------------------------------------------


class Window:
    """Bounds what one stream has in flight."""

    def __init__(self, bytes_max: int, frames_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames_max = frames_max
        self._bytes = 0
        self._frames = 0
        self._room = asyncio.Event()
        self._room.set()

    async def take(self, size: int) -> None:
        """Waits for room; one frame larger than the window passes alone."""
        while self._frames and (self._bytes + size > self._bytes_max or self._frames >= self._frames_max):
            self._room.clear()
            await self._room.wait()
        self._bytes += size
        self._frames += 1

    def give_back(self, size: int) -> None:
        self._bytes -= size
        self._frames -= 1
        self._room.set()


async def stream(request: web.Request) -> web.WebSocketResponse:
    """GET /v1/operations/stream: see the module's text."""
    query = query_of(request, "session", "ack")
    visible = _wants_visible(query)
    session = session_of(query["session"]) if "session" in query else secrets.token_bytes(16)
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=BODY_BYTES_MAX, compress=False)
    await socket.prepare(request)
    streams = request.app[STREAMS].sockets
    streams.add(socket)
    try:
        with begun(request):
            await _converse(request, socket, session, visible)
    finally:
        streams.discard(socket)
    return socket


async def _converse(request: web.Request, socket: web.WebSocketResponse, session: bytes, visible: bool) -> None:
    window = Window(WINDOW_BYTES_MAX, WINDOW_FRAMES_MAX)
    async with asyncio.TaskGroup() as tasks:
        async for message in socket:
            if message.type is not WSMsgType.BINARY:
                await socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"send msgpack in binary frames")
                break
            try:
                batch = _unpack(message.data)
            except LddpError as error:
                await socket.close(code=WSCloseCode.INVALID_TEXT, message=str(error).encode()[:120])
                break
            await window.take(len(message.data))
            tasks.create_task(_answer(request, socket, session, batch, visible, window, len(message.data)))


class Streams:
    """The open streams, told to go when the node stops."""

    def __init__(self) -> None:
        self.sockets: set[web.WebSocketResponse] = set()


STREAMS = web.AppKey("streams", Streams)


async def close_streams(app: web.Application) -> None:
    """At the node's end: clients go to another node at once instead of waiting for a deadline."""
    for socket in list(app[STREAMS].sockets):
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the node stops; use another")


async def _answer(
    request: web.Request,
    socket: web.WebSocketResponse,
    session: bytes,
    batch: list[Any],
    visible: bool,
    window: Window,
    size: int,
) -> None:
    try:
        answer = await _submit(request, session, batch, visible)
        if not socket.closed:
            await socket.send_bytes(_pack(answer))
    except ConnectionError:
        return  # The client went away; it sends again elsewhere what it has no answer for.
    finally:
        window.give_back(size)


async def _submit(request: web.Request, session: bytes, batch: list[Any], visible: bool) -> Answer:
    origin = _origin(request, session)
    refused: Answer = []
    try:
        records = [record_of(origin, operation) for operation in batch]
    except LddpError:
        records = []
        for operation in batch:
            try:
                records.append(record_of(origin, operation))
            except LddpError as error:
                sequence = operation[0] if isinstance(operation, list) and operation else None
                refused.append((sequence if isinstance(sequence, int) else None, error.errno, 0))
    if len({record.id for record in records}) < len(records):  # the later one would be taken for the first
        told = [(record.id.sequence, errno.EINVAL, 0) for record in records]
        return refused + told
    if not records:
        return refused
    try:
        results = await request.app[BACKEND].submit_many(records, TIMEOUT_S_DEFAULT, visible=visible)
    except OutcomeUnknownError:
        return refused + [(record.id.sequence, errno.ETIMEDOUT, 0) for record in records]
    except UnavailableError:
        return refused + [(record.id.sequence, errno.EAGAIN, 0) for record in records]
    except LddpError as error:
        return refused + [(record.id.sequence, error.errno or errno.EIO, 0) for record in records]
    answer = [(record.id.sequence, o.errno, gsn) for record, (gsn, o) in zip(records, results, strict=True)]
    return answer + refused if refused else answer
