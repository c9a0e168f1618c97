"""`/v1/files/{path}`: changing. PUT replaces or creates a whole file as it streams in; POST does the operation named by
`op`; DELETE removes a name. Retries with the same `Lddp-Operation-Id` take effect once."""

from __future__ import annotations

import errno
import os
import re
from typing import Any

from aiohttp import web

from lddp.access import ContentWriter
from lddp.admin.files import PREFIX, versions_of
from lddp.admin.request import BACKEND, integer, operation_id, outcome_answer, query_of, timeout_s, whole_body
from lddp.admin.wire import ARGUMENTS, BYTES, FILE_MODE, REQUIRED, Origin, record_of
from lddp.core import limits
from lddp.core import records as r
from lddp.errors import FormatError, UsageError
from lddp.serving.bodies import order, receive
from lddp.serving.paths import from_url, text_of

DIGEST_HEADER = "Lddp-Digest"

_FLAGS = {
    "rename": {"": 0, "noreplace": r.RenameFlag.NOREPLACE, "exchange": r.RenameFlag.EXCHANGE},
    "setxattr": {"": 0, "create": r.XattrFlag.CREATE, "replace": r.XattrFlag.REPLACE},
}
_STREAMED = {"write", "append"}
"""Operations whose bytes are the request's body, of any length."""
_ELSEWHERE = {"put": "PUT", "unlink": "DELETE", "rmdir": "DELETE", "remove": "DELETE"}
_TAG = re.compile(r'"([1-9][0-9]{0,18})"')
"""An ETag of ours: a version."""
NEVER_A_VERSION = 2**63 - 1


async def _expected_version(request: web.Request, path: bytes, seconds: float) -> int:
    """What If-Match and If-None-Match ask of the present version, for the state machine to decide: the record carries
    it, so that a retry gets the first outcome and nothing comes between the question and the change."""
    match, none_match = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    if match is not None and none_match is not None:
        raise UsageError("If-Match and If-None-Match contradict each other; send one of them")
    if none_match is not None:
        if versions_of(none_match) != ["*"]:
            raise UsageError("a change takes only 'If-None-Match: *' (the name must be free)")
        return r.NO_VERSION
    if match is None:
        return r.ANY_VERSION
    tags = versions_of(match)
    if "*" in tags:
        return r.SOME_VERSION
    versions = [int(found[1]) for tag in tags if (found := _TAG.fullmatch(tag))]
    if len(versions) > 1:
        # A record names one. Every tag that the client can know is of before this barrier: which of them it is now,
        # if any, cannot become another of them later.
        await request.app[BACKEND].barrier(seconds)
        entry = request.app[BACKEND].entry(path)
        if entry is not None and entry.version in versions:
            return entry.version
    return max(versions, default=NEVER_A_VERSION)


def _refuse_conditions(request: web.Request) -> None:
    for header in ("If-Match", "If-None-Match"):
        if header in request.headers:
            raise UsageError(f"{header} works with GET, PUT and DELETE of a file; leave it out here")


async def _content(request: web.Request, path: bytes) -> tuple[r.Content, ContentWriter]:
    """Streams the body into the content plane, in constant memory."""
    writer = request.app[BACKEND].content_writer(path, request.content_length)
    content = await receive(request.content, writer)
    wanted = request.headers.get(DIGEST_HEADER)
    if wanted is not None and wanted.lower() != content.digest.hex():
        await writer.abort()
        raise FormatError(f"the body's BLAKE3 is {content.digest.hex()}, not the one in {DIGEST_HEADER}; send again")
    return content, writer


async def put(request: web.Request) -> web.StreamResponse:
    query = query_of(request, "mode", "uid", "gid", "timeout")
    path = from_url(request.raw_path, PREFIX)
    backend = request.app[BACKEND]
    mode = _octal(query.get("mode"), FILE_MODE)
    uid, gid = integer(query, "uid", os.getuid(), high=2**32 - 2), integer(query, "gid", os.getgid(), high=2**32 - 2)
    seconds, id = timeout_s(query), operation_id(request)
    version = await _expected_version(request, path, seconds)
    content, writer = await _content(request, path)
    record = r.Put(id, backend.zone_number(), backend.time_ns(), path, mode, uid, gid, content, version)
    (gsn, outcome), *_ = await order(backend, [record], seconds, writer)
    if version == r.NO_VERSION and outcome.errno == errno.EEXIST:
        outcome = outcome._replace(errno=errno.ESTALE)  # RFC 9110: a condition that fails is 412
    answer = outcome_answer((gsn, outcome), f"put {text_of(path)!r}", digest=content.digest.hex(), size=content.size)
    if not outcome.errno:
        answer.headers["ETag"] = f'"{outcome.version}"'
    return answer


