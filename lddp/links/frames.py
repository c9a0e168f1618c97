"""Frames on a byte stream: four bytes of length, most significant first, then the body."""

from __future__ import annotations

import asyncio
import struct

from lddp.errors import LimitError

FRAME_BYTES_MAX = 16 << 20
LENGTH_BYTES = 4
_LENGTH = struct.Struct(">I")


def encode_frame(body: bytes, *, bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """The frame of `body`. Raises LimitError for a body that the other end would refuse."""
    if len(body) > bytes_max:
        raise LimitError(f"a frame of {len(body)} bytes is beyond the limit of {bytes_max}; send it in parts")
    return _LENGTH.pack(len(body)) + body


def frame_length(data: bytes, at: int, *, bytes_max: int) -> int:
    """The length of the body whose frame begins at `at`. Raises LimitError where that is beyond `bytes_max`."""
    length: int = _LENGTH.unpack_from(data, at)[0]
    if length > bytes_max:
        raise LimitError(f"a frame of {length} bytes is beyond the limit of {bytes_max}; the peer is broken or hostile")
    return length


async def read_frame(reader: asyncio.StreamReader, *, bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """The body of the next frame.

    Raises LimitError, before anything of the body is read, where its length is beyond `bytes_max`, and
    asyncio.IncompleteReadError where the stream ends first.
    """
    length = frame_length(await reader.readexactly(LENGTH_BYTES), 0, bytes_max=bytes_max)
    return await reader.readexactly(length)


def write_frame(writer: asyncio.StreamWriter, body: bytes, *, bytes_max: int = FRAME_BYTES_MAX) -> None:
    """Queues one frame; the caller drains."""
    writer.write(encode_frame(body, bytes_max=bytes_max))
