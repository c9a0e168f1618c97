"""Uploads of other nodes' clients that were given up while what they pushed here was still on its way.

Who gives up a push closes its connection. Where all of it had been sent, it is stored here nevertheless, and the word
that no record will name it comes over another connection and may be faster: then there is nothing yet to take back.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

RECENT_MAX = 1024
"""Uploads that are remembered though nothing of theirs is on its way: a push may be sent and not yet read."""


class Forgotten:
    """By the names of uploads. Changed by the event loop alone; any thread may look whether one is in it."""

    def __init__(self) -> None:
        self._under_way: Counter[bytes] = Counter()
        """How many pushes each has."""
        self._marked: set[bytes] = set()
        self._recent: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, upload: bytes) -> bool:
        return upload in self._marked or upload in self._recent

    @contextmanager
    def push(self, upload: bytes) -> Iterator[None]:
        """While a push for the upload is on its way, the upload is not lost sight of."""
        self._under_way[upload] += 1
        try:
            yield
        finally:
            self._under_way[upload] -= 1
            if not self._under_way[upload]:
                del self._under_way[upload]
                self._marked.discard(upload)

    def add(self, upload: bytes) -> None:
        """Nothing that it brought is wanted. To be called before that is taken back: what is stored later is taken back
        by who looks here after storing it."""
        if upload in self._under_way:
            self._marked.add(upload)
        self._recent[upload] = None
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)
