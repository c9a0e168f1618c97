"""`/v1/files/{path}`: reading. GET answers a file's bytes (whole or a range), a directory's listing, or any entry's
attributes with `?op=stat`; HEAD answers the attributes as headers."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

from aiohttp import web

from lddp.access import Entry, OpenFile, missing
from lddp.admin import problems
from lddp.admin.backend import Backend
from lddp.admin.problems import INDEX_HEADER
from lddp.admin.request import BACKEND, integer, json_answer, query_of
from lddp.core.records import Kind
from lddp.errors import OperationError, UsageError
from lddp.serving.bodies import read_intact, send
from lddp.serving.paths import from_url, named, text_of

PREFIX = "/v1/files"
LISTING_DEFAULT = 1000
LISTING_MAX = 10_000


def etag(entry: Entry) -> str:
    return f'"{entry.version}"'


def entry_view(entry: Entry) -> dict[str, Any]:
    view: dict[str, Any] = {
        "kind": entry.kind.name.lower(),
        "inode": entry.inode,
        "version": entry.version,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "links": entry.links,
        "pending": entry.pending,
    }
    if entry.digest:
        view["digest"] = entry.digest.hex()
    if entry.kind is Kind.SYMLINK:
        view.update(named("target", entry.target))
    if entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        view["rdev"] = entry.rdev
    if entry.xattrs:
        view["xattrs"] = [{**named("name", name), **named("value", value)} for name, value in entry.xattrs]
    return view


def entry_headers(entry: Entry, index: int) -> dict[str, str]:
    headers = {
        INDEX_HEADER: str(index),
        "ETag": etag(entry),
        "Lddp-Kind": entry.kind.name.lower(),
        "Lddp-Mode": f"{entry.mode:04o}",
        "Lddp-Uid": str(entry.uid),
        "Lddp-Gid": str(entry.gid),
        "Lddp-Mtime-Ns": str(entry.mtime_ns),
        "Lddp-Pending": "true" if entry.pending else "false",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }
    seconds = entry.mtime_ns // 10**9
    if 0 <= seconds < 253_402_300_800:  # a year of four digits, all that the header can say
        headers["Last-Modified"] = format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)
    if entry.digest:
        headers["Lddp-Digest"] = entry.digest.hex()
    if entry.kind is Kind.FILE:
        headers["Accept-Ranges"] = "bytes"
    return headers


def require(backend: Backend, path: bytes) -> Entry:
    entry = backend.entry(path)
    if entry is None:
        raise missing(backend, path)
    return entry


def versions_of(header: str) -> list[str]:
    """The entity tags of If-Match, If-None-Match or If-Range; weak ones never match a version."""
    return [tag.strip() for tag in header.split(",") if tag.strip()]


def _matches(header: str, entry: Entry) -> bool:
    tags = versions_of(header)
    return "*" in tags or etag(entry) in tags


async def head(request: web.Request) -> web.StreamResponse:
    backend = request.app[BACKEND]
    query_of(request)
    entry = require(backend, from_url(request.raw_path, PREFIX, root=True))
    headers = entry_headers(entry, backend.applied())
    if entry.kind is Kind.FILE:
        headers["Content-Length"] = str(entry.size)
    return web.Response(headers=headers, content_type="application/octet-stream")


async def get(request: web.Request) -> web.StreamResponse:
    backend = request.app[BACKEND]
    query = query_of(request, "op", "after", "limit")
    path = from_url(request.raw_path, PREFIX, root=True)
    entry = require(backend, path)
    operation = query.get("op") or {Kind.FILE: "read", Kind.DIRECTORY: "list"}.get(entry.kind, "stat")
    match operation:
        case "stat":
            return json_answer({**named("path", path), **entry_view(entry)}, backend.applied())
        case "list":
            return _listing(backend, path, query)
        case "read":
            return await _read(request, path, entry)
    raise UsageError(f"GET knows no op={operation!r}; use read, list or stat")


def _listing(backend: Backend, path: bytes, query: dict[str, str]) -> web.Response:
    limit = integer(query, "limit", LISTING_DEFAULT, 1, LISTING_MAX)
    after = query.get("after", "").encode("utf-8", "surrogateescape")
    rows = backend.listing(path, after, limit + 1)
    entries = [{**named("name", name), **entry_view(entry)} for name, entry in rows[:limit]]
    body: dict[str, Any] = {**named("path", path), "entries": entries}
    if len(rows) > limit:
        body.update(named("next", rows[limit - 1][0]))
    return json_answer(body, backend.applied())


# -- bytes ------------------------------------------------------------------------------------------------------------


async def _read(request: web.Request, path: bytes, entry: Entry) -> web.StreamResponse:
    backend = request.app[BACKEND]
    not_modified = request.headers.get("If-None-Match")
    if not_modified is not None and _matches(not_modified, entry):
        return web.Response(status=304, headers=entry_headers(entry, backend.applied()))

    async def answer(opened: OpenFile) -> web.StreamResponse | None:
        wanted = request.headers.get("If-Match")
        if wanted is not None and not _matches(wanted, opened.entry):
            raise OperationError(errno.ESTALE, f"{text_of(path)!r} is at version {opened.entry.version}; read it again")
        return await _send(request, opened)

    return await read_intact(backend, path, answer)


async def _send(request: web.Request, opened: OpenFile) -> web.StreamResponse | None:
    """The answer; None where the file was changed before anything was sent, so that it can be opened again."""
    entry = opened.entry
    headers = entry_headers(entry, opened.index)
    size = os.fstat(opened.descriptor).st_size
    start, stop, status = _range(request, entry, size)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        detail = f"the range begins behind the end of {size} bytes; ask for an earlier one, or leave it out"
        refusal = problems.answer(problems.document("range", status, detail))
        refusal.headers.update({**headers, "Content-Range": f"bytes */{size}"})
        return refusal
    response = web.StreamResponse(status=status, headers=headers)
    response.content_type = "application/octet-stream"
    if status == HTTPStatus.PARTIAL_CONTENT:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return response if await send(request, response, opened, start, stop) else None


def _range(request: web.Request, entry: Entry, size: int) -> tuple[int, int, int]:
    """(first byte, byte after the last, status). A range that is malformed, of several parts, or for another version
    (If-Range) is ignored, as RFC 9110 section 14.2 allows."""
    whole = (0, size, int(HTTPStatus.OK))
    condition = request.headers.get("If-Range")
    if "Range" not in request.headers or (condition is not None and condition.strip() != etag(entry)):
        return whole
    try:
        wanted = request.http_range
    except ValueError:
        return whole
    start, stop = wanted.start, wanted.stop
    if start is None:
        return whole
    if start < 0:
        start, stop = max(0, size + start), size
    stop = size if stop is None else min(stop, size)
    if start >= size:
        return 0, 0, int(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
    return start, stop, int(HTTPStatus.PARTIAL_CONTENT)
