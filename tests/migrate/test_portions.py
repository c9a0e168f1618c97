"""Whatever a source has, what is reported of it fits into records. What none can hold is a path that cannot be read."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lddp.core.records import Attributes, Kind
from lddp.core.view import View
from lddp.migrate.batch import Shipment
from lddp.migrate.look import Failure
from lddp.migrate.observer import Observer
from lddp.migrate.portions import Pack
from lddp.node.system import SystemClock
from lddp.storage.environment import Environment
from tests.core.support import SOURCE
from tests.fakes.zone import FakeZone
from tests.migrate.conftest import root_only
from tests.migrate.world import World

pytestmark = root_only
PLAIN = Attributes(0o755, 0, 0, 1)
SMALL_ENTRY = 64 * 1024
"""The smallest `raft.entry_bytes_max`."""


class Foreign(FakeZone):
    """Another system's filesystem, whose names have 255 characters of up to three bytes each."""

    def _components(self, path: bytes) -> list[bytes]:
        return path.split(b"/") if path else []


class FakeGateway:
    """Shows what the log has, and takes nothing."""

    clock = SystemClock()
    zone = SOURCE

    def __init__(self, world: World) -> None:
        self._world = world

    @contextmanager
    def view(self) -> Iterator[View]:
        yield self._world.view()


def observer_of(world: World, executor: Executor) -> Observer:
    gateway: Any = FakeGateway(world)
    unused: Any = None
    parts = (gateway, world.environment, world.source_zone, world.rule, world.exclusion)
    return Observer(*parts, unused, [], lambda gsn: gsn, executor, unused)


def with_xattr(size: int) -> Attributes:
    """As a label of another system may be, of `size` bytes in values of what one may be."""
    values = [b"v" * min(size - at, 60_000) for at in range(0, size, 60_000)]
    return PLAIN._replace(xattrs=tuple((b"security.x%d" % number, value) for number, value in enumerate(values)))


def names_in(world: World, path: str = "") -> set[bytes]:
    return {name for name, _ in world.view().list(world.inode(path).number)}


# -- what does not fit into one record --------------------------------------------------------------------------------


def test_a_directory_whose_xattrs_do_not_fit_into_one_record(world: World) -> None:
    """Of 3.8 KB each, as ext4 has room for, and as access lists and streams of other systems are."""
    for number in range(1150):
        path = world.source / f"f{number}"
        path.write_bytes(b"x" * 200)
        os.setxattr(path, "user.ntacl", b"v" * 3800)
    world.scan()
    assert len(world.shipments) > 1
    world.assert_same()


def test_symlinks_that_do_not_fit_into_one_record(tmp_path: Path) -> None:
    world = World(tmp_path, record_bytes_max=SMALL_ENTRY)
    for number in range(60):
        os.symlink("t" * 4000, world.source / f"l{number}")
    world.scan()
    world.assert_same()
    for number in range(60):
        os.unlink(world.source / f"l{number}")
        os.symlink("u" * 4000, world.source / f"l{number}")
    left = world.look(*(f"l{number}" for number in range(60)))
    assert not left.failures
    world.scan()
    world.assert_same()
    world.close()


def test_names_that_have_gone_from_a_directory_that_was_listed_in_part(world: World) -> None:
    """A start in the middle of a large directory, of which a program has removed most meanwhile."""
    for number in range(9000):
        (world.source / f"f{number:05}").touch()
    looker = world.looker()
    for report in looker.scan(world.inode()):
        if report.complete:
            break  # the node was killed here
        world.ship(Shipment(world.view().gsn, (report,), (), looker.pack))
        looker.pack = Pack(os.urandom(16))
    assert len(names_in(world)) == 8192
    for number in range(9000):
        (world.source / f"f{number:05}").unlink()
    world.scan()
    assert not names_in(world)
    world.assert_same()


@pytest.mark.parametrize("is_listed", [False, True])
def test_records_are_no_larger_than_consensus_takes_them(tmp_path: Path, is_listed: bool) -> None:
    """Also where a few entries fill one, or each of them alone."""
    zone = FakeZone()
    world = World(tmp_path, zone=zone, record_bytes_max=SMALL_ENTRY)
    if is_listed:
        world.scan()
    for number in range(60):
        size = (100, 5_000, 20_000, 60_000)[number % 4]
        zone.make_directory(b"d%02d" % number, with_xattr(size))
    for number in range(500):
        zone.make_node(b"f%03d" % number, Kind.FIFO, PLAIN, b"", 0)
    names = [os.fsdecode(name) for name, _ in zone.list(b"")]
    left = world.look(*names) if is_listed else world.rounds.scan(world.pending(), world.ship)
    assert not left.failures
    assert names_in(world) == set(map(os.fsencode, names))
    assert world.inode("d03").attributes == with_xattr(60_000)
    world.close()


def test_files_that_fill_records_with_their_attributes_are_read(tmp_path: Path) -> None:
    world = World(tmp_path, record_bytes_max=SMALL_ENTRY)
    for number in range(100):
        path = world.source / f"f{number}"
        path.write_bytes(b"%d" % number * 1000)
        os.setxattr(path, "user.ntacl", b"v" * 3800)
    world.scan()
    world.assert_same()
    for number in range(100):
        path = world.source / f"f{number}"
        before = path.stat()
        path.write_bytes(b"%d" % (number + 1) * 1000)
        os.utime(path, ns=(0, before.st_mtime_ns))
    world.look(files=tuple(f"f{number}" for number in range(100)))
    world.scan()
    world.assert_same()
    world.close()


