"""How much one observation holds: entries, bytes of small files that travel with it, and bytes of its own record."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from blake3 import blake3

from lddp.core.checks import Part, check_limits
from lddp.core.codec import size_of
from lddp.core.limits import NAME_BYTES_MAX, RECORD_BYTES_MAX
from lddp.core.records import Content, DirectoryReport, ObservedEntry
from lddp.errors import FormatError, LimitError

TINY_BYTES_MAX = 128
PORTION_ENTRIES = 2048
PORTION_BYTES = 4 * 1024 * 1024
HEAD_BYTES = 128
"""More than a record, or a report in it, takes beside what it has to say."""
_ARRAYS_BYTES = 8
"""More than the lengths of a report's lists take once there is something in them."""


class Pack:
    """Bytes of small files that travel together."""

    def __init__(self, pack_id: bytes) -> None:
        self.id = pack_id
        self._parts: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> Content:
        """Content of a small file; a very small one travels in the record itself."""
        digest = blake3(data).digest()
        if len(data) <= TINY_BYTES_MAX:
            return Content(digest, len(data), data)
        content = Content(digest, len(data), None, self.id, self.size)
        self._parts.append(data)
        self.size += len(data)
        return content

    def takes(self, size: int) -> bool:
        """Whether a small file still fits; one that does not is read later, like a large one."""
        return size <= TINY_BYTES_MAX or self.size < PORTION_BYTES

    def bytes(self) -> bytes:
        return b"".join(self._parts)


def room_in(record_bytes_max: int) -> int:
    """Bytes that reports may take together in an observation, whose record may have so many."""
    return min(record_bytes_max, RECORD_BYTES_MAX) - HEAD_BYTES


ROOM = room_in(RECORD_BYTES_MAX)
"""Where consensus takes all records."""


def held(part: Part, room: int) -> int:
    """Bytes that a part of an observation takes. OSError where no record holds it: EOVERFLOW for a number beyond 64
    bits, as times may be, otherwise E2BIG."""
    try:
        check_limits(part)
        size = size_of(part)
    except LimitError as error:
        raise OSError(errno.E2BIG, str(error)) from None
    except FormatError as error:
        raise OSError(errno.EOVERFLOW, str(error)) from None
    if size > room - HEAD_BYTES:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return size


def is_nameable(name: bytes) -> bool:
    """Whether the namespace can have such a name: other systems' filesystems have longer ones."""
    return len(name) <= NAME_BYTES_MAX


def split(report: DirectoryReport, room: int) -> Iterator[tuple[DirectoryReport, int]]:
    """The report in parts that each fit into an observation, where each of its entries does, and how many bytes each
    takes at most: entries before absences. The first has the attributes, and only the last is complete."""
    if len(report.entries) + len(report.absent) <= PORTION_ENTRIES and (size := size_of(report)) <= room:
        yield report, size
        return
    head = report._replace(entries=(), absent=(), complete=False)
    entries: list[ObservedEntry] = []
    absent: list[bytes] = []
    size = size_of(head) + _ARRAYS_BYTES
    items: list[ObservedEntry | bytes] = [*report.entries, *report.absent]
    for item in items:
        taken = len(item) + 2 if isinstance(item, bytes) else size_of(item)
        if size + taken > room or len(entries) + len(absent) >= PORTION_ENTRIES:
            yield head._replace(entries=tuple(entries), absent=tuple(absent)), size
            head = DirectoryReport(report.inode, (), (), False, None)
            entries, absent, size = [], [], size_of(head) + _ARRAYS_BYTES
        if isinstance(item, bytes):
            absent.append(item)
        else:
            entries.append(item)
        size += taken
    yield head._replace(entries=tuple(entries), absent=tuple(absent), complete=report.complete), size
