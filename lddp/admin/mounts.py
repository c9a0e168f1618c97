"""FUSE mounts of this node over HTTP: for programs of its own machine, because a mount is a change of that machine."""

from __future__ import annotations

import math
import os

from aiohttp import web

from lddp.admin.request import BACKEND, json_answer, json_body, query_of
from lddp.config import WriteMode, is_loopback
from lddp.errors import NotAllowedError, UsageError
from lddp.serving.paths import bytes_in

_KEYS = ("rule", "mountpoint", "mountpoint_base64", "soft_timeout_s", "write_mode", "passthrough")


def require_local(request: web.Request) -> None:
    if request.remote is None or not is_loopback(request.remote):
        raise NotAllowedError("mounts are made and taken away from the node's own machine only; run the command there")


def _mountpoint(path: bytes | None) -> bytes:
    if path is None or not path.startswith(b"/") or b"\0" in path:
        raise UsageError("'mountpoint' must be an absolute path of a directory on the node's machine")
    return os.path.normpath(path)


async def list_mounts(request: web.Request) -> web.Response:
    query_of(request, "timeout")
    backend = request.app[BACKEND]
    return json_answer({"mounts": backend.mounts()}, backend.applied())


async def mount(request: web.Request) -> web.Response:
    """POST /v1/mounts {"rule", "mountpoint", "soft_timeout_s", "write_mode", "passthrough"}; without `soft_timeout_s`:
    hard. Where there can be no passthrough, the answer says why."""
    query_of(request, "timeout")
    require_local(request)
    document = await json_body(request)
    for key in document:
        if key not in _KEYS:
            raise UsageError(f"a mount has no '{key}'; known are {', '.join(_KEYS)}")
    rule, soft_s = document.get("rule"), document.get("soft_timeout_s")
    if not isinstance(rule, str) or not rule:
        raise UsageError("a mount needs 'rule', the name of a rule")
    if soft_s is not None and (isinstance(soft_s, bool) or not isinstance(soft_s, int | float)):
        raise UsageError("'soft_timeout_s' must be a number of seconds, or null")
    if soft_s is not None and not (math.isfinite(soft_s) and soft_s > 0):
        raise UsageError("'soft_timeout_s' must be above 0")
    mode = document.get("write_mode", WriteMode.SYNC)
    if mode not in list(WriteMode):
        raise UsageError(f"'write_mode' must be one of {', '.join(WriteMode)}")
    passes = document.get("passthrough", False)
    if not isinstance(passes, bool):
        raise UsageError("'passthrough' must be true or false")
    backend, mountpoint = request.app[BACKEND], _mountpoint(bytes_in(document, "mountpoint"))
    made = await backend.mount(rule, mountpoint, soft_s, WriteMode(mode), passthrough=passes)
    return json_answer(made, backend.applied(), 201)


async def unmount(request: web.Request) -> web.Response:
    """DELETE /v1/mounts?mountpoint=PATH; with lazy=true also while programs use it."""
    query = query_of(request, "mountpoint", "lazy", "timeout")
    require_local(request)
    if query.get("lazy", "false") not in ("true", "false"):
        raise UsageError("'lazy' must be true or false")
    text = query.get("mountpoint")
    backend = request.app[BACKEND]
    path = _mountpoint(None if text is None else text.encode("utf-8", "surrogateescape"))
    return json_answer(await backend.unmount(path, lazily=query.get("lazy") == "true"), backend.applied())
