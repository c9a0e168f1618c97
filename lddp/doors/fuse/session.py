"""One open /dev/fuse: requests come in, many are in flight, answers go out as they are known.

An answer carries its request's id, so none waits for another, and none needs a thread. What the kernel is told without
being asked (`notify`) is written by a thread: the kernel may hold the call until an answer of this same process has
let go of a directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lddp.doors.fuse import protocol, wire
from lddp.errors import LddpError

_log = logging.getLogger(__name__)
READS_A_WAKEUP = 16
"""Requests taken before other work of the process gets its turn."""
BACKGROUND = 64
INTERRUPT_LOOK_S = 0.2
NOTICES_APART_MAX = 16
NOTICE_S = 10.0
"""How long the end waits for a notice that is in the kernel."""
_KILL_BIT = 1 << 8
"""SIGKILL in the masks of /proc; what ends a process by its default action shows as it too."""

Answer = bytes | Sequence[bytes]
Handle = Callable[[wire.Request], Answer | Coroutine[Any, Any, Answer]]


def errno_of(error: Exception) -> int:
    """What a program in the mount sees of an error."""
    number = getattr(error, "errno", None)
    return number if isinstance(number, int) and number else errno.EIO


def is_dying(pid: int) -> bool:
    """Whether a process has been sent what ends it, or is gone. Of a program outside of the node's pid namespace the
    kernel says 0, and nobody knows."""
    if not pid:
        return False
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return True
    return any(int(fields.get(key, b"0"), 16) & _KILL_BIT for key in (b"SigPnd", b"ShdPnd"))


class Session:
    """Serves `descriptor` with `handle`, which answers at once or with a coroutine, and raises OSError or LddpError.
    `forget` hears of (node, count) pairs. `ended` is done when the kernel has let go of the mount."""

    def __init__(
        self,
        descriptor: int,
        handle: Handle,
        forget: Callable[[list[tuple[int, int]]], None],
        *,
        asks_to_pass: bool = False,
    ) -> None:
        self.descriptor = descriptor
        self._handle = handle
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, tuple[asyncio.Task[None], int, Coroutine[Any, Any, Answer]]] = {}
        self._interrupted: dict[int, int] = {}
        self._cancelled: set[int] = set()
        self._watch: asyncio.Task[None] | None = None
        self._notices = ThreadPoolExecutor(1, thread_name_prefix="fuse-notice")
        self._noticing = os.dup(descriptor)
        """The device for that thread, which closes it: a thread that is late never meets another file's number."""
        self._apart = ThreadPoolExecutor(NOTICES_APART_MAX, thread_name_prefix="fuse-notice-apart")
        self._telling: set[asyncio.Future[None]] = set()
        self._is_closing = False
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.started: asyncio.Future[None] = self._loop.create_future()
        """Done when the kernel has been greeted; OSError(ENOTCONN) where it has let go before."""
        self.passes = False
        """Whether passthrough was agreed on; the kernel is asked for it only where that is wanted."""
        self._asks_to_pass = asks_to_pass
        self.maps_direct = False
        """Whether the kernel maps files with direct input and output."""
        os.set_blocking(descriptor, False)
        try:
            self._loop.add_reader(descriptor, self._readable)
        except OSError:
            os.close(self._noticing)
            raise

    # -- in -----------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(READS_A_WAKEUP):
            try:
                data = os.read(self.descriptor, protocol.BUFFER_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # interrupted before it was read
                if error.errno not in (errno.ENODEV, errno.ECONNABORTED):
                    _log.error("the kernel's FUSE device failed: %s", error.strerror)
                self._end()
                return
            self._take(wire.request(data))

    def _end(self) -> None:
        self._loop.remove_reader(self.descriptor)
        if not self.ended.done():
            self.ended.set_result(None)
        if not self.started.done():
            self.started.set_exception(OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)))
            self.started.exception()  # who ends it himself does not ask

    def _take(self, request: wire.Request) -> None:
        match request.opcode:
            case protocol.Opcode.FORGET:
                self._forget([(request.node, wire.forget(request.body))])
            case protocol.Opcode.BATCH_FORGET:
                self._forget(wire.forgets(request.body))
            case protocol.Opcode.INTERRUPT:
                self._interrupt(wire.interrupted(request.body))
            case protocol.Opcode.INIT:
                self._greet(request)
            case protocol.Opcode.DESTROY:
                self._answer(request.unique, b"")
            case _:
                self._serve(request)

    def _greet(self, request: wire.Request) -> None:
        offer = wire.hello(request.body)
        if offer.major != protocol.MAJOR or offer.minor < protocol.MINOR_MIN:
            _log.error("this kernel's FUSE is %d.%d; 7.%d is needed", offer.major, offer.minor, protocol.MINOR_MIN)
            self._refuse(request.unique, errno.EPROTO)
            return
        self.passes = self._asks_to_pass and wire.may_pass(offer)
        self.maps_direct = wire.may_map_direct(offer)
        self._answer(request.unique, wire.init_answer(offer, background=BACKGROUND, passes=self.passes))
        if not self.started.done():
            self.started.set_result(None)

    def _serve(self, request: wire.Request) -> None:
        if self._is_closing:
            self._refuse(request.unique, errno.ENOTCONN)
            return
        try:
            answer = self._handle(request)
        except (OSError, LddpError) as error:
            self._refuse(request.unique, errno_of(error))
            return
        except Exception:  # noqa: BLE001  # the program in the mount must get an answer
            _log.exception("request %d failed", request.opcode)
            self._refuse(request.unique, errno.EIO)
            return
        if isinstance(answer, Coroutine):
            task = self._loop.create_task(self._finish(request, answer))
            self._running[request.unique] = (task, request.pid, answer)
        else:
            self._answer(request.unique, answer)

    async def _finish(self, request: wire.Request, answer: Awaitable[Answer]) -> None:
        unique = request.unique
        try:
            result = await answer
        except asyncio.CancelledError:
            self._refuse(unique, errno.EINTR)
        except (OSError, LddpError) as error:
            self._refuse(unique, errno_of(error))
        except Exception:  # noqa: BLE001  # the program in the mount must get an answer
            _log.exception("request %d failed", request.opcode)
            self._refuse(unique, errno.EIO)
        else:
            self._answer(unique, result)
        finally:
            self._running.pop(unique, None)
            self._interrupted.pop(unique, None)
            self._cancelled.discard(unique)

    # -- out ----------------------------------------------------------------------------------------------------------

    def _answer(self, unique: int, answer: Answer) -> None:
        pieces = (answer,) if isinstance(answer, bytes) else answer
        self._write((wire.header(unique, 0, sum(map(len, pieces))), *pieces))

    def _refuse(self, unique: int, number: int) -> None:
        self._write((wire.header(unique, number, 0),))

    def _write(self, pieces: Sequence[bytes]) -> None:
        try:
            os.writev(self.descriptor, pieces)
        except OSError as error:
            # ENOENT: the request was given up; the others: the mount is gone, which the reader sees too.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EBADF, errno.ECONNABORTED):
                _log.error("the kernel refused an answer: %s", error.strerror)

    async def notify(self, notices: Sequence[Sequence[bytes]]) -> None:
        """Tells the kernel what it should forget; what it does not know is none of its business."""
        if notices and not self._is_closing and not self.ended.done():
            await self._loop.run_in_executor(self._notices, self._write_notices, self._noticing, notices)

    async def notify_apart(self, notices: Sequence[Sequence[bytes]]) -> None:
        """As `notify`, for what the kernel may have to wait with: others are told meanwhile."""
        if not notices or self._is_closing or self.ended.done():
            return
        try:
            descriptor = os.dup(self._noticing)
        except OSError:  # no descriptor is left
            await self.notify(notices)
            return
        told = self._loop.run_in_executor(self._apart, self._notify_apart, descriptor, notices)
        self._telling.add(told)
        told.add_done_callback(self._telling.discard)
        await asyncio.shield(told)

    def _notify_apart(self, descriptor: int, notices: Sequence[Sequence[bytes]]) -> None:
        try:
            self._write_notices(descriptor, notices)
        finally:
            os.close(descriptor)

    def _write_notices(self, descriptor: int, notices: Sequence[Sequence[bytes]]) -> None:
        for pieces in notices:
            if self._is_closing:
                return
            try:
                os.writev(descriptor, pieces)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EBADF, errno.ECONNABORTED, errno.ENOTDIR):
                    _log.warning("the kernel refused a notice: %s", error.strerror)

    # -- giving up ----------------------------------------------------------------------------------------------------

    def _interrupt(self, unique: int) -> None:
        """A signal came for who waits. As with NFS, one that the program survives does not end the call, because few
        programs expect EINTR of a file; one that ends the program does. The kernel tells only once, of the first
        signal, so the process is looked at until the call is over."""
        if unique not in self._running or unique in self._cancelled or self._is_closing:
            return
        self._interrupted[unique] = self._running[unique][1]
        if self._watch is None or self._watch.done():
            self._watch = self._loop.create_task(self._watch_interrupted())

    async def _watch_interrupted(self) -> None:
        while self._interrupted:
            for unique, pid in list(self._interrupted.items()):
                if is_dying(pid):
                    self._cancel(unique)
            await asyncio.sleep(INTERRUPT_LOOK_S)

    def _cancel(self, unique: int) -> None:
        """Once: a call still drops then what it has sent to other zones, and is to come to the end of that."""
        self._interrupted.pop(unique, None)
        if unique not in self._cancelled:
            self._cancelled.add(unique)
            task = self._running[unique][0]
            task.add_done_callback(lambda _: self._never_begun(unique))
            task.cancel()

    def _never_begun(self, unique: int) -> None:
        """A task that is cancelled before its first step does not come to its answer."""
        if unique in self._running:
            _, _, answer = self._running.pop(unique)
            answer.close()
            self._cancelled.discard(unique)
            self._refuse(unique, errno.EINTR)

    @property
    def in_flight(self) -> int:
        return len(self._running)

    async def close(self) -> None:
        """Ends what is in flight, with EINTR, and lets go of the device: a mount that is still there is dead then. Who
        asks for something meanwhile gets ENOTCONN, as afterwards. A second call does nothing."""
        if self._is_closing:
            return
        self._is_closing = True
        tasks = [task for task, *_ in self._running.values()]
        for unique in list(self._running):
            self._cancel(unique)
        if self._watch is not None:
            tasks.append(self._watch)
            self._watch.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._end_notices()
        self._end()
        with contextlib.suppress(OSError):
            os.close(self.descriptor)
        self._notices.shutdown(wait=False)
        self._apart.shutdown(wait=False)

    async def _end_notices(self) -> None:
        """A notice that is in the kernel may wait for what calls hold there, so they are answered until it is out. The
        kernel lets go of the device after that alone, whoever has closed it."""
        ending = self._loop.run_in_executor(self._notices, os.close, self._noticing)
        _, waiting = await asyncio.wait([ending, *self._telling], timeout=NOTICE_S)
        if waiting:
            _log.error("a notice is in the kernel for more than %g s; the mount ends when it is out", NOTICE_S)
