"""Directory times: an effect inside a directory moves its modification time, which is put right once the zone is up to
date. So is the mode, which a kill may have left so that the owner can change what is in it."""

from __future__ import annotations

import contextlib
import stat

from lddp.core.namespace import ATTRIBUTES_UNKNOWN
from lddp.core.records import Attributes, Kind
from lddp.core.view import View
from lddp.replay.carrier import Carrier

Wanted = tuple[bytes, Attributes, bytes]
"""Path of a directory, its attributes, and which object it is, empty where that is not known."""


def directory_attributes(view: View, number: int, touched: set[bytes], *, is_source: bool) -> list[Wanted]:
    """Those directories that the namespace has. It knows the objects of the rule's source."""
    wanted: list[Wanted] = []
    rule = next((rule for rule in view.rules() if rule.number == number), None)
    for path in sorted(touched, reverse=True) if rule is not None else ():
        if rule is None or path[:1] == b"\0":
            continue
        found = view.find(rule.path + b"/" + path if path else rule.path)
        inode = None if found is None else found[1]
        if inode is not None and inode.mode != ATTRIBUTES_UNKNOWN:
            wanted.append((path, inode.attributes, inode.identity if is_source else b""))
    return wanted


def set_directories(carrier: Carrier, wanted: list[Wanted]) -> None:
    """Blocking. A program may have moved a directory of the source, and another one to its place, which is left as it
    is: both are looked at, and reported."""
    for path, attributes, identity in wanted:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = carrier.zone.status(path)
            is_it = status.kind is Kind.DIRECTORY and identity in (b"", status.handle)
            is_open = status.mode & ~attributes.mode & stat.S_IRWXU
            if is_it and (is_open or status.mtime_ns != attributes.mtime_ns):
                carrier.zone.set_attributes(path, Kind.DIRECTORY, attributes)
