"""A file's bytes as they come; from another node, behind the last one that came, where a node breaks off."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import aiohttp

from lddp.client.options import Options, Progress
from lddp.client.problems import file_error
from lddp.client.requests import BROKEN, PAUSE_S_MIN, Deadline, Node, Request, Requests
from lddp.errors import OperationError, UnavailableError

CHUNK_BYTES = 256 * 1024


class Download:
    """One version of a file, or a part of it. A context; its chunks are iterated over once.

    `start` and `stop` are offsets in bytes, `stop` None for the end of the file. With `version`, that version or an
    error: FileError(ESTALE) where the file has another one, also where it changes before all bytes have come and no
    node has the old ones any more."""

    def __init__(
        self,
        requests: Requests,
        options: Options,
        route: str,
        start: int = 0,
        stop: int | None = None,
        version: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self._requests = requests
        self._options = options
        self._route = route
        self._start = start
        self._stop = stop
        self._progress = progress
        self._answer: aiohttp.ClientResponse | None = None
        self._node: Node | None = None
        self.version = version
        """Once it is open, the version that is read."""
        self.size = 0
        """Bytes of the whole file."""
        self.mode = 0
        self.digest = ""
        self.position = start
        self.end = start
        """Offset behind the last byte that is to come."""

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()

    async def _open(self) -> None:
        """Asks for what has not come yet."""
        headers = {}
        if self.version:
            headers["If-Match"] = f'"{self.version}"'
        if self.position or self._stop is not None:
            last = "" if self._stop is None else str(max(self._stop, self.position + 1) - 1)
            headers["Range"] = f"bytes={self.position}-{last}"
        request = Request("GET", self._route, {"op": "read"}, headers, fine=frozenset({416}))
        # A node that is behind the version would say that the file is at another one.
        least = Options(self._options.timeout_s, max(self._options.at_least, self.version), self._options.own_changes)
        self._node, self._answer = await self._requests.open(request, least)
        answer = self._answer
        self.version = int(answer.headers.get("ETag", '"0"').strip('"'))
        self.mode = int(answer.headers.get("Lddp-Mode", "0644"), 8)
        self.digest = answer.headers.get("Lddp-Digest", "")
        length = int(answer.headers.get("Content-Length", "0"))
        if answer.status == 416:
            self.size, self.end = int(answer.headers["Content-Range"].rpartition("/")[2]), self.position
        elif answer.status == 206:
            self.size, self.end = int(answer.headers["Content-Range"].rpartition("/")[2]), self.position + length
        else:
            self.size = self.end = length
        if self._stop is not None:
            self.end = max(self.position, min(self.end, self._stop))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        deadline = Deadline(self._options.timeout_s)
        while True:
            before = self.position
            try:
                async for chunk in self._pieces():
                    yield chunk
                    deadline.push()  # not before: the time of who reads is not the nodes'
            except BROKEN as error:
                if self.position == before and deadline.left() <= 0:
                    raise UnavailableError(f"no more bytes of {self._route} came ({error}); try again") from None
            else:
                self._close()
                return
            self._close()
            assert self._node is not None, "it has answered"
            self._requests.avoid(self._node)
            if self.position == before:
                await asyncio.sleep(PAUSE_S_MIN)  # nothing tells when that node is well again
            await self._open()

    async def _pieces(self) -> AsyncIterator[bytes]:
        assert self._answer is not None, "a download is used as a context"
        while self.position < self.end:
            chunk = await self._answer.content.read(min(CHUNK_BYTES, self.end - self.position))
            if not chunk:
                raise aiohttp.ClientPayloadError("the answer ended early")
            self.position += len(chunk)
            if self._progress is not None:
                self._progress(self.position - self._start, self.end - self._start)
            yield chunk

    async def read(self) -> bytes:
        """All of it."""
        return b"".join([chunk async for chunk in self])


def is_changed(error: OperationError) -> bool:
    """Whether a file was changed under a reader's hands, so that it can begin anew."""
    return error.errno == errno.ESTALE


def changed_too_often(path: str) -> OperationError:
    return file_error(errno.ESTALE, f"{path!r} was changed each time before all of it had come; try again later")
