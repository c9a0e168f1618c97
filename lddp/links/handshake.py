"""The first frame in each direction: who is speaking, for which ecosystem, about what.

Who connects sends a `Hello`; who listens answers with its own. Nothing else is read before the names in them agree
with what TLS or the kernel vouches for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from lddp.errors import FormatError, NotAllowedError

PROTOCOL_VERSION = 2
HELLO_BYTES_MAX = 1024
_TEXT_CHARACTERS_MAX = 128


class Hello(NamedTuple):
    ecosystem: str
    node: str
    channel: str
    version: int = PROTOCOL_VERSION

    def encode(self) -> bytes:
        return bytes(msgpack.packb(self._asdict()))


def decode_hello(body: bytes) -> Hello:
    """Raises FormatError for anything but a well-formed hello."""
    try:
        # Depth and sizes are bounded by the size of the body, which the frame limit keeps at a kilobyte.
        value: Any = msgpack.unpackb(body, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise FormatError("the first frame is not msgpack") from error
    if not isinstance(value, dict) or value.keys() != set(Hello._fields):
        raise FormatError("the first frame is not a hello")
    ecosystem, node, channel, version = (value[field] for field in Hello._fields)
    if not all(isinstance(text, str) and 0 < len(text) <= _TEXT_CHARACTERS_MAX for text in (ecosystem, node, channel)):
        raise FormatError("the hello has a field that is not a short text")
    if type(version) is not int:
        raise FormatError("the hello's version is not a number")
    return Hello(ecosystem, node, channel, version)


def check_hello(hello: Hello, *, ecosystem: str, certified: str | None) -> None:
    """Raises NotAllowedError where the hello claims something else than its certificate or belongs elsewhere."""
    if hello.version != PROTOCOL_VERSION:
        raise NotAllowedError(f"node {hello.node!r} speaks version {hello.version}, this node {PROTOCOL_VERSION}")
    if hello.ecosystem != ecosystem:
        raise NotAllowedError(f"node {hello.node!r} belongs to ecosystem {hello.ecosystem!r}, not {ecosystem!r}")
    if certified is not None and hello.node != certified:
        raise NotAllowedError(f"the certificate of {certified!r} was shown by one who says {hello.node!r}")
