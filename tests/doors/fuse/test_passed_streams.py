"""Files that the kernel reads by itself while what is written to them is on its way to the zones, without a mount."""

from __future__ import annotations

import asyncio
import errno
import os
import random

import pytest
from blake3 import blake3

from lddp.core import records as r
from lddp.core.records import Content, OperationId
from lddp.doors.fuse import memory, passthrough, streaming
from lddp.doors.fuse.protocol import SetAttribute
from lddp.errors import UnavailableError
from tests.doors.fuse.kernel import Kernel, MachineGround, Open, Refused, until
from tests.doors.fuse.passing import FakeBacking
from tests.doors.fuse.test_streaming import MIB, SENT, SIZE, last, write
from tests.doors.webhdfs.machine import MemoryWriter

OLD = b"what was there before " * 100_000


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "LOOK_S", 0.001)
    monkeypatch.setattr(passthrough, "AGAIN_S", 0.001)


@pytest.fixture
def data() -> bytes:
    return random.Random(1).randbytes(SIZE)


async def passed(kernel: Kernel) -> Open:
    """A reader of a file that is passed."""
    async with kernel.writing(b"f") as file:
        await file.write(0, OLD)
    reader = await kernel.open(file.node)
    assert reader.passes and await reader.read(0, SIZE) == OLD
    return reader


def theirs(ground: MachineGround, data: bytes) -> None:
    """What another zone puts."""
    digest = blake3(data).digest()
    ground.contents[digest] = data
    id = OperationId(b"other", len(ground.order))
    assert not ground.apply(r.Put(id, 1, 7, b"/data/f", 0o644, 0, 0, Content(digest, len(data), data))).errno


async def streamed(kernel: Kernel, ground: MachineGround, data: bytes, flags: int) -> tuple[Open, Open]:
    """A reader, and a writer all of whose bytes but the last are on their way."""
    reader = await passed(kernel)
    writer = await kernel.open(reader.node, flags)
    assert writer.passes
    before = len(ground.uploads)
    await write(writer, data)
    await until(lambda: len(ground.uploads) > before and last(ground).received == SENT)
    return reader, writer


async def test_a_reader_sees_what_is_on_its_way(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes
) -> None:
    reader, writer = await streamed(kernel, ground, data, os.O_WRONLY)
    assert await reader.read(0, SIZE) == data and ground.content(b"/data/f") == OLD
    await writer.write(100, b"header")
    assert await reader.read(100, 6) == b"header"
    await writer.close()
    expected = data[:100] + b"header" + data[106:]
    assert ground.content(b"/data/f") == expected == await reader.read(0, SIZE)
    assert last(ground).received == SIZE and last(ground).rewritten == 6 and last(ground).is_used
    await reader.close()


async def test_who_reads_while_it_is_sent_is_passed_after_the_last_close(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes
) -> None:
    file = await kernel.create(b"f", os.O_WRONLY)
    await write(file, data)
    await until(lambda: last(ground).received == SENT)
    reader = await kernel.open(file.node)
    assert not reader.passes and await reader.read(0, SIZE) == data
    await file.close()
    late = await kernel.open(file.node)
    assert not late.passes and await late.read(0, SIZE) == data
    await reader.close()
    await late.close()
    again = await kernel.open(file.node)
    assert again.passes and await again.read(0, SIZE) == data
    await again.close()


@pytest.mark.parametrize("by", ["fsync", "flush"])
async def test_stores_to_what_was_sent_are_sent_again(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes, by: str
) -> None:
    reader, writer = await streamed(kernel, ground, data, os.O_RDWR)
    writer.store(5 * MIB, b"stored")
    await (writer.fsync() if by == "fsync" else writer.flush())
    expected = data[: 5 * MIB] + b"stored" + data[5 * MIB + 6 :]
    assert ground.content(b"/data/f") == expected == await reader.read(0, SIZE)
    # No more of it than the pages in which something was stored.
    assert last(ground).received == SIZE and 0 < last(ground).rewritten <= 2 * 4096
    await writer.close()
    await reader.close()


async def test_a_cut_below_what_was_sent(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes
) -> None:
    reader, writer = await streamed(kernel, ground, data, os.O_WRONLY)
    upload = last(ground)
    await kernel.setattr(reader.node, SetAttribute.SIZE, size=3 * MIB)
    assert await reader.read(0, SIZE) == data[: 3 * MIB]
    await until(lambda: upload.aborted)
    await writer.close()
    assert ground.content(b"/data/f") == data[: 3 * MIB]
    late = await kernel.open(reader.node, os.O_WRONLY | os.O_TRUNC)
    assert await reader.read(0, SIZE) == b""
    await late.close()
    await reader.close()
    assert ground.content(b"/data/f") == b""


async def test_another_name_for_what_is_on_its_way(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes
) -> None:
    reader, writer = await streamed(kernel, ground, data, os.O_WRONLY)
    await kernel.rename(b"f", b"g")
    theirs(ground, b"another file")
    await kernel.told()
    await writer.write(0, b"more")
    await writer.close()
    assert ground.content(b"/data/g") == b"more" + data[4:] == await reader.read(0, SIZE)
    assert ground.content(b"/data/f") == b"another file"
    await reader.close()


