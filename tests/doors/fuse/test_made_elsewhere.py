"""What another zone does to something new before the call that makes it goes on: a node that is behind folds both
records at once."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Awaitable, Callable, Sequence

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import OperationId
from lddp.doors.fuse.protocol import ROOT, Opcode
from tests.doors.fuse.kernel import Kernel, MachineGround
from tests.doors.fuse.test_data import put_elsewhere
from tests.doors.fuse.test_names import number
from tests.doors.fuse.told import Told, name

Afterwards = Callable[[Callable[[], None]], None]


@pytest.fixture
def mode() -> WriteMode:
    """A pipelined mount has told the kernel of what it makes before there is a record."""
    return WriteMode.SYNC


@pytest.fixture
def afterwards(ground: MachineGround, monkeypatch: pytest.MonkeyPatch) -> Afterwards:
    """Does something as soon as the next record is folded."""

    def afterwards(elsewhere: Callable[[], None]) -> None:
        submit = ground.submit_folded

        async def both(records: Sequence[r.Record], timeout_s: float) -> list[tuple[int, r.Outcome]]:
            answers = await submit(records, timeout_s)
            monkeypatch.undo()
            elsewhere()
            return answers

        monkeypatch.setattr(ground, "submit_folded", both)

    return afterwards


async def test_a_file_that_is_filled(kernel: Kernel, ground: MachineGround, told: Told, afterwards: Afterwards) -> None:
    afterwards(lambda: put_elsewhere(ground, b"/data/f", b"theirs"))
    file = await kernel.create(b"f")
    await told.rest()
    assert ((await kernel.stat(file.node)).size, await file.read()) == (6, b"theirs")
    reader = await kernel.open(file.node)
    assert not reader.keeps_cache
    await reader.close()
    await file.write(0, b"T")
    await file.close()
    assert ground.content(b"/data/f") == b"Theirs"


MAKING: dict[str, Callable[[Kernel], Awaitable[object]]] = {
    "mkdir": lambda kernel: kernel.mkdir(b"new"),
    "mknod": lambda kernel: kernel.mknod(b"new", 0o644),
    "symlink": lambda kernel: kernel(Opcode.SYMLINK, ROOT, b"new\0" + b"target\0"),
    "create": lambda kernel: kernel.create(b"new"),
}


@pytest.mark.parametrize("call", [*MAKING, "link"])
async def test_a_name_that_is_taken_away(
    kernel: Kernel, ground: MachineGround, told: Told, afterwards: Afterwards, call: str
) -> None:
    """The kernel believes the name that the answer gives."""
    async with kernel.writing(b"old") as file:
        await file.write(0, b"x")
    making = MAKING.get(call, lambda kernel: kernel(Opcode.LINK, ROOT, struct.pack("<Q", file.node) + b"new\0"))
    await told.rest()
    id = OperationId(b"other", 1)
    rename = r.Rename(id, 1, 7, b"/data/new", b"/data/newer", r.RenameFlag.NONE)
    afterwards(lambda: ground.apply(rename) and None)
    await making(kernel)
    assert name(ROOT, b"new") in await told.rest()
    assert await number(kernel.lookup(b"new")) == errno.ENOENT
    await kernel.lookup(b"newer")


async def test_a_name_that_somebody_else_has_made(
    kernel: Kernel, ground: MachineGround, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened instead, and loses the name, and its bytes, while that is waited for."""
    put_elsewhere(ground, b"/data/new", b"theirs")
    opened = ground.open_file

    async def late(path: bytes) -> object:
        found = await opened(path)
        id = OperationId(b"other", len(ground.order))
        assert not ground.apply(r.Rename(id, 1, 7, b"/data/new", b"/data/newer", r.RenameFlag.NONE)).errno
        await told.rest()
        return found

    monkeypatch.setattr(ground, "open_file", late)
    file = await kernel.create(b"new", os.O_RDWR)
    assert name(ROOT, b"new") in await told.rest()
    await file.close()
