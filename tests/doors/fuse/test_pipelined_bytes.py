"""Bytes of a pipelined mount, from the program to the queue and from there to the log."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator

import pytest

from lddp.config import WriteMode
from lddp.core.records import Content, Outcome
from lddp.doors.fuse import committing, later, pipeline
from lddp.doors.fuse.ground import Patience
from lddp.doors.fuse.later import Later
from lddp.doors.fuse.protocol import SetAttribute
from lddp.errors import StorageError, UnavailableError
from tests.doors.fuse.kernel import Kernel, MachineGround, Open, Refused, until
from tests.doors.fuse.test_names import number as refusal
from tests.doors.webhdfs.machine import MemoryWriter

S = SetAttribute
NEW = b"new bytes that do not go with their record"


@pytest.fixture
async def kernel(ground: MachineGround) -> AsyncIterator[Kernel]:
    kernel = Kernel(ground, mode=WriteMode.PIPELINED)
    yield kernel
    ground.gate = None
    await kernel.filesystem.close()
    assert not ground.still_open()


async def existing(kernel: Kernel) -> int:
    async with kernel.writing(b"f") as made:
        await made.write(0, b"old")
    await kernel.tree.barrier()
    return made.node


async def turns() -> None:
    """All that need not wait for the log comes to its end."""
    for _ in range(100):
        await asyncio.sleep(0)


async def closed_in_time(file: Open) -> asyncio.Task[None]:
    close = asyncio.create_task(file.flush())
    await turns()
    return close


async def test_close_after_a_time_was_set_is_in_the_log(kernel: Kernel, ground: MachineGround) -> None:
    """`cp -p` over a file: the time takes the bytes into the queue with it."""
    file = await kernel.open(await existing(kernel), os.O_WRONLY | os.O_TRUNC)
    await file.write(0, NEW)
    ground.gate = asyncio.Event()
    await kernel.setattr(file.node, S.MTIME | S.FH, mtime_ns=10**18, handle=file.handle)
    close = await closed_in_time(file)
    assert not close.done()
    ground.gate.set()
    await close
    assert ground.content(b"/data/f") == NEW
    await file.release()


async def test_close_of_what_another_close_has_queued_is_in_the_log(kernel: Kernel, ground: MachineGround) -> None:
    node = await existing(kernel)
    files = [await kernel.open(node, os.O_WRONLY) for _ in range(2)]
    for at, file in enumerate(files):
        await file.write(at * len(NEW), NEW)
    ground.gate = asyncio.Event()
    closes = [await closed_in_time(file) for file in files]
    assert not [close for close in closes if close.done()]
    ground.gate.set()
    await asyncio.gather(*closes)
    assert ground.content(b"/data/f") == NEW * 2
    for file in files:
        await file.release()


async def test_close_waits_for_nothing_where_no_bytes_were_written(kernel: Kernel, ground: MachineGround) -> None:
    """`touch` of a file that is there; and the file that was just made, by who has made it."""
    made = await kernel.create(b"new")
    file = await kernel.open(await existing(kernel), os.O_WRONLY)
    ground.gate = asyncio.Event()
    await kernel.setattr(file.node, S.MTIME | S.FH, mtime_ns=10**18, handle=file.handle)
    await made.write(0, NEW)
    for one in (file, made, made):
        await one.flush()
    await made.release()
    again = await kernel.open(made.node, os.O_WRONLY)
    await again.close()
    await file.release()
    assert ground.entry(b"/data/f") is not None and len(kernel.tree.pipeline or ()) >= 2
    ground.gate.set()
    await kernel.tree.barrier()
    assert ground.content(b"/data/new") == NEW


async def queued(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch, errors: list[Exception]
) -> Open:
    """A new file whose bytes meet these errors on their way, one after the other."""
    monkeypatch.setattr(later, "PAUSE_NOTHING_TAKEN_S", 0.001)

    async def fails() -> None:
        if errors:
            raise errors.pop(0)

    monkeypatch.setattr(ground, "before_commit", fails)
    file = await kernel.create(b"f")
    await file.write(0, NEW)
    await file.flush()
    return file


async def test_bytes_that_cannot_be_sent_for_a_moment_are_sent_again(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This node has no descriptor left, or the disk fails."""
    errors: list[Exception] = [OSError(number, os.strerror(number)) for number in (errno.EMFILE, errno.EIO)]
    file = await queued(kernel, ground, monkeypatch, errors)
    await file.fsync()
    assert ground.content(b"/data/f") == NEW and not errors
    await file.close()


