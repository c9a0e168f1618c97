"""What is at a path of a zone, and the directories on the way to it."""

from __future__ import annotations

from lddp.core.records import Attributes, Kind
from lddp.ports import ZoneFilesystem
from lddp.replay.conflicts import ancestors


def handle_at(zone: ZoneFilesystem, path: bytes) -> bytes:
    """Of the object at a path; empty where there is none."""
    try:
        return zone.status(path).handle
    except (FileNotFoundError, NotADirectoryError):
        return b""


def is_directory(zone: ZoneFilesystem, path: bytes) -> bool:
    try:
        return zone.status(path).kind is Kind.DIRECTORY
    except (FileNotFoundError, NotADirectoryError):
        return False


def make_parents(zone: ZoneFilesystem, path: bytes) -> None:
    """After a power cut: stand-ins for directories that were removed already, and will be again."""
    top = zone.status(b"")
    for above in reversed(ancestors(path)):
        if not is_directory(zone, above):
            zone.make_directory(above, Attributes(0o700, top.uid, top.gid, 0))


def name_aside(inode: int) -> bytes:
    """Under which a directory is parked until it is made again; no ParkEffect uses it."""
    return b"made-%d" % inode
