"""The clients of a drill: random operations on few names, sent to all nodes at once, each under an id of its own.

A client has one request under way. What fails in a way that leaves the outcome open, or says to try again, is sent
again under the same ids, to the same node or another one, until it is answered.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

import aiohttp
import msgpack
from yarl import URL

from cluster.drill_nodes import ROOT, Cluster

BATCH_MAX = 16
LARGE_BYTES_MAX = 64 * 1024
COMMON = tuple(random.Random(size).randbytes(size) for size in (20_000, 40_000, 60_000))
"""Large contents that come again and again, so that one content is used by several files at once."""
SERVER_TIMEOUT_S = 5.0
CLIENT_TIMEOUT_S = 10.0
PAUSE_S = 0.02
GIVE_UP_S = 90.0
NAMES = (b"a", b"b", b"c", b"d", b"e f", b"\xff\xfe", "ö".encode())
XATTRS = (b"user.one", b"user.two")
RENAME_FLAGS = {0: "", 1: "noreplace", 2: "exchange"}
XATTR_FLAGS = {0: "", 1: "create", 2: "replace"}
KINDS = {1: "file", 4: "fifo"}
MAKING = ("mkdir", "create", "symlink")
DEPTH_MAX = 4
MADE_MAX = 48
BODIES = {"put": "data", "append": "data", "write": "data", "setxattr": "value"}
"""Arguments that travel as the body of a request for one operation."""


@dataclass
class Submitted:
    """One operation and what its client saw. Times are of this process' monotonic clock; `gsn` 0: not answered."""

    session: bytes
    sequence: int
    name: str
    path: bytes
    arguments: dict[str, Any]
    alone: bool
    node: str = ""
    invoked: float = 0.0
    completed: float = 0.0
    errno: int = -1
    gsn: int = 0
    tries: int = 0

    @property
    def id(self) -> str:
        return f"{self.session.hex()}:{self.sequence}"


@dataclass
class History:
    """Everything that was submitted, and what went wrong while it was."""

    operations: list[Submitted] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    retries: int = 0
    made: deque[tuple[bytes, bool]] = field(default_factory=lambda: deque(maxlen=MADE_MAX))
    """Paths at which something was lately made, and whether it was a directory: so that many operations succeed."""

    def answered(self, operation: Submitted, answer: tuple[int, int], now: float) -> None:
        """`answer` is (errno, GSN)."""
        operation.errno, operation.gsn = answer
        operation.completed = now
        if not operation.errno and operation.name in ("mkdir", "create", "put", "symlink", "rename", "link"):
            path = operation.arguments.get("to", operation.path)
            self.made.append((path, operation.name == "mkdir"))


class Chooser:
    """Draws operations; all clients draw from the same few names, so that they get into each other's way."""

    def __init__(self, chance: random.Random, made: deque[tuple[bytes, bool]]) -> None:
        self._chance = chance
        self._made = made
        self._makers: dict[str, tuple[int, Callable[[], dict[str, Any]]]] = {
            "mkdir": (14, lambda: {"mode": chance.choice((0o755, 0o700, 0o1777))}),
            "create": (8, lambda: {"mode": chance.choice((0o644, 0o600)), "kind": chance.choice((1, 1, 1, 1, 4))}),
            "put": (14, self._put),
            "append": (10, lambda: {"data": self._bytes(200)}),
            "write": (4, lambda: {"offset": chance.randrange(300), "data": self._bytes(100)}),
            "truncate": (5, lambda: {"size": chance.choice((0, 1, 50, 5000))}),
            "rename": (18, lambda: {"to": self._path(), "flag": chance.choice((0, 0, 1, 2))}),
            "link": (8, lambda: {"to": self._path()}),
            "symlink": (5, lambda: {"target": chance.choice((b"a", b"../b", b"/nowhere", b"\xfe"))}),
            "unlink": (10, dict),
            "rmdir": (7, dict),
            "setattr": (5, lambda: {"mode": chance.choice((0o644, 0o640, 0o755)), "mtime_ns": self._time()}),
            "setxattr": (5, self._xattr),
            "removexattr": (2, lambda: {"name": chance.choice(XATTRS)}),
        }
        self._weights = [weight for weight, _ in self._makers.values()]

    def draw(self, alone: bool) -> tuple[str, bytes, dict[str, Any]]:
        """An operation: name, path, arguments. `alone`: for a request of its own, whose body may be large."""
        (name,) = self._chance.choices(list(self._makers), self._weights)
        arguments = self._makers[name][1]()
        if alone and name in ("put", "append") and self._chance.random() < 0.1:
            common = self._chance.random() < 0.5
            arguments["data"] = self._chance.choice(COMMON) if common else self._bytes(LARGE_BYTES_MAX)
        return name, self._path(made=name not in MAKING), arguments

    def _path(self, made: bool = False) -> bytes:
        """A path: below a directory that was made, if there is one; with `made`, mostly one that was made itself."""
        if made and self._made and self._chance.random() < 0.8:
            return self._chance.choice(self._made)[0]
        directories = [path for path, is_directory in self._made if is_directory and path.count(b"/") < DEPTH_MAX]
        above = self._chance.choice(directories) if directories and self._chance.random() < 0.8 else ROOT
        depth = self._chance.choices((0, 1, 2), (1, 80, 10))[0]
        return b"/".join((above, *self._chance.choices(NAMES, k=depth)))

    def _bytes(self, most: int) -> bytes:
        return self._chance.randbytes(self._chance.randrange(most))

    def _time(self) -> int | None:
        return self._chance.choice((None, 1_000_000_001, 1_700_000_000_123_456_789))

    def _put(self) -> dict[str, Any]:
        return {"data": self._bytes(300), "mode": self._chance.choice((0o644, 0o755))}

    def _xattr(self) -> dict[str, Any]:
        value = self._bytes(40)
        return {"name": self._chance.choice(XATTRS), "value": value, "flag": self._chance.choice((0, 0, 1, 2))}


