"""A call ends after its deadline, whatever it sends and however it is refused, and says what may have happened."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from lddp import errors
from lddp.admin import problems
from lddp.client import Batch, Client, FileError, Settings
from lddp.client import requests as module
from lddp.core.records import Outcome
from tests.client.server import answering
from tests.node.zones import TOKEN

DATA = os.urandom(600_000)
BOUND_S = 30.0
"""For what would never end."""


def at(*urls: str, timeout_s: float) -> Client:
    return Client(Settings(urls, TOKEN)).having(timeout_s=timeout_s)


async def no_leader(request: web.Request) -> web.Response:
    await request.read()
    return problems.of_error(errors.UnavailableError("no leader; try again"))


async def test_who_is_behind_does_not_say_of_what_was_perhaps_done_that_it_was_refused() -> None:
    """The second node does not know the rule yet. What the log refuses is refused."""
    asked: list[str] = []
    in_the_log = False

    async def lose(request: web.Request) -> web.Response:
        await request.read()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def refuse(request: web.Request) -> web.Response:
        asked.append(request.headers["Lddp-Operation-Id"])
        if in_the_log:
            return problems.of_outcome(Outcome(errno.ENOENT), 7, "mkdir /data/d")
        return problems.of_error(errors.OperationError(errno.ENOENT, "no rule has this path"))

    async with answering(lose) as one, answering(refuse) as two, at(one, two, timeout_s=0.5) as client:
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(errors.OutcomeUnknownError):
                await client.mkdir("/data/d")
            assert len(set(asked)) == 1
            in_the_log = True
            with pytest.raises(FileNotFoundError):
                await client.mkdir("/data/d")
    async with answering(refuse) as url, at(url, timeout_s=0.5) as client, asyncio.timeout(BOUND_S):
        in_the_log = False
        with pytest.raises(FileNotFoundError):
            await client.mkdir("/data/d")  # nothing may have happened before


def test_a_process_that_was_forked_has_a_session_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would count on from the same number, and what the second does be taken for the first one's."""
    session = module.Session()
    before = session.next_id()
    assert session.next_id().split(":") == [session.name, "2"] and before.startswith(session.name)
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    assert session.next_sequence() == 1
    assert not before.startswith(session.name)


async def test_a_change_with_bytes_gives_up_where_nobody_can_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a majority: every node says so quickly, when it has got all of the bytes."""
    monkeypatch.setattr(module, "PAUSE_S_MAX", module.PAUSE_S_MIN)  # shorter than the time of the call
    async with answering(no_leader) as url, at(url, timeout_s=0.3) as client, asyncio.timeout(BOUND_S):
        with pytest.raises(errors.UnavailableError, match="no leader") as caught:
            await client.write("/data/f", DATA)
    assert not isinstance(caught.value, errors.OutcomeUnknownError), "it surely did not happen"


async def test_what_was_decided_is_asked_for_again_under_another_id() -> None:
    """EAGAIN of the log is final for its id; that no node takes it is not."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.headers["Lddp-Operation-Id"])
        if len(asked) == 1:
            return problems.of_error(errors.OutcomeUnknownError("no outcome"))
        if len(asked) == 2:
            return problems.of_outcome(Outcome(errno.EAGAIN), 7, "mkdir /data/d")
        return problems.of_error(errors.UnavailableError("no leader; try again"))

    async with answering(answer) as url, at(url, timeout_s=0.5) as client, asyncio.timeout(BOUND_S):
        with pytest.raises(errors.UnavailableError) as caught:
            await client.mkdir("/data/d")
    first, second, third, *others = asked
    assert first == second != third and set(others) <= {third}
    assert not isinstance(caught.value, errors.OutcomeUnknownError), "none of them happens"


