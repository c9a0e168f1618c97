from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from lddp.content import store as store_module
from lddp.content.disk import GroupSync, open_directory
from lddp.content.packs import PACK_BYTES_MAX, PackBuilder
from lddp.content.source import FileSource
from lddp.content.store import Store
from lddp.core.limits import INLINE_BYTES_MAX
from lddp.core.records import Content
from lddp.errors import CorruptError, FormatError, LimitError, UnavailableError

from .world import content_of, put, read

MIB = 1024 * 1024


@pytest.fixture
def store(tmp_path: Path):
    made = Store(tmp_path / "s", memory_bytes_max=1000)
    yield made
    made.close()


def names(store: Store, folder: str) -> list[str]:
    return sorted(os.listdir(os.path.join(store.directory, folder)))


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("size", [INLINE_BYTES_MAX + 1, MIB, 3 * MIB + 17])
def test_written_bytes_come_back_under_their_digest(store: Store, size: int, sync: bool) -> None:
    data = os.urandom(size)
    with store.writer() as writer:
        for at in range(0, size, 300_000):
            writer.write(memoryview(data)[at : at + 300_000])
        content = writer.commit(sync)
    assert content == Content(blake3(data).digest(), size)
    assert names(store, "blobs") == [content.digest.hex()]
    assert names(store, "incoming") == []
    assert read(store, content) == data


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES_MAX])
def test_small_bytes_are_inline_and_no_file(store: Store, size: int) -> None:
    data = os.urandom(size)
    with store.writer() as writer:
        writer.write(data)
        content = writer.commit(True)
    assert content == Content(blake3(data).digest(), size, inline=data)
    assert names(store, "blobs") == []
    assert read(store, content) == data


def test_an_aborted_writer_leaves_nothing(store: Store) -> None:
    with pytest.raises(KeyError), store.writer() as writer:
        writer.write(os.urandom(2 * MIB))
        assert len(names(store, "incoming")) == 1
        raise KeyError
    assert names(store, "incoming") == names(store, "blobs") == []


def test_a_full_disk_shows_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    writer = store.writer()
    writer.write(os.urandom(100_000))
    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(OSError, match="full") as caught:
        writer.commit(True)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="full"):
        asyncio.run(store.add_pack(bytes(16), b"x" * 100, True))
    assert store.open(Content(b"d" * 32, 10, pack=bytes(16))) is None
    assert [names(store, folder) for folder in ("blobs", "incoming", "packs")] == [[], [], []]


def test_holes_stay_holes(store: Store) -> None:
    writer = store.writer()
    writer.write(b"a" * 4096)
    writer.skip(64 * MIB)
    writer.write(b"b" * 4096)
    writer.skip(64 * MIB)
    content = writer.commit(False)
    expected = b"a" * 4096 + bytes(64 * MIB) + b"b" * 4096 + bytes(64 * MIB)
    assert content == content_of(expected)
    path = os.path.join(store.directory, "blobs", content.digest.hex())
    assert os.stat(path).st_blocks * 512 < MIB
    source = store.open(content)
    assert source is not None
    assert sum(len(piece) for _, piece in source.chunks()) < MIB
    assert read(store, content) == expected


def test_a_kept_blob_is_not_to_be_taken(store: Store) -> None:
    content = put(store, b"z" * 20_000)
    source = store.open(content)
    assert source is not None
    store.keep(content)
    store.keep(content)
    assert source.to_take() is None
    store.unkeep(content)
    assert source.to_take() is None
    store.unkeep(content)
    taken = source.to_take()
    assert taken is not None
    os.rename(taken.path, os.path.join(store.directory, "taken"))
    assert store.open(content) is None
    with pytest.raises(UnavailableError):
        list(source.chunks())


def test_pack_slices_are_verified(store: Store) -> None:
    builder = PackBuilder()
    pieces = [os.urandom(size) for size in (1, 0, 100, 50)]
    pack_id = builder.pack_id
    contents = [content_of(piece)._replace(pack=pack_id, offset=builder.add(piece)) for piece in pieces]
    taken_id, data = builder.take()
    assert taken_id == pack_id != builder.pack_id
    asyncio.run(store.add_pack(pack_id, data))
    assert [read(store, content) for content in contents] == pieces
    assert store.open(contents[2]._replace(offset=3)) is None
    assert store.open(contents[2]._replace(offset=140)) is None
    with pytest.raises(CorruptError):
        list(store_module.BytesSource(contents[2], b"x" * 100).chunks())
    with pytest.raises(CorruptError):
        list(store_module.BytesSource(contents[2], pieces[2][:-1]).chunks())


def test_packs_beyond_the_memory_bound_are_on_disk(store: Store) -> None:
    packs = {os.urandom(16): os.urandom(400) for _ in range(6)}
    for pack_id, data in packs.items():
        asyncio.run(store.add_pack(pack_id, data))
    assert store.usage().memory_bytes == 800
    assert len(names(store, "packs")) == 4
    for pack_id, data in packs.items():
        assert read(store, content_of(data)._replace(pack=pack_id)) == data
        store.release_pack(pack_id)
        assert store.pack(pack_id) is None
    assert names(store, "packs") == []
    assert store.usage()[:3] == (0, 0, 0)


def test_durable_packs_are_on_disk_and_survive(store: Store, tmp_path: Path) -> None:
    data = os.urandom(300)
    pack_id = os.urandom(16)
    asyncio.run(store.add_pack(pack_id, data))
    assert names(store, "packs") == []
    asyncio.run(store.add_pack(pack_id, data, True))
    assert names(store, "packs") == [pack_id.hex()]
    assert store.usage().memory_bytes == 0
    again = Store(tmp_path / "s")
    assert read(again, content_of(data)._replace(pack=pack_id)) == data
    assert again.held() == ([pack_id], [])
    again.close()


