"""One request after the other until one of the nodes has answered it.

A node that does not answer, or that cannot now, is left for the next one, and after a round of all of them there is a
pause, until the deadline. One that says who can is believed: those are asked next, and known from then on. A change
carries one operation id in all its tries: the ecosystem takes it once.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from lddp.client.endpoints import Endpoint, named_by, parse_endpoint, ssl_context
from lddp.client.options import Options
from lddp.client.problems import FileError, error_of, is_passing
from lddp.client.settings import Settings
from lddp.errors import (
    ElsewhereError,
    FormatError,
    LddpError,
    NotAllowedError,
    OutcomeUnknownError,
    UnavailableError,
)

CONNECT_S = 5.0
GRACE_S = 2.0
"""How much longer than a node was told to take it is waited for."""
ATTEMPT_S_MAX = 10.0
"""How long one node may take for an answer while there are others to ask."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0
PROBLEM_BYTES_MAX = 1 << 20
CONNECTIONS_MAX = 64
READ_BUFFER_BYTES = 256 * 1024
"""What of an answer waits to be read; a connection pauses at twice as much."""
NODES_MAX = 64
"""Known, those that others have named included."""

T = TypeVar("T")
Touch = Callable[[int], None]
Body = Callable[[Touch], Any]
"""The request's body, made anew for every try. What takes long says by `Touch` how many bytes of it are sent."""
BROKEN = (aiohttp.ClientError, TimeoutError, ConnectionError)
"""What a connection that fails raises."""


@dataclass(slots=True, eq=False)
class Node:
    """One endpoint. `shown` is the highest index that it is known to show."""

    endpoint: Endpoint
    shown: int = 0

    @property
    def url(self) -> str:
        return self.endpoint.url


def body_of(data: bytes) -> Body:
    """A body of few bytes."""
    return lambda _touch: data


def _never() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Request:
    """`change` names the operation: SESSION:NUMBER in all tries until it is decided; empty for what changes nothing."""

    method: str
    route: str
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    failed: Callable[[], BaseException | None] = _never
    """What went wrong with the body by itself, so that no other try can mend it."""
    change: str = ""
    fine: frozenset[int] = frozenset()
    """Statuses of 400 and more that are answers and no errors."""


