"""Errors as RFC 9457 problem documents, and the middleware that turns every error into one.

`type` is `urn:lddp:problem:` and a word that does not change between versions: the errno's name where the state machine
or a file system decided, else the kind of error (`usage`, `range`, `not-allowed`, `unavailable`, ...).
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from lddp import errors
from lddp.core.records import Outcome

logger = logging.getLogger(__name__)

PREFIX = "urn:lddp:problem:"
CONTENT_TYPE = "application/problem+json"
INDEX_HEADER = "Lddp-Index"
RETRY_AFTER_S = 1

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_WORDS: tuple[tuple[type[errors.LddpError], str], ...] = (
    (errors.UsageError, "usage"),
    (errors.NotAllowedError, "not-allowed"),
    (errors.OutcomeUnknownError, "outcome-unknown"),
    (errors.ElsewhereError, "elsewhere"),
    (errors.UnavailableError, "unavailable"),
    (errors.LimitError, "limit"),
    (errors.CorruptError, "corrupt"),
    (errors.FormatError, "format"),
    (errors.StorageError, "storage"),
)

_NEXT = {
    errno.EAGAIN: "it is not known yet what is there; ask again a little later, under another id",
    errno.ENOENT: "check the path; a name below a directory that is still being migrated may appear later",
    errno.EEXIST: "choose another name, or remove what is there",
    errno.ENOTDIR: "a component of the path is not a directory; check it",
    errno.EISDIR: "it is a directory; use the operation for directories",
    errno.ENOTEMPTY: "remove what is in the directory first",
    errno.EXDEV: "the two paths belong to different rules; copy, then remove",
    errno.ESTALE: "it has changed since you read it; read it again and decide anew",
    errno.EROFS: "nothing can be changed there now; see the state of the rule's migration",
    errno.EINVAL: "the request does not fit what is there; check its arguments and the present state",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENODATA: "there is no such attribute",
    errno.ENOSPC: "free some space in the zone",
    errno.EDQUOT: "free some space in the zone, or let the node's user have more",
    errno.EIO: "look after the node's disk, or ask another node",
    errno.EMLINK: "the file has as many names as it can have",
}

_AGAIN: dict[type[errors.LddpError], str] = {
    errors.OutcomeUnknownError: "ask again with the same id: it is done once",
    errors.UnavailableError: "try again a little later, or ask another node",
}
"""Nothing was decided: their EAGAIN is not that of an outcome."""

OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""What the node's own disk says while it keeps bytes. Any other errno would tell the client of a path that it does not
know: that is unforeseen."""


def word_of(error: errors.LddpError) -> str:
    if isinstance(error, errors.OperationError | errors.ZoneError):
        return errors.errno_name(error.errno)
    return next((word for cls, word in _WORDS if isinstance(error, cls)), "internal")


def document(word: str, status: int, detail: str, number: int = 0, following: str = "") -> dict[str, object]:
    """`next` is what to do: what stands behind the first `; ` of the detail, unless it is given."""
    body: dict[str, object] = {
        "type": PREFIX + word,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if number:
        body["errno"] = errors.errno_name(number)
    following = following or detail.partition("; ")[2] or _NEXT.get(number, "")
    if following:
        body["next"] = following
    return body


def answer(body: dict[str, object], index: int | None = None) -> web.Response:
    response = web.Response(
        body=json.dumps(body).encode("ascii"), status=int(str(body["status"])), content_type=CONTENT_TYPE
    )
    if index is not None:
        response.headers[INDEX_HEADER] = str(index)
    match response.status:
        case 401:
            response.headers["WWW-Authenticate"] = 'Bearer realm="lddp"'
        case 503:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


def of_error(error: errors.LddpError, index: int | None = None) -> web.Response:
    text = str(error)
    following = _AGAIN.get(type(error), "") if "; " not in text else ""
    body = document(word_of(error), error.http_status, text, error.errno, following)
    if isinstance(error, errors.ElsewhereError):
        body["nodes"] = [dict(node) for node in error.nodes]
    return answer(body, index)


def of_outcome(outcome: Outcome, index: int, what: str, following: str = "") -> web.Response:
    """The answer to a record that the state machine refused; `what` is being done to what, for the reader, who may do
    `following`, if that is known better than from the errno."""
    number = outcome.errno
    detail = f"{what}: {errors.errno_text(number)}"
    return answer(document(errors.errno_name(number), errors.http_status(number), detail, number, following), index)


def of_disk(error: OSError) -> web.Response:
    number = error.errno or errno.EIO
    detail = f"the node's disk: {errors.errno_text(number)}"
    return answer(document(errors.errno_name(number), errors.http_status(number), detail, number))


def unauthorized() -> web.Response:
    detail = "the request has no valid bearer token; send the ecosystem's token as 'Authorization: Bearer TOKEN'"
    return answer(document("not-allowed", 401, detail, errno.EACCES))


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost but one: what a handler raises becomes a problem document, or breaks an answer already begun."""
    try:
        return await handler(request)
    except errors.LddpError as error:
        return of_error(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = answer(document("http", error.status, f"{error.reason}; see /v1/openapi.json"))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ConnectionError:
        # The client is gone, or its answer was broken off: nobody reads this one.
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=int(HTTPStatus.SERVICE_UNAVAILABLE))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            logger.warning("%s %s: %s", request.method, request.path, error)
            return of_disk(error)
        logger.exception("unforeseen error in %s %s", request.method, request.path)
        detail = f"the node met an unforeseen {type(error).__name__}; its log has the details"
        return answer(document("internal", 500, detail))