async def test_removed_by_another_zone_while_it_is_on_its_way(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes
) -> None:
    reader, writer = await streamed(kernel, ground, data, os.O_WRONLY)
    upload = last(ground)
    assert not ground.apply(r.Unlink(OperationId(b"other", 1), 1, 7, b"/data/f")).errno
    await kernel.told()
    await writer.write(0, b"more")
    assert await reader.read(0, SIZE) == b"more" + data[4:]
    await writer.close()
    await until(lambda: upload.aborted)
    assert await reader.read(0, SIZE) == b"more" + data[4:]
    with pytest.raises(Refused):
        await kernel.lookup(b"f")
    await reader.close()


async def test_the_last_close_wins_over_what_another_zone_puts_meanwhile(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes
) -> None:
    reader, writer = await streamed(kernel, ground, data, os.O_WRONLY)
    theirs(ground, b"theirs" * 50_000)
    await kernel.told()
    assert await reader.read(0, SIZE) == data
    await writer.close()
    assert ground.content(b"/data/f") == data
    theirs(ground, b"theirs again" * 50_000)
    await kernel.told()
    assert await reader.read(0, SIZE) == b"theirs again" * 50_000
    await reader.close()


async def test_what_cannot_be_committed_is_not_shown_for_ever(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is told at its close; when nobody has the file open any more, it is again what the log has."""
    reader, writer = await streamed(kernel, ground, data, os.O_WRONLY)

    async def fail(_: MemoryWriter) -> Content:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(MemoryWriter, "seal", fail)
        with pytest.raises(Refused) as refused:
            await writer.flush()
        assert refused.value.number == errno.ENOSPC
        assert await reader.read(0, SIZE) == data
        await writer.release()
        await reader.close()
        await until(lambda: kernel.tree.files.get(reader.node) is None)
    assert not kernel.tree.streams and last(ground).aborted
    again = await kernel.open(reader.node)
    assert again.passes and await again.read(0, SIZE) == OLD
    await again.close()


async def test_zones_that_cannot_be_reached_hold_up_the_writer_and_no_reader(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await streamed(kernel, ground, data, os.O_WRONLY)

    async def unreachable() -> None:
        raise UnavailableError("no other zone can be reached")

    with monkeypatch.context() as patched:
        patched.setattr(ground, "before_commit", unreachable)
        closing = asyncio.create_task(writer.close())
        assert await reader.read(0, SIZE) == data
        second = await kernel.open(reader.node)
        assert second.passes and await second.read(0, SIZE) == data
        assert not closing.done() and ground.content(b"/data/f") == OLD
    await closing
    assert ground.content(b"/data/f") == data
    await second.close()
    await reader.close()


@pytest.mark.parametrize("seed", range(8))
async def test_any_order(
    kernel: Kernel, backing: FakeBacking, ground: MachineGround, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes, stores, cuts and commits of what is passed, and puts of another zone; all see what a plain array has."""
    for name, value in (("STREAM_FROM_BYTES", 4000), ("BEHIND_BYTES", 700), ("CHUNK_BYTES", 1000)):
        monkeypatch.setattr(streaming, name, value)
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 3000)
    monkeypatch.setattr(passthrough, "PASS_FROM_BYTES", 8)
    monkeypatch.setattr(memory, "COPY_BYTES_MAX", 0)
    dice, model = random.Random(seed), bytearray(b"beginning")
    async with kernel.writing(b"f") as made:
        await made.write(0, bytes(model))
    reader = await kernel.open(made.node)
    writer = await kernel.open(made.node, os.O_RDWR if seed % 2 else os.O_WRONLY)
    assert reader.passes and writer.passes
    streams = 0
    for step in range(200):
        match dice.choice("aaaaaaaaaaaaaaaawwwsstfffpc"):
            case "a":
                for _ in range(dice.randrange(1, 6)):
                    piece = dice.randbytes(dice.randrange(1, 1500))
                    await writer.write(len(model), piece)
                    model += piece
            case "w" if model:
                piece, at = dice.randbytes(dice.randrange(1, 900)), dice.randrange(len(model))
                await writer.write(at, piece)
                model[at : at + len(piece)] = piece
            case "s" if seed % 2 and len(model) > 10:
                piece, at = dice.randbytes(dice.randrange(1, 10)), dice.randrange(len(model) - 10)
                writer.store(at, piece)
                model[at : at + len(piece)] = piece
            case "t":
                size = dice.randrange(len(model) // 2, len(model) + 1)
                await kernel.setattr(made.node, SetAttribute.SIZE, size=size)
                del model[size:]
            case "f":
                await (writer.fsync() if dice.random() < 0.5 else writer.flush())
                assert ground.content(b"/data/f") == model
            case "p":
                await writer.flush()
                model[:] = b"%d theirs " % step * dice.randrange(1, 500)
                theirs(ground, bytes(model))
                await kernel.told()
            case _:
                assert await reader.read(0, len(model) + 1) == model
        streams += len(kernel.tree.streams)
    assert streams > 10
    await writer.close()
    assert await reader.read(0, len(model) + 1) == model == ground.content(b"/data/f")
    await reader.close()
