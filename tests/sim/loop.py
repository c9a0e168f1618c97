"""An event loop on virtual time, for several processes at once, each of which can be paused and killed.

One queue holds everything that is to run, in order of time and then of asking, so a run is a function of its seed.
Whatever a process asks for belongs to it: when it is killed nothing of it runs any more, no matter what it waited for.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from contextvars import Context
from math import inf
from typing import Any, TypeVar

T = TypeVar("T")
HANDLE_S = 1e-6
"""What running one callback costs, so that no clock stands still while code runs."""
EPOCH_S = 1_700_000_000.0
_TASKS_KEPT = 512
_CALLBACKS_BETWEEN_LOOKS = 8


class Killed(BaseException):
    """The process that runs now has ended here."""


class Process:
    """One process of the ecosystem. `free_at` is when it can run again: it may be syncing, or stopped by a signal."""

    def __init__(self, loop: SimulatedLoop, name: str, seed: object) -> None:
        self.loop = loop
        self.name = name
        self.random = random.Random(repr(seed))
        self.dead = False
        self.died_at = inf
        self.free_at = 0.0
        self.skew_s = 0.0
        """How far its wall clock is off."""
        self.fuse = 0
        """Points of `point` until it is killed; 0 is never."""
        self.on_fuse: Callable[[], None] = lambda: None
        self.tasks: list[asyncio.Task[Any]] = []
        self.late: deque[SimulatedHandle] = deque()
        """What was to run while it was busy, in order."""

    def now(self) -> float:
        return max(self.loop.now, self.free_at)

    def spend(self, seconds: float) -> None:
        """The process is busy from its present on: what it does next is later."""
        self.free_at = self.now() + seconds

    def resume(self) -> None:
        """It is not busy any more."""
        self.free_at = min(self.free_at, self.loop.now)
        self.loop.wake(self)

    def point(self) -> None:
        """A moment between two effects on the outside world, at which a process may be killed."""
        if self.dead:
            raise Killed
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                self.on_fuse()
                raise Killed

    def kill(self) -> None:
        self.dead = True
        self.died_at = self.loop.now

    def close(self) -> None:
        """Gives back the coroutines that will never go on; only once the whole simulation is over."""
        with self.loop.within(self):
            for task in self.tasks:
                if not task.done():
                    try:
                        task.get_coro().close()
                    except (RuntimeError, Killed):
                        continue  # it wanted to go on although nothing does


class ProcessClock:
    """Implements `ports.Clock` for one process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def monotonic(self) -> float:
        return self._process.now()

    def time_ns(self) -> int:
        return int((EPOCH_S + self._process.now() + self._process.skew_s) * 1e9)


class ProcessRandom:
    """Implements `ports.Random` for one process."""

    def __init__(self, process: Process) -> None:
        self._random = process.random

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)


class SimulatedHandle:
    """What `call_soon` and `call_at` give back."""

    __slots__ = ("_when", "arguments", "callback", "context", "is_cancelled", "process")

    def __init__(
        self,
        process: Process,
        when: float,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        context: Context | None,
    ) -> None:
        self.process = process
        self._when = when
        self.callback = callback
        self.arguments = arguments
        self.context = context
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self._when


class SimulatedExecutor(Executor):
    """Threads of one process: `one` of them does its work in order, more than one in any."""

    def __init__(self, *, one: bool, delay_s: tuple[float, float] = (1e-5, 2e-3)) -> None:
        self.one = one
        self.delay_s = delay_s
        self.free_at = 0.0

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        raise NotImplementedError("only the event loop gives work to these threads")


