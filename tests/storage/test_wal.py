"""The write-ahead log: what was appended is there, torn writes and other eras are not."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lddp.errors import StorageError
from lddp.storage.wal import APPEND_BYTES_MAX, BLOCK_BYTES, WriteAheadLog

FRAMES = [b"first", bytes(5000), b"", b"x" * (BLOCK_BYTES - 32), b"last"]


@contextmanager
def opened(path: Path, size: int = 16 * BLOCK_BYTES) -> Iterator[WriteAheadLog]:
    wal = WriteAheadLog(str(path), size=size)
    try:
        yield wal
    finally:
        wal.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.wal"


def write(path: Path, era: int, frames: list[bytes]) -> None:
    with opened(path) as wal:
        assert all(wal.append(era, frame) for frame in frames)


def read(path: Path, era: int) -> list[bytes]:
    with opened(path) as wal:
        return wal.read(era)


def test_what_was_appended_is_there_in_order(path: Path) -> None:
    write(path, 7, FRAMES)
    assert read(path, 7) == FRAMES
    assert read(path, 6) == read(path, 8) == []


def test_a_new_era_begins_empty_and_ends_the_old_one(path: Path) -> None:
    with opened(path) as wal:
        assert all(wal.append(1, frame) for frame in FRAMES)
        assert wal.read(2) == []
        assert wal.append(2, b"one")
        assert (wal.read(1), wal.read(2)) == ([], [b"one"]), "the frames behind it are of another era"


def test_a_file_is_made_once_in_full(path: Path) -> None:
    with opened(path) as wal:
        assert wal.made
    assert path.stat().st_size == 16 * BLOCK_BYTES
    write(path, 1, FRAMES)
    with opened(path) as wal:
        assert not wal.made
    assert path.stat().st_size == 16 * BLOCK_BYTES


def test_a_file_whose_making_was_cut_short_is_filled(path: Path) -> None:
    write(path, 1, [b"a", b"b"])
    os.truncate(path, BLOCK_BYTES + 10)
    assert read(path, 1) == [b"a"]
    assert path.stat().st_size == 16 * BLOCK_BYTES


def test_where_there_is_no_room_nothing_happens(path: Path) -> None:
    with opened(path, size=4 * BLOCK_BYTES) as wal:
        assert wal.append(1, b"a")
        assert not wal.append(1, bytes(3 * BLOCK_BYTES))
        assert wal.append(1, bytes(3 * BLOCK_BYTES - 32)), "to the last byte"
        assert not wal.append(1, b"b")
        assert [len(frame) for frame in wal.read(1)] == [1, 3 * BLOCK_BYTES - 32]
        assert wal.append(2, b"c")
    with opened(path, size=2 * APPEND_BYTES_MAX) as wal:
        assert not wal.append(3, bytes(APPEND_BYTES_MAX + 1))
        assert wal.append(3, bytes(APPEND_BYTES_MAX))


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_torn_frame_is_not_believed_and_harms_no_other(path: Path, sector: int) -> None:
    """Every mixture of what was there before and the new frame, in sectors."""
    with opened(path) as wal:
        assert all(wal.append(1, b"old %d" % number * 900) for number in range(3))
        assert wal.append(2, b"kept")
        before = path.read_bytes()
        assert wal.append(2, b"new" * 1500)
        after = path.read_bytes()
    changed = [at for at in range(0, len(after), sector) if before[at : at + sector] != after[at : at + sector]]
    end = BLOCK_BYTES + 32 + 4500  # behind it there is nothing but zeros
    assert changed[0] == BLOCK_BYTES, "no block of a durable frame is written again"
    for mixture in range(1 << len(changed)):
        image = bytearray(before)
        for bit, at in enumerate(changed):
            if mixture >> bit & 1:
                image[at : at + sector] = after[at : at + sector]
        path.write_bytes(image)
        is_whole = image[:end] == after[:end]
        assert read(path, 2) == [b"kept", *([b"new" * 1500] if is_whole else [])]


def test_any_flipped_bit_of_a_frame_is_noticed(path: Path) -> None:
    write(path, 5, [b"one", b"two"])
    whole = path.read_bytes()
    for at in range(BLOCK_BYTES, BLOCK_BYTES + 35):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            assert read(path, 5) == [b"one"]


def test_a_disk_that_refuses_is_an_error(path: Path) -> None:
    with opened(path) as wal:
        assert wal.append(1, b"a")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK_BYTES, hard))
        try:
            with pytest.raises(StorageError, match=r"log\.wal: File too large"):
                wal.append(1, b"b")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert wal.read(1) == [b"a"]
