"""The witness check: every answer carries its place in the log, so all answers together must tell of one order.

Builds on the drill's judge, which folds the log into an independent model of a file tree. Here the log holds other
records too (a migration runs), and there are looks: each must be what the model shows at some index of a window. A
strong look's window begins where its barrier said, a local one's at the last change that its node had acknowledged
before; both end with what the node said it showed, and before anything that was submitted only after the answer.
"""

from __future__ import annotations

import errno
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from cluster.chaos.history import Look
from cluster.drill_judge import CLASSES, Judge, _record
from cluster.drill_load import Submitted
from lddp.core.records import Kind
from tests.core.model import Model, Refused

Document = dict[str, Any]
OPERATIONS = frozenset(cls.__name__ for cls in CLASSES.values())
KINDS = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "symlink", Kind.FIFO: "fifo"}
Window = tuple[int, int, Look]
"""First and last index at which the model may have shown this."""


class Witness(Judge):
    """`log` is one node's; `fold` must come before everything else."""

    def __init__(self, operations: list[Submitted], looks: Sequence[Look], log: list[Document]) -> None:
        super().__init__(operations, log)
        self._looks = looks
        self._windows = _windows(operations, looks)
        self.outcomes = 0
        """Answers that the model gave too."""
        self.unseen: list[Window] = []
        """Looks at what the model never showed in their window, and the window."""

    def fold(self) -> Iterator[str]:
        """Applies the log to the model, in its order; what is wrong with the log or the outcomes."""
        model = Model([self._rule])
        waiting = sorted(self._windows, key=lambda one: one[0])
        open_: list[Window] = []
        place = 0
        for position, document in enumerate(self._log):
            index = document["index"]
            if index != position + 1:
                yield f"the log has {index} where {position + 1} should be"
                return
            changed = document["record"] in OPERATIONS
            if changed:
                yield from self._apply(model, document)
            fresh = []
            while place < len(waiting) and waiting[place][0] <= index:
                fresh.append(waiting[place])
                place += 1
            open_ = self._see(model, open_ if changed else [], fresh, index) + ([] if changed else open_)
        self.unseen += [*open_, *waiting[place:]]

    def _see(self, model: Model, old: list[Window], fresh: list[Window], index: int) -> list[Window]:
        """Those of these looks that do not fit the model as it is now, and may fit it later."""
        left = []
        for low, high, look in [*old, *fresh]:
            if index <= max(low, high) and shown(model, look) == (look.errno, look.value):
                look.found_at = index
            elif index >= high:
                self.unseen.append((low, high, look))
            else:
                left.append((low, high, look))
        return left

    def _apply(self, model: Model, document: Document) -> Iterator[str]:
        operation = self._by_id.get(document.get("id", ""))
        if operation is None:
            yield f"the log has what nobody submitted: {document}"
        elif operation.id in self.first:
            self.doubles += 1
        else:
            self.first[operation.id] = document["index"]
            record, wrong = _record(operation, document)
            if record is None:
                yield f"{operation.id}: {wrong}: {document}"
            else:
                self.outcomes += operation.gsn > 0
                yield from self._decide(model, operation, record, document["index"])

    def looks(self) -> Iterator[str]:
        """Looks that saw what was not there."""
        for low, high, look in self.unseen:
            strong = "behind a barrier" if look.strong else "locally"
            window = f"between {low} and {high}" if high > low else f"at {low}"
            seen = errno.errorcode.get(look.errno, "") if look.errno else repr(look.value)[:120]
            yield f"{look.id}: {look.path!r} at {look.node} {strong} showed {seen}, which it was not {window}"

    def looks_in_time(self) -> Iterator[str]:
        """What completed before a strong look was invoked is at or before its barrier; and what a look has shown is
        before every change that was submitted only afterwards."""
        points = [(one.completed, self.first[one.id], one.id) for one in self._operations if self._counts(one)]
        points += [(look.completed, look.found_at, look.id) for look in self._looks if look.found_at]
        points.sort(key=lambda one: one[0])
        times = [completed for completed, _, _ in points]
        latest = list(accumulate(((index, id) for _, index, id in points), max))
        for look in self._looks:
            before = bisect_left(times, look.invoked)
            if look.strong and before and latest[before - 1][0] > look.floor:
                index, other = latest[before - 1]
                yield f"{look.id}: its barrier was at {look.floor}, but {other} had ended at {index} before it"
        for one in self._operations:
            before = bisect_left(times, one.invoked) if self._counts(one) else 0
            if before and latest[before - 1][0] >= self.first[one.id]:
                index, other = latest[before - 1]
                if other not in self._by_id:
                    yield f"{one.id} is at {self.first[one.id]}, but {other} had shown {index} before it was submitted"


def _windows(operations: Sequence[Submitted], looks: Sequence[Look]) -> list[Window]:
    """Between which indexes each look must have been."""
    by_node: dict[str, list[tuple[float, int]]] = {}
    for one in operations:
        if one.gsn:
            by_node.setdefault(one.node, []).append((one.completed, one.gsn))
    floors: dict[str, tuple[list[float], list[int]]] = {}
    for node, ends in by_node.items():
        ends.sort()
        floors[node] = [time for time, _ in ends], list(accumulate((gsn for _, gsn in ends), max))
    starts = sorted((one.invoked, one.gsn) for one in operations if one.gsn)
    times = [time for time, _ in starts]
    # What is submitted after a look was answered comes after all that the look can have shown.
    least = list(accumulate((gsn for _, gsn in reversed(starts)), min))[::-1]
    found = []
    for look in looks:
        low = look.floor
        if not look.strong and look.node in floors:
            ended, most = floors[look.node]
            before = bisect_left(ended, look.invoked)
            low = most[before - 1] if before else 0
        after = bisect_right(times, look.completed)
        high = least[after] - 1 if after < len(least) else 1 << 62
        if look.index:
            high = min(high, look.index)
        found.append((max(low, 1), high, look))
    return found


def shown(model: Model, look: Look) -> tuple[int, bytes | None]:
    """What this look would see in the model now."""
    try:
        node = model.find(look.path, -1).node
    except Refused as refused:
        if errno.ENOTDIR in refused.allowed and look.errno == errno.ENOENT:
            return errno.ENOENT, None  # nothing is there either way
        return (look.errno if look.errno in refused.allowed else min(refused.allowed)), None
    if node is None:
        return errno.ENOENT, None
    match look.kind:
        case "stat":
            size = len(node.data) if node.kind is Kind.FILE else 0
            return 0, f"{KINDS[node.kind]} {size}".encode()
        case "list":
            return (0, b"\0".join(sorted(node.children))) if node.is_directory else (errno.ENOTDIR, None)
        case _:
            if node.is_directory:
                return errno.EISDIR, None
            return (0, node.data) if node.kind is Kind.FILE else (errno.EINVAL, None)
