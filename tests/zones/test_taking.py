"""A blob that becomes the zone's file, while somebody brings the same bytes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lddp.content.source import FileSource
from lddp.content.store import Store
from lddp.core.records import Content
from lddp.errors import UnavailableError
from lddp.ports import Takeable
from lddp.zones.posix import PosixZone
from tests.zones.conftest import attributes, read

DATA = bytes(range(256)) * 100
PATIENCE_S = 20.0


class Meanwhile:
    """A content's source, and the file to take of it. Something happens right before the move."""

    def __init__(self, source: FileSource, happens: Callable[[], object]) -> None:
        self._source = source
        self._happens = happens
        self.path = source.path
        self.size = source.size
        self.open_to_clone = source.open_to_clone
        self.chunks = source.chunks

    def to_take(self) -> Takeable:
        assert self._source.to_take() is not None
        return self

    @contextlib.contextmanager
    def moving(self) -> Iterator[bool]:
        self._happens()
        with self._source.moving() as may_move:
            yield may_move


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "content")
    yield made
    made.close()


def arrive(store: Store, *, durable: bool = False) -> Content:
    """As from another node."""
    arrival = store.arrival(durable=durable)
    arrival.write([DATA])
    digest = arrival.seal()
    store.publish(arrival, digest, durable=durable)
    return Content(digest, len(DATA))


def upload(store: Store, data: bytes = DATA) -> None:
    with store.writer("client") as writer:
        writer.write(data)
        writer.commit(sync=False)


def put(posix: PosixZone, store: Store, happens: Callable[[Content], object]) -> Content:
    content = arrive(store)
    source = store.open(content)
    assert isinstance(source, FileSource)
    status = posix.put_file(b"f", attributes(0o641, 5), Meanwhile(source, lambda: happens(content)))
    assert (read(posix, b"f"), status.mode, status.mtime_ns) == (DATA, 0o641, 5)
    return content


def test_nobody_else_needs_it(posix: PosixZone, store: Store) -> None:
    assert store.open(put(posix, store, lambda _: None)) is None


def test_an_upload_of_the_same_bytes_keeps_its_copy(posix: PosixZone, store: Store) -> None:
    content = put(posix, store, lambda _: upload(store))
    store.release(content)
    found = store.open(content)
    assert found is not None, "no other node may have what the client was promised"
    assert b"".join(bytes(piece) for _, piece in found.chunks()) == DATA


def test_who_keeps_it_has_it(posix: PosixZone, store: Store) -> None:
    content = put(posix, store, store.keep)
    blob = Path(store.directory, "blobs", content.digest.hex())
    assert blob.stat().st_mode & 0o777 == 0o600, "as it was"
    store.unkeep(content)
    source = store.open(content)
    assert source is not None
    inode = blob.stat().st_ino
    assert posix.put_file(b"g", attributes(), source).inode == inode


def test_the_file_that_was_given_its_attributes_is_the_one_that_is_moved(posix: PosixZone, store: Store) -> None:
    """The same bytes come once more, are synced, and lie where it lay."""
    assert store.open(put(posix, store, lambda _: arrive(store, durable=True))) is not None


def test_what_is_dropped_meanwhile_is_fetched_again(posix: PosixZone, store: Store) -> None:
    with pytest.raises(UnavailableError):
        put(posix, store, store.release)
    assert posix.list(b"") == []


def test_who_asks_the_store_does_not_wait_for_a_move(store: Store) -> None:
    """A frozen filesystem lets a rename wait for as long as it likes, and it is the event loop that asks."""
    content = arrive(store)
    source = store.open(content)
    assert isinstance(source, FileSource)

    def ask() -> None:
        assert store.open(content, waits=False) is not None
        store.named(content)
        store.keep(content)
        store.unkeep(content)
        store.confirm(content, "client")
        store.release(content)

    asking = threading.Thread(target=ask, daemon=True)
    with source.moving() as may_move:
        assert may_move
        asking.start()
        asking.join(PATIENCE_S)
        assert not asking.is_alive()
        assert os.path.exists(source.path), "it is not taken away from who moves it"
    store.release_refused()
    assert store.open(content) is None, "it was not moved after all, and nobody needs it"


@pytest.mark.parametrize("durable", [False, True])
def test_who_brings_the_same_bytes_waits_for_a_move(store: Store, tmp_path: Path, durable: bool) -> None:
    """While it is not known whether they are here still."""
    content = arrive(store)
    source = store.open(content)
    assert isinstance(source, FileSource)
    begun = threading.Event()

    def bring() -> None:
        begun.set()
        arrive(store, durable=durable)

    bringing = threading.Thread(target=bring)
    with source.moving():
        moved = os.stat(source.path).st_ino
        bringing.start()
        begun.wait()
        os.rename(source.path, tmp_path / "f")
        assert os.stat(tmp_path / "f").st_ino == moved
    bringing.join()
    assert store.open(content) is not None


def test_nobody_waits_for_the_move_of_another_blob(store: Store) -> None:
    source = store.open(arrive(store))
    assert isinstance(source, FileSource)
    bringing = threading.Thread(target=lambda: upload(store, b"other" * 10_000), daemon=True)
    with source.moving():
        bringing.start()
        bringing.join(PATIENCE_S)
        assert not bringing.is_alive()
