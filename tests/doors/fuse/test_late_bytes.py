"""Files whose bytes this zone is still to get: it is full, or slow, and so far behind that opening them is given up."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from lddp.access import OpenFile
from lddp.config import WriteMode
from lddp.doors.fuse import ordering
from lddp.doors.fuse.following import Following
from lddp.doors.fuse.ground import Patience
from lddp.doors.fuse.protocol import Opcode, SetAttribute
from lddp.errors import ElsewhereError, UnavailableError
from tests.doors.fuse.followed import followed, put
from tests.doors.fuse.kernel import PATIENCE_S, Kernel, MachineGround, Open, until
from tests.doors.fuse.test_names import number
from tests.doors.fuse.told import attributes, bytes_of

S = SetAttribute
BYTES = b"bytes of another zone, which come late"


class Behind(MachineGround):
    """A zone that has not got what it is asked for, so many times."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.late = 0

    async def open_file(self, path: bytes) -> OpenFile:
        if self.late:
            self.late -= 1
            raise UnavailableError("this zone has not been brought there")
        return await super().open_file(path)


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Behind:
    monkeypatch.setattr(ordering, "PAUSE_NOTHING_TAKEN_S", 0.001)
    return Behind(tmp_path)


async def seek(file: Open) -> None:
    await file.kernel(Opcode.LSEEK, file.node, struct.pack("<QQII", file.handle, 0, os.SEEK_HOLE, 0))


async def punch(file: Open) -> None:
    await file.kernel(Opcode.FALLOCATE, file.node, struct.pack("<QQQII", file.handle, 0, 4, 3, 0))


CALLS: dict[str, Callable[[Open], Awaitable[object]]] = {
    "open": lambda file: file.kernel.open(file.node),
    "read": lambda file: file.read(),
    "write": lambda file: file.write(1, b"x"),
    "ftruncate": lambda file: file.kernel.setattr(file.node, S.SIZE | S.FH, size=4, handle=file.handle),
    "fallocate": punch,
    "lseek": seek,
}


async def opened(kernel: Kernel, ground: Behind, late: int) -> Open:
    """A file that another zone puts while it is open; the kernel is told of it."""
    async with followed(kernel) as told:
        put(ground, b"/data/f", b"before")
        file = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR)
        put(ground, b"/data/f", BYTES)
        await told.all()
        ground.late = late
    return file


@pytest.mark.parametrize("call", CALLS)
async def test_a_hard_mount_waits_for_bytes(kernel: Kernel, ground: Behind, call: str) -> None:
    file = await opened(kernel, ground, 3)
    await CALLS[call](file)
    assert not ground.late


@pytest.mark.parametrize("call", CALLS)
async def test_a_soft_mount_waits_for_a_while(ground: Behind, call: str) -> None:
    kernel = Kernel(ground, Patience(0.01))
    file = await opened(kernel, ground, 10**6)
    assert await number(CALLS[call](file)) == errno.EIO
    await kernel.filesystem.close()


@pytest.mark.parametrize("call", ["read", "write"])
async def test_the_kernel_is_told_of_everything_else_though_somebody_waits_for_bytes(
    kernel: Kernel, ground: Behind, call: str
) -> None:
    """It has the pages locked that somebody reads or writes, and forgets none of the file before that has an answer."""
    put(ground, b"/data/other", b"before")
    other = (await kernel.lookup(b"other")).inode
    file = await opened(kernel, ground, 10**6)
    waiting = asyncio.ensure_future(CALLS[call](file))
    await until(lambda: ground.late < 10**6)
    told: list[bytes] = []
    of_file, of_other = b"".join(bytes_of(file.node)), {b"".join(bytes_of(other)), b"".join(attributes(other))}

    async def tell(notices: list[Sequence[bytes]]) -> None:
        assert of_file not in map(b"".join, notices), "all others would wait behind it"
        told.extend(map(b"".join, notices))

    async def tell_apart(notices: list[Sequence[bytes]]) -> None:
        if of_file in map(b"".join, notices):
            await asyncio.wait([waiting])
        told.extend(map(b"".join, notices))

    following = Following(kernel.tree, tell, tell_apart)
    ground.follow(following.changed)
    running = asyncio.create_task(following.run())
    put(ground, b"/data/f", b"what comes third, and late as well")
    put(ground, b"/data/other", b"of another file")
    await until(lambda: bool(of_other & set(told)))
    async with asyncio.timeout(PATIENCE_S):
        if call == "read":
            assert await waiting == b"before", "the kernel waits for the answer"
            ground.late = 0
            await following.told()
            assert told.count(of_file) > 1, "what was answered last is forgotten, too"
        else:
            assert not waiting.done() and not following.is_told
            ground.late = 0
            await waiting  # what is written is never made from what another zone has replaced
            await following.told()
    await file.close()
    text = b"what comes third, and late as well"
    assert ground.content(b"/data/f") == (text if call == "read" else b"wxat" + text[4:])
    running.cancel()
    await asyncio.wait([running])


async def test_what_another_zone_has_appended_is_not_lost_to_who_appends_meanwhile(
    kernel: Kernel, ground: Behind
) -> None:
    async with followed(kernel) as told:
        put(ground, b"/data/f", b"one\n")
        file = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR | os.O_APPEND)
        await told.all()
    ground.late = 50
    waiting: asyncio.Future[int] | None = None

    async def tell(notices: list[Sequence[bytes]]) -> None:
        nonlocal waiting
        if waiting is None and any(tuple(notice) == bytes_of(file.node) for notice in notices):
            waiting = asyncio.ensure_future(file.write(4, b"three\n"))
            await asyncio.wait([waiting])

    following = Following(kernel.tree, tell)
    ground.follow(following.changed)
    running = asyncio.create_task(following.run())
    put(ground, b"/data/f", b"one\ntwo\n")
    async with asyncio.timeout(PATIENCE_S):
        await following.told()
    assert waiting is not None and await waiting == len(b"three\n")
    ground.late = 0
    await file.close()
    running.cancel()
    await asyncio.wait([running])
    assert ground.content(b"/data/f") == b"one\ntwo\nthree\n"


async def test_who_needs_no_bytes_waits_for_none(ground: Behind) -> None:
    kernel = Kernel(ground, mode=WriteMode.SYNC)
    file = await opened(kernel, ground, 10**6)
    before = ground.late
    read = asyncio.create_task(file.read())
    await until(lambda: ground.late < before)
    other = await kernel.open(file.node, os.O_WRONLY | os.O_TRUNC)
    await other.write(0, b"new")
    assert await read == await file.read() == b"new"
    await other.close()
    await file.close()
    assert ground.content(b"/data/f") == b"new"
    await kernel.filesystem.close()


async def test_a_hard_mount_does_not_wait_for_ever_for_what_only_others_have(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that somebody has taken out of this zone may never come back."""
    put(ground, b"/data/f", b"before")
    node = (await kernel.lookup(b"f")).inode
    monkeypatch.setattr(ordering, "ELSEWHERE_S", 0.0)

    async def open_file(_path: bytes) -> OpenFile:
        raise ElsewhereError("this zone has not got the bytes")

    monkeypatch.setattr(ground, "open_file", open_file)
    assert await number(kernel.open(node)) == errno.EIO
