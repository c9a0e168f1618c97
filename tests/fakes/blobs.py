"""The blobs of a content store in memory, and who needs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from lddp.content.claims import Claims
from lddp.core.records import Content

Key = tuple[bytes, bool]
"""Digest, and whether it is that of the bytes."""


def key_of(content: Content) -> Key:
    return content.digest, content.sealed


def _name_of(content: Content) -> str:
    return repr(key_of(content))


class Blobs:
    """What is in a `lddp.content.store.Store` besides packs. `blobs` outlive a process; who needs them is forgotten
    with it."""

    def __init__(self, blobs: dict[Key, bytes]) -> None:
        self.blobs = blobs
        self.is_expected: Callable[[Content], bool] = lambda _content: False
        self.forget()

    def forget(self) -> None:
        """The process ends."""
        self.keeps: Counter[Key] = Counter()
        self._claims = Claims()
        self._pushes = Claims()
        self._refused: dict[Key, Content] = {}

    def publish(self, content: Content, data: bytes, *, upload: object | None = None, pushed: bytes = b"") -> None:
        key = key_of(content)
        self._refused.pop(key, None)
        if self.keeps[key] > 0 or self.is_expected(content):
            pushed = b""
        for claims, by in ((self._claims, upload), (self._pushes, pushed or None)):
            claims.come(_name_of(content), by, key in self.blobs)
        self.blobs[key] = data

    def keep(self, content: Content) -> None:
        self.keeps[key_of(content)] += 1

    def unkeep(self, content: Content) -> None:
        assert self.keeps[key_of(content)] > 0, "unkeep without keep"
        self.keeps[key_of(content)] -= 1

    def share(self, content: Content) -> None:
        """Somebody else than its upload needs it."""
        self._claims.share(_name_of(content))
        self._pushes.share(_name_of(content))

    def is_needed(self, content: Content) -> bool:
        is_claimed = _name_of(content) in self._claims or _name_of(content) in self._pushes
        return is_claimed or self.keeps[key_of(content)] > 0 or self.is_expected(content)

    def confirm(self, content: Content, upload: object) -> None:
        self._claims.confirm(_name_of(content), upload)

    def take_back(self, content: Content, upload: object, *, is_needed: bool) -> None:
        name = _name_of(content)
        gone = self._claims.give_up(name, upload) or self._pushes.give_up(name, upload)
        if gone and not is_needed:
            self._drop(content)

    def release(self, content: Content) -> None:
        self._claims.let_go(_name_of(content))
        self._drop(content)

    def _drop(self, content: Content) -> None:
        if self.is_needed(content):
            self._refused[key_of(content)] = content
        else:
            self.blobs.pop(key_of(content), None)

    def release_refused(self) -> None:
        refused, self._refused = self._refused, {}
        for content in refused.values():
            self.release(content)

    def named(self, content: Content) -> None:
        self._pushes.forget(_name_of(content))
