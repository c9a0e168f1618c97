"""What the tests of the migrator share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.migrate.world import World
from tests.migrate.writable import Writable

IS_ROOT = os.geteuid() == 0
root_only = pytest.mark.skipif(not IS_ROOT, reason="only root may open files by their handles")


def fill(top: Path) -> None:
    """A small tree with something of every kind that needs no rights."""
    (top / "d" / "deep").mkdir(parents=True)
    (top / "empty directory").mkdir(mode=0o700)
    (top / "d" / "small").write_bytes(b"small")
    (top / "d" / "packed").write_bytes(os.urandom(3000))
    (top / "d" / "deep" / "large").write_bytes(b"l" * 300_000)
    (top / "empty").write_bytes(b"")
    os.link(top / "d" / "packed", top / "linked")
    os.symlink("d/nowhere", top / "symlink")
    os.mkfifo(top / "fifo", 0o640)
    with open(os.fsencode(top) + b"/\xff\xfe", "wb") as file:
        file.write(b"not UTF-8")
    os.setxattr(top / "d" / "small", "user.colour", b"green")
    os.chmod(top / "d" / "small", 0o604)
    os.utime(top / "d" / "small", ns=(5, 1_234_567_890_123_456_789))
    os.utime(top / "d" / "deep", ns=(5, 987_654_321_000_000_001))
    os.utime(top / "symlink", ns=(5, 7), follow_symlinks=False)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def scanned(world: World) -> World:
    """A world whose small tree has been scanned and is in the target."""
    fill(world.source)
    world.scan()
    world.assert_same()
    return world


@pytest.fixture
def writable(tmp_path: Path) -> Iterator[Writable]:
    """Such a world whose source takes operations, of which some have been done."""
    world = Writable(tmp_path)
    fill(world.source)
    world.scan()
    world.make()
    yield world
    world.close()
