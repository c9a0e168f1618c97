"""Names that a program makes and takes in a directory which another zone moves, and puts another one in its place."""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import OperationId
from lddp.doors.fuse.protocol import Opcode
from tests.doors.fuse.kernel import Kernel, MachineGround
from tests.doors.fuse.test_data import put_elsewhere
from tests.doors.fuse.test_elsewhere import meanwhile, rename
from tests.doors.fuse.test_names import number

Call = Callable[[Kernel, int], Coroutine[Any, Any, Any]]


@pytest.fixture
def mode() -> WriteMode:
    """A pipelined mount hears of other zones after its answers: `test_pipeline.py`."""
    return WriteMode.SYNC


def _from(kernel: Kernel, node: int) -> Coroutine[Any, Any, Any]:
    return kernel.rename(b"f", b"to", node=node)


def _to(kernel: Kernel, node: int) -> Coroutine[Any, Any, Any]:
    return kernel.rename(b"from", b"f", above=node)


async def _link(kernel: Kernel, node: int) -> None:
    body = struct.pack("<Q", (await kernel.lookup(b"from")).inode) + b"new\0"
    await kernel(Opcode.LINK, node, body)


CALLS: dict[str, tuple[Call, set[bytes]]] = {
    "unlink": (lambda kernel, node: kernel(Opcode.UNLINK, node, b"f\0"), {b"d"}),
    "rmdir": (lambda kernel, node: kernel(Opcode.RMDIR, node, b"d\0"), {b"f"}),
    "mkdir": (lambda kernel, node: kernel.mkdir(b"new", node), {b"d", b"f", b"new"}),
    "mknod": (lambda kernel, node: kernel.mknod(b"new", stat.S_IFIFO | 0o600, node=node), {b"d", b"f", b"new"}),
    "create": (lambda kernel, node: kernel.create(b"new", node=node), {b"d", b"f", b"new"}),
    "symlink": (lambda kernel, node: kernel(Opcode.SYMLINK, node, b"new\0target\0"), {b"d", b"f", b"new"}),
    "link": (_link, {b"d", b"f", b"new"}),
    "rename from": (_from, {b"d"}),
    "rename to": (_to, {b"d", b"f"}),
}
"""A call in a directory that has a file `f` and a directory `d`, and what it has then."""


def moved(ground: MachineGround) -> None:
    """And another directory like it put in its place."""
    rename(ground, b"/data/a", b"/data/b")
    for path in (b"/data/a", b"/data/a/d"):
        id = OperationId(b"other", len(ground.order))
        assert not ground.apply(r.MakeDirectory(id, 1, 5, path, 0o755, 0, 0)).errno
    put_elsewhere(ground, b"/data/a/f", b"theirs")


def listed(ground: MachineGround, path: bytes) -> dict[bytes, int]:
    return {name: entry.inode for name, entry in ground.listing(path, b"", 100)}


async def prepared(kernel: Kernel, ground: MachineGround) -> int:
    node = (await kernel.mkdir(b"a")).inode
    await kernel.mkdir(b"d", node)
    put_elsewhere(ground, b"/data/a/f", b"ours")
    put_elsewhere(ground, b"/data/from", b"from")
    return node


@pytest.mark.parametrize("call", CALLS)
async def test_a_name_is_made_or_taken_in_the_directory_that_was_meant(
    kernel: Kernel, ground: MachineGround, call: str
) -> None:
    perform, expected = CALLS[call]
    node = await prepared(kernel, ground)
    ours = listed(ground, b"/data/a")
    theirs: dict[bytes, int] = {}

    def elsewhere(ground: MachineGround) -> None:
        moved(ground)
        theirs.update(listed(ground, b"/data/a"))

    await meanwhile(ground, perform(kernel, node), elsewhere)
    assert listed(ground, b"/data/a") == theirs and ground.content(b"/data/a/f") == b"theirs"
    assert listed(ground, b"/data/b").keys() == expected
    entry = ground.entry(b"/data/to")
    assert (entry is not None and entry.inode == ours[b"f"]) == (call == "rename from")


@pytest.mark.parametrize("call", CALLS)
async def test_a_directory_that_is_gone_takes_no_names(kernel: Kernel, ground: MachineGround, call: str) -> None:
    node = await prepared(kernel, ground)

    def elsewhere(ground: MachineGround) -> None:
        moved(ground)
        for path in (b"/data/b/d", b"/data/b/f", b"/data/b"):
            assert not ground.apply(r.Remove(OperationId(b"other", len(ground.order)), 1, 5, path)).errno

    assert await number(meanwhile(ground, CALLS[call][0](kernel, node), elsewhere)) == errno.ENOENT
    assert listed(ground, b"/data/a").keys() == {b"d", b"f"} and ground.entry(b"/data/to") is None


async def test_what_is_not_there_is_asked_for_once(kernel: Kernel, ground: MachineGround) -> None:
    node = await prepared(kernel, ground)

    def elsewhere(ground: MachineGround) -> None:
        assert not ground.apply(r.Unlink(OperationId(b"other", len(ground.order)), 1, 5, b"/data/a/f")).errno

    before = len(ground.order)
    assert await number(meanwhile(ground, kernel(Opcode.UNLINK, node, b"f\0"), elsewhere)) == errno.ENOENT
    assert len(ground.order) == before + 2


async def test_the_directories_of_a_rename_change_places(kernel: Kernel, ground: MachineGround) -> None:
    """What was to be replaced is, and nothing else."""
    node = await prepared(kernel, ground)
    other = (await kernel.mkdir(b"other")).inode
    put_elsewhere(ground, b"/data/other/f", b"replaced")

    def elsewhere(ground: MachineGround) -> None:
        rename(ground, b"/data/a", b"/data/other", r.RenameFlag.EXCHANGE)

    await meanwhile(ground, kernel.rename(b"f", b"f", node=node, above=other), elsewhere)
    assert listed(ground, b"/data/other").keys() == {b"d"}
    assert ground.content(b"/data/a/f") == b"ours"