class Deadline:
    """When a call gives up; later where it goes on."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + timeout_s
        self._reached = 0

    def left(self) -> float:
        return self._at - self._loop.time()

    def push(self) -> None:
        self._at = self._loop.time() + self._timeout_s

    def reach(self, position: int) -> None:
        """A body is sent up to there. What an earlier try has sent already is no progress: else a call that is refused
        at the end of each try would never give up."""
        if position > self._reached:
            self._reached = position
            self.push()


class Session:
    """Names the changes of one client for ever, and knows the last index of them. In a process that was forked it is
    another one: its parent counts on."""

    def __init__(self) -> None:
        self.index = 0
        self._begin()

    def _begin(self) -> None:
        self._name = secrets.token_hex(16)
        self._sequence = 0
        self._process = os.getpid()

    @property
    def name(self) -> str:
        if self._process != os.getpid():
            self._begin()
        return self._name

    def next_sequence(self, count: int = 1) -> int:
        """The first of `count` numbers that were not used before."""
        if self._process != os.getpid():
            self._begin()
        first = self._sequence + 1
        self._sequence += count
        return first

    def next_id(self) -> str:
        return f"{self.name}:{self.next_sequence()}"


class Requests:
    """The nodes, with a pool of connections to all of them. Belongs to the event loop of its first request."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        endpoints = [parse_endpoint(url) for url in settings.endpoints]
        self.nodes = [Node(endpoint) for endpoint in endpoints]
        self._secure = any(endpoint.secure for endpoint in endpoints)
        self._http: aiohttp.ClientSession | None = None
        self.session = Session()

    async def close(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    def _pool(self) -> aiohttp.ClientSession:
        if self._http is None:
            context = ssl_context(self._settings.authority) if self._secure else True
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, ssl=context),
                headers={"Authorization": f"Bearer {self._settings.token}"},
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
            )
        return self._http

    # -- until somebody answers -------------------------------------------------------------------------------------

    async def json(self, request: Request, options: Options) -> Any:
        """The answer's document."""

        async def read(answer: aiohttp.ClientResponse) -> Any:
            return _document(await answer.read())

        return await self.ask(request, options, read)

    async def ask(
        self, request: Request, options: Options, take: Callable[[aiohttp.ClientResponse], Awaitable[T]]
    ) -> T:
        """What `take` makes of the first good answer. Raises what a node refused for good; after the deadline
        UnavailableError, OutcomeUnknownError where a change may have taken effect or may do so yet."""

        async def once(request: Request, node: Node, seconds: float, deadline: Deadline) -> T:
            async with self._send(node, request, options, seconds, deadline) as answer:
                return await take(answer)

        return await self._until(request, options, once)

    async def open(self, request: Request, options: Options) -> tuple[Node, aiohttp.ClientResponse]:
        """The first good answer, with its body still to be read, and who gave it; the caller closes it."""

        async def once(
            request: Request, node: Node, seconds: float, deadline: Deadline
        ) -> tuple[Node, aiohttp.ClientResponse]:
            return node, await self._answer(node, request, options, seconds, deadline)

        return await self._until(request, options, once)

    async def _until(
        self, request: Request, options: Options, once: Callable[[Request, Node, float, Deadline], Awaitable[T]]
    ) -> T:
        deadline = Deadline(options.timeout_s)
        pause, may_have_happened = PAUSE_S_MIN, False
        failures: dict[str, str] = {}
        while True:
            ahead = list(self.nodes)
            while ahead:
                node = ahead.pop(0)
                left = deadline.left()
                if left <= 0:
                    raise _late(request, options, failures, may_have_happened)
                try:
                    seconds = min(left, ATTEMPT_S_MAX) if len(self.nodes) > 1 else left
                    result = await once(request, node, seconds, deadline)
                except LddpError as error:
                    # A node that is behind may refuse by itself what an earlier try has done.
                    by_itself = isinstance(error, FileError) and not error.index
                    if not is_passing(error) and not (may_have_happened and by_itself):
                        raise
                    failures[node.url] = str(error)
                    may_have_happened |= isinstance(error, OutcomeUnknownError)
                    if isinstance(error, FileError) and error.index and request.change:
                        # It was decided that this one does not happen: another try is another operation.
                        request, may_have_happened = replace(request, change=self.session.next_id()), False
                    if isinstance(error, ElsewhereError):
                        self._go_to(error, node, ahead, failures)
                except aiohttp.ClientConnectorCertificateError as error:
                    raise _stranger(node, error.certificate_error) from None
                except aiohttp.ClientConnectorError as error:
                    failures[node.url] = _reason(error)
                except BROKEN as error:
                    own = request.failed()
                    if own is not None:
                        raise own from None
                    failures[node.url] = _reason(error)
                    may_have_happened |= bool(request.change)
                else:
                    self._prefer(node)
                    return result
            # No event tells a client that a leader was elected: asking again is all it can do.
            await asyncio.sleep(min(pause, max(0.0, deadline.left())))
            pause = min(2 * pause, PAUSE_S_MAX)

    def _go_to(self, error: ElsewhereError, asked: Node, ahead: list[Node], failures: Mapping[str, str]) -> None:
        """The nodes that `asked` names come next in this round, also those that nobody knew of, unless they have been
        asked in it."""
        for endpoint in reversed(named_by(asked.endpoint, error.nodes)):
            node = next((one for one in self.nodes if one.endpoint[:3] == endpoint[:3]), None)
            if node is None and len(self.nodes) < NODES_MAX:
                node = Node(endpoint)
                self.nodes.append(node)
            elif node is None or (node not in ahead and node.url in failures):
                continue
            elif node in ahead:
                ahead.remove(node)
            ahead.insert(0, node)

    def _prefer(self, node: Node) -> None:
        """Who answered is asked first from now on."""
        if self.nodes[0] is not node:
            self.nodes.remove(node)
            self.nodes.insert(0, node)

    def avoid(self, node: Node) -> None:
        """It has broken off: it is asked last."""
        if node in self.nodes:
            self.nodes.remove(node)
            self.nodes.append(node)

    # -- one try ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _send(
        self, node: Node, request: Request, options: Options, seconds: float, deadline: Deadline
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        answer = await self._answer(node, request, options, seconds, deadline)
        try:
            async with asyncio.timeout(options.timeout_s):
                yield answer
        except BaseException:
            answer.close()
            raise
        answer.release()

    async def _answer(
        self, node: Node, request: Request, options: Options, seconds: float, deadline: Deadline
    ) -> aiohttp.ClientResponse:
        """A good answer. Raises the error of a problem document, or one of BROKEN."""
        if not request.change:
            await self._catch_up(node, options, seconds, deadline)
        query, headers = dict(request.query), dict(request.headers)
        if request.change:
            query["timeout"] = f"{seconds:.3f}"
            headers["Lddp-Operation-Id"] = request.change
        target = request.route + ("?" + urlencode(query, errors="surrogateescape", quote_via=quote) if query else "")
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds + GRACE_S) as limit:

            def touch(position: int) -> None:
                deadline.reach(position)
                limit.reschedule(loop.time() + seconds + GRACE_S)

            answer = await self._pool().request(
                request.method,
                URL(node.url + target, encoded=True),
                headers=headers,
                data=None if request.body is None else request.body(touch),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=seconds + GRACE_S),
            )
            if answer.status >= 400 and answer.status not in request.fine:
                raise await _refusal(answer, bool(request.change))
        node.shown = max(node.shown, _index(answer))
        return answer

    async def _catch_up(self, node: Node, options: Options, seconds: float, deadline: Deadline) -> None:
        """Waits until the node shows what a read is to show."""
        index = max(options.at_least, self.session.index if options.own_changes else 0)
        if index <= node.shown:
            return
        wait = Request("GET", "/v1/wait", {"index": index, "timeout": f"{seconds:.3f}"})
        unconditional = Options(options.timeout_s, own_changes=False)
        async with self._send(node, wait, unconditional, seconds, deadline) as answer:
            await answer.read()
        node.shown = max(node.shown, index)