def test_pack_limits(store: Store) -> None:
    with pytest.raises(LimitError):
        asyncio.run(store.add_pack(bytes(16), bytes(PACK_BYTES_MAX + 1)))
    with pytest.raises(FormatError):
        asyncio.run(store.add_pack(b"short", b""))
    with pytest.raises(FormatError):
        asyncio.run(store.add_pack(b"../", b"", True))
    builder = PackBuilder()
    builder.add(bytes(PACK_BYTES_MAX))
    assert builder.full and not builder.fits(1)
    with pytest.raises(LimitError):
        builder.add(b"1")


def test_start_cleans_what_is_unknown_and_keeps_parts(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "s"
    part = "ab" * 32 + ".part"
    for name in ("incoming/half", "parts/junk", "packs/junk", "blobs/junk", f"parts/{part}"):
        (root / name).write_bytes(b"x")
    blob = put(store, b"q" * 100)
    again = Store(root)
    assert names(again, "incoming") == names(again, "packs") == []
    assert names(again, "parts") == [part]
    assert names(again, "blobs") == [blob.digest.hex()]
    again.release(Content(bytes.fromhex("ab" * 32), 5))
    again.release(blob)
    assert names(again, "parts") == names(again, "blobs") == []
    again.close()


@pytest.mark.parametrize("by", ["kept", "expected"])
def test_what_others_need_is_neither_dropped_nor_taken(store: Store, by: str) -> None:
    blob = put(store, b"q" * 100)
    if by == "kept":
        store.keep(blob)
    else:
        store.is_expected = blob.__eq__
    source = store.open(blob)
    assert isinstance(source, FileSource)
    assert source.to_take() is None
    store.release(blob)
    assert store.open(blob) is not None
    if by == "kept":
        store.unkeep(blob)
    else:
        store.is_expected = lambda _content: False
    assert source.to_take() is not None
    store.release(blob)
    assert store.open(blob) is None


def test_blobs_of_another_boot_are_hashed_before_they_are_trusted(store: Store, tmp_path: Path) -> None:
    whole, torn, never = (put(store, os.urandom(50_000)) for _ in range(3))
    chained = Content(b"c" * 32, 3, sealed=False)
    arrival = store.arrival()
    arrival.write([b"abc"])
    store.publish(arrival, chained.digest, sealed=False)
    assert read(store, chained) == b"abc"
    with open(os.path.join(store.directory, "blobs", torn.digest.hex()), "r+b") as file:
        file.seek(40_000)
        file.write(bytes(1000))
    (tmp_path / "s" / "boot").write_text("another boot")
    for _ in range(2):  # a second start in the same boot must not forget what the first one suspected
        again = Store(tmp_path / "s")
        assert names(again, "blobs") == []
        again.close()
    again = Store(tmp_path / "s")
    assert again.open(torn) is None
    assert again.open(chained) is None
    assert len(read(again, whole)) == 50_000
    assert names(again, "blobs") == [whole.digest.hex()]
    assert names(again, "suspects") == [never.digest.hex()]
    again.close()


def test_a_blob_of_another_length_is_not_given(store: Store) -> None:
    content = put(store, b"y" * 30_000)
    os.truncate(os.path.join(store.directory, "blobs", content.digest.hex()), 29_999)
    assert store.open(content) is None
    assert names(store, "blobs") == []


def test_one_round_of_syncs_serves_all_who_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = GroupSync()
    directory = open_directory(str(tmp_path))
    files = [os.open(tmp_path / str(number), os.O_CREAT | os.O_RDWR) for number in range(9)]
    first_runs, go_on = threading.Event(), threading.Event()
    synced: list[int] = []
    directories: list[int] = []

    def fdatasync(descriptor: int) -> None:
        synced.append(descriptor)
        if descriptor == files[0]:
            first_runs.set()
            assert go_on.wait(10)
        if descriptor == files[3]:
            raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(os, "fsync", directories.append)
    failed: list[int] = []

    def sync(descriptor: int) -> None:
        try:
            syncs.sync(descriptor, directory)
        except OSError:
            failed.append(descriptor)

    threads = [threading.Thread(target=sync, args=(descriptor,)) for descriptor in files]
    threads[0].start()
    assert first_runs.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(syncs._waiting) < 8:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert syncs.rounds == 2 and len(directories) == 2
    assert sorted(synced) == sorted(files)
    assert failed == [files[3]]
    for descriptor in [*files, directory]:
        os.close(descriptor)


async def test_a_store_without_connections_says_so(store: Store) -> None:
    with pytest.raises(UnavailableError):
        await store.fetch(Content(bytes(32), 1), 1, ["a"])


def test_a_full_disk_does_not_keep_another_boot_from_starting(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a note of the boot, what is stored is checked again at the next start too."""
    content = put(store, os.urandom(MIB))
    (tmp_path / "s" / "boot").write_text("another boot")
    rename = os.rename

    def full(source: str, target: str) -> None:
        if target.endswith("boot"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(store_module.os, "rename", full)
        again = Store(tmp_path / "s")
    assert names(again, "suspects") == [content.digest.hex()]
    assert names(again, "incoming") == []
    again.close()
    assert (tmp_path / "s" / "boot").read_text() == "another boot"
    last = Store(tmp_path / "s")
    assert len(read(last, content)) == MIB
    assert (tmp_path / "s" / "boot").read_text() != "another boot"
    last.close()
