"""What every ZoneFilesystem does, in memory or on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from lddp.core.records import Kind
from lddp.ports import ZoneFilesystem
from tests.fakes.zone import Bytes
from tests.zones.conftest import AnyZone, attributes, names, read

ODD_NAMES = [
    b"\xff\xfe",
    b"new\nline",
    b"x" * 255,
    b" ",
    b"-rf",
    b"\\",
    b"a (deleted)",
    "\u00e9".encode(),
    b"...",
    b".x",
]


def test_satisfies_the_protocol(zone: AnyZone) -> None:
    checked: ZoneFilesystem = zone
    assert checked.status(b"").kind is Kind.DIRECTORY


def test_put_then_read(zone: AnyZone) -> None:
    status = zone.put_file(b"f", attributes(0o640), Bytes(b"hello"))
    assert status == zone.status(b"f")
    assert (status.kind, status.mode, status.size, status.links) == (Kind.FILE, 0o640, 5, 1)
    assert status.mtime_ns == attributes().mtime_ns
    assert read(zone, b"f") == b"hello"
    assert zone.list(b"") == [(b"f", status)]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(zone: AnyZone, name: bytes) -> None:
    zone.make_directory(name, attributes(0o755))
    inside = name + b"/" + name
    zone.put_file(inside, attributes(), Bytes(b"1"))
    assert names(zone) == [name]
    assert names(zone, name) == [name]
    handle = zone.status(inside).handle
    assert zone.locate(handle) == inside
    zone.rename(inside, b"plain")
    assert zone.locate(handle) == b"plain"
    zone.link(b"plain", inside)
    zone.make_node(name + b"/link", Kind.SYMLINK, attributes(), name, 0)
    assert zone.read_link(name + b"/link") == (zone.status(name + b"/link"), name)
    zone.remove(name)
    assert names(zone) == [b"plain"]


@pytest.mark.parametrize("path", [b"/a", b"a/", b"a//b", b".", b"..", b"a/../b", b"./a", b"a/..", b"a\0b"])
def test_paths_that_are_none(zone: AnyZone, path: bytes) -> None:
    zone.make_directory(b"a", attributes(0o755))
    calls: list[Callable[[], object]] = [
        lambda: zone.status(path),
        lambda: zone.list(path),
        lambda: zone.put_file(path, attributes(), Bytes(b"")),
        lambda: zone.make_directory(path, attributes()),
        lambda: zone.remove(path),
        lambda: zone.rename(b"a", path),
    ]
    for call in calls:
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EINVAL
    assert names(zone) == [b"a"]


def test_name_too_long(zone: AnyZone) -> None:
    with pytest.raises(OSError) as caught:
        zone.put_file(b"x" * 256, attributes(), Bytes(b""))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_the_root_has_no_name(zone: AnyZone) -> None:
    for call in (
        lambda: zone.remove(b""),
        lambda: zone.put_file(b"", attributes(), Bytes(b"")),
        lambda: zone.park(b"", b"p"),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBUSY
    zone.make_directory(b"", attributes(0o711, 7))
    assert (zone.status(b"").mode, zone.status(b"").mtime_ns) == (0o711, 7)


def test_absent_and_not_a_directory(zone: AnyZone) -> None:
    zone.put_file(b"f", attributes(), Bytes(b""))
    zone.make_node(b"l", Kind.SYMLINK, attributes(), b".", 0)
    for path in (b"none", b"none/x"):
        with pytest.raises(FileNotFoundError):
            zone.status(path)
        with pytest.raises(FileNotFoundError):
            zone.list(path)
    for path in (b"f/x", b"l/x", b"l/f"):
        with pytest.raises(NotADirectoryError):
            zone.status(path)
        with pytest.raises(NotADirectoryError):
            zone.open_read(path)
        with pytest.raises(NotADirectoryError):
            zone.put_file(path, attributes(), Bytes(b""))
        zone.remove(path)
    for path in (b"f", b"l"):
        with pytest.raises(NotADirectoryError):
            zone.list(path)
    assert names(zone) == [b"f", b"l"]


def test_open_read_is_for_regular_files(zone: AnyZone) -> None:
    zone.make_directory(b"d", attributes(0o755))
    zone.put_file(b"f", attributes(), Bytes(b""))
    zone.make_node(b"l", Kind.SYMLINK, attributes(), b"f", 0)
    zone.make_node(b"p", Kind.FIFO, attributes(), b"", 0)
    with pytest.raises(IsADirectoryError):
        zone.open_read(b"d")
    for path in (b"l", b"p"):
        with pytest.raises(OSError) as caught:
            zone.open_read(path)
        assert caught.value.errno == errno.EINVAL


def test_put_makes_a_new_object(zone: AnyZone) -> None:
    first = zone.put_file(b"f", attributes(), Bytes(b"1"))
    zone.link(b"f", b"g")
    second = zone.put_file(b"f", attributes(), Bytes(b"22"))
    assert first.handle != second.handle
    assert (read(zone, b"f"), read(zone, b"g")) == (b"22", b"1")
    assert zone.alive(first.handle)
    zone.remove(b"g")
    assert zone.alive(first.handle) is False
    assert zone.locate(first.handle) is None


def test_handles_are_not_reused(zone: AnyZone) -> None:
    seen = set()
    for _ in range(20):
        handle = zone.put_file(b"f", attributes(), Bytes(b"")).handle
        assert handle not in seen
        seen.add(handle)
        zone.remove(b"f")


@pytest.mark.parametrize("kind", list(Kind)[:4])
@pytest.mark.parametrize("there", list(Kind)[:4])
def test_replacing_any_kind_by_any(zone: AnyZone, kind: Kind, there: Kind) -> None:
    def make(path: bytes, kind: Kind) -> None:
        match kind:
            case Kind.FILE:
                zone.put_file(path, attributes(), Bytes(b"data"))
            case Kind.DIRECTORY:
                zone.make_directory(path, attributes(0o755))
            case _:
                zone.make_node(path, kind, attributes(), b"target", 0)

    make(b"x", there)
    if there is Kind.DIRECTORY:
        zone.make_directory(b"x/deep", attributes(0o755))
        zone.put_file(b"x/deep/f", attributes(), Bytes(b"1"))
    make(b"x", kind)
    assert zone.status(b"x").kind is kind
    assert names(zone) == [b"x"]
    if kind is there is Kind.DIRECTORY:
        assert names(zone, b"x") == [b"deep"]
    make(b"y", kind)
    make(b"x", there)
    handle = zone.status(b"y").handle
    zone.rename(b"y", b"x")
    assert zone.status(b"x").handle == handle
    assert names(zone) == [b"x"]


def test_make_directory_is_absolute(zone: AnyZone) -> None:
    zone.make_directory(b"d", attributes(0o700))
    handle = zone.status(b"d").handle
    zone.put_file(b"d/f", attributes(), Bytes(b""))
    zone.make_directory(b"d", attributes(0o1777, 5))
    status = zone.status(b"d")
    assert (status.mode, status.mtime_ns, status.handle) == (0o1777, 5, handle)
    assert names(zone, b"d") == [b"f"]


def test_link(zone: AnyZone) -> None:
    handle = zone.put_file(b"f", attributes(), Bytes(b"1")).handle
    zone.put_file(b"g", attributes(), Bytes(b"2"))
    for _ in range(2):  # again is done
        zone.link(b"f", b"g")
        zone.link(b"f", b"h")
    zone.link(b"f", b"f")
    assert [status.handle for _, status in zone.list(b"")] == [handle] * 3
    assert zone.status(b"f").links == 3
    zone.rename(b"f", b"g")  # two names of one file: the old one goes
    assert names(zone) == [b"g", b"h"]
    with pytest.raises(FileNotFoundError):
        zone.link(b"none", b"x")


def test_rename(zone: AnyZone) -> None:
    zone.make_directory(b"a", attributes(0o755))
    zone.make_directory(b"a/b", attributes(0o755))
    zone.put_file(b"a/b/c", attributes(), Bytes(b"c"))
    handle = zone.status(b"a/b/c").handle
    zone.rename(b"a", b"a")
    with pytest.raises(OSError) as caught:
        zone.rename(b"a", b"a/b/x")
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(FileNotFoundError):
        zone.rename(b"none", b"a")
    zone.rename(b"a", b"z")
    assert zone.locate(handle) == b"z/b/c"
    with pytest.raises(OSError) as caught:
        zone.rename(b"z/b/c", b"z")  # what is in the way holds what is moved
    assert caught.value.errno == errno.ENOTEMPTY
    assert read(zone, b"z/b/c") == b"c"


def test_what_is_parked_comes_back_over_another_name_of_itself(zone: AnyZone) -> None:
    zone.put_file(b"a", attributes(), Bytes(b"one"))
    zone.link(b"a", b"b")
    zone.park(b"a", b"1")
    zone.unpark(b"1", b"b")
    assert names(zone) == [b"b"]
    assert zone.status(b"b").links == 1, "nothing is left where it was parked"


def test_what_is_parked_is_known_by_its_handle(zone: AnyZone) -> None:
    zone.make_directory(b"d", attributes())
    zone.make_node(b"l", Kind.SYMLINK, attributes(), b"nowhere", 0)
    for path in (b"d", b"l"):
        handle = zone.status(path).handle
        assert zone.parked_handle(b"1") == b""
        zone.park(path, b"1")
        assert zone.parked_handle(b"1") == handle
        zone.unpark(b"1", path)
        assert zone.status(path).handle == handle


def test_a_new_directory_is_known_before_it_has_its_name(zone: AnyZone) -> None:
    handle = zone.make_parked(b"1")
    assert zone.parked_handle(b"1") == handle
    assert names(zone) == []
    with pytest.raises(FileExistsError):
        zone.make_parked(b"1")
    zone.put_file(b"d", attributes(), Bytes(b"in the way"))
    zone.make_directory(b"d", attributes(0o751), b"1")
    found = zone.status(b"d")
    assert (found.kind, found.mode, found.handle) == (Kind.DIRECTORY, 0o751, handle)
    assert zone.parked_handle(b"1") == b""
    zone.make_directory(b"e", attributes(0o755), b"1")
    assert zone.status(b"e").handle != handle, "nothing is parked any more, so it is another one"
    assert names(zone) == [b"d", b"e"]


def test_a_parked_directory_does_not_take_the_place_of_another(zone: AnyZone) -> None:
    zone.make_directory(b"d", attributes(0o755))
    zone.put_file(b"d/f", attributes(), Bytes(b"one"))
    handle = zone.make_parked(b"1")
    with pytest.raises(FileExistsError):
        zone.make_directory(b"d", attributes(0o700), b"1")
    assert zone.parked_handle(b"1") == handle
    assert zone.status(b"d").mode == 0o755
    assert read(zone, b"d/f") == b"one"


def test_cycle_through_parking(zone: AnyZone) -> None:
    for name in (b"a", b"b", b"c"):
        zone.make_directory(name, attributes(0o755))
        zone.put_file(name + b"/" + name, attributes(), Bytes(name))
    zone.park(b"a", b"1")
    assert names(zone) == [b"b", b"c"]
    zone.rename(b"c", b"a")
    zone.rename(b"b", b"c")
    zone.unpark(b"1", b"b")
    assert [names(zone, name) for name in (b"a", b"b", b"c")] == [[b"c"], [b"a"], [b"b"]]
    zone.exchange(b"a", b"b")
    assert names(zone, b"a") == [b"a"]
    zone.park(b"a", b"1")
    zone.park(b"b", b"1")  # takes the name over
    zone.unpark(b"1", b"c")
    assert names(zone, b"c") == [b"c"]
    with pytest.raises(FileNotFoundError):
        zone.unpark(b"1", b"c")
    zone.park(b"c", b"1")
    zone.remove_parked(b"1")
    zone.remove_parked(b"1")
    assert names(zone) == []


def test_remove(zone: AnyZone) -> None:
    zone.make_directory(b"d", attributes(0o755))
    zone.make_directory(b"d/e", attributes(0o755))
    zone.put_file(b"d/e/f", attributes(), Bytes(b""))
    zone.make_node(b"d/l", Kind.SYMLINK, attributes(), b"../kept", 0)
    zone.make_directory(b"kept", attributes(0o755))
    zone.put_file(b"kept/f", attributes(), Bytes(b""))
    handle = zone.status(b"d/e/f").handle
    for _ in range(2):
        zone.remove(b"d")
    zone.remove(b"d/e/f")
    assert names(zone, b"kept") == [b"f"]
    assert names(zone) == [b"kept"]
    assert zone.alive(handle) is False


def test_set_attributes(zone: AnyZone) -> None:
    zone.put_file(b"f", attributes(), Bytes(b"1"))
    zone.make_directory(b"d", attributes(0o755))
    zone.make_node(b"l", Kind.SYMLINK, attributes(), b"nowhere", 0)
    wanted = attributes(0o4751, 999_999_999, ((b"user.a", b"1"), (b"user.b", b"")))
    zone.set_attributes(b"f", Kind.FILE, wanted)
    zone.set_attributes(b"d", Kind.DIRECTORY, wanted._replace(mode=0o2750))
    zone.set_attributes(b"l", Kind.SYMLINK, attributes(0o777, 3))
    assert (zone.status(b"f").mode, zone.status(b"d").mode) == (0o4751, 0o2750)
    assert [zone.status(path).mtime_ns for path in (b"f", b"d", b"l")] == [999_999_999, 999_999_999, 3]
    assert zone.xattrs(b"f") == zone.xattrs(b"d") == wanted.xattrs
    assert zone.xattrs(b"l") == ()
    zone.set_attributes(b"f", Kind.FILE, attributes(0o400, 1, ((b"user.b", b"2"),)))
    assert zone.xattrs(b"f") == ((b"user.b", b"2"),)
    with pytest.raises(NotADirectoryError):
        zone.set_attributes(b"f", Kind.DIRECTORY, wanted)
    with pytest.raises(IsADirectoryError):
        zone.set_attributes(b"d", Kind.FILE, wanted)


def test_write_and_truncate(zone: AnyZone) -> None:
    handle = zone.put_file(b"f", attributes(), Bytes(b"0123456789")).handle
    for _ in range(2):  # absolute, so again is the same
        zone.write(b"f", 4, Bytes(b"AB"), 10, attributes(0o4755, 1))
    assert read(zone, b"f") == b"0123AB6789"
    zone.write(b"f", 12, Bytes(b"X"), 13, attributes(0o4755, 2))
    assert read(zone, b"f") == b"0123AB6789\0\0X"
    zone.write(b"f", 1, Bytes(pieces=[(1, b"y")], size=4), 13, attributes(0o4755, 2))
    assert read(zone, b"f") == b"0\0y\0\0B6789\0\0X"
    zone.write(b"f", 11, Bytes(pieces=[], size=6), 17, attributes(0o4755, 2))
    assert read(zone, b"f") == b"0\0y\0\0B6789" + bytes(7)
    zone.truncate(b"f", 3, attributes(0o4755, 4))
    assert read(zone, b"f") == b"0\0y"
    zone.truncate(b"f", 5, attributes(0o4755, 5))
    status = zone.status(b"f")
    assert (read(zone, b"f"), status.mode, status.mtime_ns, status.handle) == (b"0\0y\0\0", 0o4755, 5, handle)
    with pytest.raises(IsADirectoryError):
        zone.truncate(b"", 1, attributes())


def test_who_changes_a_file_with_several_names_learns_which_it_is(zone: AnyZone) -> None:
    """Its other names may be known to nobody."""
    handle = zone.put_file(b"f", attributes(), Bytes(b"0123")).handle
    zone.make_directory(b"d", attributes(0o755))

    def changes() -> list[bytes]:
        return [
            zone.write(b"f", 0, Bytes(b"A"), 4, attributes()),
            zone.truncate(b"f", 4, attributes()),
            zone.set_attributes(b"f", Kind.FILE, attributes(0o600)),
            zone.set_attributes(b"d", Kind.DIRECTORY, attributes(0o755)),
        ]

    assert changes() == [b"", b"", b"", b""]
    zone.link(b"f", b"d/g")
    assert changes() == [handle, handle, handle, b""]


def test_a_file_of_pieces(zone: AnyZone) -> None:
    zone.put_file(b"f", attributes(), Bytes(pieces=[(2, b"ab"), (6, b"c")], size=9))
    assert read(zone, b"f") == b"\0\0ab\0\0c\0\0"


def test_sync_and_free(zone: AnyZone) -> None:
    zone.sync()
    assert zone.free_bytes() > 0


def test_listing_vanished_directory(zone: AnyZone) -> None:
    zone.make_directory(b"d", attributes(0o755))
    assert zone.list(b"d") == []
    zone.remove(b"d")
    with pytest.raises(FileNotFoundError):
        zone.list(b"d")


def test_descriptor_is_the_callers(zone: AnyZone) -> None:
    zone.put_file(b"f", attributes(), Bytes(b"old"))
    descriptor = zone.open_read(b"f")
    zone.put_file(b"f", attributes(), Bytes(b"new"))
    assert os.read(descriptor, 10) == b"old"
    os.close(descriptor)
