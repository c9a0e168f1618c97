"""Private copies that no disk has."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest

from lddp.doors.fuse import memory
from lddp.doors.fuse.file import File
from lddp.doors.fuse.protocol import Opcode, SetAttribute
from tests.doors.fuse.kernel import Kernel, MachineGround

LARGEST = 1000
IN_MEMORY = "/memfd:"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "COPY_BYTES_MAX", LARGEST)
    monkeypatch.setattr(memory, "ROOM_BYTES_MIN", 0)


@pytest.fixture
async def kernel(ground: MachineGround) -> AsyncIterator[Kernel]:
    kernel = Kernel(ground)
    yield kernel
    await kernel.filesystem.close()
    assert not any(IN_MEMORY in link for link in _links())


def _links() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{name}")


def is_in_memory(kernel: Kernel, number: int) -> bool:
    """Whether the copy of an inode is no file of a disk; its File says the same."""
    file: File | None = kernel.tree.files.get(number)
    assert file is not None and file.staged >= 0
    found = IN_MEMORY in os.readlink(f"/proc/self/fd/{file.staged}")
    assert found == file.is_in_memory
    return found


async def test_a_small_file_is_on_no_disk_before_it_is_committed(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(LARGEST - 5, b"bytes")
    assert is_in_memory(kernel, file.node)
    assert await file.read() == bytes(LARGEST - 5) + b"bytes"
    await file.close()
    assert ground.content(b"/data/f") == bytes(LARGEST - 5) + b"bytes"


async def test_a_copy_that_grows_goes_to_the_disk(kernel: Kernel, ground: MachineGround) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"first")
    await file.write(LARGEST - 2, b"four")
    assert not is_in_memory(kernel, file.node)
    data = b"first" + bytes(LARGEST - 7) + b"four"
    assert await file.read() == data
    await file.close()
    assert ground.content(b"/data/f") == data


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1])
async def test_a_new_size_is_as_good_as_bytes(kernel: Kernel, ground: MachineGround, size: int) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"first")
    await kernel.setattr(file.node, SetAttribute.SIZE | SetAttribute.FH, size=size, handle=file.handle)
    assert is_in_memory(kernel, file.node) is (size <= LARGEST)
    await file.close()
    assert ground.content(b"/data/f") == b"first" + bytes(size - 5)


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1])
async def test_a_file_that_is_there_is_copied_where_it_fits(kernel: Kernel, ground: MachineGround, size: int) -> None:
    made = await kernel.create(b"f")
    await made.write(0, bytes(size))
    await made.close()
    kernel.tree.files.discard(kernel.tree.files.hold(made.node))  # nobody has its bytes any more
    file = await kernel.open(made.node, os.O_RDWR)
    await file.write(0, b"x")
    assert is_in_memory(kernel, file.node) is (size <= LARGEST)
    await file.close()
    assert ground.content(b"/data/f") == b"x" + bytes(size - 1)


async def test_room_that_is_asked_for_is_the_disks(kernel: Kernel) -> None:
    file = await kernel.create(b"f")
    await file.write(0, b"first")
    await kernel(Opcode.FALLOCATE, file.node, struct.pack("<QQQII", file.handle, 0, 10, 0, 0))
    assert not is_in_memory(kernel, file.node)
    assert await file.read() == b"first" + bytes(5)
    await file.close()


async def test_where_room_is_scarce_the_disk_has_all(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a program would not hear that it is full."""
    monkeypatch.setattr(memory, "ROOM_BYTES_MIN", 1 << 62)
    file = await kernel.create(b"f")
    await file.write(0, b"bytes")
    assert not is_in_memory(kernel, file.node)
    await file.close()


async def test_there_are_few_of_them_at_a_time(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "COPIES_MAX", 2)
    files = [await kernel.create(b"%d" % number) for number in range(3)]
    for file in files:
        await file.write(0, b"bytes")
    assert [is_in_memory(kernel, file.node) for file in files] == [True, True, False]
    await files[0].close()
    kernel.tree.files.discard(kernel.tree.files.hold(files[0].node))
    another = await kernel.create(b"another")
    await another.write(0, b"bytes")
    assert is_in_memory(kernel, another.node)
    for file in (*files[1:], another):
        await file.close()
