"""What to do where a target already has something at the path of a migrated file."""

from __future__ import annotations

import os
from enum import StrEnum

from blake3 import blake3

from lddp.core.records import Attributes, Content, Kind
from lddp.ports import ZoneFilesystem

_CHUNK_BYTES = 1 << 20


class OnExisting(StrEnum):
    """The policies of `--on-existing`."""

    OVERWRITE = "overwrite"
    SKIP_IDENTICAL = "skip-identical"
    SKIP_SAME_SIZE_MTIME = "skip-same-size-mtime"
    KEEP = "keep"


def is_as_wanted(
    zone: ZoneFilesystem, path: bytes, content: Content, attributes: Attributes, policy: OnExisting
) -> bool | None:
    """None: write the file. True: its bytes are right already, set its attributes. False: leave it alone.

    Cheap tests come first: bytes are read only where the size is right already.
    """
    if policy is OnExisting.OVERWRITE:
        return None
    try:
        status = zone.status(path)
    except FileNotFoundError:
        return None
    if policy is OnExisting.KEEP:
        return False
    if status.kind is not Kind.FILE or status.size != content.size or status.links > 1:
        return None
    if policy is OnExisting.SKIP_SAME_SIZE_MTIME:
        return True if status.mtime_ns == attributes.mtime_ns else None
    return True if file_digest(zone, path) == content.digest else None


def file_digest(zone: ZoneFilesystem, path: bytes) -> bytes:
    """BLAKE3-256 of a file's bytes."""
    descriptor = zone.open_read(path)
    try:
        return digest_of(descriptor)
    finally:
        os.close(descriptor)


def digest_of(descriptor: int) -> bytes:
    """BLAKE3-256 of all bytes of an open file, from its beginning."""
    hasher = blake3()
    step = min(os.fstat(descriptor).st_size + 1, _CHUNK_BYTES)
    offset = 0
    while data := os.pread(descriptor, step, offset):
        hasher.update(data)
        offset += len(data)
    return hasher.digest()
