"""A zone in memory whose machine can lose power: of what was done since the last sync a part is there, and what was
written into files since may be anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Self

from lddp.core.records import Attributes, Kind
from tests.fakes.zone import Bytes, FakeZone, Inode, Place

_TORN = Attributes(0o600, 0, 0, 7)
_WHOLE = ("put_file",)
_IN_PLACE = ("write", "truncate")
_ATTRIBUTES = ("set_attributes", "make_directory", "make_parked", "put_file", "make_node", *_IN_PLACE)


@dataclass
class Change:
    """One change of the zone, in terms of the objects that it concerned, whatever their paths are by now.

    `names` are (number of the directory, name); `objects` those that were made, moved, changed or lost a name;
    `parents` the directories of the names, `above` all that are on the way to them; `gone` what was in a directory that
    went.
    """

    method: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    places: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    names: set[Any] = field(default_factory=set)
    objects: set[int] = field(default_factory=set)
    made: set[int] = field(default_factory=set)
    parents: set[int] = field(default_factory=set)
    above: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    first_number: int = 0

    def needs(self, lost: Change) -> bool:
        """Whether it cannot be on the disk without an earlier change: of the same name or object, of a directory on the
        way to the name, or of a name in a directory that it removes."""
        return bool(
            self.names & lost.names
            or self.objects & lost.objects
            or self.above & lost.objects
            or self.gone & lost.parents
        )


class PowerZone(FakeZone):
    """`cut` takes the power away."""

    def __init__(self, *, observe_only: bool = False, capacity: int | None = None) -> None:
        self.tears_attributes = True
        """Filesystems with a journal do not, once the name is on the disk."""
        self._recording: Change | None = None
        self._replaying: Change | None = None
        self.changes: list[Change] = []
        """Since the last sync."""
        super().__init__(observe_only=observe_only, capacity=capacity)
        self._remember()

    def sync(self) -> None:
        super().sync()
        self._remember()

    def _remember(self) -> None:
        self.changes = []
        self._synced = _cloned(self.root, self.parked, self._inodes)

    def twin(self) -> Self:
        """Another one whose power can be cut at this moment."""
        other = type(self)(observe_only=self.observe_only, capacity=self.capacity)
        other._ticks, other._numbers = self._ticks, self._numbers
        other._synced, other.changes = self._synced, list(self.changes)
        return other

    def _enter(self, method: str, *paths: bytes, changes: bool = True) -> None:
        if self._replaying is None:
            super()._enter(method, *paths, changes=changes)

    # -- recording --------------------------------------------------------------------------------------------------

    def _place(self, path: bytes) -> Place:
        if self._replaying is not None:
            number, name = self._replaying.places[path]
            return self._inodes[number], name
        place = super()._place(path)
        if self._recording is not None:
            names = path.split(b"/")[:-1]
            self._recording.above |= {self._walk(names[:depth], path).number for depth in range(1, len(names) + 1)}
            self._recording.places[path] = place[0].number, place[1]
        return place

    def _find(self, path: bytes) -> Inode:
        if path and (self._recording is not None or self._replaying is not None):
            parent, name = self._place(path)
            if self._replaying is not None:
                return parent.entries[name]
        return super()._find(path)

    def record(self, method: str, change: Callable[..., Any], arguments: tuple[Any, ...], keywords: Any) -> Any:
        if self._recording is not None or self._replaying is not None:
            return change(self, *arguments, **keywords)
        arguments = tuple(_keep(argument) for argument in arguments)
        recorded = self._recording = Change(method, arguments, keywords, first_number=self._numbers)
        before = self._objects_at(method, arguments)
        try:
            result = change(self, *arguments, **keywords)
        finally:
            self._recording = None
        recorded.made = set(range(recorded.first_number, self._numbers))
        recorded.names = set(recorded.places.values())
        recorded.parents = {number for number, _ in recorded.names}
        recorded.above |= recorded.parents
        recorded.objects = recorded.made | {inode.number for inode in before}
        recorded.names |= _parked_names(method, arguments)
        lost = before if method in ("remove", "remove_parked") else before[1:] if method == "rename" else []
        if method in ("put_file", "make_node", "make_directory", "unpark", "park"):
            lost = [inode for inode in before if inode.links == 0]
        recorded.gone = {number for inode in lost for number in _tree(inode)}
        if method != "remove" or recorded.places:
            self.changes.append(recorded)
        return result

    def _objects_at(self, method: str, arguments: tuple[Any, ...]) -> list[Inode]:
        """What is at the names that a change is about to concern."""
        paths = [path for path in arguments[:2] if isinstance(path, bytes)]
        found = [self.parked[name] for name in arguments[2:] if method == "make_directory" and name in self.parked]
        for path in paths:
            if method in ("unpark", "remove_parked", "make_parked") and path is arguments[0]:
                found += [self.parked[path]] if path in self.parked else []
                continue
            if method == "park" and path is arguments[1]:
                found += [self.parked[path]] if path in self.parked else []
                continue
            try:
                found.append(FakeZone._find(self, path))
            except OSError:
                continue
        return found

    # -- a power cut ------------------------------------------------------------------------------------------------

    def cut(self, random: Random, prefix: int | None = None) -> list[str]:
        """The power goes, and comes back. What was kept of the changes since the last sync, in words: the first
        `prefix` ones, or some of them."""
        changes, numbers = self.changes, self._numbers
        kept = self._choose(random, changes) if prefix is None else changes[:prefix]
        self.root, self.parked, self._inodes = _cloned(*self._synced)
        done: list[Change] = []
        lost: list[Change] = []
        for change in changes:
            if change in kept and not any(change.needs(other) for other in lost) and self._redo(change):
                done.append(change)
            else:
                lost.append(change)
        self._numbers = numbers
        self._tear(random, done)
        self._remember()
        return [f"{change.method} {change.arguments[:2]}" for change in done]

    def _choose(self, random: Random, changes: list[Change]) -> list[Change]:
        match random.choice(["nothing", "everything", "prefix", "prefix", "part", "most"]):
            case "nothing":
                return []
            case "everything":
                return changes
            case "prefix":
                return changes[: random.randrange(len(changes) + 1)]
            case what:
                share = 0.5 if what == "part" else 0.9
                return [change for change in changes if random.random() < share]

    def _redo(self, change: Change) -> bool:
        if change.method == "rename" and self._is_into_itself(change):
            return False
        self._replaying, self._numbers = change, change.first_number
        try:
            getattr(FakeZone, change.method)(self, *change.arguments, **change.keywords)
        finally:
            self._replaying = None
        return True

    def _is_into_itself(self, change: Change) -> bool:
        number, name = change.places[change.arguments[0]]
        return change.places[change.arguments[1]][0] in _tree(self._inodes[number].entries[name])

    def _tear(self, random: Random, done: list[Change]) -> None:
        """What was written is not on the disk because its name is."""
        old: dict[int, Inode] = self._synced[2]
        for change in done:
            numbers = change.made or change.objects
            for inode in [self._inodes[number] for number in sorted(numbers) if number in self._inodes]:
                if self.tears_attributes and change.method in _ATTRIBUTES and random.random() < 0.3:
                    inode.attributes = old[inode.number].attributes if inode.number in old else _TORN
                if inode.kind is not Kind.FILE or random.random() < 0.5:
                    continue
                if change.method in _WHOLE:
                    inode.data = _torn(random, inode.data)
                elif change.method in _IN_PLACE and inode.number not in change.made:
                    _tear_range(random, inode, change)


def _cloned(
    root: Inode, parked: dict[bytes, Inode], inodes: dict[int, Inode]
) -> tuple[Inode, dict[bytes, Inode], dict[int, Inode]]:
    copies = {number: replace(inode, data=bytearray(inode.data), entries={}) for number, inode in inodes.items()}
    for number, inode in inodes.items():
        copies[number].entries.update((name, copies[child.number]) for name, child in inode.entries.items())
    return copies[root.number], {name: copies[inode.number] for name, inode in parked.items()}, copies


def _parked_names(method: str, arguments: tuple[Any, ...]) -> set[bytes]:
    match method:
        case "unpark" | "remove_parked" | "make_parked":
            return {arguments[0]}
        case "park":
            return {arguments[1]}
        case "make_directory":
            return {name for name in arguments[2:] if name}
        case _:
            return set()


def _keep(argument: Any) -> Any:
    """The bytes of a source, which may be gone by the time of the cut."""
    if not hasattr(argument, "chunks"):
        return argument
    return Bytes(pieces=[(offset, bytes(piece)) for offset, piece in argument.chunks()], size=argument.size)


def _torn(random: Random, data: bytearray) -> bytearray:
    cut = random.randrange(len(data) + 1)
    return random.choice([bytearray(), bytearray(len(data)), data[:cut], data[:cut] + bytes(len(data) - cut)])


def _tear_range(random: Random, inode: Inode, change: Change) -> None:
    """A part of what was written over is zeros."""
    if change.method == "write":
        offset, size = change.arguments[1], change.arguments[2].size
        start = random.randrange(offset, offset + size + 1)
        end = min(len(inode.data), offset + size)
        if start < end:
            inode.data[start:end] = bytes(end - start)


def _tree(inode: Inode) -> set[int]:
    return {inode.number}.union(*(_tree(child) for child in inode.entries.values()))


def _recorded(method: str) -> Callable[..., Any]:
    change = getattr(FakeZone, method)

    def changed(self: PowerZone, *arguments: Any, **keywords: Any) -> Any:
        return self.record(method, change, arguments, keywords)

    return changed


for _method in (
    *("make_directory", "put_file", "make_node", "link", "rename", "exchange", "park", "unpark", "remove"),
    *("make_parked", "remove_parked", "set_attributes", "write", "truncate"),
):
    setattr(PowerZone, _method, _recorded(_method))
