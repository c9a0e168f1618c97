"""What PosixZone does with a real filesystem beyond the common behaviour: attributes, holes, long paths, identity."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lddp.core.records import Kind
from lddp.ports import Takeable
from lddp.zones import syscalls
from lddp.zones.filling import data_extents
from lddp.zones.looking import identity
from lddp.zones.posix import PosixZone
from tests.fakes.zone import Bytes
from tests.zones.conftest import attributes, names, read, root_only


class Taken(Bytes):
    """A content in a file that may be moved away."""

    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(data)
        self.path = str(path)
        path.write_bytes(data)

    def to_take(self) -> Takeable:
        return self

    @contextlib.contextmanager
    def moving(self) -> Iterator[bool]:
        yield True


class Broken(Bytes):
    def chunks(self) -> Iterator[tuple[int, bytes | memoryview]]:
        yield 0, b"half"
        raise OSError(errno.EIO, "broken")


# -- holes -------------------------------------------------------------------------------------------------------------


def test_holes_stay_holes(posix: PosixZone, root: Path) -> None:
    size = 64 << 20
    posix.put_file(b"f", attributes(), Bytes(pieces=[(1 << 20, b"a" * 4096), (32 << 20, b"b")], size=size))
    assert (root / "f").stat().st_size == size
    assert (root / "f").stat().st_blocks * 512 < 1 << 20
    descriptor = posix.open_read(b"f")
    extents = list(data_extents(descriptor, size))
    os.close(descriptor)
    assert extents[0] == (1 << 20, 4096)
    assert extents[1][0] == 32 << 20
    assert len(extents) == 2


@pytest.mark.parametrize("piece", [1 << 20, 100_000, 4096 * 3 + 1])
def test_long_zeros_become_holes(posix: PosixZone, root: Path, piece: int) -> None:
    data = bytearray(4 << 20)
    data[1_000_000:1_000_010] = b"0123456789"
    data[-1:] = b"\0"
    pieces = [(at, bytes(data[at : at + piece])) for at in range(0, len(data), piece)]
    posix.put_file(b"f", attributes(), Bytes(pieces=pieces))
    assert (root / "f").read_bytes() == data
    if piece == 1 << 20:
        assert (root / "f").stat().st_blocks * 512 <= 64 * 1024


def test_small_zeros_are_written(posix: PosixZone, root: Path) -> None:
    posix.put_file(b"f", attributes(), Bytes(bytes(500_000)))
    assert (root / "f").read_bytes() == bytes(500_000)
    assert (root / "f").stat().st_blocks * 512 >= 500_000


def test_extents_of_an_empty_and_a_shrunk_file(posix: PosixZone) -> None:
    posix.put_file(b"f", attributes(), Bytes(b"x"))
    descriptor = posix.open_read(b"f")
    assert list(data_extents(descriptor, 0)) == []
    assert list(data_extents(descriptor, 1)) == [(0, 1)]
    posix.truncate(b"f", 0, attributes())
    assert list(data_extents(descriptor, 1)) == []
    os.close(descriptor)


def test_gap_without_punching(posix: PosixZone, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no holes here")

    monkeypatch.setattr(syscalls, "punch_hole", refuse)
    posix.put_file(b"f", attributes(), Bytes(b"x" * 200_000))
    posix.write(b"f", 10, Bytes(pieces=[(150_000, b"y")], size=160_000), 200_000, attributes())
    assert read(posix, b"f") == b"x" * 10 + bytes(150_000) + b"y" + bytes(9_999) + b"x" * 39_990


# -- taking files ------------------------------------------------------------------------------------------------------


def test_taking_a_file(posix: PosixZone, tmp_path: Path) -> None:
    for target in (b"new", b"new", b"d"):
        if target == b"d":
            posix.make_directory(b"d", attributes(0o755))
            posix.put_file(b"d/f", attributes(), Bytes(b""))
        content = Taken(tmp_path / "content", b"data")
        os.setxattr(content.path, b"user.stray", b"1")
        inode = os.stat(content.path).st_ino
        status = posix.put_file(target, attributes(0o6711, 5), content)
        assert (status.inode, status.mode, status.mtime_ns) == (inode, 0o6711, 5)
        assert not os.path.exists(content.path)
        assert read(posix, target) == b"data"
        assert posix.xattrs(target) == ()


def test_a_file_with_two_names_is_copied(posix: PosixZone, tmp_path: Path) -> None:
    content = Taken(tmp_path / "content", b"data")
    os.link(content.path, tmp_path / "second")
    status = posix.put_file(b"f", attributes(), content)
    assert (status.links, Path(content.path).read_bytes()) == (1, b"data")


@root_only
def test_what_cannot_be_put_is_not_lost(posix: PosixZone, tmp_path: Path) -> None:
    content = Taken(tmp_path / "content", b"data")
    with pytest.raises(FileNotFoundError):
        posix.put_file(b"none/f", attributes(0o000), content)
    assert Path(content.path).read_bytes() == b"data"
    assert os.stat(content.path).st_mode & 0o777 != 0


def test_a_broken_source_leaves_nothing(posix: PosixZone) -> None:
    posix.put_file(b"f", attributes(), Bytes(b"old"))
    with pytest.raises(OSError, match="broken"):
        posix.put_file(b"f", attributes(), Broken(b"whole"))
    assert read(posix, b"f") == b"old"


# -- long paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("openat2", [True, False])
def test_paths_longer_than_the_kernel_takes(
    root: Path, staging: Path, no_openat2: Callable[[], None], openat2: bool
) -> None:
    if not openat2:
        no_openat2()
    with PosixZone(str(root), str(staging)) as zone:
        parts = [b"%03d" % number + b"d" * 200 for number in range(50)]
        path = b""
        for part in parts:
            path = path + b"/" + part if path else part
            zone.make_directory(path, attributes(0o755))
        assert len(path) > 10_000
        zone.put_file(path + b"/f", attributes(0o644, 7, ((b"user.a", b"1"),)), Bytes(b"deep"))
        assert read(zone, path + b"/f") == b"deep"
        assert zone.xattrs(path + b"/f") == ((b"user.a", b"1"),)
        directory = zone.status(path)
        if os.geteuid() == 0:
            assert zone.locate(directory.handle) == path
            assert zone.locate(zone.status(path + b"/f").handle) is None  # only its being alive can be told
            assert zone.alive(zone.status(path + b"/f").handle)
        zone.rename(path + b"/f", b"f")
        zone.link(b"f", path + b"/g")
        assert names(zone, path) == [b"g"]
        zone.remove(parts[0])
        assert names(zone) == [b"f"]


def test_removing_a_very_deep_tree(posix: PosixZone, root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.mkdir("e", dir_fd=below)
        os.close(here)
        here = below
    os.close(here)
    posix.remove(b"d")
    assert names(posix) == []


# -- identity ----------------------------------------------------------------------------------------------------------


@root_only
def test_locate(posix: PosixZone, root: Path, tmp_path: Path) -> None:
    posix.make_directory(b"d", attributes(0o755))
    for name in (b"f (deleted)", b"\xff\n"):
        handle = posix.put_file(b"d/" + name, attributes(), Bytes(b"")).handle
        assert posix.locate(handle) == b"d/" + name
    posix.rename(b"d", b"e")
    assert posix.locate(handle) == b"e/" + name
    assert posix.locate(posix.status(b"").handle) == b""
    os.rename(root / "e", tmp_path / "outside")
    assert posix.locate(handle) is None
    assert posix.alive(handle) is True
    os.rename(tmp_path / "outside", root / "f (deleted)")
    assert posix.locate(handle) == b"f (deleted)/" + name
    kept = os.open(os.fsencode(root) + b"/f (deleted)/" + name, os.O_RDONLY)
    posix.remove(b"f (deleted)")
    assert posix.locate(handle) is None
    assert posix.alive(handle) is False
    os.close(kept)
    assert posix.alive(handle) is False
    assert posix.alive(b"") is None
    assert posix.alive(b"\xff" + bytes(24)) is None


@root_only
def test_locate_what_is_parked(posix: PosixZone) -> None:
    handle = posix.put_file(b"f", attributes(), Bytes(b"")).handle
    posix.park(b"f", b"p")
    assert posix.locate(handle) is None
    assert posix.alive(handle)
    posix.unpark(b"p", b"g")
    assert posix.locate(handle) == b"g"


def test_identity_is_type_and_bytes(posix: PosixZone, root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY)
    expected = identity(*syscalls.handle_at(descriptor, b"", syscalls.AT_EMPTY_PATH))
    os.close(descriptor)
    assert posix.status(b"").handle == expected


def test_filesystem_without_handles(posix: PosixZone, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> tuple[int, bytes]:
        raise OSError(errno.EOPNOTSUPP, "no handles here")

    monkeypatch.setattr(syscalls, "handle_at", refuse)
    status = posix.put_file(b"f", attributes(), Bytes(b""))
    posix.rename(b"f", b"g")
    assert posix.list(b"")[0][1].handle == posix.status(b"g").handle == status.handle
    assert posix.put_file(b"g", attributes(), Bytes(b"")).handle != status.handle
    assert posix.locate(status.handle) is None
    assert posix.alive(status.handle) is None


# -- staging -----------------------------------------------------------------------------------------------------------


def test_observing_only(root: Path) -> None:
    (root / "f").write_bytes(b"x")
    with pytest.raises(ValueError, match="staging"):
        PosixZone(str(root), None)
    with PosixZone(str(root), None, observe_only=True) as zone:
        assert read(zone, b"f") == b"x"
        zone.sync()
        changes: list[Callable[[], object]] = [
            lambda: zone.make_directory(b"d", attributes()),
            lambda: zone.put_file(b"f", attributes(), Bytes(b"")),
            lambda: zone.make_node(b"n", Kind.FIFO, attributes(), b"", 0),
            lambda: zone.link(b"f", b"g"),
            lambda: zone.rename(b"f", b"g"),
            lambda: zone.exchange(b"f", b"f"),
            lambda: zone.park(b"f", b"p"),
            lambda: zone.unpark(b"p", b"f"),
            lambda: zone.remove(b"f"),
            lambda: zone.remove_parked(b"p"),
            lambda: zone.set_attributes(b"f", Kind.FILE, attributes()),
            lambda: zone.write(b"f", 0, Bytes(b"y"), 1, attributes()),
            lambda: zone.truncate(b"f", 0, attributes()),
            lambda: zone.discard_leftovers(),
        ]
        for change in changes:
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.errno == errno.EROFS
        assert read(zone, b"f") == b"x"


def test_staging_in_the_root_is_hidden(root: Path) -> None:
    (root / ".lddp").mkdir()
    with PosixZone(str(root), str(root / ".lddp")) as zone:
        zone.put_file(b".lddp2", attributes(), Bytes(b""))
        assert names(zone) == [b".lddp2"]
        for path in (b".lddp", b".lddp/temporary"):
            with pytest.raises(FileNotFoundError):
                zone.status(path)
            with pytest.raises(FileNotFoundError):
                zone.rename(path, b"x")
        zone.remove(b".lddp")
        handle = zone.status(b".lddp2").handle
        zone.park(b".lddp2", b"p")
        assert zone.locate(handle) is None
    assert (root / ".lddp").is_dir()
    (root / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError, match="staging"):
        PosixZone(str(root), str(root / "a" / "b"))


def test_the_state_of_a_migration_in_the_root_is_hidden_as_a_whole(root: Path) -> None:
    """A target that is a mount point has it inside."""
    staging = root / ".root.lddp" / "target" / "staging"
    staging.mkdir(parents=True)
    (root / "seen").mkdir()
    with PosixZone(str(root), str(staging)) as zone:
        assert names(zone) == [b"seen"]
        with pytest.raises(FileNotFoundError):
            zone.status(b".root.lddp/target")


def test_leftovers(posix: PosixZone, staging: Path) -> None:
    posix.make_directory(b"d", attributes(0o755))
    posix.park(b"d", b"p")
    (staging / "temporary" / "half" / "tree").mkdir(parents=True)
    (staging / "temporary" / "file").write_bytes(b"")
    posix.discard_leftovers()
    assert os.listdir(staging / "temporary") == []
    assert os.listdir(staging / "parked") == ["p"]


def test_filesystem_that_cannot_exchange(posix: PosixZone, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "no exchange here")

    monkeypatch.setattr(syscalls, "exchange", refuse)
    monkeypatch.setattr("lddp.zones.posix.exchange", refuse)
    posix.make_directory(b"x", attributes(0o755))
    posix.put_file(b"x/f", attributes(), Bytes(b""))
    posix.put_file(b"x", attributes(), Bytes(b"1"))
    assert read(posix, b"x") == b"1"
    posix.make_directory(b"x", attributes(0o755))
    assert names(posix, b"x") == []


def test_a_tree_that_nobody_uses_is_closed_and_not_before(tmp_path: Path) -> None:
    """A thread may be at work in a tree that its node has let go."""
    (tmp_path / "tree").mkdir()
    zone = PosixZone(str(tmp_path / "tree"), None, observe_only=True)
    descriptor = zone._root.fd
    status = zone.status
    del zone
    assert os.path.samestat(os.fstat(descriptor), os.stat(tmp_path / "tree"))
    assert status(b"").kind is Kind.DIRECTORY
    del status
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
