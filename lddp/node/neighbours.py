"""What other nodes on this host do that is no business of a watcher here: they write their own zones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set


class Neighbours:
    """`processes` are theirs; `scratch` are directories in which they make files before they put them in place."""

    def __init__(self) -> None:
        self.processes: set[int] = set()
        self.scratch: set[bytes] = set()
        self.on_scratch: list[Callable[[bytes], None]] = []
        """Called with each scratch directory that becomes known."""
        self._processes_of: dict[str, set[int]] = {}

    def hear(self, peer: str, processes: Iterable[int], scratch: Iterable[bytes]) -> None:
        """A peer on this host tells what it has."""
        known = set(processes)
        self.processes -= self._processes_of.pop(peer, set()) - known
        if known:
            self._processes_of[peer] = known
            self.processes |= known
        for directory in set(scratch) - self.scratch:
            self.scratch.add(directory)
            for callback in self.on_scratch:
                callback(directory)

    def keep(self, peers: Set[str]) -> None:
        """The others are gone: their process ids may become somebody else's."""
        for peer in self._processes_of.keys() - peers:
            self.hear(peer, (), ())