# -- what no record can hold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize(
    ("name", "attributes", "number"),
    [
        ("\u6587".encode() * 100, PLAIN, errno.ENAMETOOLONG),
        ("\u6587".encode() * 255, PLAIN, errno.ENAMETOOLONG),
        (b"bad", with_xattr(300_000), errno.E2BIG),
        (b"bad", PLAIN._replace(mtime_ns=2**64), errno.EOVERFLOW),
        (b"bad", PLAIN._replace(mtime_ns=-(2**63) - 1), errno.EOVERFLOW),
    ],
    ids=["a name", "the longest name", "xattrs", "a time to come", "a time long ago"],
)
def test_what_no_record_can_hold_cannot_be_read(
    tmp_path: Path, is_listed: bool, name: bytes, attributes: Attributes, number: int
) -> None:
    zone = Foreign()
    world = World(tmp_path, zone=zone)
    if is_listed:
        world.scan()
    zone.make_directory(b"good", PLAIN)
    zone.make_directory(name, attributes)
    top = world.inode().number
    left = world.look("good", os.fsdecode(name)) if is_listed else world.rounds.scan([top], world.ship)
    assert left.failures == [(top, Failure(name, number))]
    assert left.again.names == {top: {name}}
    assert left.postponed == {top}
    assert names_in(world) == {b"good"}
    zone.rename(name, b"short")
    zone.set_attributes(b"short", Kind.DIRECTORY, PLAIN)
    left = world.look(os.fsdecode(name), "short")
    assert not left.failures and not left.again
    assert names_in(world) == {b"good", b"short"}
    world.close()


def test_a_name_that_is_longer_than_a_key_of_the_database_is_none_of_the_namespace(tmp_path: Path) -> None:
    with (
        Environment.open(str(tmp_path), ecosystem="e", node="n", map_size=1 << 24) as environment,
        environment.read() as tables,
    ):
        assert View(tables).child(1, "\u6587".encode() * 255) == 0


def test_an_object_that_is_larger_than_what_consensus_takes_cannot_be_read(tmp_path: Path) -> None:
    zone = FakeZone()
    world = World(tmp_path, zone=zone, record_bytes_max=SMALL_ENTRY)
    zone.make_directory(b"good", PLAIN)
    zone.make_directory(b"large", with_xattr(70_000))
    left = world.rounds.scan(world.pending(), world.ship)
    assert [failure for _, failure in left.failures] == [Failure(b"large", errno.E2BIG)]
    assert names_in(world) == {b"good"}
    world.close()


def test_what_is_in_a_directory_is_reported_whatever_its_own_attributes_are(tmp_path: Path) -> None:
    zone = FakeZone()
    world = World(tmp_path, zone=zone)
    top = world.inode().number
    zone.make_directory(b"d", PLAIN)
    zone.set_attributes(b"", Kind.DIRECTORY, PLAIN._replace(mtime_ns=2**64))
    left = world.rounds.scan([top], world.ship)
    assert left.failures == [(top, Failure(b"", errno.EOVERFLOW))]
    assert left.again.names == {top: {b""}}
    assert names_in(world) == {b"d"}
    assert not world.inode().pending
    zone.set_attributes(b"", Kind.DIRECTORY, PLAIN)
    assert not world.again(left).again
    assert world.inode().attributes == PLAIN
    world.close()


@pytest.fixture
def in_memory() -> Iterator[World]:
    """A source that keeps any 64 bits of seconds, as tmpfs, btrfs and NFS do."""
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    world = World(directory)
    yield world
    world.close()
    shutil.rmtree(directory)


@pytest.mark.parametrize("size", [1, 300_000])
async def test_a_file_with_a_time_that_no_record_can_hold(in_memory: World, size: int) -> None:
    """A clock that was wrong, or a damaged archive. What the log has of the file stays as it was."""
    world = in_memory
    for name in ("new", "known"):
        (world.source / name).write_bytes(b"x" * size)
    os.utime(world.source / "new", ns=(0, 20 * 10**18))
    top = world.inode().number
    left = world.rounds.scan([top], world.ship)
    assert left.failures == [(top, Failure(b"new", errno.EOVERFLOW))]
    assert names_in(world) == {b"known"}
    number, before = world.inode("known").number, world.inode("known")
    os.utime(world.source / "known", ns=(0, -10 * 10**18))
    left = world.look(files=("known",))
    assert left.failures == [(number, Failure(b"known", errno.EOVERFLOW))]
    with ThreadPoolExecutor(1) as executor:
        observer = observer_of(world, executor)
        await observer._large_file(number)
    assert observer.failures == {number: Failure(b"known", errno.EOVERFLOW)}
    assert world.inode("known").mtime_ns == before.mtime_ns
    for name in ("new", "known"):
        os.utime(world.source / name, ns=(0, 5))
    world.look("new", files=("known",))
    world.scan()
    world.assert_same()