async def test_bytes_that_cannot_be_sent_at_all_are_no_end_of_the_mount(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has written them hears of it, once. All else that is queued comes into the log."""
    file = await queued(kernel, ground, monkeypatch, [StorageError("no")])
    await kernel.mkdir(b"d")
    assert await refusal(file.fsync()) == errno.EIO
    await file.fsync()
    assert ground.content(b"/data/f") == b"" and ground.entry(b"/data/d") is not None
    assert "Put of /data/f was promised in the mount of data, and is refused" in caplog.text
    assert ground.uploads[-1].aborted
    await kernel.mkdir(b"e")
    await file.write(0, NEW)
    await file.close()
    await kernel.tree.barrier()
    assert ground.content(b"/data/f") == NEW and ground.entry(b"/data/e") is not None


RANGE = b"a range that does not go with its record"


class Lost:
    """A new file of 1,000 bytes, closed, whose bytes are on their way until they `fail` for good."""

    def __init__(self, kernel: Kernel, node: int) -> None:
        self.kernel, self.node = kernel, node
        self._fails = asyncio.Event()

    @classmethod
    async def begin(cls, kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch) -> Lost:
        monkeypatch.setattr(committing, "RANGES_FROM_BYTES", 64)
        made = await kernel.create(b"f")
        lost, errors = cls(kernel, made.node), [StorageError("this node's disk failed")]

        async def on_their_way() -> None:
            if errors:
                error = errors.pop()
                await lost._fails.wait()
                raise error

        monkeypatch.setattr(ground, "before_commit", on_their_way)
        await made.write(0, b"a" * 1000)
        await made.close()
        return lost

    async def fail(self) -> None:
        self._fails.set()
        await self.kernel.tree.barrier()


async def test_what_is_written_over_bytes_that_cannot_be_sent_is_refused_too(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file may be there without its bytes, never with a part of them. Who writes it anew is not refused."""
    lost = await Lost.begin(kernel, ground, monkeypatch)
    again = await kernel.open(lost.node, os.O_WRONLY)
    await again.write(500, RANGE)
    flush = await closed_in_time(again)
    assert (await kernel.setattr(lost.node, S.SIZE, size=900)).size == 900
    await lost.fail()
    with pytest.raises(Refused) as refused:
        await flush
    assert refused.value.number == errno.EIO
    assert ground.content(b"/data/f") == b""
    await kernel.setattr(lost.node, S.SIZE | S.FH, size=0, handle=again.handle)
    await again.write(0, NEW)
    await again.close()
    assert ground.content(b"/data/f") == NEW


async def test_a_range_that_is_asked_for_when_the_bytes_below_it_are_refused_goes_with_the_whole(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = await Lost.begin(kernel, ground, monkeypatch)
    again = await kernel.open(lost.node, os.O_WRONLY)
    await again.write(500, RANGE)
    seal, is_read, go_on = MemoryWriter.seal, asyncio.Event(), asyncio.Event()

    async def slowly(writer: MemoryWriter) -> Content:
        is_read.set()
        await go_on.wait()
        return await seal(writer)

    monkeypatch.setattr(MemoryWriter, "seal", slowly)
    flush = asyncio.create_task(refusal(again.flush()))
    await is_read.wait()
    await lost.fail()
    assert ground.content(b"/data/f") == b""
    go_on.set()
    assert await flush == errno.EIO  # of what the first close had promised
    assert ground.content(b"/data/f") == b"a" * 500 + RANGE + b"a" * (500 - len(RANGE))
    await again.release()


async def kept_from_the_queue(ground: MachineGround, monkeypatch: pytest.MonkeyPatch, soft_s: float | None) -> Open:
    """A file that was written in a mount whose queue is full, while too few zones take bytes."""
    monkeypatch.setattr(pipeline, "QUEUED_MAX", 1)
    kernel = Kernel(ground, Patience(soft_s), WriteMode.PIPELINED)
    file = await kernel.create(b"f")
    await kernel.tree.barrier()
    await file.write(0, NEW)
    ground.gate = asyncio.Event()
    await kernel.mkdir(b"d")

    async def nobody() -> None:
        raise UnavailableError("too few zones")

    monkeypatch.setattr(ground, "before_commit", nobody)
    return file


def still_sent(ground: MachineGround) -> list[object]:
    tasks: list[object] = [task for task in asyncio.all_tasks() if "Later._spread" in repr(task)]
    return tasks + [upload for upload in ground.uploads if not (upload.aborted or upload.is_used)]


async def end(file: Open, ground: MachineGround, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not committed is not lost."""
    assert ground.gate is not None
    ground.gate.set()
    monkeypatch.undo()
    await file.close()
    await file.kernel.tree.barrier()
    assert ground.content(b"/data/f") == NEW
    await file.kernel.filesystem.close()


async def test_what_a_full_queue_did_not_take_is_not_sent_for_ever(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await kept_from_the_queue(ground, monkeypatch, 0.01)
    for _ in range(3):
        assert await refusal(file.fsync()) == errno.EIO
    assert not still_sent(ground)
    await end(file, ground, monkeypatch)


async def test_what_a_killed_program_did_not_queue_is_not_sent_for_ever(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await kept_from_the_queue(ground, monkeypatch, None)
    before = len(ground.uploads)
    call = asyncio.create_task(file.fsync())
    await until(lambda: len(ground.uploads) > before)
    await turns()
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    assert len(ground.uploads) > before and not still_sent(ground)
    await end(file, ground, monkeypatch)


async def test_what_may_be_ordered_without_the_queue_is_kept(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records about what a source has not told of yet are sent by themselves: nobody knows what becomes of them where
    nobody waits for the answer."""
    file = await kernel.open(await existing(kernel), os.O_WRONLY)
    await file.write(0, NEW)
    queue = kernel.tree.pipeline
    assert queue is not None
    monkeypatch.setattr(queue.speculation, "ask", lambda *_: (None, Outcome(errno.EAGAIN)))
    ground.gate, ground.waiting = asyncio.Event(), asyncio.Event()
    call = asyncio.create_task(file.fsync())
    await ground.waiting.wait()
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    assert not ground.uploads[-1].aborted
    monkeypatch.undo()
    ground.gate.set()
    await file.close()


class Rotten:
    """An upload whose blob cannot be read any more."""

    def __init__(self) -> None:
        self.asked = 0

    async def seal(self) -> Content:
        return Content(bytes(32), 99)

    async def commit(self) -> Content:
        self.asked += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_bytes_that_can_never_be_read_again_are_not_sent_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(later, "PAUSE_NOTHING_TAKEN_S", 0.0)
    inner = Rotten()
    one = Later(inner, lambda _content, _later: None)  # type: ignore[arg-type]
    await one.commit()
    await one.spread()
    assert (inner.asked, one.failed) == (later.FAILURES_MAX + 1, errno.EIO)


class Unheard:
    """An upload that no zone answers."""

    async def seal(self) -> Content:
        return Content(bytes(32), 99)

    async def commit(self) -> Content:
        await asyncio.Event().wait()
        raise AssertionError

    async def abort(self) -> None:
        """There is nothing."""


async def test_bytes_that_are_given_up_are_never_there() -> None:
    one = Later(Unheard(), lambda _content, _later: None)  # type: ignore[arg-type]
    await one.commit()
    assert (one.is_spread, one.failed) == (False, 0)
    await one.stop()
    assert (one.is_spread, one.failed) == (False, errno.EIO)


async def test_at_the_end_nothing_goes_without_the_bytes_before_it(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All that is queued with them is lost, and said to be."""
    kernel = Kernel(ground, mode=WriteMode.PIPELINED)
    await Lost.begin(kernel, ground, monkeypatch)
    await kernel.rename(b"f", b"g")
    queue = kernel.tree.pipeline
    assert queue is not None
    barrier = asyncio.create_task(kernel.tree.barrier())  # what is before the bytes goes at once
    await until(lambda: len(queue) == 2)
    await kernel.filesystem.close()
    await turns()
    assert ground.content(b"/data/f") == b"" and ground.entry(b"/data/g") is None
    assert "2 changes in the mount of data were not ordered and are lost" in caplog.text
    assert "is refused" not in caplog.text
    barrier.cancel()
    await asyncio.wait([barrier])
