"""Options of a node-to-node connection: no delay for small frames, and a dead peer is noticed within seconds."""

from __future__ import annotations

import asyncio
import socket

IDLE_S = 3
PROBE_INTERVAL_S = 1
PROBES_MAX = 3
UNACKNOWLEDGED_MS_MAX = 6000


def tune(writer: asyncio.StreamWriter) -> None:
    """Does nothing to a Unix socket, where the kernel knows."""
    connection = writer.get_extra_info("socket")
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES_MAX)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)
