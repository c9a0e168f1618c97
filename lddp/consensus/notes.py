"""Small messages of the application between members: dictionaries in msgpack."""

from __future__ import annotations

import logging
from typing import Any

import msgpack

from lddp.consensus.wire import Note
from lddp.errors import LimitError

NOTE_BYTES_MAX = 64 << 10

logger = logging.getLogger(__name__)


def encode(message: dict[str, Any]) -> Note:
    """Raises LimitError."""
    body = bytes(msgpack.packb(message))
    if len(body) > NOTE_BYTES_MAX:
        raise LimitError(f"a message of {len(body)} bytes is beyond {NOTE_BYTES_MAX}; use the content channel")
    return Note(body)


def decode(peer: str, body: bytes) -> dict[str, Any] | None:
    """None, and a line in the log, for what is no such message."""
    try:
        message = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException) as error:
        logger.warning("a message of %s is not msgpack: %s", peer, error)
        return None
    if type(message) is not dict:
        logger.warning("a message of %s is not a dictionary", peer)
        return None
    return message
