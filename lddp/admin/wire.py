"""The operations of a batch, as clients write them: short arrays for machines, JSON objects for people.

An operation is an array `[sequence, name, path, argument...]`; trailing arguments may be left out where ARGUMENTS has a
default. In msgpack, paths and bytes are `bin`. In JSON it is an object with the same names, for example
`{"op": "rename", "path": "/a", "to": "/b"}`; bytes are text or, with the suffix `_base64`, base64.

The sequence, together with the client's session, is the operation's id: whoever sends the same pair again gets the
first outcome again. A `data` of at most INLINE_BYTES_MAX bytes travels in the record itself; larger contents are PUT to
`/v1/files`.

This is the hot path, so each operation costs one dictionary look-up, one regular expression and one tuple.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from blake3 import blake3

from lddp.core import limits
from lddp.core import records as r
from lddp.errors import LimitError, OperationError, UsageError
from lddp.serving.paths import bytes_in, checked, is_well_formed

OPERATIONS_MAX = 4096
"""In one batch."""
SEQUENCE_MAX = 2**63 - 1

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755


class Origin(NamedTuple):
    """What all operations of a batch share. `uid` and `gid` own what is created without saying whose it is."""

    session: bytes
    zone: int
    time_ns: int
    uid: int
    gid: int


REQUIRED = object()

ARGUMENTS: dict[str, tuple[tuple[str, object], ...]] = {
    "mkdir": (("mode", DIRECTORY_MODE), ("uid", None), ("gid", None)),
    "create": (("mode", FILE_MODE), ("uid", None), ("gid", None), ("kind", int(r.Kind.FILE)), ("rdev", 0)),
    "put": (("data", REQUIRED), ("mode", FILE_MODE), ("uid", None), ("gid", None), ("expected_version", -1)),
    "write": (("offset", REQUIRED), ("data", REQUIRED)),
    "append": (("data", REQUIRED),),
    "truncate": (("size", REQUIRED),),
    "rename": (("to", REQUIRED), ("flag", 0)),
    "unlink": (("expected_version", -1),),
    "rmdir": (),
    "remove": (("expected_version", -1),),
    "link": (("to", REQUIRED),),
    "symlink": (("target", REQUIRED), ("uid", None), ("gid", None)),
    "setattr": (("mode", None), ("uid", None), ("gid", None), ("mtime_ns", None)),
    "setxattr": (("name", REQUIRED), ("value", REQUIRED), ("flag", 0)),
    "removexattr": (("name", REQUIRED),),
}
"""What follows the path, in order, with the defaults."""

BYTES = frozenset({"data", "to", "target", "name", "value"})
_MODE_MAX = 0o7777
_ID_MAX = 2**32 - 2
_KINDS = int(min(r.Kind)), int(max(r.Kind))
_RENAME_FLAG_MAX = int(max(r.RenameFlag))
_XATTR_FLAG_MAX = int(max(r.XattrFlag))


def content_of(data: bytes) -> r.Content:
    """A content that carries its bytes inline. Raises LimitError for more than that may be."""
    if type(data) is not bytes:
        raise UsageError("'data' must be bytes; send msgpack bin, or JSON text or base64")
    if len(data) > limits.INLINE_BYTES_MAX:
        raise LimitError(
            f"{len(data)} bytes are too many for a batch (at most {limits.INLINE_BYTES_MAX}); PUT them to /v1/files"
        )
    return r.Content(blake3(data).digest(), len(data), data)


def _integer(value: Any, low: int, high: int, name: str) -> int:
    if type(value) is int and low <= value <= high:
        return value
    raise UsageError(f"'{name}' must be a whole number from {low} to {high}, not {value!r}")


def _optional(value: Any, low: int, high: int, name: str) -> int | None:
    return None if value is None else _integer(value, low, high, name)


def _mode(value: Any) -> int:
    return _integer(value, 0, _MODE_MAX, "mode")


def _owner(value: Any, default: int, name: str) -> int:
    return default if value is None else _integer(value, 0, _ID_MAX, name)


def _bytes(value: Any, limit: int, name: str) -> bytes:
    if type(value) is bytes and len(value) <= limit:
        return value
    raise UsageError(f"'{name}' must be at most {limit} bytes")


def _version(value: Any) -> int:
    return _integer(value, r.SOME_VERSION, SEQUENCE_MAX, "expected_version")


Build = Callable[..., r.Operation]
"""(origin, id, path, *arguments) -> the record."""


def _make_directory(o: Origin, id: r.OperationId, path: bytes, mode: Any, uid: Any, gid: Any) -> r.Operation:
    owner = _owner(uid, o.uid, "uid"), _owner(gid, o.gid, "gid")
    return r.MakeDirectory(id, o.zone, o.time_ns, path, _mode(mode), *owner)


def _create(
    o: Origin, id: r.OperationId, path: bytes, mode: Any, uid: Any, gid: Any, kind: Any, rdev: Any
) -> r.Operation:
    what = r.Kind(_integer(kind, *_KINDS, "kind"))
    if what in (r.Kind.DIRECTORY, r.Kind.SYMLINK):
        raise UsageError(f"'create' does not make a {what.name.lower()}; use mkdir or symlink")
    owner = _owner(uid, o.uid, "uid"), _owner(gid, o.gid, "gid")
    device = _integer(rdev, 0, SEQUENCE_MAX, "rdev")
    return r.Create(id, o.zone, o.time_ns, path, what, _mode(mode), *owner, device)


def _put(
    o: Origin, id: r.OperationId, path: bytes, data: Any, mode: Any, uid: Any, gid: Any, version: Any
) -> r.Operation:
    owner = _owner(uid, o.uid, "uid"), _owner(gid, o.gid, "gid")
    return r.Put(id, o.zone, o.time_ns, path, _mode(mode), *owner, content_of(data), _version(version))


def _write(o: Origin, id: r.OperationId, path: bytes, offset: Any, data: Any) -> r.Operation:
    at = _integer(offset, 0, limits.FILE_BYTES_MAX, "offset")
    return r.Write(id, o.zone, o.time_ns, path, at, content_of(data))


def _append(o: Origin, id: r.OperationId, path: bytes, data: Any) -> r.Operation:
    return r.Append(id, o.zone, o.time_ns, path, content_of(data))


def _truncate(o: Origin, id: r.OperationId, path: bytes, size: Any) -> r.Operation:
    return r.Truncate(id, o.zone, o.time_ns, path, _integer(size, 0, limits.FILE_BYTES_MAX, "size"))


def _rename(o: Origin, id: r.OperationId, path: bytes, to: Any, flag: Any) -> r.Operation:
    how = r.RenameFlag(_integer(flag, 0, _RENAME_FLAG_MAX, "flag"))
    return r.Rename(id, o.zone, o.time_ns, path, checked(_bytes(to, limits.PATH_BYTES_MAX, "to")), how)


def _unlink(o: Origin, id: r.OperationId, path: bytes, version: Any) -> r.Operation:
    return r.Unlink(id, o.zone, o.time_ns, path, _version(version))


def _remove_directory(o: Origin, id: r.OperationId, path: bytes) -> r.Operation:
    return r.RemoveDirectory(id, o.zone, o.time_ns, path)


def _remove(o: Origin, id: r.OperationId, path: bytes, version: Any) -> r.Operation:
    return r.Remove(id, o.zone, o.time_ns, path, _version(version))


def _link(o: Origin, id: r.OperationId, path: bytes, to: Any) -> r.Operation:
    return r.Link(id, o.zone, o.time_ns, path, checked(_bytes(to, limits.PATH_BYTES_MAX, "to")))


def _symlink(o: Origin, id: r.OperationId, path: bytes, target: Any, uid: Any, gid: Any) -> r.Operation:
    text = _bytes(target, limits.PATH_BYTES_MAX, "target")
    if len(text) > limits.SYMLINK_TARGET_BYTES_MAX:
        most = limits.SYMLINK_TARGET_BYTES_MAX
        raise OperationError(errno.ENAMETOOLONG, f"a target of {len(text)} bytes is too long; {most} are possible")
    if not text or b"\0" in text:
        raise UsageError("'target' must not be empty and must not hold NUL")
    owner = _owner(uid, o.uid, "uid"), _owner(gid, o.gid, "gid")
    return r.Symlink(id, o.zone, o.time_ns, path, text, *owner)


def _set_attributes(
    o: Origin, id: r.OperationId, path: bytes, mode: Any, uid: Any, gid: Any, mtime_ns: Any
) -> r.Operation:
    return r.SetAttributes(
        id,
        o.zone,
        o.time_ns,
        path,
        _optional(mode, 0, _MODE_MAX, "mode"),
        _optional(uid, 0, _ID_MAX, "uid"),
        _optional(gid, 0, _ID_MAX, "gid"),
        _optional(mtime_ns, -(2**63), SEQUENCE_MAX, "mtime_ns"),
    )


def _set_xattr(o: Origin, id: r.OperationId, path: bytes, name: Any, value: Any, flag: Any) -> r.Operation:
    key = _bytes(name, limits.XATTR_NAME_BYTES_MAX, "name")
    data = _bytes(value, limits.XATTR_VALUE_BYTES_MAX, "value")
    how = r.XattrFlag(_integer(flag, 0, _XATTR_FLAG_MAX, "flag"))
    return r.SetXattr(id, o.zone, o.time_ns, path, key, data, how)


def _remove_xattr(o: Origin, id: r.OperationId, path: bytes, name: Any) -> r.Operation:
    return r.RemoveXattr(id, o.zone, o.time_ns, path, _bytes(name, limits.XATTR_NAME_BYTES_MAX, "name"))


BUILDERS: dict[str, Build] = {
    "mkdir": _make_directory,
    "create": _create,
    "put": _put,
    "write": _write,
    "append": _append,
    "truncate": _truncate,
    "rename": _rename,
    "unlink": _unlink,
    "rmdir": _remove_directory,
    "remove": _remove,
    "link": _link,
    "symlink": _symlink,
    "setattr": _set_attributes,
    "setxattr": _set_xattr,
    "removexattr": _remove_xattr,
}


def _complete(name: str, given: list[Any]) -> list[Any]:
    """The arguments with the defaults of those left out."""
    expected = ARGUMENTS[name]
    if len(given) > len(expected):
        raise UsageError(f"'{name}' takes at most {len(expected)} arguments after the path, not {len(given)}")
    missing = expected[len(given) :]
    for argument, default in missing:
        if default is REQUIRED:
            raise UsageError(f"'{name}' needs '{argument}'")
    return [*given, *(default for _, default in missing)]


def record_of(origin: Origin, operation: Any) -> r.Operation:
    """The record of one array. Raises UsageError or LimitError."""
    try:
        sequence, name, path, *given = operation
        build = BUILDERS[name]
    except (TypeError, ValueError, KeyError):
        raise UsageError(f"an operation is [sequence, name, path, ...] with a name of {', '.join(BUILDERS)}") from None
    if type(path) is not bytes or not is_well_formed(path):
        if type(path) is not bytes:
            raise UsageError("a path must be bytes; send msgpack bin")
        checked(path)
    if type(sequence) is not int or not 0 <= sequence <= SEQUENCE_MAX:
        raise UsageError(f"a sequence must be a whole number from 0 to {SEQUENCE_MAX}, not {sequence!r}")
    if len(given) != len(ARGUMENTS[name]):
        given = _complete(name, given)
    return build(origin, r.OperationId(origin.session, sequence), path, *given)


def array_of(document: Any, sequence: int) -> list[Any]:
    """The array of one JSON object; `sequence` where it does not say its own."""
    if not isinstance(document, Mapping):
        raise UsageError("an operation must be an object with 'op' and 'path'")
    name = document.get("op")
    if not isinstance(name, str) or name not in ARGUMENTS:
        raise UsageError(f"'op' must be one of {', '.join(ARGUMENTS)}, not {name!r}")
    path = bytes_in(document, "path")
    if path is None:
        raise UsageError(f"'{name}' needs 'path'")
    known = {"op", "path", "path_base64", "sequence", *(f"{key}_base64" for key, _ in ARGUMENTS[name])}
    known.update(key for key, _ in ARGUMENTS[name])
    for key in document:
        if key not in known:
            raise UsageError(f"'{name}' has no '{key}'; known are {', '.join(sorted(known))}")
    array: list[Any] = [document.get("sequence", sequence), name, path]
    for key, default in ARGUMENTS[name]:
        value = bytes_in(document, key) if key in BYTES else document.get(key, default)
        if (value is None and default is REQUIRED) or value is REQUIRED:
            raise UsageError(f"'{name}' needs '{key}'")
        array.append(value)
    return array
