"""One session over a socket in place of /dev/fuse: requests, answers, signals, the end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from lddp.doors.fuse import session, wire
from lddp.doors.fuse.protocol import Opcode
from lddp.doors.fuse.session import READS_A_WAKEUP, Answer, Session, is_dying
from lddp.errors import OperationError
from tests.doors.fuse.kernel import until

PATIENCE_S = 60.0
Handle = Callable[[wire.Request], Answer | Coroutine[Any, Any, Answer]]


class Device:
    """The kernel's end."""

    def __init__(self, *, asks_to_pass: bool = False) -> None:
        self.kernel, self._mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.setblocking(False)
        self.forgotten: list[tuple[int, int]] = []
        self.handle: Handle = lambda request: b""
        self.session = Session(
            self._mine.detach(),
            lambda request: self.handle(request),
            self.forgotten.extend,
            asks_to_pass=asks_to_pass,
        )

    def send(self, opcode: int, unique: int, body: bytes = b"", pid: int = 0) -> None:
        header = struct.pack("<IIQQIIIHH", 40 + len(body), opcode, unique, 1, 0, 0, pid or os.getpid(), 0, 0)
        self.kernel.send(header + body)

    async def answer(self) -> tuple[int, int, bytes]:
        """(unique, errno, bytes)."""
        async with asyncio.timeout(PATIENCE_S):
            data = await asyncio.get_running_loop().sock_recv(self.kernel, 1 << 21)
        length, error, unique = struct.unpack_from("<IiQ", data)
        assert length == len(data)
        return unique, -error, data[16:]


@pytest.fixture
async def device() -> AsyncIterator[Device]:
    device = Device()
    yield device
    await device.session.close()
    device.kernel.close()


async def test_the_greeting(device: Device) -> None:
    device.send(Opcode.INIT, 1, struct.pack("<IIII", 7, 45, 131072, 0xFFFFFFFF) + bytes(48))
    unique, error, body = await device.answer()
    assert (unique, error, len(body)) == (1, 0, 64)
    assert device.session.started.done()
    assert not device.session.passes


@pytest.mark.parametrize(("asks", "offers", "passes"), [(True, 1, True), (True, 0, False), (False, 1, False)])
async def test_passthrough_is_agreed_on_where_it_is_wanted_and_offered(asks: bool, offers: int, passes: bool) -> None:
    device = Device(asks_to_pass=asks)
    try:
        device.send(Opcode.INIT, 1, struct.pack("<IIIII", 7, 45, 131072, 0xFFFFFFFF, offers << 5) + bytes(44))
        _, error, body = await device.answer()
        assert not error and device.session.passes is passes
        assert bool(struct.unpack_from("<I", body, 32)[0]) is passes
    finally:
        await device.session.close()
        device.kernel.close()


async def test_a_kernel_that_is_too_old_is_told(device: Device) -> None:
    device.send(Opcode.INIT, 1, struct.pack("<IIII", 7, 26, 131072, 0))
    assert (await device.answer())[:2] == (1, errno.EPROTO)
    assert not device.session.started.done()


async def test_answers_come_as_they_are_known(device: Device) -> None:
    first = asyncio.Event()

    async def late(request: wire.Request) -> Answer:
        await first.wait()
        return b"late"

    device.handle = lambda request: late(request) if request.unique == 1 else (b"at", b" once")
    device.send(Opcode.GETATTR, 1)
    device.send(Opcode.GETATTR, 2)
    assert await device.answer() == (2, 0, b"at once")
    first.set()
    assert await device.answer() == (1, 0, b"late")
    assert device.session.in_flight == 0


async def test_more_requests_than_a_wakeup_takes(device: Device) -> None:
    device.handle = lambda request: b"%d" % request.unique
    count = READS_A_WAKEUP * 3
    for unique in range(count):
        device.send(Opcode.GETATTR, unique)
    assert [(await device.answer())[2] for _ in range(count)] == [b"%d" % unique for unique in range(count)]


