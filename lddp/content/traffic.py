"""How many bytes of content went where, for the metrics."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass


@dataclass(slots=True)
class PeerTraffic:
    """Bytes of content since the start, as this node saw them."""

    pushed: int = 0
    """Sent to the peer by a push of ours."""
    received: int = 0
    """Taken from a push of the peer."""
    pulled: int = 0
    """Received by a pull of ours."""
    served: int = 0
    """Sent for a pull of the peer."""
    handed: int = 0
    """Copied inside the kernel between two nodes of one host; not contained in the others."""


class Traffic:
    """Counters for each peer."""

    def __init__(self) -> None:
        self.peers: defaultdict[str, PeerTraffic] = defaultdict(PeerTraffic)

    def __getitem__(self, peer: str) -> PeerTraffic:
        return self.peers[peer]