async def delete(request: web.Request) -> web.StreamResponse:
    """Removes a file's name, or an empty directory; which of the two it is, the state machine finds."""
    query = query_of(request, "timeout")
    path = from_url(request.raw_path, PREFIX)
    backend = request.app[BACKEND]
    seconds, id = timeout_s(query), operation_id(request)
    version = await _expected_version(request, path, seconds)
    if version == r.NO_VERSION:
        raise UsageError("'If-None-Match: *' makes no sense for DELETE; use If-Match")
    record = r.Remove(id, backend.zone_number(), backend.time_ns(), path, version)
    return outcome_answer(await backend.submit(record, seconds), f"remove {text_of(path)!r}")


async def post(request: web.Request) -> web.StreamResponse:
    path = from_url(request.raw_path, PREFIX)
    every = {key for arguments in ARGUMENTS.values() for key, _ in arguments}
    name = query_of(request, "op", "timeout", *sorted(every)).get("op", "")
    if name in _ELSEWHERE:
        raise UsageError(f"op={name} is no POST; use {_ELSEWHERE[name]}")
    if name not in ARGUMENTS:
        raise UsageError(f"'op' must be one of {', '.join(sorted(ARGUMENTS.keys() - _ELSEWHERE.keys()))}")
    body_key = {"setxattr": "value"}.get(name, "data" if name in _STREAMED else "")
    query = query_of(request, "op", "timeout", *(key for key, _ in ARGUMENTS[name] if key != body_key))
    _refuse_conditions(request)
    backend = request.app[BACKEND]
    seconds, id = timeout_s(query), operation_id(request)
    arguments = _arguments(name, query, body_key)
    if name == "setattr" and all(value is None for value in arguments):
        raise UsageError("setattr needs at least one of mode, uid, gid and mtime_ns")
    if name == "setxattr":
        arguments[1] = await whole_body(request, "an attribute's value", limits.XATTR_VALUE_BYTES_MAX, "shorten it")
    origin = Origin(id.session, backend.zone_number(), backend.time_ns(), os.getuid(), os.getgid())
    record = record_of(origin, [id.sequence, name, path, *arguments])  # what is wrong with it is said before the bytes
    if isinstance(record, r.Write | r.Append):
        content, writer = await _content(request, path)
        whole = record._replace(time_ns=backend.time_ns(), content=content)
        (result,) = await order(backend, [whole], seconds, writer)
    else:
        result = await backend.submit(record, seconds)
    return outcome_answer(result, f"{name} {text_of(path)!r}", 201 if name in ("mkdir", "create") else 200)


def _arguments(name: str, query: dict[str, str], body_key: str) -> list[Any]:
    """The operation's arguments from the query; modes are octal there, as chmod writes them."""
    values: list[Any] = []
    for key, default in ARGUMENTS[name]:
        text = query.get(key)
        if key == body_key:
            values.append(b"")
        elif text is None:
            if default is REQUIRED:
                raise UsageError(f"op={name} needs '{key}'")
            values.append(default)
        elif key == "mode":
            values.append(_octal(text, 0))
        elif key == "flag":
            if text not in _FLAGS[name]:
                raise UsageError(f"'flag' must be one of {', '.join(filter(None, _FLAGS[name]))}, not {text!r}")
            values.append(int(_FLAGS[name][text]))
        elif key == "kind":
            if text.upper() not in r.Kind.__members__:
                raise UsageError(f"'kind' must be one of {', '.join(kind.name.lower() for kind in r.Kind)}")
            values.append(int(r.Kind[text.upper()]))
        elif key in BYTES:
            values.append(text.encode("utf-8", "surrogateescape"))
        else:
            values.append(integer(query, key, 0, -(2**63)))
    return values


def _octal(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"0?o?[0-7]{1,4}", text):
        raise UsageError(f"'mode' must be octal, for example 0644, not {text!r}")
    return int(text, 8)
