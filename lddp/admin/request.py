"""What all routes read from a request and put into an answer."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from lddp.admin.backend import Backend
from lddp.admin.problems import INDEX_HEADER, of_outcome
from lddp.core.records import OperationId, Outcome
from lddp.errors import LimitError, UsageError
from lddp.serving.bodies import IDLE_S_MAX, take

BACKEND = web.AppKey("backend", Backend)
NO_ADVICE: Mapping[int, str] = MappingProxyType({})

TIMEOUT_S_DEFAULT = 30.0
TIMEOUT_S_MAX = 300.0
JSON_BYTES_MAX = 1024 * 1024
OPERATION_ID_HEADER = "Lddp-Operation-Id"
SESSION_BYTES_MAX = 32

_OPERATION_ID = re.compile(r"([0-9a-fA-F]{2,64}):([0-9]{1,19})")


def query_of(request: web.Request, *known: str) -> dict[str, str]:
    """The query, with bytes that are not UTF-8 as surrogates. Raises UsageError for a parameter not in `known`."""
    raw = request.raw_path.partition("?")[2]
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, encoding="utf-8", errors="surrogateescape", max_num_fields=32)
    except ValueError:
        raise UsageError("the query has more than 32 parameters; leave out what is not needed") from None
    for key, _ in pairs:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known) or 'none'}"
            raise UsageError(f"unknown query parameter {key!r}; {hint}")
    return dict(pairs)


def integer(query: Mapping[str, str], key: str, default: int, low: int = 0, high: int = 2**63 - 1) -> int:
    text = query.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise UsageError(f"'{key}' must be a whole number from {low} to {high}, not {text!r}")
    return int(text)


def timeout_s(query: Mapping[str, str]) -> float:
    text = query.get("timeout", "")
    if not text:
        return TIMEOUT_S_DEFAULT
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise UsageError(f"'timeout' must be a number of seconds, not {text!r}")
    return min(float(text), TIMEOUT_S_MAX)


def session_of(text: str) -> bytes:
    """A session is 1 to 32 bytes in hexadecimal, chosen at random by the client."""
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2}){1,32}", text):
        raise UsageError(f"a session is 1 to {SESSION_BYTES_MAX} bytes in hexadecimal, not {text[:80]!r}")
    return bytes.fromhex(text)


def operation_id(request: web.Request) -> OperationId:
    """The id that the client gave, so that it may retry, or a fresh one."""
    text = request.headers.get(OPERATION_ID_HEADER)
    if text is None:
        return request.app[BACKEND].next_id()
    match = _OPERATION_ID.fullmatch(text)
    if match is None or int(match[2]) >= 2**63:
        raise UsageError(f"the header {OPERATION_ID_HEADER} must be HEX:NUMBER, not {text[:80]!r}")
    return OperationId(session_of(match[1]), int(match[2]))


async def whole_body(request: web.Request, what: str, bytes_max: int, following: str) -> bytes:
    """A body that is kept in memory. LimitError where it is larger than `bytes_max`, with what to do; UnavailableError
    where it pauses for too long."""
    data = None
    if (request.content_length or 0) <= bytes_max:
        data = await take(request.content, bytes_max, IDLE_S_MAX)
    if data is None:
        raise LimitError(f"{what} may have at most {bytes_max} bytes; {following}")
    return data


async def json_body(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object; an empty body is an empty object."""
    data = await whole_body(request, "a JSON body", JSON_BYTES_MAX, "send less at once")
    try:
        document = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        raise UsageError("the body is not valid JSON; correct it") from None
    if not isinstance(document, dict):
        raise UsageError("the body must be a JSON object")
    return document


def json_answer(document: object, index: int, status: int = 200) -> web.Response:
    body = json.dumps(document).encode("ascii")
    headers = {INDEX_HEADER: str(index)}
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def outcome_answer(
    result: tuple[int, Outcome], what: str, status: int = 200, advice: Mapping[int, str] = NO_ADVICE, **more: object
) -> web.Response:
    """A problem where the state machine refused, with what to do about an errno of `advice`, else where and what was
    decided."""
    gsn, outcome = result
    if outcome.errno:
        return of_outcome(outcome, gsn, what, advice.get(outcome.errno, ""))
    return json_answer({"index": gsn, "inode": outcome.inode, "version": outcome.version, **more}, gsn, status)
