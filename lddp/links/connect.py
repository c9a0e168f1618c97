"""Connects to another node of the ecosystem."""

from __future__ import annotations

import asyncio
import ssl

from lddp.errors import FormatError, LddpError, LimitError, NotAllowedError, UnavailableError, UsageError
from lddp.links.address import HostPort, UnixPath, parse_address, reachable_unix_path
from lddp.links.credentials import Credentials, certified_name
from lddp.links.frames import read_frame, write_frame
from lddp.links.handshake import HELLO_BYTES_MAX, Hello, check_hello, decode_hello
from lddp.links.local import require_same_user
from lddp.links.reader import LinkReader, open_link
from lddp.links.tuning import tune

CONNECT_TIMEOUT_S = 5.0


async def connect(
    address: str,
    credentials: Credentials | None,
    *,
    me: str,
    ecosystem: str,
    channel: str,
    expected_peer: str,
    timeout_s: float = CONNECT_TIMEOUT_S,
    context: ssl.SSLContext | None = None,
) -> tuple[LinkReader, asyncio.StreamWriter]:
    """An authenticated connection to `channel` of the node `expected_peer`.

    `context` saves reading the credentials again for who connects often. Raises UnavailableError (nobody there, no
    answer in time, refused by the peer), NotAllowedError (somebody else is there), UsageError (address without
    credentials).
    """
    where = parse_address(address)
    if isinstance(where, HostPort) and context is None:
        if credentials is None:
            raise UsageError(f"{address} needs credentials; only unix: addresses go without")
        context = credentials.client_context()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _open(where, context)
            certified = _vouched_name(where, writer, ecosystem)
            if certified is not None and certified != expected_peer:
                raise NotAllowedError(f"{address} is node {certified!r}, not {expected_peer!r}")
            tune(writer)
            write_frame(writer, Hello(ecosystem, me, channel).encode())
            hello = decode_hello(await read_frame(reader, bytes_max=HELLO_BYTES_MAX))
            check_hello(hello, ecosystem=ecosystem, certified=certified)
            if hello.node != expected_peer or hello.channel != channel:
                raise NotAllowedError(f"{address} is node {hello.node!r}, not {expected_peer!r}")
    except BaseException as error:
        if writer is not None:
            writer.transport.abort()
        ours = _explain(error, address, timeout_s)
        if ours is None:
            raise
        raise ours from error
    return reader, writer


async def _open(where: HostPort | UnixPath, context: ssl.SSLContext | None) -> tuple[LinkReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    match where:
        case UnixPath(path):
            with reachable_unix_path(path) as short:
                return await open_link(lambda factory: loop.create_unix_connection(factory, short))
        case HostPort(host, port):
            return await open_link(
                lambda factory: loop.create_connection(factory, host, port, ssl=context, server_hostname="")
            )


def _vouched_name(where: HostPort | UnixPath, writer: asyncio.StreamWriter, ecosystem: str) -> str | None:
    if isinstance(where, UnixPath):
        require_same_user(writer)
        return None
    return certified_name(writer.get_extra_info("peercert"), ecosystem)


def _explain(error: BaseException, address: str, timeout_s: float) -> LddpError | None:
    """Our error for one of the network's; None for one that is to be raised as it is."""
    match error:
        case TimeoutError():
            return UnavailableError(f"{address} did not answer within {timeout_s} s; is the node up?")
        case asyncio.IncompleteReadError() | ConnectionResetError():
            return UnavailableError(f"{address} refused this node; its log says why")
        case ssl.SSLError():
            return NotAllowedError(f"{address}: {error}; certificates of another authority?")
        case OSError():
            return UnavailableError(f"{address} cannot be reached ({error}); is the node up?")
        case FormatError() | LimitError():
            return NotAllowedError(f"{address} is not a node of ours: {error}")
        case _:
            return None
