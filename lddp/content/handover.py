"""Descriptors handed from one process to another on the same host, so that the kernel copies the bytes.

The place is a unix socket in a directory that only the node's user can enter. A descriptor comes with a token that the
authenticated connection has just promised it under; anything else is closed unread.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lddp.errors import UnavailableError

TOKEN_BYTES = 16
HANDOVER_SECONDS = 10.0
VISITORS_MAX = 64
TAKEN = b"\x06"
CREDENTIALS = struct.Struct("3i")


class Handover:
    """The receiving end. `start` before use, `close` afterwards."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._expected: dict[bytes, asyncio.Future[int]] = {}
        self._visitors: dict[socket.socket, asyncio.TimerHandle] = {}
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listens; a socket left over by an earlier process is replaced. Call inside the event loop."""
        assert self._listener is None
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setblocking(False)
            listener.bind(self.path)
            os.chmod(self.path, 0o600)
            listener.listen(VISITORS_MAX)
        except BaseException:
            listener.close()
            raise
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)
        self._listener = listener

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            visitor, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        credentials = visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        if CREDENTIALS.unpack(credentials)[1] != os.getuid() or len(self._visitors) >= VISITORS_MAX:
            visitor.close()
            return
        visitor.setblocking(False)
        loop = asyncio.get_running_loop()
        self._visitors[visitor] = loop.call_later(HANDOVER_SECONDS, self._dismiss, visitor)
        loop.add_reader(visitor.fileno(), self._take, visitor)

    def _take(self, visitor: socket.socket) -> None:
        try:
            token, descriptors, _, _ = socket.recv_fds(visitor, TOKEN_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:  # the visitor went away; its sender streams the bytes or tries again
            self._dismiss(visitor)
            return
        awaited = self._expected.get(token)
        if len(descriptors) == 1 and awaited is not None and not awaited.done():
            awaited.set_result(descriptors.pop())
            try:
                visitor.send(TAKEN)
            except OSError:
                pass  # its end is gone; the connection that promised the descriptor will tell
        for descriptor in descriptors:
            os.close(descriptor)
        self._dismiss(visitor)

    def _dismiss(self, visitor: socket.socket) -> None:
        timer = self._visitors.pop(visitor, None)
        if timer is not None:
            timer.cancel()
            asyncio.get_running_loop().remove_reader(visitor.fileno())
            visitor.close()

    @asynccontextmanager
    async def expect(self) -> AsyncIterator[tuple[bytes, asyncio.Future[int]]]:
        """(token, what will be the descriptor); it is closed when the context ends."""
        token = secrets.token_bytes(TOKEN_BYTES)
        awaited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._expected[token] = awaited
        try:
            yield token, awaited
        finally:
            del self._expected[token]
            if awaited.done():
                os.close(awaited.result())
            awaited.cancel()

    def close(self) -> None:
        for visitor in list(self._visitors):
            self._dismiss(visitor)
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None


def hand_over(path: str, token: bytes, descriptor: int) -> bool:
    """Sends a descriptor to a Handover at `path`. False where nobody is there; UnavailableError where it is not known
    whether it was taken. Blocks up to HANDOVER_SECONDS."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as place:
        place.settimeout(HANDOVER_SECONDS)
        try:
            place.connect(path)
        except OSError:
            return False  # another host or mount namespace behind the unix socket: the bytes are streamed instead
        try:
            socket.send_fds(place, [token], [descriptor])
            taken = place.recv(1)
        except OSError as error:
            raise UnavailableError(f"a descriptor may not have been taken: {error}; retry") from error
    if taken != TAKEN:
        raise UnavailableError("a descriptor was not taken; retry")
    return True
