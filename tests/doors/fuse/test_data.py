"""Bytes and attributes in a mount, without one: requests as the kernel sends them, over the real state machine."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct
from collections.abc import Sequence

import pytest

from lddp.core import records as r
from lddp.core.records import Content, OperationId, Put
from lddp.doors.fuse import committing, protocol, wire
from lddp.doors.fuse.ground import Patience
from lddp.doors.fuse.protocol import Opcode, SetAttribute
from lddp.errors import OutcomeUnknownError, UnavailableError
from tests.doors.fuse.kernel import Kernel, MachineGround, Refused, plain, until
from tests.doors.fuse.telling import telling
from tests.doors.fuse.test_names import ROOT, number

S = SetAttribute


def records(ground: MachineGround, kind: type) -> list[r.Record]:
    return [record for record in map(plain, ground.order) if isinstance(record, kind)]


def put_elsewhere(ground: MachineGround, path: bytes, data: bytes) -> None:
    """A change from another zone."""
    digest = b"\7" * 32
    ground.contents[digest] = data
    sequence = len(ground.order)
    record = Put(OperationId(b"other", sequence), 1, 7, path, 0o644, 0, 0, Content(digest, len(data), data))
    assert not ground.apply(record).errno


async def test_what_was_written_is_in_the_log_after_close(kernel: Kernel, ground: MachineGround) -> None:
    async with kernel.writing(b"f") as file:
        assert await file.write(0, b"hello ") == 6
        assert await file.write(6, b"world") == 5
        assert (await kernel.stat(file.node)).size == 11
        assert ground.content(b"/data/f") == b""
    assert ground.content(b"/data/f") == b"hello world"
    assert len(records(ground, Put)) == 1


async def test_fsync_is_a_commit_and_nothing_is_sent_twice(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"one")
    await file.fsync()
    assert ground.content(b"/data/f") == b"one"
    await file.fsync()
    await file.close()
    assert len(records(ground, Put)) == 1


async def test_all_opens_see_what_one_writes(kernel: Kernel) -> None:
    file = await kernel.create(b"f")
    reader = await kernel.open(file.node)
    await file.write(2, b"xy")
    assert await reader.read() == b"\0\0xy"
    await file.close()
    assert await reader.read(1, 2) == b"\0x"
    await reader.close()
    again = await kernel.open(file.node)
    assert again.keeps_cache and await again.read() == b"\0\0xy"
    await again.close()


async def test_a_reader_of_the_zones_file(kernel: Kernel, ground: MachineGround) -> None:
    put_elsewhere(ground, b"/data/f", b"from elsewhere")
    node = (await kernel.lookup(b"f")).inode
    file = await kernel.open(node)
    assert not file.keeps_cache and await file.read(5, 4) == b"else" and await file.read(100) == b""
    await file.close()


async def test_a_change_from_elsewhere_shows_at_the_next_open(kernel: Kernel, ground: MachineGround) -> None:
    async with kernel.writing(b"f") as file:
        await file.write(0, b"mine")
    put_elsewhere(ground, b"/data/f", b"theirs")
    opened = await kernel.open(file.node)
    assert not opened.keeps_cache and await opened.read() == b"theirs"
    await opened.close()


async def test_of_two_zones_the_last_close_wins_whole(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"mine")
    put_elsewhere(ground, b"/data/f", b"theirs, and longer")
    await file.close()
    assert ground.content(b"/data/f") == b"mine"


async def test_opening_with_truncation_keeps_nothing(kernel: Kernel, ground: MachineGround) -> None:
    put_elsewhere(ground, b"/data/f", b"long and old")
    node = (await kernel.lookup(b"f")).inode
    file = await kernel.open(node, os.O_WRONLY | os.O_TRUNC)
    assert (await kernel.stat(node)).size == 0
    assert not ground.open_files  # it was not even read
    await file.write(0, b"new")
    await file.close()
    assert ground.content(b"/data/f") == b"new"


@pytest.mark.parametrize("size", [0, 3, 20])
async def test_truncation_of_a_closed_file(kernel: Kernel, ground: MachineGround, size: int) -> None:
    async with kernel.writing(b"f") as file:
        await file.write(0, b"0123456789")
    assert (await kernel.setattr(file.node, S.SIZE, size=size)).size == size
    assert ground.content(b"/data/f") == b"0123456789"[:size].ljust(size, b"\0")


async def test_truncation_of_an_open_file_is_committed_with_it(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"0123456789")
    await kernel.setattr(file.node, S.SIZE | S.FH, size=4, handle=file.handle)
    await file.write(6, b"ab")
    await file.close()
    assert ground.content(b"/data/f") == b"0123\0\0ab"


async def test_a_big_file_that_nobody_has_open_is_cut_by_a_record(kernel: Kernel, ground: MachineGround) -> None:
    put_elsewhere(ground, b"/data/f", bytes(3 << 20))
    node = (await kernel.lookup(b"f")).inode
    assert (await kernel.setattr(node, S.SIZE, size=5)).size == 5
    assert [type(plain(record)) for record in ground.order[-1:]] == [r.Truncate] and not ground.open_files


@pytest.mark.parametrize("size", [5, 4 << 20])
async def test_who_has_a_big_file_open_reads_it_as_it_was_cut(kernel: Kernel, ground: MachineGround, size: int) -> None:
    """What was opened before is what the zone has until the record is carried out."""
    put_elsewhere(ground, b"/data/f", bytes(3 << 20) + b"end")
    file = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR)
    assert await file.read(3 << 20, 100) == b"end"
    await kernel.setattr(file.node, S.SIZE, size=size)
    assert await file.read(size - 5, 100) == bytes(5)
    await file.write(1, b"x")
    await file.close()
    assert len(ground.content(b"/data/f")) == size and records(ground, r.Truncate)


async def test_a_size_that_no_zone_can_have_is_refused(kernel: Kernel, ground: MachineGround) -> None:
    put_elsewhere(ground, b"/data/f", bytes(2 << 20))
    node = (await kernel.lookup(b"f")).inode
    assert await number(kernel.setattr(node, S.SIZE, size=2**63 - 1)) == errno.EFBIG
    assert not records(ground, r.Truncate)


async def test_a_small_change_of_a_big_file_travels_alone(kernel: Kernel, ground: MachineGround) -> None:
    size = committing.RANGES_FROM_BYTES + 100
    put_elsewhere(ground, b"/data/f", b"a" * size)
    node = (await kernel.lookup(b"f")).inode
    file = await kernel.open(node, os.O_RDWR)
    await file.write(1000, b"bb")
    await file.write(size, b"end")
    await file.close()
    assert len(records(ground, Put)) == 1 and len(records(ground, r.Write)) == 2
    expected = b"a" * 1000 + b"bb" + b"a" * (size - 1002) + b"end"
    assert ground.content(b"/data/f") == expected
    again = await kernel.open(node, os.O_RDWR)
    await again.write(0, b"c")
    await again.close()
    assert ground.content(b"/data/f") == b"c" + expected[1:]


async def test_a_sparse_file_is_not_sent_as_zeros(kernel: Kernel, ground: MachineGround) -> None:
    async with kernel.writing(b"f") as file:
        await file.write(64 << 20, b"end")
    assert sum(upload.received for upload in ground.uploads) == 3
    assert len(ground.content(b"/data/f")) == (64 << 20) + 3


async def test_ranges_follow_a_cut(kernel: Kernel, ground: MachineGround) -> None:
    size = committing.RANGES_FROM_BYTES * 2
    put_elsewhere(ground, b"/data/f", b"a" * size)
    node = (await kernel.lookup(b"f")).inode
    file = await kernel.open(node, os.O_RDWR)
    await kernel.setattr(node, S.SIZE | S.FH, size=100, handle=file.handle)
    await kernel.setattr(node, S.SIZE | S.FH, size=size, handle=file.handle)
    await file.write(200, b"b")
    await file.close()
    assert ground.content(b"/data/f") == (b"a" * 100).ljust(200, b"\0") + b"b" + bytes(size - 201)
    assert len(records(ground, r.Truncate)) == 2


async def test_a_file_without_a_name_is_its_holders_own(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"before")
    await kernel(Opcode.UNLINK, ROOT, b"f\0")
    await file.write(6, b", after")
    assert await file.read() == b"before, after"
    found = await kernel.stat(file.node)
    assert (found.links, found.size) == (0, 13)
    assert (await kernel.setattr(file.node, S.MODE | S.SIZE, mode=0o600, size=3)).mode & 0o7777 == 0o600
    assert await file.read() == b"bef"
    await file.close()
    assert not records(ground, Put)
    assert ground.entry(b"/data/f") is None


async def test_replaced_under_an_open_file(kernel: Kernel, ground: MachineGround) -> None:
    old = await kernel.create(b"f")
    await old.write(0, b"old")
    async with kernel.writing(b"new") as new:
        await new.write(0, b"new")
    await kernel.rename(b"new", b"f")
    await old.write(3, b"er")
    assert await old.read() == b"older"
    await old.close()
    assert ground.content(b"/data/f") == b"new"


async def test_moved_while_it_is_written(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"bytes")
    await kernel.rename(b"f", b"g")
    await file.close()
    assert ground.content(b"/data/g") == b"bytes" and ground.entry(b"/data/f") is None


async def test_moved_from_elsewhere_while_it_is_committed(kernel: Kernel, ground: MachineGround) -> None:
    """The Put names the version that it replaces: it finds another one, and goes to where the file is."""
    file = await kernel.create(b"f")
    await file.write(0, b"bytes")
    ground.gate = asyncio.Event()
    closing = asyncio.create_task(file.close())
    await until(lambda: bool(ground.uploads) and ground.uploads[-1].committed)
    ground.apply(r.Rename(OperationId(b"other", 1), 1, 5, b"/data/f", b"/data/g"))
    put_elsewhere(ground, b"/data/f", b"another file")
    ground.gate.set()
    await closing
    assert ground.content(b"/data/g") == b"bytes" and ground.content(b"/data/f") == b"another file"


async def test_mappings_are_committed_after_the_last_close(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.flush()
    await file.write(0, b"by a mapping", flags=1)
    await file.release()
    await until(lambda: ground.content(b"/data/f") == b"by a mapping")


async def test_times(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"bytes")
    found = await kernel.setattr(file.node, S.MTIME | S.ATIME, mtime_ns=10**18 + 7, atime_ns=-5)
    assert (found.mtime_ns, found.atime_ns) == (10**18 + 7, -5)
    await file.close()
    assert (await kernel.stat(file.node)).mtime_ns == 10**18 + 7
    entry = ground.entry(b"/data/f")
    assert entry is not None and entry.mtime_ns == 10**18 + 7
    now = await kernel.setattr(file.node, S.MTIME | S.MTIME_NOW)
    assert now.mtime_ns > 10**18 + 7 and now.ctime_ns >= now.mtime_ns


async def test_cutting_an_open_file_is_a_change_at_once(kernel: Kernel, ground: MachineGround) -> None:
    async with kernel.writing(b"f") as file:
        await file.write(0, b"bytes")
        await file.fsync()
        before = (await kernel.stat(file.node)).ctime_ns
        await kernel.mkdir(b"time goes by")
        cut = await kernel.setattr(file.node, S.SIZE | S.FH, size=1, handle=file.handle)
        assert cut.ctime_ns > before
    assert (await kernel.stat(file.node)).ctime_ns == cut.ctime_ns


async def test_owner_and_mode(kernel: Kernel) -> None:
    file = await kernel.create(b"f", mode=0o755)
    await file.close()
    await kernel.setattr(file.node, S.MODE, mode=0o6755)
    changed = await kernel.setattr(file.node, S.UID | S.GID, uid=5, gid=6)
    assert (changed.uid, changed.gid, changed.mode & 0o7777) == (5, 6, 0o755)
    fifo = await kernel.mknod(b"fifo", stat.S_IFIFO | 0o6755)
    assert (await kernel.setattr(fifo.inode, S.UID, uid=5)).mode & 0o7777 == 0o755
    directory = await kernel.mkdir(b"d", mode=0o6755)
    assert (await kernel.setattr(directory.inode, S.UID, uid=5)).mode & 0o7777 == 0o6755


async def test_writing_takes_privileges_away(kernel: Kernel) -> None:
    file = await kernel.create(b"f", mode=0o755)
    await kernel.setattr(file.node, S.MODE, mode=0o6755)
    await file.write(0, b"x", flags=protocol.WRITE_KILL_SUIDGID)
    assert (await kernel.stat(file.node)).mode & 0o7777 == 0o755
    await kernel.setattr(file.node, S.MODE, mode=0o4700)
    await kernel.setattr(file.node, S.SIZE | S.KILL_SUIDGID, size=0)
    assert (await kernel.stat(file.node)).mode & 0o7777 == 0o700
    await file.close()


async def test_extended_attributes(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.close()

    async def give(name: bytes, value: bytes, flags: int = 0) -> None:
        await kernel(Opcode.SETXATTR, file.node, struct.pack("<II", len(value), flags) + name + b"\0" + value)

    async def get(name: bytes, room: int) -> bytes:
        return await kernel(Opcode.GETXATTR, file.node, struct.pack("<II", room, 0) + name + b"\0")

    await give(b"user.a", b"\0one")
    assert await get(b"user.a", 100) == b"\0one"
    assert struct.unpack("<II", await get(b"user.a", 0)) == (4, 0)
    assert await number(get(b"user.a", 3)) == errno.ERANGE
    assert await number(get(b"user.b", 3)) == errno.ENODATA
    assert await number(give(b"user.a", b"", flags=1)) == errno.EEXIST
    assert await number(give(b"user.b", b"", flags=2)) == errno.ENODATA
    assert await number(give(b"system.posix_acl_access", b"x")) == errno.EOPNOTSUPP
    assert await kernel(Opcode.LISTXATTR, file.node, struct.pack("<II", 100, 0)) == b"user.a\0"
    await kernel(Opcode.REMOVEXATTR, file.node, b"user.a\0")
    assert await number(kernel(Opcode.REMOVEXATTR, file.node, b"user.a\0")) == errno.ENODATA


async def test_allocation(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"a" * 10_000)

    async def allocate(mode: int, offset: int, length: int) -> None:
        await kernel(Opcode.FALLOCATE, file.node, struct.pack("<QQQII", file.handle, offset, length, mode, 0))

    await allocate(0, 9_000, 2_000)
    assert (await kernel.stat(file.node)).size == 11_000
    await allocate(1, 20_000, 10)
    assert (await kernel.stat(file.node)).size == 11_000
    await allocate(1 | 2, 100, 50)
    assert (await file.read(99, 52)) == b"a" + bytes(50) + b"a"
    assert await number(allocate(8, 0, 4096)) == errno.EOPNOTSUPP  # collapse
    await file.close()
    assert ground.content(b"/data/f") == b"a" * 100 + bytes(50) + b"a" * 9_850 + bytes(1_000)


async def test_holes_are_found(kernel: Kernel) -> None:
    file = await kernel.create(b"f")
    await file.write(1 << 20, b"data")

    async def seek(offset: int, whence: int) -> int:
        body = struct.pack("<QqII", file.handle, offset, whence, 0)
        return int(struct.unpack("<Q", await kernel(Opcode.LSEEK, file.node, body))[0])

    assert await seek(0, os.SEEK_HOLE) == 0
    assert 0 < await seek(0, os.SEEK_DATA) <= 1 << 20
    assert await number(seek(2 << 20, os.SEEK_DATA)) == errno.ENXIO
    await file.close()


async def test_the_volume_is_the_zones(kernel: Kernel) -> None:
    blocks, *_ = struct.unpack_from("<QQQQQ", await kernel(Opcode.STATFS))
    assert blocks > 0


async def test_what_is_not_there_is_left_to_the_kernel(kernel: Kernel) -> None:
    with pytest.raises(Refused) as caught:
        await kernel(47, ROOT)  # type: ignore[arg-type]  # copy_file_range
    assert caught.value.number == errno.ENOSYS


async def test_exclusive_creation(kernel: Kernel, ground: MachineGround) -> None:
    put_elsewhere(ground, b"/data/f", b"theirs")
    assert await number(kernel.create(b"f", os.O_RDWR | os.O_EXCL)) == errno.EEXIST
    file = await kernel.create(b"f", os.O_RDWR)  # the kernel did not know it yet
    assert await file.read() == b"theirs"
    await file.close()


async def test_hard_waits_with_the_same_records(kernel: Kernel, ground: MachineGround) -> None:
    """Lost quorum: a try whose outcome is unknown is repeated under its id, one that surely failed as well."""
    ids: list[OperationId] = []
    failures = [OutcomeUnknownError("unknown"), UnavailableError("nobody leads"), OutcomeUnknownError("unknown")]
    honest = ground.submit_many

    async def submit_many(sent: list[r.Record], timeout_s: float, *, visible: bool = True) -> object:
        ids.append(sent[0].id)
        if failures:
            raise failures.pop()
        return await honest(sent, timeout_s, visible=visible)

    ground.submit_many = submit_many  # type: ignore[method-assign, assignment]
    await kernel.mkdir(b"d")
    assert len(ids) == 4 and len(set(ids)) == 1


async def test_soft_gives_up(ground: MachineGround) -> None:
    kernel = Kernel(ground, Patience(soft_s=1e-9))
    ground.failure = UnavailableError("nobody leads")
    assert await number(kernel.mkdir(b"d")) == errno.EIO
    assert stat.S_ISDIR((await kernel.stat(ROOT)).mode)  # reads go on
    ground.failure = None
    await kernel.mkdir(b"d")
    await kernel.filesystem.close()


async def test_a_commit_that_fails_can_be_tried_again(ground: MachineGround) -> None:
    kernel = Kernel(ground, Patience(soft_s=1e-9))
    file = await kernel.create(b"f")
    await file.write(0, b"bytes")
    ground.failure = UnavailableError("nobody leads")
    assert await number(file.flush()) == errno.EIO
    ground.failure = None
    await file.close()
    assert ground.content(b"/data/f") == b"bytes"
    await kernel.filesystem.close()


async def test_what_could_not_be_committed_after_the_last_close_is_there_for_who_has_opened_it_since(
    ground: MachineGround,
) -> None:
    kernel = Kernel(ground, Patience(soft_s=1e-9))
    file = await kernel.create(b"f")
    await file.write(0, b"bytes")
    ground.failure = UnavailableError("nobody leads")
    await file.release()
    again = await kernel.open(file.node, os.O_RDWR)
    held = kernel.tree.files.get(file.node)
    assert held is not None and held.opens == 2
    await until(lambda: held.opens == 1)
    assert await again.read() == b"bytes"
    ground.failure = None
    await again.close()
    assert ground.content(b"/data/f") == b"bytes"
    await kernel.filesystem.close()


async def test_the_kernel_does_not_keep_what_was_lost(ground: MachineGround) -> None:
    """It went through its pages, and the file is as empty as it was made."""
    kernel = Kernel(ground, Patience(soft_s=1e-9))
    file = await kernel.create(b"f")
    await file.write(0, b"bytes")
    ground.failure = UnavailableError("nobody leads")
    await file.release()
    await until(lambda: kernel.tree.files.get(file.node) is None)
    ground.failure = None
    again = await kernel.open(file.node)
    assert not again.keeps_cache
    assert await again.read() == b""
    await again.close()
    third = await kernel.open(file.node)
    assert third.keeps_cache
    await third.close()
    await kernel.filesystem.close()


@pytest.mark.parametrize("valid", [S.MTIME, S.SIZE])
async def test_the_kernel_is_told_where_a_part_may_be_done(ground: MachineGround, valid: SetAttribute) -> None:
    """Who writes has the time or the size that was chosen, and the call failed."""
    kernel = Kernel(ground, Patience(soft_s=1e-9))
    told: list[tuple[bytes, ...]] = []

    async def tell(notices: list[Sequence[bytes]]) -> None:
        told.extend(tuple(notice) for notice in notices)

    async with telling(kernel, tell) as following:
        file = await kernel.create(b"f")
        await file.write(0, b"bytes")
        before = await kernel.stat(file.node)
        ground.failure = UnavailableError("nobody leads")
        assert await number(kernel.setattr(file.node, valid, mtime_ns=5, size=2)) == errno.EIO
        after = await kernel.stat(file.node)
        assert (before.size, before.mtime_ns) != (after.size, after.mtime_ns)
        await following.told()
        assert set(told) == {tuple(wire.inode_notice(file.node, -1))}
        ground.failure = None
        await file.close()
    await kernel.filesystem.close()


def unreachable(ground: MachineGround, times: int) -> list[int]:
    """So many uploads find too few zones; what they have left."""
    left = [times]

    async def before_commit() -> None:
        if left[0]:
            left[0] -= 1
            raise UnavailableError("no zone took the bytes")

    ground.before_commit = before_commit  # type: ignore[method-assign]
    return left


async def test_bytes_that_no_zone_takes_are_waited_for(kernel: Kernel, ground: MachineGround) -> None:
    """And what is written meanwhile does not wait."""
    file = await kernel.create(b"f")
    await file.write(0, bytes(1000))
    left = unreachable(ground, 3)
    closing = asyncio.create_task(file.flush())
    await until(lambda: left[0] < 3)
    await file.write(0, b"more")
    assert left[0] or kernel.tree.pipeline is not None  # whose calls wait in these tests
    await closing
    await kernel.tree.barrier()
    assert not left[0] and ground.content(b"/data/f") == bytes(1000)
    await file.close()
    await kernel.tree.barrier()
    assert ground.content(b"/data/f") == b"more" + bytes(996)


async def test_bytes_that_no_zone_takes_fail_a_soft_mount(ground: MachineGround) -> None:
    kernel = Kernel(ground, Patience(soft_s=1e-9))
    file = await kernel.create(b"f")
    await file.write(0, bytes(1000))
    unreachable(ground, 1)
    assert await number(file.flush()) == errno.EIO and ground.uploads[-1].aborted
    await file.close()
    assert ground.content(b"/data/f") == bytes(1000)
    await kernel.filesystem.close()