class Client:
    """One session at one node, with one request under way at a time."""

    def __init__(self, cluster: Cluster, node: str, chance: random.Random, history: History) -> None:
        self._cluster = cluster
        self._node = node
        self._chance = chance
        self._choose = Chooser(chance, history.made)
        self._history = history
        self._session = chance.randbytes(12)
        self._sequence = 0
        self._http: aiohttp.ClientSession

    async def run(self, more: Callable[[], bool]) -> None:
        """Submits until there is to be no more."""
        async with self._cluster.session() as self._http:
            while more():
                if self._chance.random() < 0.5:
                    await self._send([self._next(True)], self._single)
                else:
                    operations = [self._next(False) for _ in range(self._chance.randint(1, BATCH_MAX))]
                    await self._send(operations, self._chance.choice((self._packed, self._json)))

    async def probe(self, name: bytes) -> float:
        """One small write; when it was acknowledged. Never sent to another node."""
        async with self._cluster.session() as self._http:
            operation = self._make("put", ROOT + b"/" + name, {"data": name, "mode": 0o644}, True)
            await self._send([operation], self._single, stay=True)
            return operation.completed

    def _next(self, alone: bool) -> Submitted:
        return self._make(*self._choose.draw(alone), alone)

    def _make(self, name: str, path: bytes, arguments: dict[str, Any], alone: bool) -> Submitted:
        self._sequence += 1
        operation = Submitted(self._session, self._sequence, name, path, arguments, alone)
        self._history.operations.append(operation)
        return operation

    async def _send(self, operations: list[Submitted], send: Callable[..., Any], stay: bool = False) -> None:
        began = time.monotonic()
        node = self._node
        for operation in operations:
            operation.invoked = began
        while True:
            for operation in operations:
                operation.node, operation.tries = node, operation.tries + 1
            try:
                answers = await send(node, operations)
            except (aiohttp.ClientError, OSError, TimeoutError):
                answers = None
            if answers is not None:
                break
            if time.monotonic() - began > GIVE_UP_S:
                self._history.violations.append(f"{operations[0].id}: no answer within {GIVE_UP_S:g} s of trying")
                return
            self._history.retries += 1
            await asyncio.sleep(PAUSE_S)
            if not stay and self._chance.random() < 0.7:
                node = self._chance.choice(self._cluster.names)
        now = time.monotonic()
        for operation in operations:
            if operation.sequence not in answers:
                self._history.violations.append(f"{operation.id}: the answer to its batch leaves it out")
                continue
            self._history.answered(operation, answers[operation.sequence], now)

    # -- requests: each returns (errno, GSN) by sequence, or None to try again ---------------------------------------

    async def _post(self, node: str, operations: list[Submitted], data: bytes, kind: str) -> bytes | None:
        headers = {"Lddp-Session": self._session.hex(), "Content-Type": kind}
        url = f"{self._cluster.endpoints[node]}/v1/operations?timeout={SERVER_TIMEOUT_S}"
        timeout = aiohttp.ClientTimeout(total=CLIENT_TIMEOUT_S)
        async with self._http.post(url, data=data, headers=headers, timeout=timeout) as answer:
            body = await answer.read()
            if answer.status == 503:
                return None
            if answer.status != 200:
                self._history.violations.append(f"{operations[0].id}: batch: HTTP {answer.status}: {body[:300]!r}")
                return None
            return body

    async def _packed(self, node: str, operations: list[Submitted]) -> dict[int, tuple[int, int]] | None:
        arrays = [_array(operation) for operation in operations]
        data = bytes(msgpack.packb(arrays, use_bin_type=True))
        body = await self._post(node, operations, data, "application/msgpack")
        return None if body is None else {row[0]: (row[1], row[2]) for row in msgpack.unpackb(body)}

    async def _json(self, node: str, operations: list[Submitted]) -> dict[int, tuple[int, int]] | None:
        documents = [_document(operation) for operation in operations]
        data = json.dumps({"operations": documents}).encode()
        body = await self._post(node, operations, data, "application/json")
        if body is None:
            return None
        return {row["sequence"]: (row["errno"], row["index"]) for row in json.loads(body)["results"]}

    async def _single(self, node: str, operations: list[Submitted]) -> dict[int, tuple[int, int]] | None:
        (operation,) = operations
        method = {"put": "PUT", "unlink": "DELETE", "rmdir": "DELETE"}.get(operation.name, "POST")
        url = URL(self._cluster.endpoints[node] + _target(operation, method), encoded=True)
        body = operation.arguments.get(BODIES.get(operation.name, ""))
        headers = {"Lddp-Operation-Id": operation.id}
        timeout = aiohttp.ClientTimeout(total=CLIENT_TIMEOUT_S)
        async with self._http.request(method, url, data=body, headers=headers, timeout=timeout) as answer:
            document = await answer.json(content_type=None)
            if answer.status == 503:
                return None
            number = 0 if answer.status < 300 else getattr(errno, str(document.get("errno")), -1)
            index = answer.headers.get("Lddp-Index")
            if number < 0 or index is None:
                where = f"{method} {operation.name}: HTTP {answer.status}"
                self._history.violations.append(f"{operation.id}: {where} without being ordered: {document}")
                return {operation.sequence: (number, 0)}
            return {operation.sequence: (number, int(index))}


