"""The doors that a node opens beside its HTTP API. Each is loaded by the first request that comes to it, so that a node
starts no later for doors that nobody uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from lddp.access import Access
from lddp.config import NodeConfig

if TYPE_CHECKING:
    from lddp.doors.webhdfs.door import Door

WEBHDFS_PREFIX = "/webhdfs/v1"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def mounts(config: NodeConfig, access: Access, token: str) -> Mapping[str, Handler]:
    """Handlers by the prefix of their paths, for `lddp.admin.app.build_app`."""
    return {WEBHDFS_PREFIX: webhdfs(access, token, config.webhdfs.simple_authentication)}


def webhdfs(access: Access, token: str, simple: bool) -> Handler:
    door: Door | None = None

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal door
        if door is None:
            from lddp.doors.webhdfs.door import Door

            door = Door(access, token, simple)
        return await door.handle(request)

    return handle
