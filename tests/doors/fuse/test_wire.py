"""Layouts of the kernel's protocol, byte for byte."""

from __future__ import annotations

import os
import struct

import pytest

from lddp.doors.fuse import protocol, wire
from lddp.doors.fuse.protocol import Init, Opcode, SetAttribute


def body(data: bytes) -> memoryview:
    return memoryview(data)


def test_a_request_is_a_header_and_its_body() -> None:
    data = struct.pack("<IIQQIIIHH", 46, Opcode.LOOKUP, 7, 1, 1000, 1001, 4242, 0, 0) + b"name\0\0"
    request = wire.request(data)
    assert request[:6] == (1, 7, 1, 1000, 1001, 4242)
    assert wire.name_in(request.body) == b"name"


def test_extensions_behind_a_body_are_not_part_of_it() -> None:
    data = struct.pack("<IIQQIIIHH", 53, Opcode.LOOKUP, 7, 1, 0, 0, 0, 1, 0) + b"name\0" + b"\xff" * 8
    assert bytes(wire.request(data).body) == b"name\0"


@pytest.mark.parametrize("data", [b"", b"\x28\0\0\0", struct.pack("<IIQQIIIHH", 99, 1, 1, 1, 0, 0, 0, 0, 0)])
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        wire.request(data)


def test_an_answers_header_counts_itself_and_has_the_errno_negative() -> None:
    assert wire.header(9, 0, 100) == struct.pack("<IiQ", 116, 0, 9)
    assert wire.header(9, 2, 0) == struct.pack("<IiQ", 16, -2, 9)


def test_init_agrees_on_what_both_have() -> None:
    everything = 0xFFFF_FFFF
    offer = wire.hello(body(struct.pack("<IIII", 7, 45, 131072, everything) + bytes(48)))
    answer = wire.init_answer(offer, background=64)
    assert len(answer) == 64
    major, minor, readahead, flags, background, congested, write_max = struct.unpack_from("<IIIIHHI", answer)
    assert (major, minor, readahead, background, congested, write_max) == (7, 40, 131072, 64, 48, 1 << 20)
    assert Init.HANDLE_KILLPRIV_V2 in Init(flags) and Init.PARALLEL_DIROPS in Init(flags)
    posix_locks, flock_locks, writeback = 1 << 1, 1 << 10, 1 << 16
    assert not flags & (posix_locks | flock_locks | writeback)
    assert struct.unpack_from("<H", answer, 28) == (256,)


def test_init_agrees_on_passthrough_where_it_is_asked_for_and_offered() -> None:
    ext, passthrough_bit = 1 << 30, 1 << 5
    offered = wire.hello(body(struct.pack("<IIIII", 7, 45, 131072, 0xFFFF_FFFF, passthrough_bit) + bytes(44)))
    without = wire.hello(body(struct.pack("<IIIII", 7, 45, 131072, 0xFFFF_FFFF, 0) + bytes(44)))
    old = wire.hello(body(struct.pack("<IIII", 7, 31, 131072, 0x3FFF_FFFF)))
    assert [wire.may_pass(offer) for offer in (offered, without, old)] == [True, False, False]
    for offer, passes, expected in (
        (offered, True, (ext, passthrough_bit, 1)),
        (offered, False, (0, 0, 0)),
        (without, True, (0, 0, 0)),
        (old, True, (0, 0, 0)),
    ):
        answer = wire.init_answer(offer, background=64, passes=passes)
        (flags,) = struct.unpack_from("<I", answer, 12)
        assert (flags & ext, *struct.unpack_from("<II", answer, 32)) == expected


def test_init_asks_for_nothing_that_the_kernel_has_not() -> None:
    answer = wire.init_answer(wire.Hello(7, 31, 4096, Init.ASYNC_READ), background=1)
    assert struct.unpack_from("<IIII", answer) == (7, 31, 4096, Init.ASYNC_READ)


ATTRIBUTES = wire.Attributes(
    inode=0x1_0000_0005,
    size=4097,
    mode=0o100644,
    links=2,
    uid=5,
    gid=6,
    rdev=0x803,
    atime_ns=1_000_000_001,
    mtime_ns=-1,
    ctime_ns=3_500_000_000,
)


def test_attributes_are_in_their_places() -> None:
    data = wire.attributes_answer(ATTRIBUTES, 1_500_000_000)
    assert struct.unpack_from("<QII", data) == (1, 500_000_000, 0)
    inode, size, blocks, atime, mtime, ctime = struct.unpack_from("<QQQqqq", data, 16)
    assert (inode, size, blocks, atime, mtime, ctime) == (0x1_0000_0005, 4097, 16, 1, -1, 3)
    assert struct.unpack_from("<10I", data, 64) == (1, 999_999_999, 500_000_000, 0o100644, 2, 5, 6, 0x803, 4096, 0)
    assert len(data) == 104


