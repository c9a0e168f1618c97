"""A thin HTTP client of the nodes' API, from the standard library so that commands start fast.

It tries the endpoints in their order until one answers. A change carries an operation id, so trying again after a
broken connection cannot take effect twice.
"""

from __future__ import annotations

import errno
import http.client
import json
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from lddp import errors
from lddp.client.endpoints import Endpoint, parse_endpoint, read_token, ssl_context
from lddp.client.problems import error_of

CONNECT_S = 5.0
PAUSE_S = 0.2
CHUNK_BYTES = 256 * 1024


class _Unreachable(Exception):
    """This endpoint did not get the request, or it changes nothing; another may answer."""


class Answer:
    """An answer whose body has not been read. Use as a context."""

    def __init__(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, change: bool = False
    ) -> None:
        self._connection = connection
        self._response = response
        self._change = change
        self.status = response.status
        self.headers = response.headers

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece. Raises UnavailableError where it breaks off; of a change, OutcomeUnknownError."""
        try:
            while chunk := self._response.read(CHUNK_BYTES):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from None
        if self._response.length:  # what is left of Content-Length, of which reading in pieces says nothing
            raise self._broken(f"{self._response.length} bytes are missing")

    def lines(self) -> Iterator[bytes]:
        try:
            while line := self._response.readline():
                yield line
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from None

    def json(self) -> Any:
        try:
            return json.loads(b"".join(self.chunks()) or b"null")
        except ValueError:
            raise errors.FormatError("the answer is not JSON; is the endpoint a node of lddp?") from None

    def _broken(self, reason: object) -> errors.UnavailableError:
        if self._change:
            return _unknown(f"the node broke off its answer: {reason}")
        return errors.UnavailableError(f"the node broke off its answer ({reason}); run the command again")


def _unknown(reason: str) -> errors.OutcomeUnknownError:
    return errors.OutcomeUnknownError(
        f"the outcome is not known ({reason}); it may have taken effect: look before you run the command again"
    )


class Client:
    """Requests to whichever of the endpoints answers. `timeout_s` bounds the wait for an answer, and the time that
    nodes without a leader are asked again."""

    def __init__(
        self, endpoints: Sequence[str], token_file: Path | None, authority: Path | None, timeout_s: float
    ) -> None:
        self._endpoints = [parse_endpoint(url) for url in endpoints]
        self._token_file = token_file
        self._token = ""
        self._authority = authority
        self._timeout_s = timeout_s
        self._session = secrets.token_hex(16)
        self._sequence = 0

    def get(self, route: str, query: Mapping[str, Any] | None = None) -> Any:
        with self.request("GET", route, query) as answer:
            return answer.json()

    def change(
        self,
        method: str,
        route: str,
        query: Mapping[str, Any] | None = None,
        body: object = None,
    ) -> Any:
        """A request that changes something, with a fresh operation id; `body` is sent as JSON."""
        data = None if body is None else json.dumps(body).encode("ascii")
        with self.request(method, route, query, data, {"Content-Type": "application/json"}, change=True) as answer:
            return answer.json()

    def request(
        self,
        method: str,
        route: str,
        query: Mapping[str, Any] | None = None,
        body: bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        change: bool = False,
        patience_s: float | None = None,
    ) -> Answer:
        """The first good answer. `patience_s` is the longest silence of an answer that goes on (None: the timeout).
        Raises the error that a problem document says, UnavailableError where no endpoint answers, OutcomeUnknownError
        where none does and a change may have taken effect or may do so yet."""
        if not self._endpoints:
            raise errors.UsageError("no endpoint is known; give --endpoint URL, --cluster DIR or LDDP_ENDPOINT")
        fields = dict(headers or {})
        self._token = self._token or read_token(self._token_file)
        fields["Authorization"] = f"Bearer {self._token}"
        if change:
            self._sequence += 1
            fields["Lddp-Operation-Id"] = f"{self._session}:{self._sequence}"
            query = {**(query or {}), "timeout": self._timeout_s}
        target = route + ("?" + urlencode(query, errors="surrogateescape", quote_via=quote) if query else "")
        start = body.tell() if body is not None and not isinstance(body, bytes) and body.seekable() else None
        repeatable = body is None or isinstance(body, bytes) or start is not None
        return self._first(method, target, body, fields, start, repeatable, patience_s)

    def _first(
        self,
        method: str,
        target: str,
        body: bytes | BinaryIO | None,
        fields: Mapping[str, str],
        start: int | None,
        repeatable: bool,
        patience_s: float | None,
    ) -> Answer:
        deadline = time.monotonic() + self._timeout_s
        failure: errors.UnavailableError
        unknown: errors.OutcomeUnknownError | None = None
        while True:
            reasons = []
            failure = errors.UnavailableError("no node reachable")
            for endpoint in self._endpoints:
                if start is not None and body is not None and not isinstance(body, bytes):
                    body.seek(start)
                try:
                    return self._ask(endpoint, method, target, body, fields, patience_s)
                except _Unreachable as error:
                    reasons.append(f"{endpoint.url}: {error}")
                except errors.OutcomeUnknownError as error:
                    unknown = _unknown(f"{endpoint.url}: {error}")
                except errors.UnavailableError as error:
                    failure = error
                if not repeatable:
                    break
            if reasons and len(reasons) == len(self._endpoints):
                failure = errors.UnavailableError(f"no node reachable ({', '.join(reasons)}); check the endpoints")
                raise unknown or failure
            if not repeatable or time.monotonic() + PAUSE_S > deadline:
                raise unknown or failure
            # No event tells a client that a leader was elected: asking again is all it can do.
            time.sleep(PAUSE_S)

    def _ask(
        self,
        endpoint: Endpoint,
        method: str,
        target: str,
        body: bytes | BinaryIO | None,
        fields: Mapping[str, str],
        patience_s: float | None,
    ) -> Answer:
        connection = self._connection(endpoint)
        change, sent = "Lddp-Operation-Id" in fields, False
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(self._timeout_s + CONNECT_S if patience_s is None else patience_s)
            data: bytes | BinaryIO | Iterator[bytes] | None = body
            if body is not None and not isinstance(body, bytes) and "Content-Length" in fields:
                data = _pieces(body, int(fields["Content-Length"]))
            connection.request(method, target, data, dict(fields))
            sent = True
            response = connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise errors.NotAllowedError(
                f"{endpoint.url} is not who it should be ({error.verify_message}); give its authority with --ca-file"
            ) from None
        except errors.LddpError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            # Of a request that broke off while it was sent, no node has got all, so that none has acted on it.
            raise (errors.OutcomeUnknownError if sent and change else _Unreachable)(_reason(error)) from None
        if response.status < 400:
            return Answer(connection, response, change)
        with Answer(connection, response) as answer:
            raise _error_of(answer, change)

    def _connection(self, endpoint: Endpoint) -> http.client.HTTPConnection:
        if not endpoint.secure:
            return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=CONNECT_S)
        context = ssl_context(self._authority)
        return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=CONNECT_S, context=context)


def _pieces(file: BinaryIO, length: int) -> Iterator[bytes]:
    """So many bytes of a file, also where it has become longer. Raises OperationError where they cannot be had."""
    sent = 0
    while sent < length:
        try:
            piece = file.read(min(CHUNK_BYTES, length - sent))
        except OSError as error:
            raise errors.OperationError(
                error.errno or errno.EIO, f"what is sent cannot be read ({_reason(error)}); check the file"
            ) from None
        if not piece:
            raise errors.OperationError(
                errno.EIO, f"what is sent ended after {sent} of {length} bytes; run the command again"
            )
        sent += len(piece)
        yield piece


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _error_of(answer: Answer, change: bool) -> errors.LddpError:
    """The error that an answer of 400 or more stands for."""
    try:
        document = answer.json()
    except errors.LddpError:
        document = None
    return error_of(answer.status, document, change)
