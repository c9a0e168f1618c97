"""Unix sockets: the directory keeps strangers out, and the kernel says who is at the other end."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from lddp.errors import NotAllowedError, UsageError

_PEER_CREDENTIALS = struct.Struct("3i")


def prepare_socket_directory(path: str) -> None:
    """Makes the directory of the socket at `path`, mode 0700. Raises UsageError where others can enter it."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    status = os.stat(directory)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise UsageError(f"{directory} must belong to this user and be closed to others; chmod 700 it")


def require_same_user(writer: asyncio.StreamWriter) -> None:
    """Raises NotAllowedError where the process at the other end is not of this user."""
    peer = writer.get_extra_info("socket")
    data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _process, user, _group = _PEER_CREDENTIALS.unpack(data)
    if user != os.geteuid():
        raise NotAllowedError(f"the peer runs as user {user}, this node as {os.geteuid()}")