_ORDER = {
    "mkdir": ("mode",),
    "put": ("data", "mode"),
    "append": ("data",),
    "write": ("offset", "data"),
    "truncate": ("size",),
    "rename": ("to", "flag"),
    "link": ("to",),
    "symlink": ("target",),
    "unlink": (),
    "rmdir": (),
    "setxattr": ("name", "value", "flag"),
    "removexattr": ("name",),
}


def _array(operation: Submitted) -> list[Any]:
    given = operation.arguments
    head = [operation.sequence, operation.name, operation.path]
    match operation.name:
        case "create":
            return [*head, given["mode"], None, None, given["kind"]]
        case "setattr":
            return [*head, given["mode"], None, None, given["mtime_ns"]]
        case name:
            return [*head, *(given[key] for key in _ORDER[name])]


def _document(operation: Submitted) -> dict[str, Any]:
    document: dict[str, Any] = {"op": operation.name, "sequence": operation.sequence}
    for key, value in {"path": operation.path, **operation.arguments}.items():
        if isinstance(value, bytes):
            document[f"{key}_base64"] = base64.b64encode(value).decode("ascii")
        elif value is not None:
            document[key] = value
    return document


def _target(operation: Submitted, method: str) -> str:
    query: dict[str, Any] = {"timeout": SERVER_TIMEOUT_S}
    if method == "POST":
        query["op"] = operation.name
    for key, value in operation.arguments.items():
        if key == BODIES.get(operation.name) or value is None:
            continue
        match key:
            case "mode":
                query[key] = f"{value:04o}"
            case "kind":
                query[key] = KINDS[value]
            case "flag":
                words = RENAME_FLAGS if operation.name == "rename" else XATTR_FLAGS
                if value:
                    query[key] = words[value]
            case _:
                query[key] = value
    return f"/v1/files{quote_from_bytes(operation.path)}?{urlencode(query)}"
