"""What is sent of a file while it is written, without a mount: requests over the real state machine."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import struct

import pytest

from lddp.core import records as r
from lddp.core.records import OperationId, Put
from lddp.doors.fuse import memory, streaming
from lddp.doors.fuse.protocol import Opcode, SetAttribute
from lddp.errors import UnavailableError
from tests.doors.fuse.kernel import Kernel, MachineGround, Open, until
from tests.doors.fuse.test_data import put_elsewhere, records
from tests.doors.fuse.test_names import number
from tests.doors.webhdfs.machine import MemoryWriter

S = SetAttribute
MIB = 1 << 20
HOLE = 1 | 2
"""Modes of fallocate: without a change of size, as zeros."""
SIZE = 12 * MIB
SENT = SIZE - streaming.BEHIND_BYTES
"""What goes while a file of SIZE is written."""


@pytest.fixture
def data() -> bytes:
    return random.Random(1).randbytes(SIZE)


async def write(file: Open, data: bytes, start: int = 0, step: int = 300_000) -> None:
    for at in range(0, len(data), step):
        await file.write(start + at, data[at : at + step])


def last(ground: MachineGround) -> MemoryWriter:
    return ground.uploads[-1]


async def written(kernel: Kernel, ground: MachineGround, data: bytes) -> Open:
    """A new file, all of whose bytes but the last are on their way."""
    file = await kernel.create(b"f")
    await write(file, data)
    await until(lambda: last(ground).received == SENT)
    return file


async def test_bytes_are_on_their_way_before_the_close(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    file = await written(kernel, ground, data)
    assert len(ground.uploads) == 1 and not records(ground, Put)
    await file.close()
    assert ground.content(b"/data/f") == data
    (upload,) = ground.uploads
    assert upload.received == SIZE and not upload.rewritten and upload.is_used and not upload.aborted


async def test_small_files_are_sent_by_their_commit(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    file = await kernel.create(b"f")
    await write(file, data[: streaming.STREAM_FROM_BYTES - 1])
    assert not kernel.tree.streams and not ground.uploads
    await file.close()
    assert len(ground.uploads) == 1


async def test_what_is_written_again_is_sent_again(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    file = await written(kernel, ground, data)
    await file.write(100, b"header")
    await file.write(5 * MIB, b"middle")
    await file.write(SIZE - 3, b"the end")
    await file.close()
    expected = bytearray(data + b"1234")
    for at, piece in ((100, b"header"), (5 * MIB, b"middle"), (SIZE - 3, b"the end")):
        expected[at : at + len(piece)] = piece
    assert ground.content(b"/data/f") == expected
    assert last(ground).received == SIZE + 4 and last(ground).rewritten == 12


@pytest.mark.parametrize("seed", range(6))
async def test_any_order(kernel: Kernel, ground: MachineGround, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes, cuts, allocations and commits of every kind; the log has what a plain array has."""
    monkeypatch.setattr(memory, "COPY_BYTES_MAX", 100)
    for name, value in (("STREAM_FROM_BYTES", 4000), ("BEHIND_BYTES", 700), ("CHUNK_BYTES", 1000)):
        monkeypatch.setattr(streaming, name, value)
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 3000)
    dice, model = random.Random(seed), bytearray()
    file = await kernel.create(b"f")

    def put(at: int, piece: bytes) -> None:
        model.extend(bytes(max(0, at + len(piece) - len(model))))
        model[at : at + len(piece)] = piece

    for _ in range(300):
        match dice.choice("aaaaaaaaaaaaaaaaaaaaaaaawwwwwwztgffcc"):
            case "a":
                for _ in range(dice.randrange(1, 6)):
                    piece = dice.randbytes(dice.randrange(1, 1500))
                    at = len(model)
                    put(at, piece)
                    await file.write(at, piece)
            case "w":
                piece, at = dice.randbytes(dice.randrange(1, 900)), dice.randrange(len(model) + 2000)
                put(at, piece)
                await file.write(at, piece)
            case "t":
                size = dice.randrange(len(model) // 2, len(model) + 1)
                del model[size:]
                await kernel.setattr(file.node, S.SIZE | S.FH, size=size, handle=file.handle)
            case "z":
                at, length = dice.randrange(len(model) + 3000), dice.randrange(1, 4000)
                inside = max(0, min(length, len(model) - at))
                model[at : at + inside] = bytes(inside)
                body = struct.pack("<QQQII", file.handle, at, length, HOLE, 0)
                await kernel(Opcode.FALLOCATE, file.node, body)
            case "g":
                size = len(model) + dice.randrange(2000)
                model.extend(bytes(size - len(model)))
                await kernel.setattr(file.node, S.SIZE | S.FH, size=size, handle=file.handle)
            case "f":
                await (file.fsync() if dice.random() < 0.5 else file.flush())
                assert ground.content(b"/data/f") == model
            case "c":
                assert await file.read(0, len(model) + 1) == model
        for _ in range(dice.randrange(20)):
            await asyncio.sleep(0)
    await file.close()
    assert ground.content(b"/data/f") == model
    await until(lambda: all(upload.aborted or upload.is_used for upload in ground.uploads))


async def test_too_much_written_again_is_sent_by_the_commit(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    file = await written(kernel, ground, data)
    (given_up,) = ground.uploads
    await write(file, data[: 7 * MIB])
    await until(lambda: given_up.aborted)
    await file.close()
    assert ground.content(b"/data/f") == data
    assert len(ground.uploads) == 2 and not given_up.is_used


async def test_a_cut_gives_up_what_was_sent(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    file = await written(kernel, ground, data)
    await kernel.setattr(file.node, S.SIZE | S.FH, size=MIB, handle=file.handle)
    await until(lambda: ground.uploads[0].aborted)
    await file.close()
    assert ground.content(b"/data/f") == data[:MIB]


def gated_writers(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Writers take nothing before it is set."""
    gate, honest = asyncio.Event(), MemoryWriter.write

    async def gated(self: MemoryWriter, data: bytes) -> None:
        await gate.wait()
        await honest(self, data)

    monkeypatch.setattr(MemoryWriter, "write", gated)
    return gate


async def test_a_cut_behind_what_was_sent(
    kernel: Kernel, ground: MachineGround, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not in the file any more is not sent, and what comes in its place is."""
    gate = gated_writers(monkeypatch)
    file = await kernel.create(b"f")
    await write(file, data)
    await until(lambda: bool(ground.uploads))
    await kernel.setattr(file.node, S.SIZE | S.FH, size=MIB + 10, handle=file.handle)
    gate.set()
    await until(lambda: ground.uploads[0].received == MIB)
    for _ in range(100):
        await asyncio.sleep(0)
    await write(file, data[: 6 * MIB], MIB + 10)
    await until(lambda: ground.uploads[0].received == 6 * MIB)
    await file.close()
    assert ground.content(b"/data/f") == data[: MIB + 10] + data[: 6 * MIB]
    assert len(ground.uploads) == 1 and not ground.uploads[0].rewritten


async def test_what_is_added_at_the_end_goes_alone(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    put_elsewhere(ground, b"/data/f", b"before" * 200_000)
    node = (await kernel.lookup(b"f")).inode
    file = await kernel.open(node, os.O_WRONLY | os.O_APPEND)
    await write(file, data, 1_200_000)
    await until(lambda: last(ground).received == SENT)
    await file.close()
    assert ground.content(b"/data/f") == b"before" * 200_000 + data
    assert len(records(ground, r.Write)) == 1 and len(ground.uploads) == 1


async def test_fsync_in_the_middle(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    file = await kernel.create(b"f")
    await write(file, data[: 6 * MIB])
    await file.fsync()
    assert ground.content(b"/data/f") == data[: 6 * MIB]
    await write(file, data[6 * MIB :], 6 * MIB)
    await until(lambda: last(ground).received == 5 * MIB)
    await file.close()
    assert ground.content(b"/data/f") == data
    assert sum(upload.received for upload in ground.uploads) == SIZE


async def test_a_file_that_loses_its_name_is_given_up(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    file = await written(kernel, ground, data)
    await kernel.unlink(b"f")
    await until(lambda: last(ground).aborted)
    await write(file, data, SIZE)
    assert await file.read(SIZE + 5, 10) == data[5:15]
    await file.close()
    assert all(upload.aborted for upload in ground.uploads) and not records(ground, Put)


async def test_a_name_that_another_zone_takes(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    file = await written(kernel, ground, data)
    assert not ground.apply(r.Unlink(OperationId(b"other", 1), 1, 7, b"/data/f")).errno
    await write(file, data, SIZE)
    await until(lambda: last(ground).aborted)
    await file.close()


async def test_moved_while_it_is_written(kernel: Kernel, ground: MachineGround, data: bytes) -> None:
    file = await written(kernel, ground, data)
    await kernel.rename(b"f", b"g")
    await file.close()
    assert ground.content(b"/data/g") == data and len(ground.uploads) == 1


async def test_a_writer_waits_for_the_zones(
    kernel: Kernel, ground: MachineGround, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 2 * MIB)
    gate = gated_writers(monkeypatch)
    file = await kernel.create(b"f")
    writing = asyncio.create_task(write(file, data, step=100_000))
    await until(lambda: bool(ground.uploads))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not writing.done()
    assert (await kernel.stat(file.node)).size < 8 * MIB
    gate.set()
    await writing
    await file.close()
    assert ground.content(b"/data/f") == data


@pytest.mark.parametrize("error", [UnavailableError("nobody there"), OSError(errno.ENOSPC, "full")])
async def test_what_cannot_be_sent_early_is_sent_by_the_commit(
    kernel: Kernel, ground: MachineGround, data: bytes, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: MemoryWriter, data: bytes) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(MemoryWriter, "write", fail)
        file = await kernel.create(b"f")
        await write(file, data)
        await until(lambda: bool(ground.uploads) and ground.uploads[0].aborted)
    await file.close()
    assert ground.content(b"/data/f") == data


async def test_a_commit_that_fails_can_be_tried_again(
    kernel: Kernel, ground: MachineGround, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await written(kernel, ground, data)

    async def fail(self: MemoryWriter) -> None:
        raise OSError(errno.ENOSPC, "full")

    name = "seal" if kernel.tree.pipeline is not None else "commit"
    with monkeypatch.context() as patch:
        patch.setattr(MemoryWriter, name, fail)
        assert await number(file.flush()) == errno.ENOSPC
    assert ground.uploads[0].aborted
    await file.close()
    assert ground.content(b"/data/f") == data


async def test_who_waits_for_the_commit_may_be_killed(
    kernel: Kernel, ground: MachineGround, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gated_writers(monkeypatch)
    file = await kernel.create(b"f")
    await write(file, data)
    await until(lambda: bool(ground.uploads))
    closing = asyncio.create_task(file.flush())
    for _ in range(10):
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await until(lambda: ground.uploads[0].aborted)
    gate.set()
    await file.close()
    assert ground.content(b"/data/f") == data


async def test_many_at_once(kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STREAMS_MAX", 3)
    contents = {b"f%d" % n: random.Random(n).randbytes(6 * MIB) for n in range(5)}
    files = {name: await kernel.create(name) for name in contents}
    for at in range(0, 6 * MIB, MIB):
        for name, file in files.items():
            await file.write(at, contents[name][at : at + MIB])
    assert len(kernel.tree.streams) == 3
    for file in files.values():
        await file.close()
    assert {name: ground.content(b"/data/" + name) for name in contents} == contents
    assert not kernel.tree.streams


async def test_what_idles_gives_its_place_to_another(
    kernel: Kernel, ground: MachineGround, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "STREAMS_MAX", 1)
    first = await written(kernel, ground, data)
    second = await kernel.create(b"g")
    await write(second, data[: 6 * MIB])
    assert len(ground.uploads) == 1 and not ground.uploads[0].aborted
    monkeypatch.setattr(streaming, "IDLE_S", 0)
    await write(second, data[6 * MIB : 7 * MIB], 6 * MIB)
    await until(lambda: ground.uploads[0].aborted)
    await write(second, data[7 * MIB :], 7 * MIB)
    await until(lambda: last(ground).received == SENT)
    for file in (first, second):
        await file.close()
    assert ground.content(b"/data/f") == ground.content(b"/data/g") == data


async def test_the_end_of_the_mount_gives_up_what_was_sent(ground: MachineGround, data: bytes) -> None:
    kernel = Kernel(ground)
    await written(kernel, ground, data)
    await kernel.filesystem.close()
    assert last(ground).aborted and not kernel.tree.streams
