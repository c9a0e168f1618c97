"""The API's description for machines (OpenAPI 3.1), built from one table of routes."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from lddp import __version__


class Described(NamedTuple):
    method: str
    path: str
    summary: str
    query: tuple[str, ...] = ()
    body: str = ""
    """The media type of the request's body, empty for none."""
    answer: str = "application/json"


JSON = "application/json"
BYTES = "application/octet-stream"
PACKED = "application/msgpack"

DESCRIBED = (
    Described("GET", "/healthz", "The process answers", answer="text/plain"),
    Described("GET", "/readyz", "The node serves clients; 503 with the reason while it does not", answer="text/plain"),
    Described("GET", "/metrics", "Metrics in Prometheus' text format", answer="text/plain"),
    Described("GET", "/v1/openapi.json", "This document"),
    Described("GET", "/v1/status", "Role, leader, term, log indexes, lag, digest of each rule, disk"),
    Described("GET", "/v1/nodes", "All nodes of the ecosystem"),
    Described("GET", "/v1/nodes/{name}", "One node"),
    Described("GET", "/v1/rules", "All replication rules"),
    Described("POST", "/v1/rules", "Create a rule", ("timeout",), JSON),
    Described("GET", "/v1/rules/{rule}", "One rule"),
    Described("PUT", "/v1/rules/{rule}", "Replace a rule's options", ("timeout",), JSON),
    Described("PATCH", "/v1/rules/{rule}", "Replace a rule's options", ("timeout",), JSON),
    Described("DELETE", "/v1/rules/{rule}", "Remove a rule; its files stay in every zone", ("timeout",)),
    Described("POST", "/v1/rules/{rule}/migrations", "Create the rule's migration", ("timeout",), JSON),
    Described("GET", "/v1/migrations", "All migrations"),
    Described("GET", "/v1/migrations/{migration}", "One migration with its progress"),
    Described(
        "POST",
        "/v1/migrations/{migration}/{action}",
        "start, pause, resume, stop, complete, abort or reset",
        ("timeout",),
    ),
    Described("GET", "/v1/receipts", "Receipts, newest first", ("rule",)),
    Described("GET", "/v1/receipts/{receipt}", "One receipt"),
    Described("GET", "/v1/mounts", "FUSE mounts that this node serves"),
    Described("POST", "/v1/mounts", "Mount a rule's tree on the node's machine; from that machine only", (), JSON),
    Described("DELETE", "/v1/mounts", "Unmount; from the node's machine only", ("mountpoint", "lazy")),
    Described(
        "GET", "/v1/log", "Records of the log, oldest first; `next`: more, from there", ("from", "to", "path", "limit")
    ),
    Described(
        "GET",
        "/v1/events",
        "Server-sent events, resumed by Last-Event-ID (an index)",
        ("after",),
        answer="text/event-stream",
    ),
    Described("POST", "/v1/barrier", "A linearizable read point at this node", ("timeout",)),
    Described("GET", "/v1/wait", "Wait until this node shows an index", ("index", "timeout")),
    Described(
        "GET",
        "/v1/files/{path}",
        "A file's bytes (Range), a directory's listing, or attributes with op=stat",
        ("op", "after", "limit"),
        answer=BYTES,
    ),
    Described("HEAD", "/v1/files/{path}", "Attributes as headers"),
    Described(
        "PUT", "/v1/files/{path}", "Create or replace a file (If-Match, If-None-Match)", ("mode", "uid", "gid"), BYTES
    ),
    Described("DELETE", "/v1/files/{path}", "Remove a name or an empty directory (If-Match)", ("timeout",)),
    Described(
        "POST",
        "/v1/files/{path}",
        "append, write, create, mkdir, rename, link, symlink, setattr, truncate, setxattr or removexattr",
        ("op", "to", "target", "mode", "uid", "gid", "mtime_ns", "size", "offset", "name", "flag", "kind", "rdev"),
        BYTES,
    ),
    Described(
        "POST",
        "/v1/operations",
        "A batch of operations, as JSON or msgpack. With Lddp-Session: HEX, and a 'sequence' in each operation that the"
        " session has not used for another one, it can be sent again without taking effect twice",
        ("timeout", "ack"),
        PACKED,
    ),
    Described(
        "GET", "/v1/operations/stream", "A WebSocket for batches, many in flight", ("session", "ack"), answer=PACKED
    ),
)

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errno": {"type": "string", "description": "The errno's name, for example ENOENT"},
        "next": {"type": "string", "description": "What to do"},
        "nodes": {
            "type": "array",
            "description": "Of type elsewhere: the nodes that can answer",
            "items": {
                "type": "object",
                "properties": {key: {"type": ["string", "null"]} for key in ("name", "zone", "http")},
            },
        },
    },
}


def _operation(route: Described) -> dict[str, Any]:
    path_names = re.findall(r"{(\w+)}", route.path)
    parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in path_names]
    parameters += [{"name": n, "in": "query", "required": False, "schema": {"type": "string"}} for n in route.query]
    words = [route.method.lower(), *re.findall(r"\w+", route.path)]
    problem = {"description": "A problem", "content": {"application/problem+json": {"schema": _ref()}}}
    operation: dict[str, Any] = {
        "operationId": "_".join(words),
        "summary": route.summary,
        "parameters": parameters,
        "responses": {"2XX": {"description": "Done", "content": {route.answer: {}}}, "default": problem},
    }
    if route.body:
        operation["requestBody"] = {"content": {route.body: {}}}
    if route.path in ("/healthz", "/readyz"):
        operation["security"] = []
    return operation


def _ref() -> dict[str, str]:
    return {"$ref": "#/components/schemas/Problem"}


def document() -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in DESCRIBED:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "lddp",
            "version": __version__,
            "description": "Every answer has Lddp-Index. A change may carry Lddp-Operation-Id: HEX:NUMBER and can then "
            "be retried without taking effect twice.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _PROBLEM},
        },
    }
