"""What one mount has promised to its programs and told them since, and what of it must be true of the log.

Nothing of the mount's own queue is looked at: what is asked for is written down with what the mount shows at that
moment, and found again in the log by its time, which no other record of the mount has.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lddp.core.operations import EMPTY
from lddp.core.records import (
    Create,
    CreateFile,
    InPlace,
    Kind,
    Link,
    Operation,
    OperationId,
    Put,
    Rename,
    RenameFlag,
    SetAttributes,
)
from lddp.core.view import View
from tests.sim.checks import Violation

SET = ("mode", "uid", "gid", "mtime_ns")
NOT_COMPARED = ("id", "path", "to", "expected_inode", "expected_parent", "expected_to_parent", "expected_version")


class Meant(NamedTuple):
    """What a path means, by inode numbers: a name in a directory, and the object that has it (0: none). `around` are
    the directories above."""

    above: int
    name: bytes
    at: int
    around: frozenset[int] = frozenset()


class Done(NamedTuple):
    """An operation that the log has, as the model carried it out; by the log's numbers."""

    gsn: int
    id: OperationId
    record: Operation
    places: tuple[Meant, ...]

    @property
    def touched(self) -> set[int]:
        return {number for place in self.places for number in (place.above, place.at)} - {0}


@dataclass(eq=False)
class Promise:
    """An operation whose call has returned, or is to. `time` is by the history's own count of what happened; `gsn` how
    much of the log the mount knew then; `made` the number that the mount shows for what it made."""

    time: int
    gsn: int
    record: Operation
    meant: tuple[Meant, ...]
    made: int = 0
    is_refused: bool = False
    """At once, so that nothing was promised."""
    is_answered: bool = False
    """Its call had returned before the node ended."""
    done: Done | None = None
    is_absorbed: bool = False
    """It is a part of the record of another promise."""

    @property
    def is_kept(self) -> bool:
        return self.done is not None or self.is_absorbed

    @property
    def objects(self) -> list[int]:
        """The objects that it means, by whatever names."""
        is_exchange = isinstance(self.record, Rename) and self.record.flag is RenameFlag.EXCHANGE
        return [one.at for one in self.meant[: 2 if is_exchange else 1] if one.at]

    @property
    def concerned(self) -> set[int]:
        """Those whose opens must be told where it is refused."""
        return {self.made, *self.objects, *(one.above for one in self.meant)} - {0}

    @property
    def met(self) -> set[int]:
        return {self.made, *(number for one in self.meant for number in (one.above, one.at, *one.around))} - {0}


class Told(NamedTuple):
    """What a call said that reports errors. All that was promised before `floor` had been decided by then."""

    begin: int
    floor: int
    end: int
    errno: int


@dataclass(eq=False)
class Opened:
    """One open of an object, and what its calls said."""

    number: int
    time: int
    told: list[Told] = field(default_factory=list)


def meant_by(view: View, top: bytes, root: int, path: bytes) -> Meant:
    """Where a path leads in a mount."""
    above, at, name, around = 0, root, b"", []
    for part in path[len(top) :].split(b"/")[1:]:
        above, name = at, part
        around.append(above)
        at = view.child(above, name) if above else 0
    return Meant(above, name, at, frozenset(around))


def tag(record: Operation) -> tuple[object, ...]:
    """What no other record of a mount has, unless it is the same once more. A file with its bytes was asked for as one
    without."""
    kind = Create if isinstance(record, CreateFile) else type(record)
    return kind.__name__, record.time_ns, getattr(record, "offset", -1), getattr(record, "size", -1)


def _fields(record: Operation) -> dict[str, Any]:
    return {name: value for name, value in record._asdict().items() if name not in NOT_COMPARED}


class History:
    """Of one mount. `own` are directories of its own, by the mount's numbers, in which nobody else does anything."""

    def __init__(self, name: str, *, is_pipelined: bool) -> None:
        self.name = name
        self.is_pipelined = is_pipelined
        self.promises: list[Promise] = []
        self.opened: list[Opened] = []
        self.refused_at_once: list[tuple[int, set[int]]] = []
        """(time, objects) of what was refused before it was promised: of that the call itself speaks."""
        self.own: set[int] = set()
        self.ids: set[OperationId] = set()
        self.sure = 0
        """All that was promised before is in the log, or was refused."""
        self.barred = 0
        """As `sure`, if barriers of the mount keep their word; known in the node only."""
        self._time = 0

    def tick(self) -> int:
        self._time += 1
        return self._time

    def open(self, number: int) -> Opened:
        opened = Opened(number, self.tick())
        self.opened.append(opened)
        return opened


