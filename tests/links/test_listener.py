"""Who gets in, who does not, and what is counted; over TLS and Unix sockets."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from lddp.errors import LddpError, NotAllowedError, UnavailableError, UsageError
from lddp.links.address import parse_address, reachable_unix_path
from lddp.links.connect import connect
from lddp.links.credentials import Credentials
from lddp.links.frames import encode_frame
from lddp.links.handshake import Hello
from lddp.links.listener import Listener

Held = dict[tuple[str, str], Credentials]
DEADLINE_S = 20.0


@pytest.fixture(params=["tls", "unix", "unix with a long path"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "tls":
            return "127.0.0.1:0"
        case "unix":
            return f"unix:{tmp_path}/sockets/s"
        case _:
            return f"unix:{tmp_path}/{'deep' * 30}/s"


@asynccontextmanager
async def listening(address: str, credentials: Held) -> AsyncIterator[Listener]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        writer.write(peer.encode() + await reader.readexactly(4))
        await writer.drain()

    listener = Listener(
        address, me="a", ecosystem="ours", credentials=credentials["ours", "a"], knows=lambda name: name == "b"
    )
    listener.register("echo", echo)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


async def ask(listener: Listener, held: Credentials, **changes: str) -> bytes:
    arguments: dict[str, Any] = {"me": "b", "ecosystem": "ours", "channel": "echo", "expected_peer": "a", **changes}
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await connect(listener.address, held, **arguments)
        try:
            writer.write(b"ping")
            return await reader.readexactly(5)
        finally:
            writer.close()


async def refused(listener: Listener, count: int = 1) -> None:
    """Until the listener has counted a refusal."""
    async with asyncio.timeout(DEADLINE_S):
        # The refusal is seen by the peer before or after it is counted; nothing else tells of it.
        while listener.refused.total() < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def answer_of(listener: Listener, context: ssl.SSLContext | None, first: bytes) -> bytes:
    """What comes back to one who sends `first` in his own way."""
    host, port = listener.address.rsplit(":", 1)
    async with asyncio.timeout(DEADLINE_S):
        try:
            server_hostname = None if context is None else ""
            reader, writer = await asyncio.open_connection(
                host, int(port), ssl=context, server_hostname=server_hostname
            )
        except (ssl.SSLError, ConnectionError):
            return b""
        try:
            writer.write(first)
            return await reader.read()
        except (ssl.SSLError, ConnectionError):
            return b""
        finally:
            writer.transport.abort()


async def test_a_peer_is_served(address: str, credentials: Held) -> None:
    async with listening(address, credentials) as listener:
        for _ in range(3):
            assert await ask(listener, credentials["ours", "b"]) == b"bping"
        assert listener.refused == {}


@pytest.mark.parametrize("changes", [{"me": "c"}, {"me": "a"}, {"channel": "other"}, {"ecosystem": "other"}])
async def test_strangers_are_refused_with_one_line(
    address: str, credentials: Held, changes: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with listening(address, credentials) as listener:
        held = credentials["ours", changes.get("me", "b")]
        with pytest.raises((UnavailableError, NotAllowedError)):
            await ask(listener, held, **changes)
        await refused(listener)
        assert len(caplog.records) == 1 and "refused" in caplog.text
        assert await ask(listener, credentials["ours", "b"]) == b"bping"


async def test_the_other_end_must_be_who_is_expected(address: str, credentials: Held) -> None:
    async with listening(address, credentials) as listener:
        with pytest.raises(NotAllowedError, match="not 'c'"):
            await ask(listener, credentials["ours", "b"], expected_peer="c")


async def test_a_name_must_be_in_the_certificate(credentials: Held) -> None:
    async with listening("127.0.0.1:0", credentials) as listener:
        with pytest.raises(UnavailableError):
            await ask(listener, credentials["ours", "c"], me="b")
        assert listener.refused == {"certificate": 1}


@pytest.mark.parametrize("authority", ["other", "forged"])
async def test_certificates_of_another_authority_are_refused(
    credentials: Held, authority: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with listening("127.0.0.1:0", credentials) as listener:
        # Not by `connect`, which would refuse the listener's certificate first.
        context = credentials[authority, "b"].client_context()
        context.verify_mode = ssl.CERT_NONE
        assert await answer_of(listener, context, encode_frame(Hello("ours", "b", "echo").encode())) == b""
        await refused(listener)
        assert listener.refused == {"certificate": 1}
        assert len(caplog.records) == 1 and "certificate is not of this ecosystem" in caplog.text
        with pytest.raises((NotAllowedError, UnavailableError)):
            await ask(listener, credentials[authority, "b"])
        assert await ask(listener, credentials["ours", "b"]) == b"bping"


@pytest.mark.parametrize(("certificate", "expected"), [(True, "showed no certificate"), (False, "does not speak TLS")])
async def test_whoever_shows_no_certificate_is_refused_with_one_line(
    credentials: Held, certificate: bool, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Over TLS without one, and in plain text."""
    caplog.set_level(logging.WARNING)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if certificate else None
    if context is not None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with listening("127.0.0.1:0", credentials) as listener:
        for count in range(1, 4):
            assert b"ours" not in await answer_of(listener, context, encode_frame(Hello("ours", "b", "echo").encode()))
            await refused(listener, count)
        assert listener.refused == {"certificate": 3}
        assert caplog.records and all(expected in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "first",
    [
        encode_frame(b"\xc1"),
        encode_frame(b""),
        b"\xff\xff\xff\xff" + b"x" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        encode_frame(bytes(msgpack.packb({"node": "b"}))),
        encode_frame(b"x" * 2000),
    ],
)
async def test_whoever_does_not_say_hello_is_refused(tmp_path: Path, credentials: Held, first: bytes) -> None:
    async with listening(f"unix:{tmp_path}/sockets/s", credentials) as listener:
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/sockets/s")
        writer.write(first)
        async with asyncio.timeout(DEADLINE_S):
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass
        writer.close()
        assert listener.refused == {"hello": 1}


