"""Blobs of an earlier boot, which several threads may look for at the same time."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from blake3 import blake3

from lddp.content import suspects
from lddp.content.reading import SequentialRead
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


class Meanwhile(SequentialRead):
    """While the first file is hashed, another thread does something, as far as it can."""

    does: Callable[[], object]
    threads: list[threading.Thread]
    files = 0

    def digest(self) -> bytes:
        cls = type(self)
        cls.files += 1
        if cls.files == 1:
            begun = threading.Event()

            def work() -> None:
                begun.set()
                cls.does()

            cls.threads.append(threading.Thread(target=work))
            cls.threads[0].start()
            begun.wait()
        return super().digest()


def meanwhile(monkeypatch: pytest.MonkeyPatch, does: Callable[[], object]) -> type[Meanwhile]:
    hashing = type("Hashing", (Meanwhile,), {"does": staticmethod(does), "threads": []})
    monkeypatch.setattr(suspects, "SequentialRead", hashing)
    return hashing


def test_who_looks_for_it_too_waits_for_the_first(
    store: Store, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    hashing = meanwhile(monkeypatch, lambda: found.append(store.open(content)))
    assert read(store, content) == DATA
    hashing.threads[0].join()
    assert found[0] is not None and hashing.files == 1


def test_it_is_dropped_while_it_is_hashed(store: Store, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    def release() -> None:
        store.release(content)

    class Late(Meanwhile):
        threads: ClassVar[list[threading.Thread]] = []
        does = staticmethod(release)

        def digest(self) -> bytes:
            found = super().digest()
            self.threads[0].join()
            return found

    monkeypatch.setattr(suspects, "SequentialRead", Late)
    assert store.open(content) is None
    assert not store.held()[1]


def test_who_does_not_wait_does_not_hash(store: Store, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "SequentialRead", None)
    assert store.open(content, waits=False) is None
    monkeypatch.undo()
    assert store.open(content) is not None
    assert store.open(content, waits=False) is not None


def arrive(store: Store, *, durable: bool) -> None:
    arrival = store.arrival(durable=durable)
    arrival.write([DATA])
    store.publish(arrival, arrival.seal(), durable=durable)


@pytest.mark.parametrize("durable", [True, False])
def test_the_same_bytes_come_in_the_place_of_what_the_disk_cannot_read(
    store: Store, content: Content, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    bad = (Path(store.directory) / "suspects" / content.digest.hex()).stat().st_ino
    honest, read_of_it = os.pread, []

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == bad:
            read_of_it.append(offset)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return honest(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    arrive(store, durable=durable)
    assert bool(read_of_it) is not durable, "what is synced need not wait until that is hashed"
    assert read(store, content) == DATA
    assert os.listdir(Path(store.directory) / "suspects") == []


def test_durable_bytes_come_whatever_a_read_of_the_suspect_says(store: Store, content: Content) -> None:
    suspect = Path(store.directory) / "suspects" / content.digest.hex()
    suspect.unlink()
    suspect.symlink_to("/proc/self/mem")  # of whose beginning every read is refused with EIO
    arrive(store, durable=True)
    assert read(store, content) == DATA
    assert os.listdir(Path(store.directory) / "suspects") == []


def test_who_gives_up_an_upload_leaves_what_was_a_suspect_to_others(store: Store, content: Content) -> None:
    """They may have counted on it before the machine was started anew."""
    with store.writer("client") as writer:
        writer.write(DATA)
        writer.commit(sync=True)
    store.take_back(content, "client", is_needed=False)
    assert read(store, content) == DATA