def _document(data: bytes) -> Any:
    try:
        return json.loads(data or b"null")
    except ValueError:
        raise FormatError("the answer is not JSON; is the endpoint a node of lddp?") from None


async def _refusal(answer: aiohttp.ClientResponse, change: bool) -> LddpError:
    try:
        data = await answer.content.read(PROBLEM_BYTES_MAX)
        document = json.loads(data)
    except ValueError:
        document = None
    finally:
        answer.close()
    error = error_of(answer.status, document, change)
    if isinstance(error, FileError):
        error.index = _index(answer)
    return error


def _index(answer: aiohttp.ClientResponse) -> int:
    text = answer.headers.get("Lddp-Index", "0")
    return int(text) if text.isdecimal() else 0


def _stranger(node: Node, error: Exception) -> NotAllowedError:
    reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
    return NotAllowedError(f"{node.url} is not who it should be ({reason}); give its authority")


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno)
    return str(cause) or type(cause).__name__


def _late(request: Request, options: Options, failures: Mapping[str, str], may_have_happened: bool) -> LddpError:
    said = "; ".join(f"{url}: {reason}" for url, reason in sorted(failures.items())) or "no time was left"
    if may_have_happened and request.change:
        return OutcomeUnknownError(
            f"no outcome of {request.change} within {options.timeout_s:g} s ({said}); it may have taken effect: look"
        )
    return UnavailableError(f"no answer within {options.timeout_s:g} s ({said}); try again")
