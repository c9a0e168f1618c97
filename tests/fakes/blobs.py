"""The blobs of a content store in memory, and who needs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from lddp.core.records import Content

Key = tuple[bytes, bool]
"""Digest, and whether it is that of the bytes."""


class Blobs:
    """What `lddp.replay.retained` uses of a store, of which uploads claim nothing. `blobs` outlive a process; who needs
    them is forgotten with it."""

    def __init__(self, blobs: dict[Key, bytes]) -> None:
        self.blobs = blobs
        self.is_expected: Callable[[Content], bool] = lambda _content: False
        self.forget()

    def forget(self) -> None:
        """The process ends."""
        self.keeps: Counter[Key] = Counter()
        self._refused: list[Content] = []

    def keep(self, content: Content) -> None:
        self.keeps[content.digest, content.sealed] += 1

    def unkeep(self, content: Content) -> None:
        assert self.keeps[content.digest, content.sealed] > 0, "unkeep without keep"
        self.keeps[content.digest, content.sealed] -= 1

    def is_needed(self, content: Content) -> bool:
        return self.keeps[content.digest, content.sealed] > 0 or self.is_expected(content)

    def release(self, content: Content) -> None:
        if self.is_needed(content):
            self._refused.append(content)
        else:
            self.blobs.pop((content.digest, content.sealed), None)

    def release_refused(self) -> None:
        refused, self._refused = self._refused, []
        for content in refused:
            self.release(content)

    def named(self, content: Content) -> None:
        """There are no claims here."""
