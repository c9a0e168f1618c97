"""Limits of size and age decide about what the log does not have yet; what it has is followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lddp.core.records import Put
from lddp.migrate.dirty import WHOLE
from lddp.migrate.options import MigrationOptions
from tests.core.support import content
from tests.migrate.conftest import root_only
from tests.migrate.world import NOW_NS, World
from tests.migrate.writable import Writable

pytestmark = root_only
OPTIONS = MigrationOptions(size_bytes_max=100, age_s_min=60)
HOUR_NS = 3600 * 10**9


def write(path: Path, data: bytes, mtime_ns: int) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(0, mtime_ns))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """With an old file, which has been migrated."""
    world = World(tmp_path, OPTIONS)
    write(world.source / "f", b"old", NOW_NS - HOUR_NS)
    world.scan()
    assert (world.target / "f").read_bytes() == b"old"
    yield world
    world.close()


def edit(world: World) -> None:
    """By a program, a while after the observer began."""
    write(world.source / "f", b"new", NOW_NS + HOUR_NS)


def test_a_file_that_is_edited_is_followed(world: World) -> None:
    edit(world)
    world.look("f")
    assert (world.target / "f").read_bytes() == b"new"
    world.assert_same()


def test_a_file_that_grows_is_followed(world: World) -> None:
    write(world.source / "f", b"1" * 500, NOW_NS - HOUR_NS)
    assert not world.look(compare=("",)).excluded
    assert (world.target / "f").read_bytes() == b"1" * 500
    world.assert_same()


def test_a_file_that_is_edited_and_gets_another_name_is_followed(world: World) -> None:
    """It is the same object to the log, which has no such name."""
    edit(world)
    world.look("f")
    inode = (world.target / "f").stat().st_ino
    (world.source / "f").rename(world.source / "g")
    assert world.verify(world.source_zone).difference_count
    world.look("f", "g")
    assert (world.target / "g").stat().st_ino == inode
    world.assert_same()


def test_a_start_keeps_what_is_beyond_the_limits_by_then(world: World) -> None:
    edit(world)
    world.begin(MigrationOptions(size_bytes_max=1, age_s_min=60))
    world.look(compare=("",))
    assert (world.target / "f").read_bytes() == b"new"
    world.assert_same()


def test_a_file_that_was_too_young_is_taken_at_a_later_start(world: World) -> None:
    write(world.source / "young", b"1", NOW_NS - 1)
    assert world.look("young").excluded == {b"young"}
    assert not world.has("young")
    world.assert_same()
    world.begin(OPTIONS, NOW_NS + HOUR_NS)
    world.look(compare=("",))
    assert (world.target / "young").read_bytes() == b"1"
    world.assert_same()


def test_what_an_operation_made_is_followed(tmp_path: Path) -> None:
    """The log has it by its name alone until a report gives it an identity."""
    writable = Writable(tmp_path, OPTIONS)
    writable.scan()
    writable.do(Put(*writable.head(), b"/data/f", 0o644, 0, 0, content(b"made")))
    write(writable.source / "f", b"changed", NOW_NS + HOUR_NS)
    writable.find({writable.identity(b"f"): {WHOLE}})
    assert (writable.target / "f").read_bytes() == b"changed"
    writable.assert_same()
    writable.close()
