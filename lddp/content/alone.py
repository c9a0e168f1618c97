"""Who changes the files of one blob is alone with it, and hinders nobody who asks for others, or what is known of it.

A filesystem may let a rename wait for as long as it is frozen, or its disk hangs. The event loop asks the store too and
must not wait for that: the store's lock is held for looks into memory only, and files are changed by who is alone with
the blob, so that no other thread changes the same ones.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Alone:
    """`lock` is the store's: it may be taken by who is alone with a blob, and not be held by who wants to be."""

    def __init__(self, lock: threading.Lock) -> None:
        self._changed = threading.Condition(lock)
        self._names: set[str] = set()

    @contextmanager
    def with_blob(self, name: str) -> Iterator[None]:
        """Waits for who is. Not for the event loop."""
        with self._changed:
            while name in self._names:
                self._changed.wait()
            self._names.add(name)
        try:
            yield
        finally:
            self._end(name)

    @contextmanager
    def if_free(self, name: str) -> Iterator[bool]:
        """False, at once, where somebody else is."""
        with self._changed:
            is_free = name not in self._names
            self._names.add(name)
        try:
            yield is_free
        finally:
            if is_free:
                self._end(name)

    def _end(self, name: str) -> None:
        with self._changed:
            self._names.discard(name)
            self._changed.notify_all()
