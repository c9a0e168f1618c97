"""The write-ahead log: what was appended is there, torn writes and other eras are not."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lddp.errors import CorruptError, StorageError
from lddp.storage.wal import APPEND_BYTES_MAX, BLOCK_BYTES, ERA_BYTES, HEAD_BYTES, WriteAheadLog

FRAMES = [b"first", bytes(5000), b"", b"x" * (BLOCK_BYTES - HEAD_BYTES), b"last"]
ONE, TWO = b"1" * ERA_BYTES, b"2" * ERA_BYTES


@contextmanager
def opened(path: Path, size: int = 16 * BLOCK_BYTES) -> Iterator[WriteAheadLog]:
    wal = WriteAheadLog(str(path), size=size)
    try:
        yield wal
    finally:
        wal.close()


@contextmanager
def created(path: Path, size: int = 16 * BLOCK_BYTES) -> Iterator[WriteAheadLog]:
    with opened(path, size) as wal:
        wal.create()
        yield wal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.wal"


def write(path: Path, era: bytes, frames: list[bytes]) -> None:
    with created(path) as wal:
        assert all(wal.append(era, frame) for frame in frames)


def overwrite(path: Path, data: bytes) -> None:
    """In place: a file that is cut and written anew is synced by some filesystems."""
    with path.open("r+b") as file:
        file.write(data)


def read(path: Path, era: bytes) -> list[bytes]:
    with opened(path) as wal:
        return wal.read(era)


def test_what_was_appended_is_there_in_order(path: Path) -> None:
    write(path, ONE, FRAMES)
    assert read(path, ONE) == FRAMES
    assert read(path, TWO) == []


def test_a_new_era_begins_empty_and_ends_the_old_one(path: Path) -> None:
    with created(path) as wal:
        assert all(wal.append(ONE, frame) for frame in FRAMES)
        assert wal.append(TWO, b"one")
    assert read(path, TWO) == [b"one"], "the frames behind it are of another era"
    assert read(path, wal.begin()) == []
    assert len({wal.begin() for _ in range(100)}) == 100


def test_after_a_start_the_next_frame_follows(path: Path) -> None:
    write(path, ONE, FRAMES[:3])
    with opened(path) as wal:
        assert wal.read(ONE) == FRAMES[:3]
        assert all(wal.append(ONE, frame) for frame in FRAMES[3:])
    assert read(path, ONE) == FRAMES


def test_a_file_is_made_in_full_and_empty(path: Path) -> None:
    write(path, ONE, FRAMES)
    assert path.stat().st_size == 16 * BLOCK_BYTES
    write(path, TWO, [])
    assert path.stat().st_size == 16 * BLOCK_BYTES
    assert read(path, ONE) == []


@pytest.mark.parametrize("size", [0, BLOCK_BYTES + 10, 16 * BLOCK_BYTES - 1])
def test_a_file_that_is_cut_short_is_refused_at_every_start(path: Path, size: int) -> None:
    write(path, ONE, [b"a", b"b"])
    os.truncate(path, size)
    for _ in range(2):
        with pytest.raises(CorruptError, match="restore this node"):
            read(path, ONE)


def test_a_file_that_is_gone_is_refused_at_every_start(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(CorruptError, match="is gone"):
            read(path, ONE)


def test_where_there_is_no_room_nothing_happens(path: Path) -> None:
    with created(path, size=4 * BLOCK_BYTES) as wal:
        assert wal.append(ONE, b"a")
        assert not wal.append(ONE, bytes(3 * BLOCK_BYTES))
        assert wal.append(ONE, bytes(3 * BLOCK_BYTES - HEAD_BYTES)), "to the last byte"
        assert not wal.append(ONE, b"b")
        assert [len(frame) for frame in wal.read(ONE)] == [1, 3 * BLOCK_BYTES - HEAD_BYTES]
        assert wal.append(TWO, b"c")
    with created(path, size=2 * APPEND_BYTES_MAX) as wal:
        assert not wal.append(ONE, bytes(APPEND_BYTES_MAX + 1))
        assert wal.append(ONE, bytes(APPEND_BYTES_MAX))


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_torn_frame_is_not_believed_and_harms_no_other(path: Path, sector: int) -> None:
    """Every mixture of what was there before and the new frame, in sectors."""
    with created(path) as wal:
        assert all(wal.append(ONE, b"old %d" % number * 900) for number in range(3))
        assert wal.append(TWO, b"kept")
        before = path.read_bytes()
        assert wal.append(TWO, b"new" * 1500)
        after = path.read_bytes()
    changed = [at for at in range(0, len(after), sector) if before[at : at + sector] != after[at : at + sector]]
    end = BLOCK_BYTES + HEAD_BYTES + 4500  # behind it there is nothing but zeros
    assert changed[0] == BLOCK_BYTES, "no block of a durable frame is written again"
    for mixture in range(1 << len(changed)):
        image = bytearray(before)
        for bit, at in enumerate(changed):
            if mixture >> bit & 1:
                image[at : at + sector] = after[at : at + sector]
        overwrite(path, image)
        is_whole = image[:end] == after[:end]
        assert read(path, TWO) == [b"kept", *([b"new" * 1500] if is_whole else [])]


def test_any_flipped_bit_of_the_last_frame_makes_it_torn(path: Path) -> None:
    write(path, ONE, [b"one", b"two"])
    whole = path.read_bytes()
    for at in range(BLOCK_BYTES, BLOCK_BYTES + HEAD_BYTES + 3):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            overwrite(path, damaged)
            assert read(path, ONE) == [b"one"]


@pytest.mark.parametrize("at", [0, 7, HEAD_BYTES, BLOCK_BYTES + HEAD_BYTES + 1])
def test_damage_before_a_whole_frame_is_noticed(path: Path, at: int) -> None:
    """Each was synced before the next one began: what is behind it cannot be whole if it is torn."""
    write(path, ONE, [b"one", b"two", b"three"])
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptError, match="is damaged"):
        read(path, ONE)


def test_data_cannot_look_like_a_frame(path: Path) -> None:
    """Whoever may write anything, and has seen the file of another node, does not know the name of this one's era."""
    with created(path) as wal:
        assert wal.append(ONE, b"evil")
        frame = path.read_bytes()[:BLOCK_BYTES]
        forged = b"\0\0\0\1" + frame[4:]
        assert wal.append(ONE, b"x" * (BLOCK_BYTES - HEAD_BYTES) + frame)
        assert wal.append(ONE, b"x" * (BLOCK_BYTES - HEAD_BYTES) + forged)
        assert wal.append(TWO, b"small")
        assert wal.read(TWO) == [b"small"]


def test_a_disk_that_refuses_is_an_error(path: Path) -> None:
    with created(path) as wal:
        assert wal.append(ONE, b"a")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK_BYTES, hard))
        try:
            with pytest.raises(StorageError, match=r"log\.wal: File too large"):
                wal.append(ONE, b"b")
            with pytest.raises(StorageError, match="free some space"):
                wal.create()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)


def test_what_is_closed_writes_nowhere(path: Path) -> None:
    with created(path) as wal:
        wal.close()
        with pytest.raises(StorageError):
            wal.append(ONE, b"a")
