"""What a transaction keeps of a file until its end, and what that takes."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lddp.doors.fsspec import LddpFileSystem, pending

FILES = 60
SIZES = {"small": 1, "large": 100_000}
"""Of a record, and of what is sent on its own."""


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Room for fewer new descriptors than a test has files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + FILES // 2, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_what_is_put_is_what_the_file_was_then(fs: LddpFileSystem, directory: str, tmp_path: Path, size: int) -> None:
    """One temporary file for several puts, as programs have it."""
    local = tmp_path / "part"
    with fs.transaction:
        for number in range(3):
            local.write_bytes(b"%d" % number * size)
            fs.put_file(str(local), f"{directory}/{number}")
        local.unlink()
    assert [fs.cat_file(f"{directory}/{number}") for number in range(3)] == [b"%d" % n * size for n in range(3)]


def _put(fs: LddpFileSystem, local: Path, path: str) -> None:
    fs.put_file(str(local), path)


def _written(fs: LddpFileSystem, local: Path, path: str) -> None:
    with fs.open(path, "wb") as file:
        file.write(local.read_bytes())


@pytest.mark.parametrize("write", [_put, _written])
def test_many_files_take_few_descriptors(
    fs: LddpFileSystem,
    directory: str,
    tmp_path: Path,
    few_descriptors: None,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[LddpFileSystem, Path, str], Any],
) -> None:
    """Also where each of them is more than is kept in memory."""
    monkeypatch.setattr(pending, "MEMORY_BYTES_MAX", 10_000)
    for number in range(FILES):
        (tmp_path / str(number)).write_bytes(b"%02d " % number * 5_000)
    with fs.transaction:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(FILES):
            write(fs, tmp_path / str(number), f"{directory}/{number}")
        assert len(os.listdir("/proc/self/fd")) - before < 10
    for number in range(FILES):
        assert fs.cat_file(f"{directory}/{number}") == (tmp_path / str(number)).read_bytes()


def test_a_transaction_that_cannot_keep_a_file_is_over(fs: LddpFileSystem, directory: str) -> None:
    file = None
    with pytest.raises(OSError, match="full"):  # noqa: SIM117  # the transaction's end is what raises
        with fs.transaction:
            fs.pipe_file(f"{directory}/f", b"f")
            file = fs.open(f"{directory}/g", "wb")
            file.write(b"g")
            file._initiate_upload = _no_room
    assert not fs._intrans
    fs.pipe_file(f"{directory}/after", b"")
    assert fs.ls(directory, detail=False) == [f"{directory}/after"]


def _no_room() -> None:
    raise OSError("full")
