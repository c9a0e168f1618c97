"""What a store has once said is durable stays so, and what could not be made so is not believed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lddp.content.saving import save
from lddp.content.store import Store
from lddp.core.records import Content

from .world import content_of, put, read

DATA = os.urandom(200_000)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Inodes of the files that were synced."""
    inodes: set[int] = set()
    honest = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        honest(descriptor)
        inodes.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return inodes


def blob(store: Store, content: Content) -> str:
    return os.path.join(store.directory, "blobs", content.digest.hex())


def upload(store: Store, data: bytes = DATA, by: str = "client") -> Content:
    with store.writer(by) as writer:
        writer.write(data)
        return writer.commit(sync=True)


def test_equal_bytes_that_are_not_synced_do_not_replace_those_that_are(store: Store, synced: set[int]) -> None:
    """A push or a pull of the same bytes comes after an upload was acknowledged as durable."""
    content = upload(store)
    assert os.stat(blob(store, content)).st_ino in synced
    put(store, DATA)
    assert os.stat(blob(store, content)).st_ino in synced


def test_equal_bytes_of_a_later_boot_do_not_replace_a_suspect_that_is_whole(
    store: Store, synced: set[int], tmp_path: Path
) -> None:
    content = upload(store)
    (tmp_path / "s" / "boot").write_text("another boot")
    second = Store(tmp_path / "s")
    put(second, DATA)  # not durable
    second.close()
    if os.stat(blob(second, content)).st_ino not in synced:  # a power cut: its pages were never written
        Path(blob(second, content)).write_bytes(bytes(len(DATA)))
    (tmp_path / "s" / "boot").write_text("one more boot")
    third = Store(tmp_path / "s")
    try:
        assert read(third, content) == DATA
    finally:
        third.close()


@pytest.mark.parametrize("is_there", [False, True])
def test_what_could_not_be_synced_is_not_believed(
    store: Store, synced: set[int], monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """After a failed sync the kernel has dropped what it could not write: nobody knows what the disk has."""
    content = content_of(DATA)
    if is_there:
        upload(store)
    broken = []

    def fdatasync(descriptor: int) -> None:
        broken.append(os.fstat(descriptor).st_ino)
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(OSError, match="bad disk"):
        upload(store, by="another client")
    if is_there:
        assert os.stat(blob(store, content)).st_ino in synced
    else:
        assert store.open(content) is None


def test_what_is_saved_is_synced(store: Store, synced: set[int], tmp_path: Path) -> None:
    """Equal bytes came from another node before, and were not."""
    content = put(store, DATA)
    (tmp_path / "file").write_bytes(DATA)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert save(store, content, descriptor)
    finally:
        os.close(descriptor)
    assert os.stat(blob(store, content)).st_ino in synced


def test_a_refusal_of_the_disk_is_told_as_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a client here has an undecided upload of the same bytes."""
    upload(store)

    def fdatasync(_descriptor: int) -> None:
        raise OSError(errno.EIO, "bad disk")

    arrival = store.arrival(durable=True)
    arrival.write([DATA])
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(OSError, match="bad disk"):
        store.publish(arrival, arrival.seal(), durable=True, pushed=b"p" * 16)


class LosingDisk:
    """As Linux: the first sync after pages were lost tells of it, and the next ones have nothing to write. The cache
    shows them until they are dropped from it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = True
        self.loses = True
        self._lost: dict[int, int] = {}
        self._sync, self._advise = os.fdatasync, os.posix_fadvise
        monkeypatch.setattr(os, "fdatasync", self._fdatasync)
        monkeypatch.setattr(os, "posix_fadvise", self._posix_fadvise)

    def _fdatasync(self, descriptor: int) -> None:
        if not self.fails:
            self._sync(descriptor)
            return
        self.fails = False
        if self.loses:
            self.lose(descriptor)
        raise OSError(errno.EIO, "bad disk")

    def lose(self, descriptor: int) -> None:
        """Its pages cannot be written."""
        self._lost[os.fstat(descriptor).st_ino] = os.dup(descriptor)  # open, so that no other file is that inode

    def _posix_fadvise(self, descriptor: int, offset: int, size: int, advice: int) -> None:
        inode = os.fstat(descriptor).st_ino
        if advice == os.POSIX_FADV_DONTNEED and inode in self._lost:
            with open(f"/proc/self/fd/{self._lost[inode]}", "r+b") as file:
                file.write(bytes(os.fstat(descriptor).st_size))
        self._advise(descriptor, offset, size, advice)

    def has_lost(self, path: str) -> bool:
        return os.stat(path).st_ino in self._lost

    def close(self) -> None:
        for descriptor in self._lost.values():
            os.close(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[LosingDisk]:
    made = LosingDisk(monkeypatch)
    yield made
    made.close()


def test_what_a_sync_was_refused_for_is_not_durable_at_the_next_look(
    store: Store, disk: LosingDisk, tmp_path: Path
) -> None:
    content = put(store, DATA)  # a pull: not synced
    (tmp_path / "file").write_bytes(DATA)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="bad disk"):
            save(store, content, descriptor)
        assert save(store, content, descriptor), "the zone's file has not been changed: it is copied again"
    finally:
        os.close(descriptor)
    assert not disk.has_lost(blob(store, content))
    assert read(store, content) == DATA


def test_what_was_durable_before_is_not_dropped_for_a_sync_that_was_refused(store: Store, disk: LosingDisk) -> None:
    """It may be the only copy of what a client was promised."""
    disk.fails = False
    content = upload(store)
    disk.fails, disk.loses = True, False
    with pytest.raises(OSError, match="bad disk"):
        store.sync(content)
    assert store.sync(content)
    assert read(store, content) == DATA


@pytest.mark.usefixtures("disk")
async def test_a_pack_whose_sync_was_refused_has_no_name(store: Store) -> None:
    with pytest.raises(OSError, match="bad disk"):
        await store.add_pack(b"p" * 16, DATA, durable=True)
    assert os.listdir(os.path.join(store.directory, "packs")) == []
    assert os.listdir(os.path.join(store.directory, "incoming")) == []


def test_no_blob_is_believed_where_the_filesystem_has_lost_writes(
    store: Store, disk: LosingDisk, tmp_path: Path
) -> None:
    """In the same boot: the cache shows what the disk does not have. What it has was perhaps promised, and stays."""
    disk.fails = False
    lost, kept, other = put(store, DATA), upload(store, b"kept" * 10_000), content_of(b"other" * 10_000)
    with open(blob(store, lost), "rb") as file:
        disk.lose(file.fileno())
    part = store.part(other)
    part.write([b"other" * 5_000])
    part.close()
    again = Store(tmp_path / "s", has_lost=True)
    try:
        assert again.open(lost) is None
        assert read(again, kept) == b"kept" * 10_000
        part = again.part(other)
        assert not part.found_bytes, "it would be hashed from the cache"
        part.discard()
    finally:
        again.close()
