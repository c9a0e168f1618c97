"""One operation that was promised and is not ordered yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from lddp.core import records as r
from lddp.core.operations import EMPTY
from lddp.core.places import Place
from lddp.core.records import OperationId
from lddp.doors.fuse.later import Later

TRIES_MAX = 16
_SET = ("mode", "uid", "gid", "mtime_ns")
_MEANT = ("expected_inode", "expected_parent", "expected_to_parent")
_Bytes = r.Put | r.Write | r.Append | r.Truncate
_ByInode = r.Put | r.Write | r.Append | r.Truncate | r.SetAttributes | r.SetXattr | r.RemoveXattr


@dataclass(frozen=True, slots=True)
class Spot:
    """What one of its paths means: a name in a directory, and the inode there that is meant (0: whatever is there).
    `above` is 0 where it is the inode that is meant, by whatever name."""

    above: int
    name: bytes
    at: int

    @property
    def inodes(self) -> set[int]:
        return {self.above, self.at} - {0}


@dataclass(slots=True, eq=False)
class Queued:
    """`number` is its place in the order. The paths of `record` are right at that place, as far as is known; numbers of
    inodes are those of the mount."""

    record: r.Operation
    number: int
    spots: tuple[Spot, ...]
    directories: tuple[int, ...]
    """Whose names it changes, or that have what it changes."""
    size: int
    touched: set[int]
    """What was otherwise afterwards, also where that was not meant: what a rename replaces."""
    made: int = 0
    writers: list[Later] = field(default_factory=list)
    is_sent: bool = False
    was_sent: bool = False
    tries: int = 0
    """How often the log has refused it for its own sake."""
    refused: int = 0
    """What is expected of the log at present."""
    decided: int = 0
    """What the log said at last."""

    @property
    def concerned(self) -> set[int]:
        """Those whose opens hear of it when it is refused."""
        return {self.made, *self.directories, *(number for spot in self.spots for number in spot.inodes)} - {0}

    @property
    def is_in_place(self) -> bool:
        """Whether it changes one object, and nothing else where that is gone."""
        return isinstance(self.record, _ByInode)

    @property
    def is_spread(self) -> bool:
        """Whether the bytes that it names are where they have to be."""
        return all(writer.is_spread for writer in self.writers)

    @property
    def failed(self) -> int:
        """The errno for which they cannot come to be there; else 0."""
        return next((writer.failed for writer in self.writers if writer.failed), 0)

    @property
    def given_up(self) -> int:
        """The errno with which it is refused, whatever the namespace says; else 0."""
        return self.failed or (self.decided if self.tries > TRIES_MAX else 0)

    @property
    def is_over(self) -> bool:
        """Whether it does not come to be: it is refused, and the log has not got it."""
        return bool(self.refused) and not self.is_sent

    @property
    def changes_bytes(self) -> bool:
        return isinstance(self.record, _Bytes)

    async def spread(self) -> None:
        """Returns when they are, or when it is refused or has failed."""
        for writer in self.writers:
            await writer.spread()

    def takes_in(self, later: Queued) -> bool:
        """Whether what was asked for right after this is part of it now. Programs set mode, owner and times of one
        object one after the other, and who makes a small file writes it next."""
        if self.is_sent or self.was_sent:
            return False
        taken = self._joined(later)
        if taken is None:
            return False
        self.record = taken
        self.size += later.size
        self.writers += later.writers
        self.touched |= later.touched
        return True

    def _joined(self, later: Queued) -> r.Operation | None:
        """One record that does what both do, if there is one."""
        mine, other = self.record, later.record
        if isinstance(mine, r.SetAttributes) and isinstance(other, r.SetAttributes) and self.spots == later.spots:
            return mine._replace(time_ns=other.time_ns, **_given(other))
        if not self.made or later.spots != (Spot(0, b"", self.made),):
            return None
        match _file(mine), other:
            case r.CreateFile() as file, r.SetAttributes():
                return file._replace(**_given(other))
            case r.CreateFile() as file, r.Put(expected_version=r.ANY_VERSION, content=content):
                # A name need not wait for bytes that do not come with their record.
                if content.inline is not None and not file.content.size:
                    return file._replace(content=content, mtime_ns=other.time_ns)
        return None

    def with_id(self, id: OperationId) -> r.Operation:
        changed: r.Operation = self.record._replace(id=id)
        return changed

    def at_paths(self, paths: list[bytes]) -> r.Operation:
        changed: r.Operation = (
            self.record._replace(path=paths[0], to=paths[1])
            if has_two_paths(self.record)
            else self.record._replace(path=paths[0])
        )
        return changed


def _given(record: r.SetAttributes) -> dict[str, Any]:
    return {name: value for name in _SET if (value := getattr(record, name)) is not None}


def _file(record: r.Operation) -> r.CreateFile | None:
    """The making of a file, as what may say all of it."""
    match record:
        case r.CreateFile():
            return record
        case r.Create(kind=r.Kind.FILE):
            id, zone, time_ns, path, _, mode, uid, gid, _, parent = record
            return r.CreateFile(id, zone, time_ns, path, mode, uid, gid, time_ns, EMPTY, parent)
    return None


def meaning(record: r.Operation, number: Callable[[int], int]) -> r.Operation:
    """The record with other numbers of the inodes that it says it means."""
    changes: dict[str, Any] = {name: number(value) for name in _MEANT if (value := getattr(record, name, r.ANY_INODE))}
    changed: r.Operation = record._replace(**changes)
    return changed


def has_two_paths(record: r.Operation) -> TypeGuard[r.Rename | r.Link]:
    return isinstance(record, r.Rename | r.Link)


def spots_of(record: r.Operation, places: list[Place]) -> tuple[Spot, ...]:
    """What the paths of an operation mean to who asks for it, by the namespace's own numbers."""
    met = [(0 if one.parent is None else one.parent.number, one.name, one.child) for one in places]
    numbers = [(above, name, 0 if child is None else child.number) for above, name, child in met]
    match record:
        case r.Rename():
            (above, name, at), (to_above, to_name, to_at) = numbers
            # A plain rename replaces what is there when its turn comes, as a later one would.
            is_exchange = record.flag is r.RenameFlag.EXCHANGE
            return Spot(above, name, at), Spot(to_above, to_name, to_at if is_exchange else 0)
        case r.Link():
            (_, _, at), (to_above, to_name, _) = numbers
            return Spot(0, b"", at), Spot(to_above, to_name, 0)
        case _:
            ((above, name, at),) = numbers
            return (Spot(0, b"", at),) if isinstance(record, _ByInode) and at else (Spot(above, name, at),)
