"""Parsing what a read of an inotify descriptor returns (linux/inotify.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from lddp.doors.watch.events import Flag
from lddp.doors.watch.kernel import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_ISDIR,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_UNMOUNT,
)

_HEAD = struct.Struct("=iIII")

_FLAGS = (
    (IN_CREATE, Flag.CREATED),
    (IN_DELETE | IN_DELETE_SELF | IN_UNMOUNT, Flag.REMOVED),
    (IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF, Flag.MOVED),
    (IN_MODIFY, Flag.MODIFIED),
    (IN_ATTRIB, Flag.ATTRIBUTES),
    (IN_CLOSE_WRITE, Flag.CLOSED_WRITE),
    (IN_ISDIR, Flag.IS_DIRECTORY),
)


class Raw(NamedTuple):
    watch: int
    mask: int
    cookie: int
    name: bytes


def flags_of(mask: int) -> int:
    flags = 0
    for bits, flag in _FLAGS:
        if mask & bits:
            flags |= flag
    return int(flags)


def parse(data: bytes) -> Iterator[Raw]:
    position = 0
    previous: Raw | None = None
    while position < len(data):
        watch, mask, cookie, size = _HEAD.unpack_from(data, position)
        start = position + _HEAD.size
        position = start + size
        raw = Raw(watch, mask, cookie, data[start:position].rstrip(b"\0"))
        if raw != previous:
            yield raw
        previous = raw
