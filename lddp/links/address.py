"""Where a node listens: `host:port`, `[ipv6]:port`, or `unix:/path/to/socket`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lddp.errors import UsageError

_UNIX_PREFIX = "unix:"
_UNIX_PATH_BYTES_MAX = 107


class HostPort(NamedTuple):
    host: str
    port: int


class UnixPath(NamedTuple):
    path: str


def parse_address(text: str) -> HostPort | UnixPath:
    """Raises UsageError for what is neither form."""
    if text.startswith(_UNIX_PREFIX):
        path = text[len(_UNIX_PREFIX) :]
        if not path.startswith("/") or path.endswith("/"):
            raise UsageError(f"{text!r} is not an address; write unix:/absolute/path")
        return UnixPath(path)
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{text!r} is not an address; write host:port or unix:/absolute/path")
    return HostPort(host.removeprefix("[").removesuffix("]"), int(port))


@contextmanager
def reachable_unix_path(path: str) -> Iterator[str]:
    """A name of `path` that is short enough for the kernel's 108 bytes, for as long as the context is open."""
    if len(os.fsencode(path)) <= _UNIX_PATH_BYTES_MAX:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{descriptor}/{name}"
        if len(os.fsencode(short)) > _UNIX_PATH_BYTES_MAX:
            raise UsageError(f"the socket name {name!r} is too long; choose a shorter one")
        yield short
    finally:
        os.close(descriptor)
