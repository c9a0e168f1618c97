"""What a node says of itself: health, status, nodes, metrics, the log, events; and two ways to wait for an index."""

from __future__ import annotations

import asyncio
import errno
import json
from contextlib import aclosing
from typing import Any

from aiohttp import web

from lddp.admin import metrics as exposition
from lddp.admin.backend import Event
from lddp.admin.openapi import document as openapi_document
from lddp.admin.problems import INDEX_HEADER
from lddp.admin.request import BACKEND, integer, json_answer, query_of, timeout_s
from lddp.errors import LddpError, OperationError, UnavailableError, UsageError
from lddp.serving.bodies import IDLE_S_MAX, begun, write
from lddp.serving.paths import checked

KEEPALIVE_S = 15.0
LOG_DEFAULT = 100
LOG_MAX = 10_000


async def health(request: web.Request) -> web.Response:
    """200 while the process answers."""
    return web.Response(text="ok\n")


async def ready(request: web.Request) -> web.Response:
    """200 when the node serves clients; else 503 with the reason."""
    reason = request.app[BACKEND].readiness()
    if reason:
        raise UnavailableError(f"not ready: {reason}")
    return web.Response(text="ready\n")


async def metrics(request: web.Request) -> web.Response:
    query_of(request)
    series = [*request.app[BACKEND].metrics(), *request.app[exposition.METER].metrics()]
    return web.Response(
        body=exposition.render(series).encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def openapi(request: web.Request) -> web.Response:
    query_of(request)
    return json_answer(openapi_document(), request.app[BACKEND].applied())


async def status(request: web.Request) -> web.Response:
    query_of(request)
    backend = request.app[BACKEND]
    return json_answer(backend.status(), backend.applied())


async def nodes(request: web.Request) -> web.Response:
    query_of(request)
    backend = request.app[BACKEND]
    return json_answer({"nodes": backend.nodes()}, backend.applied())


async def node(request: web.Request) -> web.Response:
    query_of(request)
    backend = request.app[BACKEND]
    name = request.match_info["name"]
    for view in backend.nodes():
        if view.get("name") == name:
            return json_answer(view, backend.applied())
    raise OperationError(errno.ENOENT, f"there is no node {name!r}; see /v1/nodes")


async def log(request: web.Request) -> web.Response:
    query = query_of(request, "from", "to", "path", "limit")
    path = query.get("path", "").encode("utf-8", "surrogateescape")
    if path:
        checked(path, root=True)
    first, last = integer(query, "from", 1), integer(query, "to", 0)
    if last and last < first:
        raise UsageError(f"'to' ({last}) is before 'from' ({first}); swap them")
    backend = request.app[BACKEND]
    limit = integer(query, "limit", LOG_DEFAULT, 1, LOG_MAX)
    records, following = await backend.log(first, last, b"" if path == b"/" else path, limit)
    body: dict[str, Any] = {"records": records}
    if following:
        body["next"] = following
    return json_answer(body, backend.applied())


async def barrier(request: web.Request) -> web.Response:
    seconds = timeout_s(query_of(request, "timeout"))
    index = await request.app[BACKEND].barrier(seconds)
    return json_answer({"index": index}, index)


async def wait(request: web.Request) -> web.Response:
    query = query_of(request, "index", "timeout")
    if "index" not in query:
        raise UsageError("wait needs 'index', the index that this node should show")
    index = integer(query, "index", 0)
    backend = request.app[BACKEND]
    await backend.wait(index, timeout_s(query))
    return json_answer({"index": index}, backend.applied())


# -- events -----------------------------------------------------------------------------------------------------------


def _lines(events: list[Event]) -> bytes:
    """Server-sent events; only the last of one GSN carries the id, so that a client resumes behind all of them."""
    parts = []
    for position, event in enumerate(events):
        id = f"id: {event.gsn}\n" if position == len(events) - 1 else ""
        data = json.dumps({"index": event.gsn, **event.data})
        parts.append(f"{id}event: {event.kind}\ndata: {data}\n\n")
    return "".join(parts).encode("ascii")


async def events(request: web.Request) -> web.StreamResponse:
    query = query_of(request, "after")
    last = request.headers.get("Last-Event-ID", "").strip() or query.get("after", "")
    after = integer({"Last-Event-ID": last} if last else {}, "Last-Event-ID", -1)
    backend = request.app[BACKEND]
    headers = {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
        INDEX_HEADER: str(backend.applied()),
    }
    response = web.StreamResponse(headers=headers)
    async with aclosing(backend.subscribe(after)) as source:
        upcoming = asyncio.ensure_future(anext(source))
        try:
            await asyncio.wait({upcoming}, timeout=0)  # lets a refusal become a problem instead of a broken answer
            if upcoming.done() and isinstance(upcoming.exception(), LddpError):
                upcoming.result()
            await response.prepare(request)
            with begun(request):
                await write(response, b": connected\n\n", IDLE_S_MAX)
                while await _next_event(response, upcoming):
                    if upcoming.done():
                        upcoming = asyncio.ensure_future(anext(source))
                await response.write_eof()
        finally:
            upcoming.cancel()
            await asyncio.wait({upcoming})
            if not upcoming.cancelled():
                upcoming.exception()  # seen above, or of no interest to a client that went away
    return response


async def _next_event(response: web.StreamResponse, upcoming: asyncio.Future[list[Event]]) -> bool:
    """Sends the upcoming events, or a comment when there are none for a while; False at the end of the stream.
    UnavailableError where the client does not take them."""
    await asyncio.wait({upcoming}, timeout=KEEPALIVE_S)
    if not upcoming.done():
        await write(response, b": still here\n\n", IDLE_S_MAX)
        return True
    try:
        batch = upcoming.result()
    except StopAsyncIteration:
        return False
    await write(response, _lines(batch), IDLE_S_MAX)
    return True
