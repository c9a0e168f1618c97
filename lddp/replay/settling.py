"""Directory times: an effect inside a directory moves its modification time, which is put right once the zone is up to
date."""

from __future__ import annotations

import contextlib

from lddp.core.namespace import ATTRIBUTES_UNKNOWN
from lddp.core.records import Attributes, Kind
from lddp.core.view import View
from lddp.replay.carrier import Carrier


def directory_attributes(view: View, number: int, touched: set[bytes]) -> list[tuple[bytes, Attributes]]:
    """(path, attributes) of those directories that the namespace has."""
    wanted: list[tuple[bytes, Attributes]] = []
    rule = next((rule for rule in view.rules() if rule.number == number), None)
    for path in sorted(touched, reverse=True) if rule is not None else ():
        if rule is None or path[:1] == b"\0":
            continue
        found = view.find(rule.path + b"/" + path if path else rule.path)
        inode = None if found is None else found[1]
        if inode is not None and inode.mode != ATTRIBUTES_UNKNOWN:
            wanted.append((path, inode.attributes))
    return wanted


def set_directories(carrier: Carrier, wanted: list[tuple[bytes, Attributes]]) -> None:
    for path, attributes in wanted:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = carrier.zone.status(path)
            if status.kind is Kind.DIRECTORY and status.mtime_ns != attributes.mtime_ns:
                carrier.zone.set_attributes(path, Kind.DIRECTORY, attributes)
