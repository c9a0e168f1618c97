"""Runs a process and sees every system call that it makes, with ptrace(2), so that it can be killed at each of them.

A process is traced from the moment that it asks for it; before, it runs at full speed. A call is seen twice: before
the kernel carries it out and after. What a process changes in mapped memory lies between two calls, so that to be
killed after one call and to be killed before the next are different deaths.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from tests.crash.syscalls import NAMES, NUMBERS

_CONT_TO_SYSCALL = 24
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_GET_SYSCALL_INFO = 0x420E
_SYSGOOD, _FORK, _VFORK, _CLONE, _EXITKILL = 1, 2, 4, 8, 0x100000
_WALL = 0x40000000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_INFO_BYTES = 88
_ENTRY = struct.Struct("=B3xIQQQ6Q")
_EXIT = struct.Struct("=B3xIQQq")
_BEFORE, _AFTER = 1, 2

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


class Call(NamedTuple):
    """One system call of thread `thread`. `result` is None before it is carried out, negative where it failed."""

    thread: int
    name: str
    arguments: tuple[int, ...]
    result: int | None

    @property
    def before(self) -> bool:
        return self.result is None

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the process's memory."""
        with open(f"/proc/{self.thread}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), size, address)

    def path(self) -> str:
        """What the descriptor in the first argument stands for."""
        return os.readlink(f"/proc/{self.thread}/fd/{self.arguments[0]}")

    def flags(self) -> int:
        """With which flags that descriptor was opened."""
        with open(f"/proc/{self.thread}/fdinfo/{self.arguments[0]}") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))

    def is_to_a_file(self) -> bool:
        try:
            return stat.S_ISREG(os.stat(f"/proc/{self.thread}/fd/{self.arguments[0]}").st_mode)
        except OSError:
            return False


See = Callable[[Call], bool]
"""Told of every call; True ends the process there."""


class Tracer:
    """Follows all threads of one child of this process, and its children. Used by one thread."""

    def __init__(self, process: int, see: See) -> None:
        self.process = process
        self._see = see
        self._threads: set[int] = set()
        self._calls: dict[int, tuple[str, tuple[int, ...]]] = {}
        self._info = ctypes.create_string_buffer(_INFO_BYTES)
        self.status: int | None = None
        """As of `os.waitpid`, once the process has ended."""

    def attach(self) -> None:
        """From now on calls are seen. The process must be waiting for something at this moment."""
        for process in (self.process, *_children(self.process)):
            for name in os.listdir(f"/proc/{process}/task"):
                self._request(_SEIZE, int(name), _SYSGOOD | _FORK | _VFORK | _CLONE | _EXITKILL)
                self._request(_INTERRUPT, int(name))
                self._threads.add(int(name))

    def run(self) -> int:
        """Until the process has ended, and those that it started; its status."""
        while self._threads or self.status is None:
            thread, status = os.waitpid(-1, _WALL)
            if os.WIFSTOPPED(status):
                self._threads.add(thread)
                self._stopped(thread, status >> 8)
                continue
            self._threads.discard(thread)
            if thread == self.process:
                self.status = status
        return self.status

    def _stopped(self, thread: int, what: int) -> None:
        deliver = 0
        if what == _SYSCALL_STOP:
            call = self._call(thread)
            if call is not None and self.status is None and self._see(call):
                os.kill(self.process, signal.SIGKILL)
        elif not what >> 8:
            deliver = what
        with contextlib.suppress(ProcessLookupError):
            self._request(_CONT_TO_SYSCALL, thread, deliver)

    def _call(self, thread: int) -> Call | None:
        try:
            self._request(_GET_SYSCALL_INFO, thread, ctypes.addressof(self._info), _INFO_BYTES)
        except ProcessLookupError:
            return None
        kind = self._info.raw[0]
        if kind == _BEFORE:
            fields = _ENTRY.unpack_from(self._info)
            name = NAMES.get(fields[4], "")
            self._calls[thread] = name, fields[5:]
            return Call(thread, name, fields[5:], None)
        if kind == _AFTER and thread in self._calls:
            return Call(thread, *self._calls.pop(thread), _EXIT.unpack_from(self._info)[4])
        return None

    @staticmethod
    def _request(request: int, thread: int, data: int = 0, address: int = 0) -> None:
        if _ptrace(request, thread, address, data) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _children(process: int) -> list[int]:
    found: list[int] = []
    for name in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{name}/children") as file:
            found += map(int, file.read().split())
    return found


def obstacle() -> str:
    """Why no process can be traced here; empty where it can be."""
    if not NUMBERS:
        return "the numbers of this machine's system calls are not known"
    ours, theirs = os.pipe()
    process = os.fork()
    if not process:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    seen: list[str] = []
    tracer = Tracer(process, lambda call: bool(seen.append(call.name)))
    try:
        tracer.attach()
    except OSError as error:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return f"ptrace is not allowed here: {error.strerror}"
    finally:
        os.close(theirs)
        os.close(ours)
    tracer.run()
    return "" if seen else "the kernel does not say what a traced process calls"
