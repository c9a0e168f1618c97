"""One request, with what every operation needs of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from lddp.access import Access, Entry
from lddp.core.records import Kind, OperationId, Outcome, Record
from lddp.doors.webhdfs import remote
from lddp.doors.webhdfs.identity import Account, Caller, Users, account_of
from lddp.doors.webhdfs.parameters import Parameters
from lddp.doors.webhdfs.remote import RemoteError, of_errno
from lddp.doors.webhdfs.tokens import Tokens
from lddp.serving.bodies import IDLE_S_MAX
from lddp.serving.paths import text_of

PREFIX = "/webhdfs/v1"
ORDER_S_MAX = 60.0
"""How long an operation waits for a majority. Hadoop's clients give up after as long."""

Got = TypeVar("Got")


@dataclass(frozen=True, slots=True)
class Context:
    request: web.Request
    access: Access
    path: bytes
    parameters: Parameters
    caller: Caller
    tokens: Tokens
    users: Users
    idle_s: float = IDLE_S_MAX

    @property
    def shown(self) -> str:
        """The path, for messages: as text, since clients look for it there."""
        return text_of(self.path)

    async def account(self) -> Account:
        return await account_of(self.caller.user)

    def require(self) -> Entry:
        """The entry at the path. Raises RemoteError in HDFS's words."""
        entry = self.access.entry(self.path)
        if entry is None:
            raise RemoteError(remote.NOT_FOUND, f"File does not exist: {self.shown}")
        return entry

    def require_file(self) -> Entry:
        entry = self.require()
        if entry.kind is not Kind.FILE:
            raise RemoteError(remote.NOT_FOUND, f"Path is not a file: {self.shown}")
        return entry

    def changeable(self) -> bytes:
        """The path, unless it is the root."""
        if self.path == b"/":
            raise RemoteError(remote.ACCESS, "the root of the namespace cannot be changed; name something below it")
        return self.path

    # -- records ----------------------------------------------------------------------------------------------------

    def stamp(self) -> tuple[OperationId, int, int]:
        """What begins every operation: its id, zone and time."""
        return self.access.next_id(), self.access.zone_number(), self.access.time_ns()

    async def submit(self, *records: Record, visible: bool = True) -> Sequence[Outcome]:
        answers = await self.access.submit_many(records, ORDER_S_MAX, visible=visible)
        return [outcome for _, outcome in answers]

    async def change(self, record: Record, what: str) -> Outcome:
        """Orders one record. Raises RemoteError where it was refused; `what` is for the reader."""
        (outcome,) = await self.submit(record)
        if outcome.errno:
            raise of_errno(outcome.errno, f"{what} {self.shown}")
        return outcome

    # -- answers ----------------------------------------------------------------------------------------------------

    def address(self) -> tuple[str, int]:
        """Host and port that the client reached this node by."""
        url = self.request.url
        return url.host or "localhost", url.port or 0

    def back_here(self) -> web.Response:
        """Sends the client to this node again, this time with the bytes or for them (`data=true`, as HttpFS does)."""
        target, _, query = self.request.raw_path.partition("?")
        kept = [one for one in query.split("&") if one and one.partition("=")[0].lower() not in ("noredirect", "data")]
        location = f"{self.request.scheme}://{self.request.host}{target}?{'&'.join([*kept, 'data=true'])}"
        if self.parameters.flag("noredirect"):
            return answer({"Location": location})
        return web.Response(status=307, headers={"Location": location}, content_type="application/octet-stream")


def answer(document: dict[str, Any]) -> web.Response:
    return web.Response(
        body=json.dumps(document).encode("ascii"),
        content_type="application/json",
        headers={"Cache-Control": "no-cache"},
    )


def done() -> web.Response:
    """200, and nothing to say."""
    return web.Response(content_type="application/octet-stream")


def boolean(value: bool) -> web.Response:
    return answer({"boolean": value})
