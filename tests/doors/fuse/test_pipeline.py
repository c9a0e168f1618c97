"""The pipelined mode without a mount: what is promised, and what becomes of it in the log."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from lddp.access import Decided
from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import OperationId, Outcome, Record
from lddp.doors.fuse import pipeline as pipelines
from lddp.doors.fuse.ground import Patience
from lddp.doors.fuse.pipeline import Pipeline
from lddp.doors.fuse.protocol import ROOT, Opcode, SetAttribute
from lddp.errors import UnavailableError
from tests.doors.fuse.kernel import PATIENCE_S, Kernel, MachineGround, Open, Refused, plain, until
from tests.doors.fuse.test_data import put_elsewhere


@pytest.fixture
async def kernel(ground: MachineGround) -> AsyncIterator[Kernel]:
    kernel = Kernel(ground, mode=WriteMode.PIPELINED)
    yield kernel
    await kernel.filesystem.close()


def pipeline(kernel: Kernel) -> Pipeline:
    assert kernel.tree.pipeline is not None
    return kernel.tree.pipeline


def hold(ground: MachineGround) -> asyncio.Event:
    """Nothing is ordered before this is set."""
    ground.gate = asyncio.Event()
    return ground.gate


def elsewhere(ground: MachineGround, kind: type, *fields: object) -> None:
    """A record of another zone."""
    record: Record = kind(OperationId(b"other", len(ground.order)), 1, 7, *fields)
    assert not ground.apply(record).errno


def queued(kernel: Kernel) -> list[str]:
    return [type(one.record).__name__ for one in pipeline(kernel)._queue]


def ordered(ground: MachineGround) -> list[tuple[str, bytes]]:
    """What the log has of the mount."""
    found = [plain(record) for record in ground.order if isinstance(record, r.Guarded)]
    return [(type(one).__name__, one.path) for one in found]  # type: ignore[union-attr]


async def refusal(call: object) -> int:
    try:
        await call  # type: ignore[misc]
    except Refused as refused:
        return refused.number
    return 0


async def write(kernel: Kernel, name: bytes, data: bytes, node: int = ROOT) -> Open:
    """Made, written and closed."""
    file = await kernel.create(name, node=node)
    await file.write(0, data)
    await file.close()
    return file


# -- promises ---------------------------------------------------------------------------------------------------------


async def test_calls_return_before_the_log_knows_and_the_mount_shows_them(
    kernel: Kernel, ground: MachineGround
) -> None:
    gate, before = hold(ground), len(ground.order)
    directory = await kernel.mkdir(b"d")
    file = await write(kernel, b"f", b"bytes", directory.inode)
    await kernel(Opcode.SYMLINK, ROOT, b"link\0d/f\0")
    assert (await kernel.setattr(file.node, SetAttribute.MODE, mode=0o600)).mode & 0o777 == 0o600
    await kernel.rename(b"f", b"g", node=directory.inode, above=directory.inode)
    await kernel.rename(b"d", b"e")
    assert len(ground.order) == before and ground.entry(b"/data/d") is None
    assert (await kernel.lookup(b"e")).inode == directory.inode
    assert await refusal(kernel.lookup(b"d")) == errno.ENOENT
    found = await kernel.lookup(b"g", directory.inode)
    assert (found.inode, found.size, found.links) == (file.node, 5, 1)
    assert await kernel.names(directory.inode, plus=True) == [(b".", directory.inode), (b"..", 1), (b"g", file.node)]
    reader = await kernel.open(file.node)
    assert await reader.read() == b"bytes"
    await reader.close()
    assert await refusal(kernel.mkdir(b"e")) == errno.EEXIST
    assert await refusal(kernel(Opcode.RMDIR, ROOT, b"e\0")) == errno.ENOTEMPTY
    gate.set()
    await kernel.tree.barrier()
    assert ground.content(b"/data/e/g") == b"bytes"
    assert [kind for kind, _ in ordered(ground)] == (
        ["MakeDirectory", "CreateFile", "Symlink", "SetAttributes", "Rename", "Rename"]
    )
    # The numbers stay, whatever the log calls them.
    assert (await kernel.lookup(b"g", directory.inode)).inode == file.node
    assert (await kernel.stat(file.node)).inode == file.node


async def test_many_operations_go_into_the_log_at_once(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    for number in range(100):
        await kernel.mkdir(b"%d" % number)
    gate.set()
    await kernel.tree.barrier()
    assert ordered(ground) == [("MakeDirectory", b"/data/%d" % number) for number in range(100)]
    assert len(ground.visibly) <= 2


async def test_attributes_that_are_set_one_after_the_other_are_one_record(
    kernel: Kernel, ground: MachineGround
) -> None:
    gate = hold(ground)
    one, two = await kernel.mkdir(b"one"), await kernel.mkdir(b"two")
    for directory in (one, two):
        await kernel.setattr(directory.inode, SetAttribute.UID | SetAttribute.GID, uid=5, gid=6)
        await kernel.setattr(directory.inode, SetAttribute.MODE, mode=0o711)
        found = await kernel.setattr(directory.inode, SetAttribute.MTIME, mtime_ns=7)
        assert (found.uid, found.gid, found.mode & 0o7777, found.mtime_ns) == (5, 6, 0o711, 7)
    await until(lambda: pipeline(kernel)._queue[-1].is_sent)
    await kernel.setattr(two.inode, SetAttribute.MTIME, mtime_ns=8)  # the one before is on its way
    gate.set()
    await kernel.tree.barrier()
    assert [kind for kind, _ in ordered(ground)] == ["MakeDirectory"] * 2 + ["SetAttributes"] * 3
    for name, mtime_ns in ((b"/data/one", 7), (b"/data/two", 8)):
        entry = ground.entry(name)
        assert entry is not None and (entry.uid, entry.gid, entry.mode, entry.mtime_ns) == (5, 6, 0o711, mtime_ns)


async def test_a_small_file_that_is_made_and_written_is_one_record(kernel: Kernel, ground: MachineGround) -> None:
    """As tar does it: the bytes, then times, owner and mode, then the close."""
    gate, before = hold(ground), len(ground.order)
    file = await kernel.create(b"f", mode=0o600)
    above = (await kernel.stat(ROOT)).mtime_ns
    await file.write(0, b"bytes")
    await kernel.setattr(file.node, SetAttribute.MTIME, mtime_ns=7)
    await kernel.setattr(file.node, SetAttribute.UID | SetAttribute.GID, uid=5, gid=6)
    await kernel.setattr(file.node, SetAttribute.MODE, mode=0o4751)
    await file.close()
    await kernel.setattr(file.node, SetAttribute.GID, gid=8)
    assert queued(kernel) == ["CreateFile"]
    gate.set()
    await kernel.tree.barrier()
    (made,) = map(plain, ground.order[before:])
    assert isinstance(made, r.CreateFile) and ground.content(b"/data/f") == b"bytes"
    entry = ground.entry(b"/data/f")
    assert entry is not None
    assert (entry.mode, entry.uid, entry.gid, entry.mtime_ns) == (0o751, 5, 8, 7)  # giving it away takes set-user-id
    assert (await kernel.stat(ROOT)).mtime_ns == above == made.time_ns
    shown = await kernel.lookup(b"f")
    assert (shown.inode, shown.size, shown.mtime_ns) == (file.node, 5, 7)
    assert ground.uploads[-1].is_used


async def test_what_came_in_between_stays_in_between(kernel: Kernel, ground: MachineGround) -> None:
    """After a crash the log has the beginning of what programs did, and nothing that they did later."""
    gate = hold(ground)
    one, two = await kernel.create(b"one"), await kernel.create(b"two")
    await one.write(0, b"1")
    await one.close()
    await two.write(0, b"2")
    await two.close()
    again = await kernel.open(two.node, os.O_WRONLY)
    await again.write(0, b"3")
    closing = asyncio.create_task(again.close())
    await until(lambda: queued(kernel) == ["Create", "Create", "Put", "Put", "Put"])
    gate.set()
    await closing
    assert [ground.content(name) for name in (b"/data/one", b"/data/two")] == [b"1", b"3"]


async def test_what_is_on_its_way_takes_nothing_in(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    file = await kernel.create(b"f")
    await until(lambda: pipeline(kernel)._queue[-1].is_sent)
    await file.write(0, b"late")
    await file.close()
    assert queued(kernel) == ["Create", "Put"]
    gate.set()
    await kernel.tree.barrier()
    assert ground.content(b"/data/f") == b"late"


async def test_a_file_of_many_bytes_has_its_name_before_them(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    await write(kernel, b"f", bytes(1000))
    assert queued(kernel) == ["Create", "Put"]
    gate.set()
    await kernel.tree.barrier()
    assert ground.content(b"/data/f") == bytes(1000)


async def test_what_was_made_with_its_bytes_and_is_refused_is_told_once(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    file = await kernel.create(b"f")
    await file.write(0, b"mine")
    assert not await refusal(file.flush())
    assert queued(kernel) == ["CreateFile"]
    put_elsewhere(ground, b"/data/f", b"theirs")
    gate.set()
    await kernel.tree.barrier()
    assert [await refusal(file.fsync()) for _ in range(2)] == [errno.EEXIST, 0]
    assert ground.content(b"/data/f") == b"theirs"
    assert ground.uploads[-1].aborted and not ground.uploads[-1].is_used
    await file.release()


async def test_what_was_ordered_is_made_upon_while_more_is_queued(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the speculation is made again over what the log has."""
    monkeypatch.setattr(pipelines, "BATCH_MAX", 3)
    monkeypatch.setattr(pipelines, "SETTLED_MAX", 5)
    directory = await kernel.mkdir(b"d")
    for number in range(40):
        directory = await kernel.mkdir(b"%d" % (number % 7), directory.inode)
        await write(kernel, b"f", b"%d" % number, directory.inode)
        await asyncio.sleep(0)
    await kernel.tree.barrier()
    path = b"/data/d/" + b"/".join(b"%d" % (number % 7) for number in range(40)) + b"/f"
    assert ground.content(path) == b"39"
    assert not len(pipeline(kernel))


