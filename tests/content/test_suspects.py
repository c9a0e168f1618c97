"""Blobs of an earlier boot, which several threads may look for at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from lddp.content import suspects
from lddp.content.store import Store
from lddp.core.records import Content

from .world import put, read

DATA = bytes(range(256)) * 800


@pytest.fixture
def content() -> Content:
    return Content(blake3(DATA).digest(), len(DATA))


@pytest.fixture
def store(tmp_path: Path, content: Content) -> Iterator[Store]:
    """After another boot."""
    before = Store(tmp_path / "s")
    assert put(before, DATA) == content
    before.close()
    (tmp_path / "s" / "boot").write_text("another boot")
    made = Store(tmp_path / "s")
    yield made
    made.close()


class Meanwhile:
    """As `blake3`. While the first file is hashed, another thread does something, as far as it can."""

    def __init__(self, does: Callable[[], object]) -> None:
        self._does = does
        self.files = 0
        self.threads: list[threading.Thread] = []

    def __call__(self) -> Meanwhile:
        self._hash = blake3()
        return self

    def update_mmap(self, path: str) -> None:
        self._hash.update_mmap(path)
        self.files += 1
        if self.files == 1:
            begun = threading.Event()

            def work() -> None:
                begun.set()
                self._does()

            self.threads.append(threading.Thread(target=work))
            self.threads[0].start()
            begun.wait()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def test_who_looks_for_it_too_waits_for_the_first(
    store: Store, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    hashing = Meanwhile(lambda: found.append(store.open(content)))
    monkeypatch.setattr(suspects, "blake3", hashing)
    assert read(store, content) == DATA
    hashing.threads[0].join()
    assert found[0] is not None and hashing.files == 1


def test_it_is_dropped_while_it_is_hashed(store: Store, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    def release() -> None:
        store.release(content)

    hashing = Meanwhile(release)
    honest = Meanwhile.hexdigest

    def late(self: Meanwhile) -> str:
        self.threads[0].join()
        return honest(self)

    monkeypatch.setattr(Meanwhile, "hexdigest", late)
    monkeypatch.setattr(suspects, "blake3", hashing)
    assert store.open(content) is None
    assert not store.held()[1]


def test_who_does_not_wait_does_not_hash(store: Store, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "blake3", None)
    assert store.open(content, waits=False) is None
    monkeypatch.undo()
    assert store.open(content) is not None
    assert store.open(content, waits=False) is not None