async def test_a_socket_directory_open_to_others_is_refused(tmp_path: Path, credentials: Held) -> None:
    directory = tmp_path / "sockets"
    directory.mkdir(mode=0o755)
    with pytest.raises(UsageError, match="chmod 700"):
        async with listening(f"unix:{directory}/s", credentials):
            pass


async def test_a_dead_processs_socket_is_replaced_and_a_live_ones_is_not(tmp_path: Path, credentials: Held) -> None:
    (tmp_path / "sockets").mkdir(mode=0o700)
    path = f"{tmp_path}/sockets/s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with listening(f"unix:{path}", credentials) as listener:
        assert await ask(listener, credentials["ours", "b"]) == b"bping"
        with pytest.raises(UsageError, match="in use"):
            async with listening(f"unix:{path}", credentials):
                pass
    assert not os.path.exists(path)


async def test_nobody_there(tmp_path: Path, credentials: Held) -> None:
    for address in (f"unix:{tmp_path}/none", "127.0.0.1:1"):
        with pytest.raises(UnavailableError, match="is the node up"):
            await connect(
                address, credentials["ours", "b"], me="b", ecosystem="ours", channel="echo", expected_peer="a"
            )


async def test_an_address_on_the_network_needs_credentials() -> None:
    with pytest.raises(UsageError, match="needs credentials"):
        Listener("127.0.0.1:0", me="a", ecosystem="e", credentials=None, knows=lambda _name: True)
    with pytest.raises(UsageError, match="needs credentials"):
        await connect("127.0.0.1:1", None, me="b", ecosystem="e", channel="x", expected_peer="a")


async def test_stop_ends_open_connections(address: str, credentials: Held) -> None:
    async with listening(address, credentials) as listener:
        reader, writer = await connect(
            listener.address,
            credentials["ours", "b"],
            me="b",
            ecosystem="ours",
            channel="echo",
            expected_peer="a",
        )
        await listener.stop()
        async with asyncio.timeout(DEADLINE_S):
            try:
                assert await reader.read() == b""
            except (ConnectionError, ssl.SSLError):
                pass
        writer.close()


async def test_a_handler_that_fails_with_our_error_is_reported(
    tmp_path: Path, credentials: Held, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter, _peer: str) -> None:
        raise LddpError("the handler's own")

    async with listening(f"unix:{tmp_path}/sockets/s", credentials) as listener:
        listener.register("failing", failing)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await ask(listener, credentials["ours", "b"], channel="failing")
    assert "the handler's own" in caplog.text


def test_long_socket_paths_are_reached_by_a_short_name(tmp_path: Path) -> None:
    where = parse_address(f"unix:{tmp_path}/{'x' * 120}")
    os.makedirs(tmp_path / ("y" * 120))
    with reachable_unix_path(str(tmp_path / ("y" * 120) / "s")) as short:
        assert len(short) < 100
    assert isinstance(where, tuple)
    with pytest.raises(UsageError, match="too long"), reachable_unix_path(where[0]):
        pass
