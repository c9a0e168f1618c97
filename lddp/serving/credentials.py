"""The ecosystem's bearer token, as requests show it."""

from __future__ import annotations

import hmac

from aiohttp import web


def bearer_of(request: web.Request) -> str | None:
    """The token in the Authorization header; empty where the header holds something else, None where there is none."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, given = header.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def same(given: str, token: str) -> bool:
    """Whether both are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())
