"""An exhaustive check of linearizability for one path, which knows nothing of indexes.

Wing and Gong's search ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of configurations ("Testing
for linearizability", 2017): choose an operation that nothing else has completed before, carry it out on the state, go
on; come back when that leads nowhere. A configuration (which operations are done, state) is tried once. An operation
whose outcome is unknown may take effect at any time after its invocation, or never.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.chaos.history import Look
from cluster.drill_load import Submitted

OPERATIONS_MAX = 200
CONFIGURATIONS_MAX = 1_000_000
"""Beyond it a sample is undecided; with five clients it takes some thousand."""
NEVER = float("inf")

State = bytes | None
"""The file's bytes; None: there is no file."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation. `completed` is NEVER, and `result` None, where the outcome is unknown."""

    name: str
    invoked: float
    completed: float
    argument: bytes = b""
    result: tuple[int, bytes | None] | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`linearizable` None: given up after CONFIGURATIONS_MAX. `stuck`: where no order fits, the operations of which one
    should have come next, behind the longest order that fits."""

    linearizable: bool | None
    configurations: int
    stuck: tuple[Step, ...] = ()


def carry_out(step: Step, state: State) -> tuple[tuple[int, bytes | None], State]:
    """What a file answers, and what it is afterwards."""
    match step.name:
        case "put":
            return (0, None), step.argument
        case "append":
            return ((errno.ENOENT, None), None) if state is None else ((0, None), state + step.argument)
        case "unlink":
            return ((errno.ENOENT if state is None else 0), None), None
        case "read":
            return ((errno.ENOENT, None) if state is None else (0, state)), state
    raise ValueError(f"a register has no {step.name!r}")


def step_of(one: Submitted | Look) -> Step:
    match one:
        case Submitted():
            known = one.gsn > 0
            result = (one.errno, None) if known else None
            data = one.arguments.get("data", b"")
            return Step(one.name, one.invoked, one.completed if known else NEVER, data, result, one.id)
        case Look():
            return Step("read", one.invoked, one.completed, b"", (one.errno, one.value), one.id)


def check(steps: Sequence[Step], state: State = None) -> Verdict:
    """Whether some order of these operations, which respects time, gives every answer."""
    order = sorted(steps, key=lambda step: step.invoked)
    wanted = sum(1 << place for place, step in enumerate(order) if step.result is not None)
    seen: set[tuple[int, State]] = set()
    best, stuck = -1, ()
    todo: list[tuple[int, State]] = [(0, state)]
    while todo:
        done, now = todo.pop()
        if done & wanted == wanted:
            return Verdict(True, len(seen))
        if (done, now) in seen:
            continue
        seen.add((done, now))
        if len(seen) > CONFIGURATIONS_MAX:
            return Verdict(None, len(seen))
        ahead = _minimal(order, done)
        if (count := (done & wanted).bit_count()) > best:
            best, stuck = count, tuple(order[place] for place in ahead)
        for place in reversed(ahead):
            result, after = carry_out(order[place], now)
            if order[place].result in (None, result):
                todo.append((done | 1 << place, after))
    return Verdict(False, len(seen), stuck)


def _minimal(order: Sequence[Step], done: int) -> list[int]:
    """Operations not done yet that were invoked before any other of them completed."""
    found: list[int] = []
    first_end = NEVER
    for place, step in enumerate(order):
        if done >> place & 1:
            continue
        if step.invoked > first_end:
            break
        found.append(place)
        first_end = min(first_end, step.completed)
    return found
