"""Owner, mode, xattrs and times on a real filesystem: exactly what was asked for, and nothing inherited."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from lddp.core.records import Attributes, Kind
from lddp.zones.looking import stamp
from lddp.zones.posix import PosixZone
from tests.fakes.zone import Bytes
from tests.zones.conftest import attributes, read, root_only

ACL_VERSION = struct.pack("<I", 2)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective


def acl(*entries: tuple[int, int, int]) -> bytes:
    return ACL_VERSION + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# u::rwx u:1:rw- g::r-x m::rwx o::---
ACCESS_ACL = acl((1, 7, 0xFFFFFFFF), (2, 6, 1), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o644, 0o777, 0o1777, 0o2755, 0o4755, 0o6777, 0o7777])
def test_modes(posix: PosixZone, mode: int) -> None:
    assert posix.put_file(b"f", attributes(mode), Bytes(b"x" * 10)).mode == mode
    posix.make_directory(b"d", attributes(mode))
    assert posix.status(b"d").mode == mode
    assert posix.make_node(b"p", Kind.FIFO, attributes(mode), b"", 0).mode == mode
    posix.remove(b"d")


@root_only
@pytest.mark.parametrize("mode", [0o644, 0o4755, 0o6755])
def test_owner_keeps_set_id_and_capability(posix: PosixZone, mode: int) -> None:
    wanted = Attributes(mode, 1234, 2345, 77, ((b"security.capability", CAPABILITY), (b"trusted.t", b"t")))
    status = posix.put_file(b"f", wanted, Bytes(b"x"))
    assert (status.mode, status.uid, status.gid, status.mtime_ns) == (mode, 1234, 2345, 77)
    assert posix.xattrs(b"f") == wanted.xattrs
    wanted = wanted._replace(uid=1, gid=2)
    posix.set_attributes(b"f", Kind.FILE, wanted)
    assert posix.xattrs(b"f") == wanted.xattrs
    assert posix.status(b"f").mode == mode
    posix.write(b"f", 0, Bytes(b"yy"), 2, wanted)
    assert posix.xattrs(b"f") == wanted.xattrs
    status = posix.status(b"f")
    assert (status.mode, status.uid, status.gid) == (mode, 1, 2)
    posix.make_node(b"l", Kind.SYMLINK, Attributes(0o777, 5, 6, 123_456_789, ((b"trusted.l", b"l"),)), b"x", 0)
    status = posix.status(b"l")
    assert (status.uid, status.gid, status.mtime_ns) == (5, 6, 123_456_789)
    assert posix.xattrs(b"l") == ((b"trusted.l", b"l"),)
    assert posix.shortfalls.total == 0


def test_acls(posix: PosixZone) -> None:
    wanted = attributes(0o770, 5, ((b"system.posix_acl_access", ACCESS_ACL), (b"user.u", b"u")))
    posix.put_file(b"f", wanted, Bytes(b""))
    assert (posix.xattrs(b"f"), posix.status(b"f").mode) == (wanted.xattrs, 0o770)
    posix.set_attributes(b"f", Kind.FILE, attributes(0o640))
    assert (posix.xattrs(b"f"), posix.status(b"f").mode) == ((), 0o640)
    both = ((b"system.posix_acl_access", ACCESS_ACL), (b"system.posix_acl_default", ACCESS_ACL))
    posix.make_directory(b"d", attributes(0o2770, 5, both))
    assert (posix.xattrs(b"d"), posix.status(b"d").mode) == (both, 0o2770)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.E2BIG, errno.ERANGE])
def test_an_xattr_that_the_filesystem_has_no_room_for_is_told(
    posix: PosixZone, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """ext4 has one block for the xattrs of an object, and says that it is full."""
    set_xattr = os.setxattr

    def refuse(where: int | bytes, name: bytes, value: bytes) -> None:
        if len(value) > 4000:
            raise OSError(number, os.strerror(number))
        set_xattr(where, name, value)

    monkeypatch.setattr(os, "setxattr", refuse)
    wanted = attributes(0o640, 5, ((b"user.large", b"x" * 5000), (b"user.small", b"x")))
    status = posix.put_file(b"f", wanted, Bytes(b"data"))
    assert (status.mode, status.mtime_ns) == (0o640, 5)
    assert posix.xattrs(b"f") == ((b"user.small", b"x"),)
    assert [(one.path, one.what, one.errno) for one in posix.shortfalls.recent()] == [(b"f", "user.large", number)]


def test_a_full_disk_is_no_shortfall_of_xattrs(posix: PosixZone, monkeypatch: pytest.MonkeyPatch) -> None:
    posix.put_file(b"f", attributes(), Bytes(b"data"))

    def refuse(_where: int | bytes, _name: bytes, _value: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    found = os.statvfs(b"/")
    full = os.statvfs_result((*found[:3], 0, 0, *found[5:]))
    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "statvfs", lambda _where: full)
    with pytest.raises(OSError, match="full"):
        posix.set_attributes(b"f", Kind.FILE, attributes(0o640, 5, ((b"user.small", b"x"),)))
    assert posix.shortfalls.total == 0


def test_nothing_is_inherited(root: Path, staging: Path) -> None:
    for directory in (root, staging):
        os.setxattr(directory, b"system.posix_acl_default", ACCESS_ACL)
        os.chmod(directory, 0o2777)
    before = os.umask(0o077)
    try:
        with PosixZone(bytes(root), bytes(staging)) as zone:
            zone.put_file(b"f", attributes(0o666), Bytes(b""))
            zone.make_directory(b"d", attributes(0o777))
            zone.make_node(b"p", Kind.FIFO, attributes(0o666), b"", 0)
            zone.make_node(b"l", Kind.SYMLINK, attributes(), b"x", 0)
            for name, status in zone.list(b""):
                assert zone.xattrs(name) == ()
                assert (status.uid, status.gid) == (os.geteuid(), os.getegid())
            assert [status.mode for _, status in zone.list(b"")] == [0o777, 0o666, 0o777, 0o666]
    finally:
        os.umask(before)


@root_only
def test_group_of_a_setgid_directory_is_not_inherited(posix: PosixZone) -> None:
    posix.make_directory(b"d", Attributes(0o2777, 0, 777, 0))
    posix.make_directory(b"d/e", attributes(0o755))
    posix.put_file(b"d/f", attributes(0o755), Bytes(b""))
    assert [(status.gid, status.mode) for _, status in posix.list(b"d")] == [(0, 0o755)] * 2


@root_only
def test_devices(posix: PosixZone) -> None:
    for kind, rdev in ((Kind.CHARACTER_DEVICE, os.makedev(1, 3)), (Kind.BLOCK_DEVICE, os.makedev(7, 300))):
        status = posix.make_node(b"n", kind, Attributes(0o640, 3, 4, 9), b"", rdev)
        assert (status.kind, status.rdev, status.mode, status.uid, status.mtime_ns) == (kind, rdev, 0o640, 3, 9)
    with pytest.raises(OSError) as caught:
        posix.make_node(b"n", Kind.FILE, attributes(), b"", 0)
    assert caught.value.errno == errno.EINVAL


def test_socket(posix: PosixZone, root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s"))
        assert posix.status(b"s").kind is None
        with pytest.raises(OSError) as caught:
            posix.open_read(b"s")
        assert caught.value.errno == errno.EINVAL


def test_reading_leaves_atime(posix: PosixZone, root: Path) -> None:
    posix.put_file(b"f", attributes(mtime_ns=10**18), Bytes(b"x"))
    os.utime(root / "f", ns=(5, 10**18))
    assert read(posix, b"f") == b"x"
    assert os.stat(root / "f").st_atime_ns == 5


def test_stamp_moves_with_any_change(posix: PosixZone) -> None:
    first = posix.put_file(b"f", attributes(mtime_ns=5), Bytes(b"x"))
    assert stamp(first) == stamp(posix.status(b"f")) == first.ctime_ns