def test_an_entry_carries_its_node_and_how_long_it_counts() -> None:
    data = wire.entry_answer(ATTRIBUTES, 2_000_000_003)
    assert struct.unpack_from("<QQQQII", data) == (0x1_0000_0005, 0, 2, 2, 3, 3)
    assert len(data) == len(wire.NO_ENTRY) == 128
    assert data[40:] == wire.attributes_answer(ATTRIBUTES, 0)[16:]


def test_setattr_times_are_seconds_and_nanoseconds() -> None:
    data = struct.pack("<IIQQQqqqIIIIIIII", 0x1FF, 0, 3, 4096, 0, 10, -2, 0, 7, 8, 0, 0o600, 0, 1, 2, 0)
    change = wire.change(body(data))
    assert change.valid == SetAttribute(0x1FF)
    assert (change.handle, change.size, change.mode, change.uid, change.gid) == (3, 4096, 0o600, 1, 2)
    assert (change.atime_ns, change.mtime_ns) == (10_000_000_007, -1_999_999_992)


def test_names_of_what_is_made_and_moved() -> None:
    assert wire.mknod(body(struct.pack("<IIII", 0o10644, 0, 0o22, 0) + b"p\0")) == wire.Make(b"p", 0o10644)
    assert wire.mkdir(body(struct.pack("<II", 0o755, 0o22) + b"d\xff\0")) == wire.Make(b"d\xff", 0o755)
    assert wire.create(body(struct.pack("<IIII", 66, 0o100644, 0, 0) + b"f\0")) == wire.Make(b"f", 0o100644, 0, 66)
    assert wire.rename(body(struct.pack("<Q", 9) + b"a\0b\0")) == wire.Move(b"a", 9, b"b", 0)
    assert wire.rename2(body(struct.pack("<QII", 9, 2, 0) + b"a\0b\0")) == wire.Move(b"a", 9, b"b", 2)
    assert wire.link(body(struct.pack("<Q", 77) + b"n\0")) == (77, b"n")
    assert wire.two_names(body(b"name\0target of it\0")) == (b"name", b"target of it")


def test_forgets() -> None:
    assert wire.forget(body(struct.pack("<Q", 3))) == 3
    assert wire.forgets(body(struct.pack("<IIQQQQ", 2, 0, 5, 1, 6, 2))) == [(5, 1), (6, 2)]


def test_open_read_write() -> None:
    assert wire.open_flags(body(struct.pack("<II", 0x8001, 1))) == (0x8001, 1)
    assert wire.open_answer(5, protocol.FOPEN_KEEP_CACHE) == struct.pack("<QIi", 5, 2, 0)
    data = struct.pack("<QQIIQII", 5, 8192, 3, 4, 0, os.O_APPEND, 0) + b"abc"
    assert wire.span(body(data)) == wire.Span(5, 8192, 3, 4, os.O_APPEND)
    assert bytes(wire.written(body(data))) == b"abc"
    assert wire.write_answer(3) == struct.pack("<II", 3, 0)
    assert wire.allocation(body(struct.pack("<QQQII", 5, 1, 2, 3, 0))) == wire.Allocation(5, 1, 2, 3)
    assert wire.seek(body(struct.pack("<QqII", 5, -1, 3, 0))) == (5, -1, 3)


@pytest.mark.parametrize(("name", "padded"), [(b"a", 8), (b"12345678", 8), (b"123456789", 16)])
def test_directory_entries_are_padded_to_eight_bytes(name: bytes, padded: int) -> None:
    data = wire.directory_entry(9, 3, 0o040000, name)
    assert struct.unpack_from("<QQII", data) == (9, 3, len(name), 4)
    assert len(data) == 24 + padded and data[24 : 24 + len(name)] == name


def test_xattrs() -> None:
    assert wire.xattr_wanted(body(struct.pack("<II", 100, 0) + b"user.a\0")) == (100, b"user.a")
    given = struct.pack("<II", 3, 1) + b"user.a\0" + b"\0\1\2"
    assert wire.xattr_given(body(given)) == (b"user.a", b"\0\1\2", 1)


def test_the_volume() -> None:
    data = wire.statfs_answer(wire.Volume(1, 2, 3, 4, 5, 4096, 255))
    assert len(data) == 80 and struct.unpack_from("<QQQQQIIII", data) == (1, 2, 3, 4, 5, 4096, 255, 4096, 0)


def test_notices_have_no_request() -> None:
    header, told = wire.inode_notice(9, -1, 0)
    assert struct.unpack("<IiQ", header) == (40, protocol.NOTIFY_INVAL_INODE, 0)
    assert struct.unpack("<Qqq", told) == (9, -1, 0)
    header, told = wire.entry_notice(9, b"name")
    assert struct.unpack("<IiQ", header) == (16 + len(told), protocol.NOTIFY_INVAL_ENTRY, 0)
    assert told == struct.pack("<QII", 9, 4, 0) + b"name\0"
