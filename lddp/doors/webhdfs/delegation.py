"""GETDELEGATIONTOKEN, RENEWDELEGATIONTOKEN, CANCELDELEGATIONTOKEN."""

from __future__ import annotations

from aiohttp import web

from lddp.doors.webhdfs import remote
from lddp.doors.webhdfs.context import Context, answer
from lddp.doors.webhdfs.identity import Shown
from lddp.doors.webhdfs.remote import RemoteError, illegal
from lddp.doors.webhdfs.tokens import Identifier, Invalid

NS_IN_MS = 1_000_000


async def get_token(context: Context) -> web.StreamResponse:
    """For who shows the ecosystem's token. Without security HDFS has no tokens either, and answers null: another node
    may ask for one where this one does not."""
    if context.caller.shown is Shown.DELEGATION:
        raise RemoteError(remote.IO, "a delegation token cannot bring another one; show the ecosystem's token")
    if context.caller.shown is Shown.NOTHING:
        return answer({"Token": None})
    owner = (await context.account()).name
    renewer = context.parameters.user("renewer") or owner
    host, port = context.address()
    service = context.parameters.text("service")[:256] or f"{host}:{port}"
    now_ms = context.access.time_ns() // NS_IN_MS
    try:
        text = context.tokens.issue(owner, renewer, now_ms, service)
    except UnicodeEncodeError:
        raise illegal("service", "it is not text") from None
    return answer({"Token": {"urlString": text}})


def _given(context: Context) -> Identifier:
    text = context.parameters.text("token")
    if not text:
        raise illegal("token", "it is missing")
    try:
        return context.tokens.check(text, context.access.time_ns() // NS_IN_MS)
    except Invalid as error:
        raise RemoteError(remote.INVALID_TOKEN, str(error)) from None


async def renew_token(context: Context) -> web.StreamResponse:
    """Says when the token ends, in milliseconds since the epoch: renewing does not move that."""
    return answer({"long": _given(context).end_ms})


async def cancel_token(context: Context) -> web.StreamResponse:
    """Refused: to say that a token is dead while another node takes it would be wrong."""
    end_ms = _given(context).end_ms
    raise RemoteError(
        remote.UNSUPPORTED,
        f"tokens are signed, not stored, and cannot be cancelled; this one ends by itself at {end_ms} ms of the epoch",
    )
