"""Bytes that are here, ready to be put in place (`ContentSource`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Self

from blake3 import blake3

from lddp.content.disk import stretches
from lddp.core.records import Content
from lddp.errors import CorruptError, UnavailableError


class BytesSource:
    """A content in memory: inline in its record, or a slice of a pack. Hashed once, before it is read."""

    __slots__ = ("_checked", "_content", "_data", "size")

    def __init__(self, content: Content, data: bytes | memoryview) -> None:
        self._content = content
        self._data = data
        self._checked = False
        self.size = content.size

    def check(self) -> None:
        """Raises CorruptError where the bytes are not the content's."""
        content = self._content
        wrong = len(self._data) != content.size or (content.sealed and blake3(self._data).digest() != content.digest)
        if wrong:
            raise CorruptError(f"content {content.digest.hex()[:16]} has wrong bytes; fetch it from another node")
        self._checked = True

    def data(self) -> bytes | memoryview:
        if not self._checked:
            self.check()
        return self._data

    def to_take(self) -> None:
        return None

    def open_to_clone(self) -> int | None:
        return None

    def chunks(self) -> Iterator[tuple[int, bytes | memoryview]]:
        if data := self.data():
            yield 0, data


class FileSource:
    """A blob: its bytes were hashed while they arrived, and nobody else writes to the store."""

    __slots__ = ("_alone", "_may_take", "path", "size")

    def __init__(
        self, path: str, size: int, may_take: Callable[[], bool], alone: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Within `alone` no blob comes to be there, and nobody takes this one away. `may_take` is asked within, and
        without."""
        self.path = path
        self._may_take = may_take
        self._alone = alone
        self.size = size

    def to_take(self) -> Self | None:
        return self if self._may_take() else None

    @contextlib.contextmanager
    def moving(self) -> Iterator[bool]:
        """`Takeable`. Nobody brings the same bytes meanwhile, and is told that they are here."""
        with self._alone():
            yield self._may_take()

    def descriptor(self) -> int:
        """Open for reading; the caller closes it."""
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UnavailableError("the content was taken or released meanwhile; fetch it again") from None

    def drop(self, descriptor: int) -> None:
        """The open file turned out to have other bytes than the content: the blob goes, if it is still that file.
        Blocking."""
        with self._alone(), contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                os.unlink(self.path)

    def open_to_clone(self) -> int | None:
        descriptor = self.descriptor()
        if os.fstat(descriptor).st_size == self.size:
            return descriptor
        os.close(descriptor)
        return None  # `chunks` says what is wrong

    def chunks(self) -> Iterator[tuple[int, bytes | memoryview]]:
        descriptor = self.descriptor()
        try:
            if os.fstat(descriptor).st_size != self.size:
                raise CorruptError(f"{self.path} does not have {self.size} bytes; fetch it again from another node")
            yield from stretches(descriptor, 0, self.size)
        finally:
            os.close(descriptor)
