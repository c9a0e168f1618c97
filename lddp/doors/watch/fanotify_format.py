"""Parsing what a read of a fanotify descriptor returns (linux/fanotify.h, reporting handles and names)."""

from __future__ import annotations

import struct
from collections.abc import Set

from lddp.doors.watch.events import Accept, Batch, Event, Flag, Overflow
from lddp.doors.watch.kernel import (
    FAN_ATTRIB,
    FAN_CLOSE_WRITE,
    FAN_CREATE,
    FAN_DELETE,
    FAN_DELETE_SELF,
    FAN_MODIFY,
    FAN_MOVE_SELF,
    FAN_ONDIR,
    FAN_Q_OVERFLOW,
    FAN_RENAME,
)
from lddp.errors import FormatError

_VERSION = 3
_HEAD = struct.Struct("=IBxHQii")
_RECORD = struct.Struct("=BxH8xI")
_HANDLE_AT = 16
"""Where a record has the handle's type, which its bytes follow: together what we call the handle."""

_OBJECT = 1
_PLACE = 2
_DIRECTORY = 3
_OLD_PLACE = 10
_NEW_PLACE = 12

_FLAGS = (
    (FAN_CREATE, Flag.CREATED),
    (FAN_DELETE | FAN_DELETE_SELF, Flag.REMOVED),
    (FAN_RENAME | FAN_MOVE_SELF, Flag.MOVED),
    (FAN_MODIFY, Flag.MODIFIED),
    (FAN_ATTRIB, Flag.ATTRIBUTES),
    (FAN_CLOSE_WRITE, Flag.CLOSED_WRITE),
    (FAN_ONDIR, Flag.IS_DIRECTORY),
)

_Place = tuple[bytes, bytes, bytes, bytes, bytes]


def flags_of(mask: int) -> int:
    flags = 0
    for bits, flag in _FLAGS:
        if mask & bits:
            flags |= flag
    return int(flags)


def parse(data: bytes, ignored: Set[int], accept: Accept | None) -> tuple[Batch, int]:
    """The events in `data` that concern us, those of the same place merged, and how many there were before that."""
    found: dict[_Place, int] = {}
    masks: dict[int, int] = {}
    lost = False
    count = position = 0
    while position < len(data):
        length, version, head, mask, _, process = _HEAD.unpack_from(data, position)
        if version != _VERSION or length < head:
            raise FormatError(f"fanotify speaks version {version}; this program knows {_VERSION}")
        start, position = position + head, position + length
        count += 1
        if mask & FAN_Q_OVERFLOW:
            lost = True
            continue
        if process in ignored:
            continue
        place = _place(data, start, position)
        if accept is not None and not _accepted(place, accept):
            continue
        flags = masks.get(mask)
        if flags is None:
            flags = masks[mask] = flags_of(mask)
        found[place] = found.get(place, 0) | flags
    batch: Batch = [Overflow()] if lost else []
    batch += [Event(place[0], place[1], place[2], flags, place[3], place[4]) for place, flags in found.items()]
    return batch, count


def _place(data: bytes, start: int, end: int) -> _Place:
    directory = name = target = new_directory = new_name = b""
    while start < end:
        kind, length, size = _RECORD.unpack_from(data, start)
        after = start + _HANDLE_AT + 4 + size
        handle = data[start + _HANDLE_AT : after]
        if kind == _OBJECT:
            target = handle
        elif kind in (_PLACE, _OLD_PLACE):
            directory, name = handle, data[after : start + length].rstrip(b"\0")
        elif kind == _NEW_PLACE:
            new_directory, new_name = handle, data[after : start + length].rstrip(b"\0")
        elif kind == _DIRECTORY:
            directory = handle
        if not length:
            raise FormatError("fanotify gave a record without length")
        start += length
    if name == b".":
        name = b""
        target = target or directory
    return directory, name, target, new_directory, new_name


def _accepted(place: _Place, accept: Accept) -> bool:
    directory, _, target, new_directory, _ = place
    if directory and accept(directory):
        return True
    if new_directory and accept(new_directory):
        return True
    return bool(target) and target != directory and accept(target)
