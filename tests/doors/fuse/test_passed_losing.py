"""What was written to files that the kernel reads by itself, and cannot be committed, without a mount."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import Outcome
from lddp.doors.fuse import committing, memory, passthrough
from lddp.doors.fuse.file import File
from lddp.doors.fuse.ground import Patience
from lddp.doors.fuse.protocol import SetAttribute
from lddp.errors import StorageError, UnavailableError
from tests.doors.fuse.followed import put
from tests.doors.fuse.kernel import Kernel, MachineGround, Open, until
from tests.doors.fuse.passing import FakeBacking
from tests.doors.fuse.test_names import number

PAGE = 4096
OLD = b"a" * (8 * PAGE)
THEIRS = b"b" * (8 * PAGE)


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "PASS_FROM_BYTES", 8)
    monkeypatch.setattr(committing, "RANGES_FROM_BYTES", PAGE)
    monkeypatch.setattr(memory, "COPY_BYTES_MAX", 0)
    monkeypatch.setattr(passthrough, "LOOK_S", 0.001)
    monkeypatch.setattr(passthrough, "AGAIN_S", 0.001)


@pytest.fixture
def mode() -> WriteMode:
    """A pipelined mount has no commit that fails for want of a majority."""
    return WriteMode.SYNC


@pytest.fixture
async def kernel(ground: MachineGround) -> Kernel:
    return Kernel(ground, Patience(soft_s=1e-9))


class Shared:
    """A file that one program reads by the kernel, and another one has open to read and write."""

    def __init__(self, reader: Open, writer: Open) -> None:
        self.kernel, self.reader, self.writer = reader.kernel, reader, writer

    @classmethod
    async def begin(cls, kernel: Kernel) -> Shared:
        put(kernel.ground, b"/data/f", OLD)
        reader = await kernel.open((await kernel.lookup(b"f")).inode)
        shared = cls(reader, await kernel.open(reader.node, os.O_RDWR))
        assert reader.passes and shared.file.mirror >= 0
        return shared

    @property
    def file(self) -> File:
        held = self.kernel.tree.files.get(self.reader.node)
        assert held is not None
        return held

    async def mapped(self, backing: FakeBacking) -> int:
        """The writer closes it, and has it mapped still."""
        mapping = os.dup(self.writer.opened.backing)
        backing.held.add(os.fstat(mapping).st_ino)
        await self.writer.close()
        return mapping

    async def written(self, backing: FakeBacking, data: bytes) -> None:
        """The disk has it, and the watch has seen that: nothing moves the copy's time any more."""
        before, probe = os.fstat(self.file.staged).st_ctime_ns, self.kernel.ground.scratch() / "probe"

        def has_ticked() -> bool:
            probe.write_bytes(b"")
            return probe.stat().st_ctime_ns > before

        await until(has_ticked)
        asked = backing.asked
        await self.writer.write(0, data)
        await until(lambda: backing.asked >= asked + 2)


async def test_what_the_last_writer_could_not_commit_is_committed_without_him(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    shared = await Shared.begin(kernel)
    await shared.written(backing, b"mine")
    ground.failure = UnavailableError("nobody leads")
    assert await number(shared.writer.flush()) == errno.EIO
    ground.failure = None
    await shared.writer.release()
    await until(lambda: not shared.file.is_ahead)
    assert ground.content(b"/data/f") == b"mine" + OLD[4:]
    put(ground, b"/data/f", THEIRS)
    await kernel.told()
    assert await shared.reader.read(0, len(OLD)) == THEIRS
    await shared.reader.close()


async def test_a_reader_does_not_keep_what_can_never_be_committed(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, caplog: pytest.LogCaptureFixture
) -> None:
    shared = await Shared.begin(kernel)
    await shared.written(backing, b"mine")
    ground.failure = UnavailableError("nobody leads")
    assert await number(shared.writer.flush()) == errno.EIO
    await shared.writer.release()
    await until(lambda: not shared.file.is_ahead)
    assert f"what was written to inode {shared.reader.node} is lost" in caplog.text
    await kernel.told()
    assert await shared.reader.read(0, len(OLD)) == OLD
    ground.failure = None
    put(ground, b"/data/f", THEIRS)
    await kernel.told()
    assert await shared.reader.read(0, len(OLD)) == THEIRS
    await shared.reader.close()
    assert ground.content(b"/data/f") == THEIRS


async def test_a_cut_that_failed_is_taken_back_where_nobody_may_write_any_more(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround
) -> None:
    shared = await Shared.begin(kernel)
    await shared.writer.close()
    ground.failure = UnavailableError("nobody leads")
    assert await number(kernel.setattr(shared.reader.node, SetAttribute.SIZE, size=4)) == errno.EIO
    ground.failure = None
    await kernel.told()
    assert await shared.reader.read(0, len(OLD)) == OLD
    await shared.reader.close()
    await until(lambda: not backing.files)
    assert ground.content(b"/data/f") == OLD


async def test_what_is_stored_to_a_copy_with_bytes_that_are_lost_is_with_those_of_the_log_then(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a mapping, before the copy is as the log says."""
    shared = await Shared.begin(kernel)
    mapping = await shared.mapped(backing)
    writer = await kernel.open(shared.reader.node, os.O_WRONLY)
    await writer.write(0, b"lost")
    submit, asked, answer = ground.submit_folded, asyncio.Event(), asyncio.Event()

    async def fails(records: Sequence[r.Record], timeout_s: float) -> list[tuple[int, Outcome]]:
        asked.set()
        await answer.wait()
        monkeypatch.setattr(ground, "submit_folded", submit)
        raise StorageError("this node's disk failed for a moment")

    monkeypatch.setattr(ground, "submit_folded", fails)
    with monkeypatch.context() as patched:
        patched.setattr(kernel.tree.passthrough, "commit", lambda _: None)  # the watch comes later
        await writer.release()
        await asked.wait()
        os.pwrite(mapping, b"kept", 4 * PAGE)
        answer.set()
        await until(lambda: shared.file.dirty.spans() == [(4 * PAGE, 5 * PAGE)])
    await kernel.tree.commit_all()
    await kernel.told()
    expected = OLD[: 4 * PAGE] + b"kept" + OLD[4 * PAGE + 4 :]
    assert ground.content(b"/data/f") == expected
    assert os.pread(mapping, len(OLD), 0) == expected == await shared.reader.read(0, len(OLD))
    os.close(mapping)
    await shared.reader.close()