class SimulatedLoop(asyncio.AbstractEventLoop):
    """See the module's docstring. `current` is the process whose code runs; `outside` stands for everybody else."""

    def __init__(self, seed: object) -> None:
        self.now = 100.0
        self.outside = Process(self, "outside", (seed, "outside"))
        self.current = self.outside
        self.failures: list[str] = []
        self.stopped = False
        """Something is wrong: nothing more is run."""
        self.handles_run = 0
        self._closing = False
        self._queue: list[tuple[float, int, SimulatedHandle]] = []
        self._number = 0
        self._threads = SimulatedExecutor(one=False)

    # -- running ----------------------------------------------------------------------------------------------------

    @contextmanager
    def within(self, process: Process) -> Iterator[None]:
        """What is asked for meanwhile belongs to the process."""
        before, self.current = self.current, process
        try:
            yield
        finally:
            self.current = before

    def run_until(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Runs until the condition holds, which is looked at every few callbacks; False at the deadline, and where
        something is wrong."""
        asyncio._set_running_loop(self)
        try:
            while not condition():
                for _ in range(_CALLBACKS_BETWEEN_LOOKS):
                    if self.stopped:
                        return False
                    if not self._queue or self._queue[0][0] > deadline:
                        self.now = max(self.now, deadline)
                        return condition()
                    self._run_next()
            return True
        finally:
            asyncio._set_running_loop(None)

    def fail(self, what: str) -> None:
        self.failures.append(what)
        self.stopped = True

    def _run_next(self) -> None:
        when, _, handle = heapq.heappop(self._queue)
        process = handle.process
        if handle.is_cancelled or process.dead:
            return
        if when > self.now:
            self.now = when
        if process.late or process.free_at > self.now:
            # Behind what waits already: a process does things in order.
            process.late.append(handle)
            if len(process.late) == 1:
                self.wake(process)
            return
        self._run(process, handle)

    def wake(self, process: Process) -> None:
        """Lets the process go on once it is free."""
        self._number += 1
        wake = SimulatedHandle(self.outside, 0.0, self._catch_up, (process,), None)
        heapq.heappush(self._queue, (max(process.free_at, self.now), self._number, wake))

    def _catch_up(self, process: Process) -> None:
        while process.late and not process.dead and process.free_at <= self.now:
            handle = process.late.popleft()
            if not handle.is_cancelled:
                self._run(process, handle)
        if process.late and not process.dead:
            self.wake(process)

    def _run(self, process: Process, handle: SimulatedHandle) -> None:
        self.now += HANDLE_S
        self.handles_run += 1
        before, self.current = self.current, process
        try:
            if handle.context is None:
                handle.callback(*handle.arguments)
            else:
                handle.context.run(handle.callback, *handle.arguments)
        except Killed:
            assert process.dead, "only a dead process is left like this"
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - it is reported, and the run fails
            self.fail(f"{process.name}: a callback failed: {error!r}")
        finally:
            self.current = before

    def close_all(self, processes: list[Process]) -> None:
        """Ends the simulation: nothing runs any more."""
        self._closing = True
        self._queue.clear()
        asyncio._set_running_loop(self)
        try:
            for process in processes:
                process.close()
        finally:
            asyncio._set_running_loop(None)
        self._queue.clear()

    # -- asking -----------------------------------------------------------------------------------------------------

    def at(self, when: float, process: Process, callback: Callable[..., object], *arguments: Any) -> SimulatedHandle:
        """Runs a callback in a process."""
        handle = SimulatedHandle(process, when, callback, arguments, None)
        self._push(when, handle)
        return handle

    def _push(self, when: float, handle: SimulatedHandle) -> None:
        if not self._closing and not handle.process.dead:
            self._number += 1
            heapq.heappush(self._queue, (when, self._number, handle))

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimulatedHandle:
        process = self.current
        now = process.now()
        handle = SimulatedHandle(process, now, callback, args, context)
        self._push(now, handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimulatedHandle:
        handle = SimulatedHandle(self.current, when, callback, args, context)
        self._push(max(when, self.now), handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimulatedHandle:
        return self.call_at(self.current.now() + delay, callback, *args, context=context)

    def time(self) -> float:
        return self.current.now()

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        tasks = self.current.tasks
        if len(tasks) > _TASKS_KEPT:
            tasks[:] = [task for task in tasks if not task.done()]
        tasks.append(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Does the work as one step at a later moment, and tells its result at one later still."""
        threads = executor if isinstance(executor, SimulatedExecutor) else self._threads
        process = self.current
        future: asyncio.Future[T] = self.create_future()
        begin = process.now() + process.random.uniform(*threads.delay_s)
        if threads.one:
            begin = max(begin, threads.free_at)
        end = begin + process.random.uniform(*threads.delay_s)
        if threads.one:
            threads.free_at = end
        self.at(begin, process, self._work, process, end, future, func, args)
        return future

    def _work(
        self, process: Process, end: float, future: asyncio.Future[T], func: Callable[..., T], arguments: Any
    ) -> None:
        if future.cancelled():
            return
        try:
            result = func(*arguments)
        except Exception as error:  # noqa: BLE001 - whoever waits for the work gets it, as from a thread
            self.at(end, process, _fail, future, error)
        else:
            self.at(end, process, _resolve, future, result)

    # -- what asyncio asks of a loop ----------------------------------------------------------------------------------

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self._closing and not isinstance(error, Killed):
            self.fail(f"{context.get('message')}: {error!r}")


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
