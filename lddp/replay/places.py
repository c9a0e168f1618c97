"""What is at a path of a zone, and the names of what is parked after a power cut."""

from __future__ import annotations

from blake3 import blake3

from lddp.core.effects import Effect
from lddp.core.records import Kind
from lddp.ports import Status, ZoneFilesystem


def status_at(zone: ZoneFilesystem, path: bytes) -> Status | None:
    """Of the object at a path; None where there is none."""
    try:
        return zone.status(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_directory(zone: ZoneFilesystem, path: bytes) -> bool:
    status = status_at(zone, path)
    return status is not None and status.kind is Kind.DIRECTORY


def path_of(effect: Effect) -> bytes:
    """A path to name an effect by."""
    path: bytes = getattr(effect, "path", b"") or getattr(effect, "to", b"")
    return path


def name_aside(inode: int) -> bytes:
    """Under which a new directory is parked until it gets its name, for the first time or again; no ParkEffect uses
    it."""
    return b"made-%d" % inode


def name_of_moved(handle: bytes) -> bytes:
    """Under which an object that was moved is parked until it can be put back."""
    return b"moved-%b" % blake3(handle).hexdigest(16).encode()
