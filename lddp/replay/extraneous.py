"""Removes from a zone what the namespace does not have, where the operator asked for it (`--delete-extraneous`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from lddp.core.records import Kind
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.ports import Status, ZoneFilesystem
from lddp.replay.carrier import Carrier


def remove_extraneous(view: View, rule: Rule, carrier: Carrier, keeps: Callable[[bytes, Status], bool]) -> list[bytes]:
    """Paths removed. `keeps` says of a path and its status whether it is left alone all the same (an exclusion), as is
    what cannot be looked at.

    To be run while the zone's files are as the view says and nothing else changes them.
    """
    removed: list[bytes] = []
    waiting = [(rule.root, b"")]
    while waiting:
        number, path = waiting.pop()
        known = dict(view.list(number))
        for name, status in _list(carrier.zone, path):
            below = path + b"/" + name if path else name
            child = view.inode(known[name]) if name in known else None
            if child is None and not keeps(below, status):
                carrier.zone.remove(below)
                carrier.touched.add(path)
                removed.append(below)
            elif child is not None and child.kind is Kind.DIRECTORY and status.kind is Kind.DIRECTORY:
                waiting.append((child.number, below))
    return removed


def _list(zone: ZoneFilesystem, path: bytes) -> list[tuple[bytes, Status]]:
    found = []
    with zone.open_directory(path) as directory:
        for name, _ in directory.names():
            with suppress(OSError):
                found.append((name, directory.status(name)))
    return found
