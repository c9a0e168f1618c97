"""Packets that arrive late, and out of their order: a relay between devices in the hosts' namespaces.

`python -m cluster.chaos.relay NAMESPACE=ADDRESS ...` makes the device `slow` in each namespace and says `ready`. What a
namespace routes into its device is held for a random time between the two that the last line of standard input names
(in ms), and then given to the namespace that has the address. Ends at the end of its input. No netem is needed.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress

DEVICE = "slow"
PACKET_BYTES_MAX = 65_535
HELD_MAX = 20_000
"""Packets; what comes beyond is lost, as in any router."""
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(namespace: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(descriptor)


def open_device(namespace: str) -> int:
    """The device of a namespace, up; this process goes back to its own namespace."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    _enter(f"/run/netns/{namespace}")
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN_NO_PI))
        subprocess.run(["ip", "link", "set", DEVICE, "up"], check=True)
        return descriptor
    finally:
        if _libc.setns(own, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns back")
        os.close(own)


class Relay:
    """Devices by the address that is behind them."""

    def __init__(self, devices: dict[bytes, int], chance: random.Random) -> None:
        self._devices = devices
        self._chance = chance
        self._held: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._range_ms = 0.0, 0.0

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        for descriptor in self._devices.values():
            selector.register(descriptor, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        pending = b""
        while True:
            timeout = max(0.0, self._held[0][0] - time.monotonic()) if self._held else None
            for key, _ in selector.select(timeout):
                if key.fd == 0:
                    data = os.read(0, 4096)
                    if not data:
                        return
                    *lines, pending = (pending + data).split(b"\n")
                    for line in lines:
                        low, high = line.split()
                        self._range_ms = float(low), float(high)
                else:
                    self._take(key.fd)
            self._give()

    def _take(self, descriptor: int) -> None:
        with suppress(BlockingIOError, OSError):
            while True:
                packet = os.read(descriptor, PACKET_BYTES_MAX)
                if len(self._held) < HELD_MAX and len(packet) >= 20 and packet[0] >> 4 == 4:
                    self._count += 1
                    due = time.monotonic() + self._chance.uniform(*self._range_ms) / 1000
                    heapq.heappush(self._held, (due, self._count, packet))

    def _give(self) -> None:
        now = time.monotonic()
        while self._held and self._held[0][0] <= now:
            packet = heapq.heappop(self._held)[2]
            device = self._devices.get(packet[16:20])
            if device is not None:
                with suppress(OSError):
                    os.write(device, packet)


def main() -> int:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    pairs = [argument.partition("=") for argument in sys.argv[1:]]
    devices = {socket.inet_aton(address): open_device(namespace) for namespace, _, address in pairs}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    Relay(devices, random.Random(0)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
