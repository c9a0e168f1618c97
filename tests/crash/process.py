"""A forked process that tells its parent what it saw, and is traced from a point that it names itself."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, NoReturn

from tests.crash.tracer import See, Tracer

_LENGTH = struct.Struct("=I")
_FAILED = "failed"
_ARMED = "armed"


class Broken(Exception):
    """A process failed by itself."""


class Gate:
    """The child's side."""

    def __init__(self, reports: int, answers: int) -> None:
        self._reports = reports
        self._answers = answers

    def tell(self, what: str, value: Any = None) -> None:
        """What the parent gets whatever becomes of this process afterwards; short, once the process is traced."""
        data = pickle.dumps((what, value))
        os.write(self._reports, _LENGTH.pack(len(data)))
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._reports, rest) :]

    def arm(self) -> None:
        """Waits until this process is traced."""
        self.tell(_ARMED)
        os.read(self._answers, 1)

    def fail(self) -> None:
        """Tells of the exception that is being handled."""
        self.tell(_FAILED, traceback.format_exc())

    def end(self) -> NoReturn:
        """Ends this process as a kill would: nothing is closed or flushed."""
        sys.stderr.flush()
        os._exit(0)


class Told(NamedTuple):
    """All that a process said, in order, and how it ended."""

    reports: list[tuple[str, Any]]
    status: int

    @property
    def killed(self) -> bool:
        return os.WIFSIGNALED(self.status)

    def of(self, what: str) -> list[Any]:
        return [value for said, value in self.reports if said == what]

    def one(self, what: str) -> Any:
        (value,) = self.of(what)
        return value


def run(body: Callable[[Gate], None], see: See = lambda _call: False) -> Told:
    """Runs `body` in a process of its own, until it returns or `see` ends it at a call. Raises Broken where it fails by
    itself. To be called while this process has one thread."""
    reports, theirs = os.pipe()
    their_answers, answers = os.pipe()
    process = os.fork()
    if not process:
        os.close(reports)
        os.close(answers)
        _live(body, Gate(theirs, their_answers))
    os.close(theirs)
    os.close(their_answers)
    try:
        with open(reports, "rb") as stream:
            return _follow(process, stream, answers, see)
    finally:
        os.close(answers)


def _live(body: Callable[[Gate], None], gate: Gate) -> None:
    """Never returns: nothing of the parent must be undone by its child."""
    try:
        body(gate)
    except BaseException:  # noqa: BLE001 - told to the parent
        gate.fail()
    finally:
        gate.end()


def _follow(process: int, stream: Any, answers: int, see: See) -> Told:
    said: list[tuple[str, Any]] = []
    tracer = Tracer(process, see)
    arrived: SimpleQueue[tuple[str, Any] | None] = SimpleQueue()
    # Read beside the tracing: the process must never wait for a pipe that is full.
    reader = Thread(target=_read, args=(stream, arrived))
    reader.start()
    while (report := arrived.get()) is not None:
        if report[0] == _ARMED:
            tracer.attach()
            os.write(answers, b"!")
            tracer.run()
        else:
            said.append(report)
    reader.join()
    status = os.waitpid(process, 0)[1] if tracer.status is None else tracer.status
    failures = [value for what, value in said if what == _FAILED]
    if failures:
        raise Broken(failures[0])
    if status and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise Broken(f"the process ended with status {status}")
    return Told(said, status)


def _read(stream: Any, arrived: SimpleQueue[tuple[str, Any] | None]) -> None:
    while (report := _next(stream)) is not None:
        arrived.put(report)
    arrived.put(None)


def _next(stream: Any) -> tuple[str, Any] | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    data = stream.read(size)
    return None if len(data) < size else pickle.loads(data)