async def test_a_change_with_bytes_gives_up_where_its_outcome_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes, so that one is left before the time of the call is over: each gets all of the bytes, several times."""
    monkeypatch.setattr(module, "ATTEMPT_S_MAX", 0.05)
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    monkeypatch.setattr(module, "PAUSE_S_MAX", module.PAUSE_S_MIN)
    bodies: list[bytes] = []

    async def keep(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        await asyncio.Event().wait()
        raise AssertionError

    async with answering(keep) as one, answering(keep) as two, at(one, two, timeout_s=0.3) as client:
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(errors.OutcomeUnknownError, match="no answer in time"):
                await client.write("/data/f", DATA)
    assert len(bodies) > 1 and set(bodies) == {DATA}


async def test_bytes_that_were_not_sent_before_put_the_deadline_off(monkeypatch: pytest.MonkeyPatch) -> None:
    began, seconds = asyncio.get_running_loop().time(), 0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: began + seconds)
    deadline = module.Deadline(10)
    for at_s, position, expected in ((4, 100, 10), (8, 50, 6), (12, 100, 2), (13, 101, 10), (20, 101, 3)):
        seconds = at_s
        deadline.reach(position)
        assert deadline.left() == pytest.approx(expected)


async def test_a_file_that_becomes_shorter_while_it_is_sent_is_not_tried_again(tmp_path: Path) -> None:
    """The node would wait for the rest of it until the end of its patience."""
    tries = 0

    async def take(request: web.Request) -> web.Response:
        nonlocal tries
        tries += 1
        await request.read()
        return web.json_response({"index": 1})

    local = tmp_path / "f"
    local.write_bytes(DATA)

    def shrink(done: int, size: int | None) -> None:
        os.truncate(local, 300_000)

    async with answering(take) as one, answering(take) as two, at(one, two, timeout_s=BOUND_S) as client:
        with pytest.raises(FileError, match="ended after 300000 of 600000 bytes"):
            await client.upload(local, "/data/f", shrink)
    assert tries == 1


async def test_the_time_of_a_slow_reader_is_not_that_of_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back when the node has broken off, and so does the next one, before any byte."""
    part = b'HTTP/1.1 206 Partial Content\r\nETag: "7"\r\nContent-Range: bytes 3-5/6\r\nContent-Length: 3\r\n\r\n'
    answers = [b'HTTP/1.1 200 OK\r\nLddp-Index: 7\r\nETag: "7"\r\nContent-Length: 6\r\n\r\nabc', part, part + b"def"]

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        writer.close()
        await writer.wait_closed()

    loop = asyncio.get_running_loop()
    now, passed_s, got = loop.time, 0.0, []
    monkeypatch.setattr(loop, "time", lambda: now() + passed_s)
    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, at(url, timeout_s=BOUND_S) as client, client.open("/data/f") as download:
        async for chunk in download:
            got.append(chunk)
            passed_s += 2 * BOUND_S
    assert (got, answers) == ([b"abc", b"def"], [])


async def test_a_request_that_a_stranger_refuses_is_not_repeated() -> None:
    asked = 0

    async def refuse(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=404)

    async with answering(refuse) as url, at(url, timeout_s=BOUND_S) as client:
        with pytest.raises(errors.FormatError, match="is it a node of lddp"):
            await client.mkdir("/data/d")
    assert asked == 1


# -- what may have happened -------------------------------------------------------------------------------------------


def of_a_proxy() -> web.Response:
    return web.Response(status=504)


def of_a_node() -> web.Response:
    return problems.answer(problems.document("internal", 500, "the node met an unforeseen OSError"))


@pytest.mark.parametrize("answer", [of_a_proxy, of_a_node])
async def test_a_change_that_was_cut_off_may_have_happened(answer: Callable[[], web.Response]) -> None:
    """The answer says nothing of the record; another node, which says that it cannot order it, does not either."""

    async def cut_off(request: web.Request) -> web.Response:
        await request.read()
        return answer()

    async with answering(cut_off) as one, answering(no_leader) as two, at(one, two, timeout_s=0.3) as client:
        for call in (client.mkdir("/data/d"), client.submit(Batch().mkdir("/data/d"))):
            with pytest.raises(errors.OutcomeUnknownError, match="may have taken effect"):
                await call
        with pytest.raises(errors.UnavailableError) as caught:
            await client.stat("/data/d")
        assert not isinstance(caught.value, errors.OutcomeUnknownError), "it changes nothing"
