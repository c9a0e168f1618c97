"""The contents of a node in memory: bytes come and go, and are asked for, as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blake3 import blake3

from lddp.core.records import Content
from lddp.errors import UnavailableError
from tests.fakes.blobs import Blobs
from tests.fakes.zone import Bytes


class Asked(NamedTuple):
    """A fetch under way."""

    content: Content
    answer: asyncio.Future[bytes]


class Blob:
    """A content of the store as a source. `take` moves it away, as a zone on the same filesystem does."""

    def __init__(self, store: Contents, content: Content) -> None:
        self._store = store
        self._content = content
        self._key = (content.digest, content.sealed)
        self.size = content.size

    def to_take(self) -> None:
        return None

    def open_to_clone(self) -> int | None:
        return None

    def chunks(self) -> Iterator[tuple[int, bytes | memoryview]]:
        data = self._store.blobs.get(self._key)
        if data is None:
            raise UnavailableError("the content was taken or released meanwhile; fetch it again")
        return iter([(0, data)])

    def take(self) -> None:
        if not self._store.is_needed(self._content):
            self._store.blobs.pop(self._key, None)


class Contents(Blobs):
    """Implements `ports.ContentStore`, and what `Retained` uses of a store. `asked` are the fetches under way. The
    blobs outlive a process; what it keeps and fetches does not."""

    def __init__(self) -> None:
        super().__init__({})
        self.asked: list[Asked] = []

    def restart(self) -> None:
        self.forget()
        self.asked.clear()

    def open(self, content: Content, *, waits: bool = True) -> Bytes | Blob | None:
        if content.inline is not None:
            return Bytes(content.inline)
        if not content.size and content.sealed:
            return Bytes(b"")
        return Blob(self, content) if (content.digest, content.sealed) in self.blobs else None

    async def fetch(self, content: Content, _inode: int, _holders: Sequence[str]) -> None:
        asked = Asked(content, asyncio.get_running_loop().create_future())
        self.asked.append(asked)
        try:
            data = await asked.answer
        finally:
            if asked in self.asked:
                self.asked.remove(asked)
        assert blake3(data).digest() == content.digest
        self.blobs[content.digest, content.sealed] = data

    def release_pack(self, pack_id: bytes) -> None:
        """There are no packs here."""