# -- barriers ---------------------------------------------------------------------------------------------------------


async def test_fsync_and_fsyncdir_wait_for_the_log(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    file = await kernel.create(b"f")
    await file.write(0, b"x")
    handle = await kernel.opendir()
    waiting = [asyncio.create_task(call) for call in (file.fsync(), kernel.fsyncdir(handle))]
    await until(lambda: queued(kernel) == ["CreateFile"])
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    gate.set()
    await asyncio.gather(*waiting)
    assert ground.content(b"/data/f") == b"x"
    await file.close()


async def test_close_waits_for_the_log_unless_this_open_has_made_the_file(
    kernel: Kernel, ground: MachineGround
) -> None:
    gate = hold(ground)
    file = await write(kernel, b"f", b"first")
    again = await kernel.open(file.node, os.O_WRONLY)
    await again.write(0, b"SECOND")
    closing = asyncio.create_task(again.close())
    await until(lambda: queued(kernel) == ["CreateFile", "Put"])
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await closing
    assert ground.content(b"/data/f") == b"SECOND"


async def test_bytes_that_are_not_at_hand_any_more_are_waited_for(kernel: Kernel, ground: MachineGround) -> None:
    data = bytes(range(256)) * 8192
    file = await write(kernel, b"big", data)
    reader = await kernel.open(file.node)
    assert await reader.read(0, 1 << 17) == data[: 1 << 17]
    await reader.close()
    assert ground.content(b"/data/big") == data


async def test_an_unmount_waits_for_the_queue(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    file = await kernel.create(b"f")
    await file.write(0, b"x")
    ending = asyncio.create_task(kernel.tree.commit_all())
    await until(lambda: queued(kernel) == ["CreateFile"])
    assert not ending.done()
    gate.set()
    await ending
    assert ground.content(b"/data/f") == b"x"
    await file.close()


async def test_a_queue_that_ends_with_its_mount_is_told_of(
    kernel: Kernel, ground: MachineGround, caplog: pytest.LogCaptureFixture
) -> None:
    hold(ground)
    await kernel.mkdir(b"d")
    await kernel.filesystem.close()
    assert "1 changes in the mount of data were not ordered and are lost" in caplog.text
    assert ground.entry(b"/data/d") is None


# -- refusals ---------------------------------------------------------------------------------------------------------


async def test_a_refusal_is_an_error_once_for_each_open(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    handle, other = await kernel.opendir(), await kernel.opendir()
    file = await kernel.create(b"f")
    await file.write(0, b"mine")
    put_elsewhere(ground, b"/data/f", b"theirs")
    gate.set()
    assert await refusal(file.fsync()) == errno.EEXIST
    assert await refusal(file.fsync()) == 0
    assert await refusal(kernel.fsyncdir(handle)) == errno.EEXIST
    assert [await refusal(kernel.fsyncdir(one)) for one in (handle, other, other)] == [0, errno.EEXIST, 0]
    late = await kernel.opendir()
    assert await refusal(kernel.fsyncdir(late)) == 0  # it was told of before this was opened
    # The other zone's file is left alone, and is what the mount shows.
    await file.close()
    assert ground.content(b"/data/f") == b"theirs"
    assert (await kernel.lookup(b"f")).inode != file.node
    assert (await kernel.stat(file.node)).links == 0


async def test_a_refusal_that_nobody_was_told_of_waits_for_the_next_open(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    await kernel.mkdir(b"d")
    elsewhere(ground, r.MakeDirectory, b"/data/d", 0o755, 0, 0)
    gate.set()
    await kernel.tree.barrier()
    handle = await kernel.opendir()
    assert [await refusal(kernel.fsyncdir(handle)) for _ in range(2)] == [errno.EEXIST, 0]


async def test_close_tells_of_what_was_refused(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    file = await kernel.create(b"f")
    elsewhere(ground, r.MakeDirectory, b"/data/f", 0o755, 0, 0)
    gate.set()
    await kernel.tree.barrier()
    await file.write(0, b"x")
    assert [await refusal(file.flush()) for _ in range(2)] == [errno.EEXIST, 0]
    await file.release()


async def test_what_depends_on_a_refusal_touches_nobody_elses(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    directory = await kernel.mkdir(b"d")
    file = await write(kernel, b"f", b"mine", directory.inode)
    await kernel.setattr(directory.inode, SetAttribute.MODE, mode=0o700)
    await kernel.mkdir(b"free")
    elsewhere(ground, r.MakeDirectory, b"/data/d", 0o755, 0, 0)
    put_elsewhere(ground, b"/data/d/f", b"theirs")
    gate.set()
    await kernel.tree.barrier()
    assert ground.content(b"/data/d/f") == b"theirs"
    entry = ground.entry(b"/data/d")
    assert entry is not None and entry.mode == 0o755
    assert ground.entry(b"/data/free") is not None
    assert await refusal(kernel.stat(file.node)) == 0  # who has it open keeps it
    assert ground.uploads[-1].aborted and not ground.uploads[-1].is_used


async def test_what_a_refused_rename_would_have_replaced_is_told_of(kernel: Kernel, ground: MachineGround) -> None:
    """It was gone as long as the rename was promised, and nobody heard what became of it meanwhile."""
    there, mine = await write(kernel, b"there", b"old"), await write(kernel, b"mine", b"x")
    await kernel.tree.barrier()
    told: set[int] = set()
    pipeline(kernel).changed = told.update
    gate = hold(ground)
    await kernel.rename(b"mine", b"there")
    put_elsewhere(ground, b"/data/there", b"theirs")
    elsewhere(ground, r.Unlink, b"/data/mine")
    gate.set()
    await kernel.tree.barrier()
    assert ground.content(b"/data/there") == b"theirs"
    assert {there.node, mine.node} <= told
    assert {there.node, mine.node} <= pipeline(kernel).contested


@pytest.mark.parametrize("call", ["fsync", "flush"])
async def test_bytes_of_what_a_refused_rename_would_have_replaced(
    kernel: Kernel, ground: MachineGround, call: str
) -> None:
    """Nobody else could have seen them, had it been done."""
    for name in (b"mine", b"there"):
        await write(kernel, name, b"before")
    await kernel.tree.barrier()
    file = await kernel.open((await kernel.lookup(b"there")).inode, os.O_RDWR)
    gate = hold(ground)
    await file.write(0, b"written")
    await kernel.rename(b"mine", b"there")
    told = asyncio.create_task(refusal(getattr(file, call)()))
    await until(lambda: bool(pipeline(kernel)._waiting))
    elsewhere(ground, r.Unlink, b"/data/mine")
    gate.set()
    await told
    await file.close()
    await kernel.tree.barrier()
    assert ground.content(b"/data/there") == b"written"


async def test_bytes_of_what_is_removed_are_nobodys(kernel: Kernel, ground: MachineGround) -> None:
    file = await write(kernel, b"f", b"before")
    file = await kernel.open(file.node, os.O_RDWR)
    await file.write(0, b"written")
    await kernel.unlink(b"f")
    await file.close()
    await kernel.tree.barrier()
    assert ground.entry(b"/data/f") is None
    assert [kind for kind, _ in ordered(ground)] == ["CreateFile", "Unlink"]


async def test_bytes_are_kept_until_their_record_is_ordered(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    await write(kernel, b"f", b"x")
    assert not ground.uploads[-1].is_used
    gate.set()
    await kernel.tree.barrier()
    assert ground.uploads[-1].is_used


async def test_what_was_refused_at_once_is_not_believed_afterwards(kernel: Kernel, ground: MachineGround) -> None:
    """Nothing is queued, so that nobody hears what other zones do."""
    directory, other = await kernel.mkdir(b"d"), await kernel.mkdir(b"e")
    await kernel.mkdir(b"taken", directory.inode)
    await kernel.tree.barrier()
    assert await refusal(kernel(Opcode.RMDIR, ROOT, b"d\0")) == errno.ENOTEMPTY
    elsewhere(ground, r.Rename, b"/data/d", b"/data/e/d")
    await write(kernel, b"f", b"bytes", directory.inode)
    await kernel.tree.barrier()
    assert ground.content(b"/data/e/d/f") == b"bytes"
    assert (await kernel.lookup(b"d", other.inode)).inode == directory.inode


async def test_many_bytes_spread_while_they_are_queued(kernel: Kernel, ground: MachineGround) -> None:
    """And the record goes when they are there, with what came after it."""
    ground.meeting = asyncio.Barrier(2)
    data = bytes(1000)
    await write(kernel, b"f", data)
    await kernel.mkdir(b"after")
    handle = await kernel.opendir()
    ending = asyncio.create_task(kernel.fsyncdir(handle))
    await until(lambda: ground.entry(b"/data/f") is not None)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not ending.done() and ground.entry(b"/data/after") is None
    assert await (await kernel.open((await kernel.lookup(b"f")).inode)).read() == data
    async with asyncio.timeout(PATIENCE_S):
        await ground.meeting.wait()
        await ending
    assert ground.content(b"/data/f") == data and ground.entry(b"/data/after") is not None
    assert ground.uploads[-1].is_used


async def test_bytes_that_nobody_takes_are_offered_again(kernel: Kernel, ground: MachineGround) -> None:
    refusals = [UnavailableError("no zone took the bytes")] * 2

    async def before_commit() -> None:
        if refusals:
            raise refusals.pop()

    ground.before_commit = before_commit  # type: ignore[method-assign]
    file = await write(kernel, b"f", bytes(1000))
    await kernel.tree.barrier()
    assert ground.content(b"/data/f") == bytes(1000) and not refusals
    assert (await kernel.stat(file.node)).size == 1000


async def test_the_queue_goes_on_where_a_change_is_refused_whose_bytes_it_waits_for(
    kernel: Kernel, ground: MachineGround
) -> None:
    ground.meeting = asyncio.Barrier(2)
    await write(kernel, b"f", bytes(1000))
    handle = await kernel.opendir()
    ending = asyncio.create_task(kernel.fsyncdir(handle))
    await until(lambda: ground.entry(b"/data/f") is not None)
    for _ in range(20):
        await asyncio.sleep(0)
    elsewhere(ground, r.Unlink, b"/data/f")
    assert await refusal(kernel.lookup(b"f")) == errno.ENOENT
    async with asyncio.timeout(PATIENCE_S):
        await ending
    await kernel.mkdir(b"after")
    async with asyncio.timeout(PATIENCE_S):
        await kernel.fsyncdir(handle)
    assert ground.entry(b"/data/after") is not None


async def test_bytes_on_their_way_stop_with_the_mount(
    kernel: Kernel, ground: MachineGround, caplog: pytest.LogCaptureFixture
) -> None:
    ground.meeting = asyncio.Barrier(2)
    await write(kernel, b"f", bytes(1000))
    await asyncio.wait_for(ground.committing.wait(), PATIENCE_S)
    await kernel.filesystem.close()
    assert "2 changes" in caplog.text and not ground.uploads[-1].committed


async def test_what_goes_on_is_in_order_after_a_refusal(kernel: Kernel, ground: MachineGround) -> None:
    gate = hold(ground)
    for number in range(10):
        await kernel.mkdir(b"%d" % number)
    elsewhere(ground, r.MakeDirectory, b"/data/4", 0o755, 0, 0)
    gate.set()
    await kernel.tree.barrier()
    made = [path for _, path in ordered(ground) if (entry := ground.entry(path)) is not None and entry.uid == 1000]
    done: list[bytes] = list(dict.fromkeys(made))
    assert done == [b"/data/%d" % number for number in range(10) if number != 4]
    by_inode = sorted(done, key=lambda path: entry.inode if (entry := ground.entry(path)) else 0)
    assert by_inode == done


async def test_nothing_is_believed_longer_than_something_is_queued(kernel: Kernel, ground: MachineGround) -> None:
    directory = await kernel.mkdir(b"x")
    await kernel.tree.barrier()
    gate = hold(ground)
    await kernel.mkdir(b"f", directory.inode)
    elsewhere(ground, r.MakeDirectory, b"/data/x/f", 0o755, 0, 0)
    gate.set()
    await kernel.tree.barrier()
    elsewhere(ground, r.RemoveDirectory, b"/data/x/f")
    elsewhere(ground, r.RemoveDirectory, b"/data/x")
    elsewhere(ground, r.MakeDirectory, b"/data/x", 0o755, 0, 0)
    handle = await kernel.opendir()
    await kernel.mkdir(b"g", (await kernel.lookup(b"x")).inode)
    await kernel.fsyncdir(handle)
    assert ground.entry(b"/data/x/g") is not None


async def test_other_zones_moves_are_followed(kernel: Kernel, ground: MachineGround) -> None:
    directory = await kernel.mkdir(b"d")
    await kernel.tree.barrier()
    gate = hold(ground)
    file = await write(kernel, b"f", b"x", directory.inode)
    elsewhere(ground, r.Rename, b"/data/d", b"/data/moved")
    await kernel.mkdir(b"e", directory.inode)
    assert (await kernel.lookup(b"moved")).inode == directory.inode
    gate.set()
    await kernel.tree.barrier()
    assert ground.content(b"/data/moved/f") == b"x" and ground.entry(b"/data/moved/e") is not None
    assert ground.entry(b"/data/d") is None
    assert await refusal(kernel.stat(file.node)) == 0


async def test_what_another_zone_has_put_in_the_place_is_not_removed(kernel: Kernel, ground: MachineGround) -> None:
    await write(kernel, b"f", b"mine")
    await kernel.tree.barrier()
    gate, handle = hold(ground), await kernel.opendir()
    await kernel.unlink(b"f")
    elsewhere(ground, r.Unlink, b"/data/f")
    put_elsewhere(ground, b"/data/f", b"theirs")
    gate.set()
    assert await refusal(kernel.fsyncdir(handle)) == errno.ESTALE
    assert ground.content(b"/data/f") == b"theirs"


async def test_bytes_of_a_file_that_another_zone_removes_are_nobodys(kernel: Kernel, ground: MachineGround) -> None:
    """As if they had been written before it was removed."""
    file = await write(kernel, b"f", b"first")
    await kernel.tree.barrier()
    gate = hold(ground)
    again = await kernel.open(file.node, os.O_WRONLY)
    await again.write(0, b"again")
    closing = asyncio.create_task(again.close())
    await until(lambda: len(pipeline(kernel)) == 1)
    elsewhere(ground, r.Unlink, b"/data/f")
    gate.set()
    await closing
    assert ground.entry(b"/data/f") is None


async def test_attributes_of_what_another_zone_removes_are_nobodys(kernel: Kernel, ground: MachineGround) -> None:
    directory = await kernel.mkdir(b"d")
    await kernel.tree.barrier()
    gate, handle = hold(ground), await kernel.opendir()
    await kernel.setattr(directory.inode, SetAttribute.MODE, mode=0o700)
    await kernel(Opcode.SETXATTR, directory.inode, struct.pack("<II", 1, 0) + b"user.a\0x")
    elsewhere(ground, r.RemoveDirectory, b"/data/d")
    gate.set()
    await kernel.fsyncdir(handle)
    assert ground.entry(b"/data/d") is None


async def test_names_in_a_directory_that_another_zone_removes_are_an_error(
    kernel: Kernel, ground: MachineGround
) -> None:
    directory = await kernel.mkdir(b"d")
    await kernel.tree.barrier()
    gate, handle = hold(ground), await kernel.opendir(directory.inode)
    await kernel.mkdir(b"e", directory.inode)
    elsewhere(ground, r.RemoveDirectory, b"/data/d")
    gate.set()
    assert await refusal(kernel.fsyncdir(handle, directory.inode)) == errno.ENOENT
    assert ground.entry(b"/data/d") is None


async def test_other_zones_changes_are_seen_while_something_is_queued(kernel: Kernel, ground: MachineGround) -> None:
    directory = await kernel.mkdir(b"d")
    await kernel.tree.barrier()
    gate = hold(ground)
    await kernel.mkdir(b"mine", directory.inode)
    elsewhere(ground, r.MakeDirectory, b"/data/d/theirs", 0o755, 0, 0)
    elsewhere(ground, r.SetAttributes, b"/data/d", 0o711)
    assert [name for name, _ in await kernel.names(directory.inode)] == [b".", b"..", b"mine", b"theirs"]
    assert (await kernel.stat(directory.inode)).mode & 0o777 == 0o711
    elsewhere(ground, r.RemoveDirectory, b"/data/d/theirs")
    assert await refusal(kernel.lookup(b"theirs", directory.inode)) == errno.ENOENT
    gate.set()
    await kernel.tree.barrier()
    assert ground.entry(b"/data/d/mine") is not None


async def test_what_only_the_log_can_say_is_asked_of_it(ground: MachineGround) -> None:
    """Names below a directory of the source that is not listed yet."""
    ground.apply(r.RemoveRule(OperationId(b"admin", 100), 1, "data"))
    members = (r.ZoneMember(ground.zone_number(), "onprem", b"/srv/data"),)
    ground.apply(r.CreateRule(OperationId(b"admin", 101), 1, "data", b"/data", ground.zone_number(), members))
    kernel = Kernel(ground, mode=WriteMode.PIPELINED)
    assert await refusal(kernel.mkdir(b"d")) == errno.EAGAIN
    assert isinstance(ground.order[-1], r.MakeDirectory) and not len(pipeline(kernel))
    await kernel.filesystem.close()


async def test_a_soft_mount_does_not_wait_for_what_only_the_log_can_say(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(ground, Patience(soft_s=0.01), mode=WriteMode.PIPELINED)
    monkeypatch.setattr(pipeline(kernel).speculation, "ask", lambda *_: (None, r.Outcome(errno.EAGAIN)))
    gate = hold(ground)
    assert await refusal(kernel.mkdir(b"d")) == errno.EIO
    gate.set()
    await kernel.filesystem.close()


async def test_a_rule_that_is_removed_takes_what_was_promised_with_it(kernel: Kernel, ground: MachineGround) -> None:
    gate, handle = hold(ground), await kernel.opendir()
    await write(kernel, b"f", b"x")
    ground.apply(r.RemoveRule(OperationId(b"admin", 100), 1, "data"))
    gate.set()
    assert await refusal(kernel.fsyncdir(handle)) in (errno.ESTALE, errno.ENOENT)
    assert not len(pipeline(kernel)) and await refusal(kernel.mkdir(b"d")) == errno.ENOENT


# -- the log's moods --------------------------------------------------------------------------------------------------


class Shuffled(MachineGround):
    """Records of the first large batch come in another order, as when a leader is lost with some of them."""

    def __init__(self, directory: Path, places: list[int]) -> None:
        super().__init__(directory)
        self._places = places

    async def submit_many(
        self, records: Sequence[Record], timeout_s: float, *, visible: bool = True, decided: Decided | None = None
    ) -> list[tuple[int, Outcome]]:
        if self.gate is not None:
            await self.gate.wait()
        if len(records) < len(self._places):
            return await super().submit_many(records, timeout_s, visible=visible)
        places, self._places = self._places, []
        first: dict[int, tuple[int, Outcome]] = {}
        for place in places or range(len(records)):
            (answer,) = await super().submit_many([records[place]], timeout_s, visible=visible)
            first.setdefault(place, answer)
        return [first[place] for place in range(len(records))]


@pytest.mark.parametrize("places", [[2, 0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 1, 3, 2]], ids=str)
async def test_records_that_come_in_another_order_do_not_take_effect_in_it(tmp_path: Path, places: list[int]) -> None:
    ground = Shuffled(tmp_path, places)
    kernel = Kernel(ground, mode=WriteMode.PIPELINED)
    gate = hold(ground)
    await kernel.mkdir(b"first")
    await until(lambda: pipeline(kernel)._queue[0].is_sent)
    for name in (b"a", b"b", b"c", b"d"):
        await kernel.mkdir(name)
    gate.set()
    await kernel.tree.barrier()
    inodes = [entry.inode for name in b"abcd" if (entry := ground.entry(b"/data/%c" % name)) is not None]
    assert len(inodes) == 4 and inodes == sorted(inodes)
    handle = await kernel.opendir()
    await kernel.fsyncdir(handle)
    await kernel.filesystem.close()


async def test_without_a_majority_a_soft_mount_fails_at_the_barrier_and_keeps_its_promises(
    ground: MachineGround,
) -> None:
    kernel = Kernel(ground, Patience(0.05), WriteMode.PIPELINED)
    ground.failure = UnavailableError("no leader")
    handle = await kernel.opendir()
    await kernel.mkdir(b"d")
    assert await refusal(kernel.fsyncdir(handle)) == errno.EIO
    assert (await kernel.lookup(b"d")).links
    ground.failure = None
    await until(lambda: ground.entry(b"/data/d") is not None)
    await kernel.fsyncdir(handle)
    await kernel.filesystem.close()


async def test_a_full_queue_is_waited_for(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "QUEUED_MAX", 5)
    gate = hold(ground)
    for number in range(5):
        await kernel.mkdir(b"%d" % number)
    more = asyncio.create_task(kernel.mkdir(b"more"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not more.done() and len(pipeline(kernel)) == 5
    gate.set()
    await more
    await kernel.tree.barrier()
    assert ground.entry(b"/data/more") is not None


async def test_a_queue_full_of_bytes_fails_a_soft_mount(ground: MachineGround, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "QUEUED_BYTES_MAX", 100)
    kernel = Kernel(ground, Patience(0.05), WriteMode.PIPELINED)
    gate = hold(ground)
    await kernel.mkdir(b"x" * 100)
    assert await refusal(kernel.mkdir(b"y")) == errno.EIO
    gate.set()
    await kernel.tree.barrier()
    assert ground.entry(b"/data/y") is None
    await kernel.mkdir(b"y")
    await kernel.tree.barrier()
    await kernel.filesystem.close()


async def test_a_node_that_fails_is_an_error_of_everything(
    ground: MachineGround, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = Kernel(ground, mode=WriteMode.PIPELINED)
    handle = await kernel.opendir()
    ground.failure = RuntimeError("the disk")
    await kernel.mkdir(b"d")
    assert await refusal(kernel.fsyncdir(handle)) == errno.EIO
    assert await refusal(kernel.mkdir(b"e")) == errno.EIO
    with caplog.at_level(logging.ERROR):
        await kernel.filesystem.close()
    assert "is stuck" in caplog.text


async def test_numbers_that_nobody_knows_are_forgotten(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    aliases = pipeline(kernel).speculation.aliases
    monkeypatch.setattr(aliases, "_room", 3)
    known = await kernel.mkdir(b"known")
    for number in range(4):
        made = await kernel.mkdir(b"%d" % number)
        kernel.filesystem.forget([(made.inode, 1)])
    await kernel.tree.barrier()
    assert set(aliases.real) == {known.inode}
    assert (await kernel.stat(known.inode)).links
    assert kernel.real((await kernel.lookup(b"2")).inode) == (await kernel.lookup(b"2")).inode
