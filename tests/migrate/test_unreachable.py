"""A name that cannot be looked at hides no others, and is left alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lddp.migrate.look import Failure
from lddp.migrate.options import MigrationOptions
from lddp.replay.extraneous import remove_extraneous
from lddp.zones.looking import OpenDirectory
from lddp.zones.posix import PosixZone
from tests.dead_mount import dead_mount
from tests.migrate.conftest import root_only
from tests.migrate.world import World

pytestmark = root_only


def with_mountpoint(top: Path) -> Path:
    (top / "precious").write_bytes(b"1")
    (top / "mnt").mkdir()
    return top / "mnt"


def test_a_dead_mount_in_a_directory_that_is_listed(world: World) -> None:
    with dead_mount(with_mountpoint(world.source)):
        left = world.rounds.scan(world.pending(), world.ship)
        root, failure = world.inode().number, Failure(b"mnt", errno.ENOTCONN)
        assert left.failures == [(root, failure)]
        assert left.again.names == {root: {b"mnt"}}
        assert left.postponed == {root}
        world.scan()
        assert (world.target / "precious").read_bytes() == b"1"
        assert world.verify(world.source_zone).differences == [(b"mnt", "ENOTCONN")]
        assert world.again(left).failures == [(root, failure)]
    world.again(left)
    world.scan()
    world.assert_same()


@pytest.mark.parametrize("pattern", ["mnt", "mnt/"])
def test_a_dead_mount_that_is_excluded(world: World, pattern: str) -> None:
    world.begin(MigrationOptions(exclude=(pattern,)))
    with dead_mount(with_mountpoint(world.source)):
        (left,) = world.scan()
        assert left.excluded == {b"mnt"}
        assert not left.failures
        left = world.look("mnt")
        assert left.excluded == {b"mnt"}
        assert not left.failures
        assert (world.target / "precious").read_bytes() == b"1"
        world.assert_same()


def test_a_dead_mount_over_what_has_been_migrated(world: World) -> None:
    mountpoint = with_mountpoint(world.source)
    (mountpoint / "below").write_bytes(b"1")
    world.scan()
    with dead_mount(mountpoint):
        (world.source / "precious").write_bytes(b"changed")
        left = world.look(compare=("",))
        assert (b"mnt", errno.ENOTCONN) in [failure for _, failure in left.failures]
        assert (world.target / "precious").read_bytes() == b"changed"
        assert (world.target / "mnt" / "below").read_bytes() == b"1"
        assert (b"mnt", "ENOTCONN") in world.verify(world.source_zone).differences
    world.again(left)
    world.assert_same()


@pytest.mark.parametrize("pattern", ["mnt", "mnt/"])
def test_a_dead_mount_that_becomes_excluded_goes(world: World, pattern: str) -> None:
    mountpoint = with_mountpoint(world.source)
    world.scan()
    world.begin(MigrationOptions(exclude=(pattern,)))
    with dead_mount(mountpoint):
        assert not world.look(compare=("",)).failures
        assert not (world.target / "mnt").exists()
        world.assert_same()


def test_a_dead_mount_in_the_target(world: World) -> None:
    (world.source / "precious").write_bytes(b"1")
    world.scan()
    mountpoint = world.target / "mnt"
    mountpoint.mkdir()
    (world.target / "other").write_bytes(b"1")
    with dead_mount(mountpoint):
        assert world.verify().extraneous == [b"mnt", b"other"]
        removed = remove_extraneous(world.view(), world.rule, world.carrier, world.exclusion.excludes)
        assert removed == [b"other"]
        world.settle()
        found = world.verify()
        assert (found.extraneous, found.differences) == ([b"mnt"], [])


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_pattern_for_directories_and_a_name_that_cannot_be_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its directory's listing knows what it is."""
    if kind == "directory":
        (world.source / "bad").mkdir()
    else:
        (world.source / "bad").write_bytes(b"1")
    world.scan()
    world.begin(MigrationOptions(exclude=("bad/",)))
    for where in (OpenDirectory, PosixZone):
        looks = where.status

        def refuse(self: object, name: bytes, looks: object = looks) -> object:
            if name == b"bad":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return looks(self, name)  # type: ignore[operator]

        monkeypatch.setattr(where, "status", refuse)
    left = world.look(compare=("",))
    assert (left.failures == []) is (kind == "directory")
    assert world.has("bad") is (kind == "file")
