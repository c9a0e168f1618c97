"""A zone's file becomes a blob before it is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lddp.content.saving import save
from lddp.content.store import Store

from .world import content_of, read

MIB = 1024 * 1024


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield descriptor
    os.close(descriptor)


def holds(store: Store) -> list[str]:
    return [name for folder in ("blobs", "incoming") for name in os.listdir(os.path.join(store.directory, folder))]


@pytest.mark.parametrize("data", [b"x", os.urandom(3 * MIB + 17), b"a" + bytes(2 * MIB) + b"b" + bytes(MIB)])
def test_what_is_saved_is_not_what_the_file_becomes(store: Store, descriptor: int, data: bytes) -> None:
    for offset in range(0, len(data), MIB):
        if any(piece := data[offset : offset + MIB]):
            os.pwrite(descriptor, piece, offset)  # the rest is a hole
    os.ftruncate(descriptor, len(data))
    assert save(store, content_of(data), descriptor)
    os.pwrite(descriptor, b"changed", 0)
    assert read(store, content_of(data)) == data
    assert save(store, content_of(data), descriptor), "it is there already"
    assert len(holds(store)) == 1


def test_a_file_that_has_grown_since_still_begins_with_it(store: Store, descriptor: int) -> None:
    os.pwrite(descriptor, b"what it was, and more", 0)
    assert save(store, content_of(b"what it was"), descriptor)
    assert read(store, content_of(b"what it was")) == b"what it was"


@pytest.mark.parametrize("now", [b"another", b"what it w", b""])
def test_other_bytes_are_not_kept(store: Store, descriptor: int, now: bytes) -> None:
    os.pwrite(descriptor, now, 0)
    assert not save(store, content_of(b"what it was"), descriptor)
    assert holds(store) == []
