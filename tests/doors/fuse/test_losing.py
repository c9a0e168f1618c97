"""What was written and cannot be committed: who hears of it, and what goes on nevertheless."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence

import pytest

from lddp.access import ContentWriter
from lddp.core import records as r
from lddp.core.records import Outcome
from lddp.doors.fuse import memory, passthrough, wire
from lddp.doors.fuse.file import File
from lddp.doors.fuse.ground import Patience
from lddp.doors.fuse.protocol import SetAttribute
from lddp.doors.fuse.tree import LOST_LOGGED_MAX
from lddp.errors import StorageError, UnavailableError
from tests.doors.fuse.followed import followed, put
from tests.doors.fuse.kernel import Kernel, MachineGround, Open, until
from tests.doors.fuse.test_names import number


class Failing:
    """The node's disk takes no bytes for `path`."""

    def __init__(self, ground: MachineGround, path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path, self._inner = path, ground.content_writer
        monkeypatch.setattr(ground, "content_writer", self._content_writer)

    def _content_writer(self, path: bytes, size: int | None) -> ContentWriter:
        if path == self._path:
            raise StorageError("this node's disk failed")
        return self._inner(path, size)


async def written(kernel: Kernel, name: bytes) -> Open:
    file = await kernel.create(name)
    await file.write(0, name * 100)
    return file


async def test_what_cannot_be_committed_after_the_last_close(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = await written(kernel, b"f")
    Failing(ground, b"/data/f", monkeypatch)
    assert await number(file.flush()) == errno.EIO
    await file.release()
    await until(lambda: file.node not in [one.number for one in kernel.tree.files if one.opens])
    assert f"what was written to inode {file.node} is lost: this node's disk failed" in caplog.text
    reader = await kernel.open(file.node)
    assert await reader.read() == b""
    await reader.close()


async def test_what_cannot_be_committed_does_not_hinder_the_rest(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = [await written(kernel, name) for name in (b"f", b"g")]
    Failing(ground, b"/data/f", monkeypatch)
    await kernel.tree.commit_all()
    assert ground.content(b"/data/g") == b"g" * 100
    assert f"inode {files[0].node} of data was not committed: this node's disk failed" in caplog.text
    monkeypatch.undo()
    for file in files:
        await file.close()
    assert ground.content(b"/data/f") == b"f" * 100


async def test_what_an_end_loses_is_logged(ground: MachineGround, caplog: pytest.LogCaptureFixture) -> None:
    kernel = Kernel(ground)
    files = [await written(kernel, b"%d" % number) for number in range(LOST_LOGGED_MAX + 3)]
    unlinked = await written(kernel, b"unlinked")
    await kernel.unlink(b"unlinked")
    ground.gate = asyncio.Event()
    for file in (*files, unlinked):
        await file.release()  # as of programs that were killed
    committing = asyncio.create_task(kernel.tree.commit_all())
    await ground.waiting.wait()
    committing.cancel()
    await asyncio.wait([committing])
    assert sorted(kernel.tree.uncommitted()) == sorted(file.node for file in files)
    await kernel.filesystem.close()
    for file in files[:LOST_LOGGED_MAX]:
        assert f"what was written to inode {file.node} of data was not committed, and is lost" in caplog.text
    assert "so it is with 3 more files in the mount of data" in caplog.text
    assert len(caplog.records) == LOST_LOGGED_MAX + 1


async def test_an_end_that_loses_nothing_logs_nothing(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    file = await written(kernel, b"f")
    await kernel.tree.commit_all()
    assert not kernel.tree.uncommitted()
    await kernel.filesystem.close()
    assert not caplog.records
    await file.release()


async def test_an_end_of_a_node_whose_database_has_failed(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = Kernel(ground)
    file = await written(kernel, b"f")

    def view() -> None:
        raise StorageError("the database cannot be read")

    monkeypatch.setattr(ground, "view", view)
    await kernel.filesystem.close()
    assert f"what was written to inode {file.node} of data was not committed, and is lost" in caplog.text


async def test_a_reader_does_not_keep_what_its_writer_could_not_commit(ground: MachineGround) -> None:
    """It would hide what other zones put, and replace it when it closes the file some day."""
    kernel = Kernel(ground, Patience(soft_s=1e-9))
    async with followed(kernel) as told:
        writer = await written(kernel, b"f")
        reader = await kernel.open(writer.node)
        ground.failure = UnavailableError("nobody leads")
        assert await number(writer.flush()) == errno.EIO
        await writer.release()
        held = kernel.tree.files.get(writer.node)
        assert held is not None
        await until(lambda: not held.is_ahead)
        ground.failure = None
        put(ground, b"/data/f", b"of another zone")
        await told.all()
        assert b"".join(wire.inode_notice(writer.node, 0)) in told.notices
        assert await reader.read() == b"of another zone"
        await reader.close()
    assert ground.content(b"/data/f") == b"of another zone"
    await kernel.filesystem.close()


async def test_who_may_write_too_keeps_what_could_not_be_committed(ground: MachineGround) -> None:
    kernel = Kernel(ground, Patience(soft_s=1e-9))
    writer = await written(kernel, b"f")
    other = await kernel.open(writer.node, os.O_RDWR)
    ground.failure = UnavailableError("nobody leads")
    assert await number(writer.flush()) == errno.EIO
    await writer.release()
    ground.failure = None
    await other.close()
    assert ground.content(b"/data/f") == b"f" * 100
    await kernel.filesystem.close()


class LateCommit:
    """Of `b"f"`, which the log has as ten digits, and whose writer was killed: it waits for the log."""

    def __init__(self, kernel: Kernel, node: int) -> None:
        self._kernel = kernel
        self._asked, self._answer = asyncio.Event(), asyncio.Event()
        self.node = node

    @classmethod
    async def begin(cls, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> LateCommit:
        async with kernel.writing(b"f") as made:
            await made.write(0, b"0123456789")
        late = cls(kernel, made.node)
        writer = await kernel.open(made.node, os.O_WRONLY)
        await writer.write(0, b"w")
        submit = kernel.ground.submit_folded

        async def fails(records: Sequence[r.Record], timeout_s: float) -> list[tuple[int, Outcome]]:
            late._asked.set()
            await late._answer.wait()
            monkeypatch.setattr(kernel.ground, "submit_folded", submit)
            raise StorageError("this node's disk failed for a moment")

        monkeypatch.setattr(kernel.ground, "submit_folded", fails)
        await writer.release()
        await late._asked.wait()
        return late

    @property
    def file(self) -> File:
        held = self._kernel.tree.files.get(self.node)
        assert held is not None
        return held

    def fail(self) -> None:
        self._answer.set()


async def test_a_cut_that_succeeds_is_not_lost_with_what_a_killed_writer_left(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(ground)
    late = await LateCommit.begin(kernel, monkeypatch)
    call = asyncio.create_task(kernel.setattr(late.node, SetAttribute.SIZE, size=4))
    await until(lambda: late.file.dirty.touched)
    late.fail()
    assert (await call).size == 4
    assert ground.content(b"/data/f") == b"w123"
    await kernel.filesystem.close()


async def test_what_a_cut_could_not_commit_for_a_killed_writer_is_not_kept_by_who_reads_it(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(ground, Patience(soft_s=1e-9))
    async with followed(kernel) as told:
        late = await LateCommit.begin(kernel, monkeypatch)
        reader = await kernel.open(late.node)
        call = asyncio.create_task(number(kernel.setattr(late.node, SetAttribute.SIZE, size=4)))
        await until(lambda: late.file.dirty.touched)
        ground.failure = UnavailableError("nobody leads")
        late.fail()
        assert await call == errno.EIO
        await until(lambda: not late.file.is_ahead)
        ground.failure = None
        assert await reader.read() == b"0123456789"
        put(ground, b"/data/f", b"of another zone")
        await told.all()
        assert await reader.read() == b"of another zone"
        await reader.close()
    assert ground.content(b"/data/f") == b"of another zone"
    await kernel.filesystem.close()


async def test_who_opens_a_file_to_read_does_not_keep_what_is_found_lost_meanwhile(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passthrough, "PASS_FROM_BYTES", 8)
    monkeypatch.setattr(memory, "COPY_BYTES_MAX", 0)
    kernel = Kernel(ground)
    backing = kernel.passes()
    late = await LateCommit.begin(kernel, monkeypatch)
    async with late.file.lock:
        opening = asyncio.create_task(kernel.open(late.node))
        await until(lambda: late.file.opens == 2)
        late.fail()
        await until(lambda: late.file.opens == 1)
    reader = await opening
    assert reader.passes
    await until(lambda: not late.file.is_ahead)
    assert await reader.read() == ground.content(b"/data/f") == b"w123456789"
    await reader.close()
    await until(lambda: not backing.files)
    await kernel.filesystem.close()
