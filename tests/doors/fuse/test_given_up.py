"""What is opened for a call or a mount that is given up at that moment is closed."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lddp.doors.fuse import copying, memory, mounting, passthrough
from lddp.doors.fuse.ground import Patience, Top
from lddp.doors.fuse.mount import Mount
from lddp.doors.fuse.protocol import FOPEN_PASSTHROUGH
from tests.doors.fuse.kernel import Kernel, MachineGround, until
from tests.doors.fuse.passing import FakeBacking
from tests.doors.fuse.test_passthrough import theirs

DATA = b"some bytes that are long enough"
POINT = b"/nowhere"


class Opening:
    """Work of a thread that waits until it may go on. `descriptor` is what it gave."""

    def __init__(self, work: Callable[..., int]) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.descriptor = -1
        self._work = work

    def __call__(self, *arguments: Any) -> int:
        self.begun.set()
        assert self.go_on.wait(10)
        self.descriptor = self._work(*arguments)
        return self.descriptor

    async def given_up(self, who: asyncio.Task[Any]) -> None:
        await until(self.begun.is_set)
        who.cancel()
        await asyncio.sleep(0)
        self.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await who


def is_open(descriptor: int) -> bool:
    assert descriptor >= 0
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("work", ["clone", "mirror"])
async def test_a_copy_for_the_kernel(
    kernel: Kernel, backing: FakeBacking, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    monkeypatch.setattr(passthrough, "PASS_FROM_BYTES", 8)
    monkeypatch.setattr(memory, "COPY_BYTES_MAX", 0)
    async with kernel.writing(b"f") as file:
        await file.write(0, DATA)
    tree, node = kernel.tree, file.node
    held = tree.files.hold(node)
    if work == "clone":
        theirs(kernel.ground, DATA)
        async with held.lock:
            await tree.files.freshen(held)
        giving_up = tree.passthrough._clone(held)
    else:
        reader = await kernel.open(node)
        assert reader.flags == FOPEN_PASSTHROUGH
        giving_up = tree.passthrough._reflect(held)
    opening = Opening(copying.new_file)
    with monkeypatch.context() as patched:
        patched.setattr(copying, "new_file", opening)
        await opening.given_up(asyncio.create_task(giving_up))
    assert not is_open(opening.descriptor)
    if work == "mirror":
        await reader.close()
    tree.files.let_go(held)


class FakeMounts:
    """Of a kernel that greets nobody."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel, self._node = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.mounting = Opening(lambda *_: self._node.detach())
        self.unmounted: list[bytes] = []
        monkeypatch.setattr(mounting, "mount", self.mounting)
        monkeypatch.setattr(mounting, "unmount", lambda point, **_: self.unmounted.append(point))
        monkeypatch.setattr(mounting, "clear_dead", self.unmounted.append)


@pytest.mark.parametrize("is_mounted", [False, True])
async def test_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_mounted: bool) -> None:
    """Before the kernel has mounted it, and before it was greeted."""
    ground, fake = MachineGround(tmp_path), FakeMounts(monkeypatch)
    with ground.view() as view:
        rule = view.rule("data")
    assert rule is not None
    top = Top(rule.number, rule.name, rule.path, rule.root)
    starting = asyncio.create_task(Mount.start(ground, top, POINT, Patience()))
    if is_mounted:
        fake.mounting.go_on.set()
        await until(lambda: bool(ground.listeners))
    await fake.mounting.given_up(starting)
    await until(lambda: fake.unmounted == [POINT])
    assert not is_open(fake.mounting.descriptor)
    assert fake.kernel.recv(1) == b"" and not ground.listeners
    fake.kernel.close()