class Judge:
    """Compares histories with what the log has, in which `gone` are objects that lost their last names."""

    def __init__(self, history: History, log: list[Done], gone: set[int]) -> None:
        self._history = history
        self._log = log
        self._gone = gone
        self._real: dict[int, int] = {}
        self._made = {promise.made for promise in history.promises} - {0}
        self._own = [done for done in log if done.id in history.ids]
        self._others = [done for done in log if done.id not in history.ids]

    def check(self) -> None:
        """Raises Violation."""
        history = self._history
        self._find()
        if not history.is_pipelined:
            for promise in history.promises:
                is_sure = promise.is_answered and not promise.is_refused
                self._require(promise.is_kept or not is_sure, promise, "was answered, and is not in the log")
            return
        self._check_gaps()
        for opened in history.opened:
            self._check_silence(opened)
            self._check_reports(opened)

    def _require(self, condition: object, promise: Promise, text: str) -> None:
        if not condition:
            raise Violation(f"{self._history.name}: {promise.record}, meaning {promise.meant}, {text}")

    # -- the order ----------------------------------------------------------------------------------------------------

    def _find(self) -> None:
        """Each record of the mount is a promise, and they are in order."""
        by_tag: dict[tuple[object, ...], list[Promise]] = {}
        for promise in self._history.promises:
            if not promise.is_refused:
                by_tag.setdefault(tag(promise.record), []).append(promise)
        places = {promise: at for at, promise in enumerate(self._history.promises)}
        counts = Counter(tag(done.record) for done in self._own)
        alone = {one for key, asked in by_tag.items() if counts[key] for one in asked[-counts[key] :]}
        last = -1
        for done in self._own:
            asked = by_tag.get(tag(done.record))
            if asked is None:
                raise Violation(f"{self._history.name}: the log has {done.record}, which nobody has asked for")
            # A file that could not be committed is committed again, with the time of its last change, and so can be in
            # the log for one try or the other; what is queued gets its id later.
            left = [one for one in asked if one.done is None] or asked
            promise = next((one for one in left if one.record.id == done.id), left[0])
            self._require(promise.done is None, promise, f"is in the log twice, lastly at {done.gsn}")
            promise.done = done
            skipped: list[Promise] = []
            if self._history.is_pipelined:
                self._require(places[promise] > last, promise, f"is at {done.gsn}, behind what was promised later")
                skipped, last = self._history.promises[last + 1 : places[promise]], places[promise]
            if isinstance(done.record, CreateFile):
                last += self._take_in(promise, done.record, self._history.promises[last + 1 :], alone)
            else:
                self._absorb(skipped, promise)
            self._check_meaning(promise, done)
            if promise.made > 0:
                self._real[promise.made] = done.gsn << 16

    def _absorb(self, skipped: list[Promise], promise: Promise) -> None:
        """Attributes that were set one after the other may be one record."""
        assert promise.done is not None
        found = promise.done.record
        wanted = _fields(promise.record)
        if isinstance(found, SetAttributes):
            for earlier in reversed(skipped):
                mine = _fields(earlier.record)
                if not isinstance(earlier.record, SetAttributes) or earlier.meant[0].at != promise.meant[0].at:
                    continue
                given = [name for name in SET if mine[name] is not None]
                if all(getattr(found, name) is not None for name in given):
                    earlier.is_absorbed = True
                    wanted |= {name: mine[name] for name in given if wanted[name] is None}
        self._require(_fields(found) == wanted, promise, f"is {found} at {promise.done.gsn}")

    def _take_in(self, promise: Promise, found: CreateFile, later: list[Promise], alone: set[Promise]) -> int:
        """What was asked for right after the making of a file, and of this file, may be part of its record: so much of
        it as makes that record, and what changes nothing of it may be. How many promises the first are, with those
        between them that are not in the log. `alone` have records of their own."""
        made = promise.record
        self._require(isinstance(made, Create) and made.kind is Kind.FILE, promise, f"is {found}")
        wanted = {name: value for name, value in _fields(made).items() if name not in ("kind", "rdev")}
        wanted |= {"mtime_ns": made.time_ns, "content": EMPTY}
        taken = 0 if wanted == _fields(found) else -1
        parts: list[Promise] = []
        for count, one in enumerate(later, 1):
            record = one.record
            if one in alone:
                break
            if one.is_refused or not isinstance(record, Put | SetAttributes) or one.meant[0].at != promise.made:
                continue  # nothing in the log is between them
            if isinstance(record, Put):
                wanted |= {"content": record.content, "mtime_ns": record.time_ns}
            else:
                wanted |= {name: value for name in SET if (value := getattr(record, name)) is not None}
            parts.append(one)
            if wanted == _fields(found):
                taken = count if taken < 0 else taken
                for part in parts:
                    part.is_absorbed = True
        self._require(taken >= 0, promise, f"is {found}, which is not what was asked for after it")
        return taken

    def _number(self, number: int) -> int:
        """The log's, for one of the mount; below 0 where there is none."""
        return self._real.get(number, -1) if number in self._made else number

    def _check_meaning(self, promise: Promise, done: Done) -> None:
        """It was done to the objects that the mount had shown, and in these directories; or to what a name stood for,
        where the name is all that a mount promises."""
        is_in_place = isinstance(done.record, InPlace)
        is_exact = self._history.is_pipelined
        for at, (meant, met) in enumerate(zip(promise.meant, done.places, strict=True)):
            is_object = is_in_place and at == 0
            if not is_object:
                self._require(
                    (self._number(meant.above), meant.name) == (met.above, met.name), promise, f"was done at {met}"
                )
            is_whole = is_object or (is_exact and (at == 0 or _is_exchange(promise.record)))
            if is_whole and (meant.at or at == 0):
                self._require(self._number(meant.at) == met.at, promise, f"was done to {met}")

    # -- gaps ---------------------------------------------------------------------------------------------------------

    def _check_gaps(self) -> None:
        """What is not there was refused for a reason, or nothing of the mount that was promised later is there, nor was
        it said to be."""
        promises = [one for one in self._history.promises if not one.is_refused]
        refused: set[int] = set()
        stop = max((done.gsn for done in self._log), default=0) + 1
        for promise, bound in self._with_bounds(promises, stop):
            if promise.is_kept or (bound == stop and promise.time >= self._history.sure):
                continue
            meant = promise.met
            self._require(
                not any(one.above in self._history.own for one in promise.meant),
                promise,
                "is not there, nobody else has done anything in its directory, and what came later is there",
            )
            numbers = {self._number(number) for number in meant}
            because = meant & refused or any(
                promise.gsn < done.gsn < bound and done.touched & numbers for done in self._others
            )
            self._require(because, promise, "was refused without a reason, or lost")
            refused |= meant

    @staticmethod
    def _with_bounds(promises: list[Promise], stop: int) -> Iterator[tuple[Promise, int]]:
        """Each promise with the GSN by which it had been decided."""
        bounds: list[int] = []
        bound = stop
        for promise in reversed(promises):
            bound = bound if promise.done is None else promise.done.gsn
            bounds.append(bound)
        yield from zip(promises, reversed(bounds), strict=True)

    # -- errors -------------------------------------------------------------------------------------------------------

    def _lost(self, number: int) -> Iterator[Promise]:
        for promise in self._history.promises:
            if not promise.is_refused and not promise.is_kept and number in promise.concerned:
                yield promise

    def _need_not_be_told(self, promise: Promise) -> bool:
        """What another zone has removed may be changed without an error, as where it is removed afterwards."""
        is_alone = isinstance(promise.record, InPlace) and not isinstance(promise.record, Link)
        return is_alone and any(self._number(number) in self._gone for number in promise.objects)

    def _check_silence(self, opened: Opened) -> None:
        """Who was not told of anything has lost nothing that was promised before, but what it was told of earlier."""
        for told in opened.told:
            if told.errno or not told.floor:
                continue
            for promise in self._lost(opened.number):
                if promise.time >= told.floor or self._need_not_be_told(promise):
                    continue
                is_told = any(e.errno and e.end <= told.begin and e.end > promise.time for e in opened.told)
                others = [] if promise.time > opened.time else self._history.opened
                is_told = is_told or any(
                    e.errno and promise.time < e.end < opened.time
                    for other in others
                    if other is not opened and other.number == opened.number
                    for e in other.told
                )
                self._require(
                    is_told, promise, f"is not there, and {opened.number} was synced without an error: {told}"
                )

    def _check_reports(self, opened: Opened) -> None:
        """Each error is one of something that was refused and not reported yet to who had this open."""
        for at, told in enumerate(opened.told):
            if not told.errno or self._speaks_for_itself(opened, told):
                continue
            earlier = [e for e in opened.told[:at] if e.errno and not self._speaks_for_itself(opened, e)]
            known = max((e.floor for e in earlier), default=0)
            if not any(known < one.time < told.end for one in self._lost(opened.number)):
                raise Violation(
                    f"{self._history.name}: {opened.number} was told {errno.errorcode[told.errno]} by {told}, "
                    f"and nothing of it was refused since it was told last"
                )

    def _speaks_for_itself(self, opened: Opened, told: Told) -> bool:
        return any(
            told.begin < time < told.end and opened.number in numbers for time, numbers in self._history.refused_at_once
        )


def _is_exchange(record: Operation) -> bool:
    return isinstance(record, Rename) and record.flag is RenameFlag.EXCHANGE


def check_all(histories: Iterable[History], log: list[Done], gone: set[int]) -> Mapping[str, int]:
    """How many promises there were, and how many of them were refused or lost. Raises Violation."""
    counts: dict[str, int] = {}
    for history in histories:
        Judge(history, log, gone).check()
        asked = [promise for promise in history.promises if not promise.is_refused]
        counts["promises"] = counts.get("promises", 0) + len(asked)
        counts["kept"] = counts.get("kept", 0) + sum(promise.is_kept for promise in asked)
    return counts
