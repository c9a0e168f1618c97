"""Small messages of the application between members: dictionaries in msgpack."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgpack

from lddp.consensus.wire import Note
from lddp.errors import CorruptError, FormatError, LimitError

NOTE_BYTES_MAX = 64 << 10

logger = logging.getLogger(__name__)


def encode(message: dict[str, Any]) -> Note:
    """Raises LimitError."""
    body = bytes(msgpack.packb(message))
    if len(body) > NOTE_BYTES_MAX:
        raise LimitError(f"a message of {len(body)} bytes is beyond {NOTE_BYTES_MAX}; use the content channel")
    return Note(body)


class Notes:
    """Hands the messages of peers to `receivers`, which raise FormatError for one that has not the shape it should
    have. Such a message is dropped; the first one of each peer leaves a line in the log."""

    def __init__(self) -> None:
        self.receivers: list[Callable[[str, dict[str, Any]], None]] = []
        self._refused: set[str] = set()

    def receive(self, peer: str, body: bytes) -> None:
        try:
            message = _decode(body)
            for receive in self.receivers:
                receive(peer, message)
        except CorruptError:
            raise  # what is this node's own
        except FormatError as error:
            if peer not in self._refused:
                self._refused.add(peer)
                logger.warning("messages of %s are dropped, is it of another version? The first: %s", peer, error)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException) as error:
        raise FormatError(f"not msgpack ({error})") from error
    if type(message) is not dict:
        raise FormatError("not a dictionary")
    return message
