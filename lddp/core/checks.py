"""Limits of what is in records: of what is to be written, and of what has been read.

How a record's parts are reached is derived from the annotations of the record types, as its decoder is.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any

from lddp.core import limits
from lddp.core import records as r
from lddp.errors import FormatError, LimitError

Check = Callable[[Any], None]
Part = r.ObservedEntry | r.DirectoryReport | r.InodeReport
"""What an observation consists of."""
EXPECTATIONS: dict[type, int] = {
    kind: sum(name in ("expected_inode", "expected_parent", "expected_to_parent") for name in kind._fields)
    for kind in (*typing.get_args(r.InPlace), *typing.get_args(r.Naming))
}
"""How many fields at the end of a record say what it means."""


def check_name(name: bytes) -> None:
    """FormatError or LimitError where `name` cannot be a directory entry."""
    if len(name) > limits.NAME_BYTES_MAX:
        raise LimitError(f"a name of {len(name)} bytes; at most {limits.NAME_BYTES_MAX}")
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise FormatError(f"not a name: {name!r}")


def _check_attributes(value: r.Attributes) -> None:
    mode, uid, gid, _, xattrs = value
    if not 0 <= mode <= 0o7777:
        raise FormatError(f"mode {mode:o} is beyond the twelve permission bits")
    if not (0 <= uid < 2**32 and 0 <= gid < 2**32):
        raise FormatError("an owner beyond 32 bits")
    if not xattrs:
        return
    total, before = 0, b""
    for name, data in xattrs:
        _check_xattr(name, data)
        if name <= before:
            raise FormatError("extended attributes are not in order of their names")
        total, before = total + len(name) + len(data), name
    if total > limits.XATTRS_BYTES_MAX:
        raise LimitError(f"{total} bytes of extended attributes; at most {limits.XATTRS_BYTES_MAX}")


def _check_xattr(name: bytes, data: bytes) -> None:
    if not 0 < len(name) <= limits.XATTR_NAME_BYTES_MAX or len(data) > limits.XATTR_VALUE_BYTES_MAX:
        raise LimitError("an extended attribute beyond its limits")


def _check_content(value: r.Content) -> None:
    digest, size, inline, pack, offset, _ = value
    if len(digest) != 32:
        raise FormatError("a digest is 32 bytes")
    if not 0 <= size <= limits.FILE_BYTES_MAX or offset < 0:
        raise FormatError("a content's size or offset is out of range")
    if inline is not None:
        if len(inline) > limits.INLINE_BYTES_MAX:
            raise LimitError(f"{len(inline)} bytes inline; at most {limits.INLINE_BYTES_MAX}")
        if len(inline) != size:
            raise FormatError("inline bytes are not as many as the content's size")
    if len(pack) not in (0, 16):
        raise FormatError("a pack is named by 16 bytes")


def means_one(record: r.Record) -> bool:
    """Whether a record says which object or directory it means. FormatError where none can have such a number."""
    expectations = EXPECTATIONS.get(type(record))
    numbers = () if expectations is None else record[-expectations:]
    if not any(numbers):
        return False
    for number in numbers:
        if type(number) is not int or not 0 <= number <= limits.INODE_MAX:
            raise FormatError(f"no object has the number {number!r}")
    return True


def _check_guarded(value: r.Guarded) -> None:
    means_one(value.operation)


def _check_id(value: r.OperationId) -> None:
    if not 1 <= len(value.session) <= 32 or not 0 <= value.sequence < 2**63:
        raise FormatError("an operation id is a session of 1 to 32 bytes and a sequence below 2^63")


def _check_entry(value: r.ObservedEntry) -> None:
    check_name(value.name)
    if len(value.identity) > 256 or value.size < 0:
        raise FormatError("an observed entry with a wrong identity or size")
    if len(value.target) > limits.SYMLINK_TARGET_BYTES_MAX:
        raise LimitError(f"a link target of {len(value.target)} bytes; at most {limits.SYMLINK_TARGET_BYTES_MAX}")


def _check_observation(value: r.Observation) -> None:
    items = len(value.inodes) + sum(1 + len(d.entries) + len(d.absent) for d in value.directories)
    if items > limits.OBSERVATION_ITEMS_MAX:
        raise LimitError(f"{items} items in an observation; at most {limits.OBSERVATION_ITEMS_MAX}")
    for directory in value.directories:
        for name in directory.absent:
            check_name(name)


def _check_rule(value: r.CreateRule) -> None:
    if len(value.members) > limits.ZONES_MAX:
        raise LimitError(f"{len(value.members)} zones; at most {limits.ZONES_MAX}")


CHECKS: dict[Any, Check] = {
    r.Attributes: _check_attributes,
    r.Content: _check_content,
    r.OperationId: _check_id,
    r.ObservedEntry: _check_entry,
    r.Observation: _check_observation,
    r.CreateRule: _check_rule,
    r.SetXattr: lambda value: _check_xattr(value.name, value.value),
    r.Guarded: _check_guarded,
}
"""What is checked of a value itself, without what is in it."""


# -- checks from annotations -------------------------------------------------------------------------------------------


def check_limits(value: r.Record | Part) -> None:
    """LimitError or FormatError where a record, or a part of one, or anything in it, is beyond the limits that
    `decode` holds it to."""
    check = _ALL_CHECKS[type(value)]
    if check is not None:
        check(value)


def _check_of(hint: Any) -> Check | None:
    """What checks a value of this type and everything in it; None where there is nothing to check."""
    arguments = typing.get_args(hint)
    if hint == r.Operation:
        return check_limits
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return _check_of(inner)
    if typing.get_origin(hint) is tuple:
        return _check_of_all(_check_of(arguments[0])) if arguments[-1] is Ellipsis else None
    return _checks_in(hint) if hasattr(hint, "_fields") else None


def _check_of_all(inner: Check | None) -> Check | None:
    if inner is None:
        return None

    def check(values: Any) -> None:
        for value in values:
            inner(value)

    return check


def _checks_in(kind: Any) -> Check | None:
    hints = typing.get_type_hints(kind)
    own = CHECKS.get(kind)
    found = [(position, _check_of(hints[name])) for position, name in enumerate(kind._fields)]
    parts = [(position, inner) for position, inner in found if inner is not None]
    if not parts:
        return own

    def check(value: Any) -> None:
        if own is not None:
            own(value)
        for position, inner in parts:
            part = value[position]
            if part is not None:
                inner(part)

    return check


_ALL_CHECKS: dict[type, Check | None] = {
    kind: _checks_in(kind) for kind in (*typing.get_args(r.Record), *typing.get_args(Part))
}
