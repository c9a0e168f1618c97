"""Large files share the blocks of the blobs that they are made of, where the filesystem can."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lddp.content.store import Store
from lddp.core.records import Content
from lddp.errors import CorruptError
from lddp.ports import ContentSource
from lddp.zones.posix import PosixZone
from tests.doors.fuse.cloning import cloning_filesystem
from tests.fakes.zone import Bytes
from tests.zones.conftest import IS_ROOT, attributes, read

SIZE = 16 << 20
needs_xfs = pytest.mark.skipif(not IS_ROOT or shutil.which("mkfs.xfs") is None, reason="needs root and mkfs.xfs")


class Place:
    """A zone and a store of one filesystem, and a content in it of which a file is to be made, not more."""

    def __init__(self, directory: Path) -> None:
        self.root, self.staging = directory / "root", directory / "staging"
        self.root.mkdir()
        self.staging.mkdir()
        self.data = os.urandom(SIZE)
        self.store = Store(directory / "content")
        writer = self.store.writer()
        writer.write(self.data)
        self.content: Content = writer.commit(True)
        self.store.keep(self.content)

    def source(self) -> ContentSource:
        source = self.store.open(self.content)
        assert source is not None and source.to_take() is None
        return source

    def used(self) -> int:
        os.sync()
        found = os.statvfs(self.root)
        return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.fixture
def cloning(tmp_path: Path) -> Iterator[Place]:
    with cloning_filesystem(tmp_path) as mounted:
        place = Place(mounted)
        yield place
        place.store.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.store.close()


@needs_xfs
def test_a_file_takes_no_room_beside_its_blob(cloning: Place) -> None:
    before = cloning.used()
    with PosixZone(str(cloning.root), str(cloning.staging)) as zone:
        zone.put_file(b"f", attributes(), cloning.source())
        assert cloning.used() - before < SIZE // 8
        assert read(zone, b"f") == cloning.data
        # And the blob stays as it is.
        zone.write(b"f", 5, Bytes(b"other"), SIZE, attributes())
        assert read(zone, b"f")[:10] == cloning.data[:5] + b"other"
    assert b"".join(data for _, data in cloning.source().chunks()) == cloning.data


def test_it_is_written_where_blocks_cannot_be_shared(plain: Place) -> None:
    with PosixZone(str(plain.root), str(plain.staging)) as zone:
        zone.put_file(b"f", attributes(), plain.source())
        assert read(zone, b"f") == plain.data


@pytest.mark.parametrize("where", ["plain", pytest.param("cloning", marks=needs_xfs)])
def test_a_blob_that_became_shorter_is_no_file(request: pytest.FixtureRequest, where: str) -> None:
    place: Place = request.getfixturevalue(where)
    source = place.source()
    (blob,) = (place.root.parent / "content" / "blobs").iterdir()
    os.truncate(blob, SIZE - 1)
    with PosixZone(str(place.root), str(place.staging)) as zone:
        with pytest.raises(CorruptError):
            zone.put_file(b"f", attributes(), source)
        assert zone.list(b"") == []
