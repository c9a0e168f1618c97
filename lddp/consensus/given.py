"""What PySyncObj is given in place of its own: names of members, and a transport that only passes on."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cached_property
from typing import Any


class Name(str):
    """A member's name with the same hash in every process: PySyncObj sends in the order of sets of them, and a
    simulation that is run again must send the same."""

    @cached_property
    def _hash(self) -> int:
        return zlib.crc32(self.encode())

    def __hash__(self) -> int:
        return self._hash


class Transport:
    """PySyncObj's transport: it keeps the callbacks it is given, and passes on what is sent."""

    ready = True

    def __init__(self, send: Callable[[Any, dict[str, Any]], None]) -> None:
        self.send = send
        self.received: Callable[[Any, dict[str, Any]], None]
        self.connected: Callable[[Any], None]
        self.disconnected: Callable[[Any], None]

    def setOnNodeConnectedCallback(self, callback: Callable[[Any], None]) -> None:
        self.connected = callback

    def setOnNodeDisconnectedCallback(self, callback: Callable[[Any], None]) -> None:
        self.disconnected = callback

    def setOnMessageReceivedCallback(self, callback: Callable[[Any, dict[str, Any]], None]) -> None:
        self.received = callback

    def setOnReadonlyNodeConnectedCallback(self, _callback: object) -> None:
        pass

    def setOnReadonlyNodeDisconnectedCallback(self, _callback: object) -> None:
        pass

    def setOnUtilityMessageCallback(self, _message: str, _callback: object) -> None:
        pass

    def destroy(self) -> None:
        pass
