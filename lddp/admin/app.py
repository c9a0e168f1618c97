"""The HTTP API of a node, as an aiohttp application over a Backend.

Middlewares, outermost first: counting, errors to problem documents, large answers in pieces, the bearer token.
"""

from __future__ import annotations

import logging
import ssl
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from aiohttp import web
from aiohttp.typedefs import Middleware

from lddp.admin import batch, changes, control, files, mounts, observe, problems
from lddp.admin.backend import Backend
from lddp.admin.metrics import METER, Meter
from lddp.admin.problems import Handler
from lddp.admin.request import BACKEND
from lddp.config import HttpAddress, TlsConfig, is_loopback
from lddp.errors import ConfigError
from lddp.serving.bodies import IDLE_S_MAX, UNREAD_BYTES_MAX, send_whole
from lddp.serving.credentials import bearer_of, same

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered to anybody: they tell nothing but whether the node works."""
TOKEN_CHARACTERS_MIN = 16
ANY_PATH = r"{path:(?:/[\s\S]*)?}"
NO_MOUNTS: Mapping[str, Handler] = MappingProxyType({})


def read_token(file: Path) -> str:
    """The bearer token in a file: one line. Raises ConfigError. That everybody on the machine may read it is logged."""
    try:
        token = file.read_text("ascii").strip()
        if file.stat().st_mode & stat.S_IROTH:
            logger.warning("the token file %s can be read by every user of this machine; chmod 600 it", file)
    except FileNotFoundError:
        raise ConfigError(f"the token file {file} does not exist; make one with 'lddp init'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {file} cannot be read ({error}); make one with 'lddp init'") from None
    if len(token) < TOKEN_CHARACTERS_MIN or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the token file {file} must hold one line of at least {TOKEN_CHARACTERS_MIN} characters without spaces"
        )
    return token


def ssl_context(address: HttpAddress, tls: TlsConfig) -> ssl.SSLContext | None:
    """For the client-facing socket; None for plain HTTP, which only loopback may have. Raises ConfigError."""
    if address.scheme == "http":
        if not is_loopback(address.host):
            raise ConfigError(f"{address} would send tokens in the clear; use https there")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{tls.certificate} and {tls.key} cannot be used ({error}); issue them again") from None
    return context


async def _no_word(_: web.Request) -> None:
    """A mounted door itself says when it wants a body that a client holds back."""


def _authentication(token: str, mounted: Collection[Handler]) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN_PATHS or request.match_info.handler in mounted:
            return await handler(request)
        if not same(bearer_of(request) or "", token):
            return problems.unauthorized()
        return await handler(request)

    return middleware


@web.middleware
async def _in_pieces(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A large answer is not waited for without end: aiohttp would send it whole, whoever reads it."""
    response = await handler(request)
    body = response.body if isinstance(response, web.Response) and not response.prepared else None
    if not isinstance(body, bytes) or len(body) <= UNREAD_BYTES_MAX or request.method == "HEAD":
        return response
    return await send_whole(request, response, body, IDLE_S_MAX)


def build_app(backend: Backend, token: str, mounted: Mapping[str, Handler] = NO_MOUNTS) -> web.Application:
    """All routes over `backend`, for clients that show `token`. `mounted` are doors with a protocol of their own, each
    below a prefix of the path: it gets all requests there, looks at their credentials and answers its own errors."""
    meter = Meter()
    app = web.Application(
        middlewares=[meter.middleware, problems.middleware, _in_pieces, _authentication(token, mounted.values())],
        client_max_size=batch.BODY_BYTES_MAX,
    )
    app[BACKEND] = backend
    app[METER] = meter
    app[batch.STREAMS] = batch.Streams()
    app.on_shutdown.append(batch.close_streams)
    app.add_routes(_routes())
    for prefix, handler in mounted.items():
        app.router.add_route("*", prefix + ANY_PATH, handler, expect_handler=_no_word)
    return app


def _routes() -> list[web.RouteDef]:
    path = files.PREFIX + ANY_PATH
    return [
        web.get("/healthz", observe.health),
        web.get("/readyz", observe.ready),
        web.get("/metrics", observe.metrics),
        web.get("/v1/openapi.json", observe.openapi),
        web.get("/v1/status", observe.status),
        web.get("/v1/nodes", observe.nodes),
        web.get("/v1/nodes/{name}", observe.node),
        web.get("/v1/rules", control.list_rules),
        web.post("/v1/rules", control.create_rule),
        web.get("/v1/rules/{rule}", control.show_rule),
        web.put("/v1/rules/{rule}", control.change_rule),
        web.patch("/v1/rules/{rule}", control.change_rule),
        web.delete("/v1/rules/{rule}", control.remove_rule),
        web.post("/v1/rules/{rule}/migrations", control.create_migration),
        web.get("/v1/migrations", control.list_migrations),
        web.get("/v1/migrations/{migration}", control.show_migration),
        web.post("/v1/migrations/{migration}/{action}", control.change_migration),
        web.get("/v1/receipts", control.list_receipts),
        web.get("/v1/receipts/{receipt}", control.show_receipt),
        web.get("/v1/mounts", mounts.list_mounts),
        web.post("/v1/mounts", mounts.mount),
        web.delete("/v1/mounts", mounts.unmount),
        web.get("/v1/log", observe.log),
        web.get("/v1/events", observe.events),
        web.post("/v1/barrier", observe.barrier),
        web.get("/v1/wait", observe.wait),
        web.post("/v1/operations", batch.operations),
        web.get("/v1/operations/stream", batch.stream),
        web.head(path, files.head),
        web.get(path, files.get, allow_head=False),
        web.put(path, changes.put),
        web.delete(path, changes.delete),
        web.post(path, changes.post),
    ]
