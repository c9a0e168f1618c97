from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lddp.errors import FormatError, LimitError, NotAllowedError, UsageError
from lddp.links.address import HostPort, UnixPath, parse_address
from lddp.links.frames import encode_frame, read_frame
from lddp.links.handshake import Hello, check_hello, decode_hello


def reading(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_frames_come_out_as_they_went_in(bodies: list[bytes]) -> None:
    async def run() -> None:
        reader = reading(b"".join(map(encode_frame, bodies)))
        assert [await read_frame(reader) for _ in bodies] == bodies
        with pytest.raises(asyncio.IncompleteReadError):
            await read_frame(reader)

    asyncio.run(run())


async def test_a_frame_beyond_the_limit_is_refused_before_its_body() -> None:
    reader = reading(b"\x00\x00\x00\x09" + b"x" * 9)
    with pytest.raises(LimitError):
        await read_frame(reader, bytes_max=8)
    assert await reader.read() == b"x" * 9
    with pytest.raises(LimitError):
        encode_frame(b"x" * 9, bytes_max=8)


@given(st.binary(max_size=200))
def test_a_hello_that_is_none_is_a_format_error(body: bytes) -> None:
    try:
        decode_hello(body)
    except FormatError:
        return
    raise AssertionError("random bytes are no hello")


def test_hellos() -> None:
    hello = Hello("e", "a", "raft")
    assert decode_hello(hello.encode()) == hello
    check_hello(hello, ecosystem="e", certified="a")
    check_hello(hello, ecosystem="e", certified=None)
    for wrong in (hello._replace(version=1), hello._replace(ecosystem="f"), hello._replace(node="b")):
        with pytest.raises(NotAllowedError):
            check_hello(wrong, ecosystem="e", certified="a")
    for broken in ({"node": 1}, {"node": ""}, {"node": "x" * 200}, {"version": True}, {"version": "1"}):
        with pytest.raises(FormatError):
            decode_hello(Hello(**{**hello._asdict(), **broken}).encode())  # type: ignore[arg-type]


def test_addresses() -> None:
    assert parse_address("host:80") == HostPort("host", 80)
    assert parse_address("[::1]:80") == HostPort("::1", 80)
    assert parse_address("unix:/run/x") == UnixPath("/run/x")
    for wrong in ("host", "host:", "host:x", "host:99999", "unix:relative", "unix:/", ""):
        with pytest.raises(UsageError):
            parse_address(wrong)