async def _raise(error: Exception) -> Answer:
    raise error


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OperationError(errno.EROFS, "not yet"), errno.EROFS),
        (OSError("without a number"), errno.EIO),
    ],
)
async def test_errors_are_errnos(device: Device, error: Exception, number: int, later: bool) -> None:
    def at_once(request: wire.Request) -> Answer:
        raise error

    device.handle = (lambda request: _raise(error)) if later else at_once
    device.send(Opcode.GETATTR, 5)
    assert await device.answer() == (5, number, b"")


async def test_a_fault_of_ours_is_an_answer_too(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.handle = lambda request: _raise(KeyError("fault"))
    device.send(Opcode.GETATTR, 5)
    assert await device.answer() == (5, errno.EIO, b"")
    assert "KeyError" in caplog.text


async def test_forgets_have_no_answer(device: Device) -> None:
    device.send(Opcode.FORGET, 1, struct.pack("<Q", 3))
    device.send(Opcode.BATCH_FORGET, 2, struct.pack("<IIQQ", 1, 0, 77, 2))
    device.send(Opcode.GETATTR, 3)
    assert (await device.answer())[0] == 3
    assert device.forgotten == [(1, 3), (77, 2)]


async def test_a_signal_that_the_program_survives_ends_no_call(device: Device) -> None:
    go = asyncio.Event()

    async def wait(request: wire.Request) -> Answer:
        await go.wait()
        return b"done"

    device.handle = lambda request: wait(request) if request.unique == 1 else b""
    device.send(Opcode.GETATTR, 1)
    device.send(Opcode.INTERRUPT, 2, struct.pack("<Q", 1))
    device.send(Opcode.GETATTR, 3)
    assert (await device.answer())[0] == 3
    go.set()
    assert await device.answer() == (1, 0, b"done")


async def test_a_signal_that_ends_the_program_ends_its_call(device: Device) -> None:
    gone = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await gone.wait()

    async def wait(request: wire.Request) -> Answer:
        await asyncio.Event().wait()
        return b""

    device.handle = wait
    device.send(Opcode.GETATTR, 1, pid=gone.pid)
    device.send(Opcode.INTERRUPT, 2, struct.pack("<Q", 1))
    assert await device.answer() == (1, errno.EINTR, b"")


async def test_a_call_that_was_ended_comes_to_its_end(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has sent to other zones is dropped, whatever time that takes, and though the mount ends meanwhile."""
    gone = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await gone.wait()
    ending, drop, looks = asyncio.Event(), asyncio.Event(), 0

    async def wait(request: wire.Request) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            if request.unique == 1:
                ending.set()
                await drop.wait()
                os.write(dropped, b"dropped")
        return b""

    def look(pid: int) -> bool:
        nonlocal looks
        looks += 1
        return is_dying(pid)

    monkeypatch.setattr(session, "INTERRUPT_LOOK_S", 0.0)
    monkeypatch.setattr(session, "is_dying", look)
    found, dropped = os.pipe()
    device.handle = wait
    for unique, pid in ((1, gone.pid), (2, os.getpid())):  # the second one is looked at again and again
        device.send(Opcode.GETATTR, unique, pid=pid)
        device.send(Opcode.INTERRUPT, 10 + unique, struct.pack("<Q", unique))
    await asyncio.wait_for(ending.wait(), PATIENCE_S)
    device.send(Opcode.INTERRUPT, 20, struct.pack("<Q", 1))
    seen = looks
    await until(lambda: looks > seen + 3)
    closing = asyncio.create_task(device.session.close())
    assert await device.answer() == (2, errno.EINTR, b"")
    assert device.session.in_flight == 1
    drop.set()
    await closing
    assert await device.answer() == (1, errno.EINTR, b"")
    os.close(dropped)
    assert os.read(found, 100) == b"dropped"
    os.close(found)


def test_who_is_dying() -> None:
    assert not is_dying(os.getpid())
    assert is_dying(2**22 + 1)  # above what any process has


def test_who_is_not_in_this_pid_namespace_is_not_dying() -> None:
    """As a program on the host is for a node in a container: SIGCHLD does not end its calls."""
    assert not is_dying(0)


async def test_the_end(device: Device) -> None:
    async def wait(request: wire.Request) -> Answer:
        await asyncio.Event().wait()
        return b""

    device.handle = wait
    device.send(Opcode.GETATTR, 1)
    device.send(Opcode.DESTROY, 2)
    assert await device.answer() == (2, 0, b"")
    await device.session.close()
    assert await device.answer() == (1, errno.EINTR, b"")
    assert device.session.ended.done()


async def test_the_end_answers_what_came_in_the_same_turn(device: Device) -> None:
    """Nothing of it has begun by then."""
    begun: list[int] = []
    ending: list[asyncio.Task[None]] = []

    async def work(request: wire.Request) -> Answer:
        begun.append(request.unique)
        return b""

    def handle(request: wire.Request) -> Answer | Coroutine[Any, Any, Answer]:
        ending.append(asyncio.create_task(device.session.close()))  # it comes before what this request begins
        return work(request)

    device.handle = handle
    device.send(Opcode.MKDIR, 1)
    assert await device.answer() == (1, errno.EINTR, b"")
    await ending[0]
    assert not begun and device.session.in_flight == 0


class SlowKernel:
    """Takes the first notice when it is `let`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_it, self.let = threading.Event(), threading.Event()
        self._writev = os.writev
        monkeypatch.setattr(os, "writev", self._slow)

    def _slow(self, descriptor: int, pieces: Sequence[bytes]) -> int:
        if b"first" in pieces:
            self.has_it.set()
            assert self.let.wait(PATIENCE_S)
        return self._writev(descriptor, pieces)


async def test_no_notice_comes_after_the_end(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one waits in the kernel all calls are answered: it may wait for what one of them holds."""
    kernel = SlowKernel(monkeypatch)
    telling = asyncio.create_task(device.session.notify([(b"first",), (b"second",)]))
    await until(kernel.has_it.is_set)
    telling.cancel()  # as a mount's end does
    closing = asyncio.create_task(device.session.close())
    await asyncio.sleep(0)
    for unique in (7, 8):
        device.send(Opcode.GETATTR, unique)
        assert await device.answer() == (unique, errno.ENOTCONN, b"")
    kernel.let.set()
    await closing
    loop = asyncio.get_running_loop()
    assert [await loop.sock_recv(device.kernel, 4096) for _ in range(2)] == [b"first", b""]


async def test_a_notice_that_stays_in_the_kernel(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end does not wait for ever; by then the device's number may be another file's."""
    monkeypatch.setattr(session, "NOTICE_S", 0.0)
    kernel, number = SlowKernel(monkeypatch), device.session.descriptor
    telling = asyncio.create_task(device.session.notify([(b"first",), (b"second",)]))
    await until(kernel.has_it.is_set)
    telling.cancel()
    await device.session.close()
    opened = [os.open(tmp_path / "database", os.O_RDWR | os.O_CREAT)]
    while number not in opened:
        opened.append(os.dup(opened[0]))
    kernel.let.set()
    loop = asyncio.get_running_loop()
    assert [await loop.sock_recv(device.kernel, 4096) for _ in range(2)] == [b"first", b""]
    assert not (tmp_path / "database").read_bytes()
    for descriptor in opened:
        os.close(descriptor)


async def test_notices(device: Device) -> None:
    await device.session.notify([wire.entry_notice(5, b"name")])
    data = await asyncio.get_running_loop().sock_recv(device.kernel, 4096)
    assert data == b"".join(wire.entry_notice(5, b"name"))
