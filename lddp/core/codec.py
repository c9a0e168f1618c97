"""Records as bytes: one version byte, CRC-32 of the body, then the body as msgpack.

A record has the first format that can say what it asks, so that a node that does not know a later one refuses what it
would misread, and nothing else.

The body is the array [code, *fields]; nested tuples are arrays. Decoders are derived from the annotations of the record
types, so that a field is written down once. Whatever `decode` returns has been checked: types, limits, names.
"""

from __future__ import annotations

import itertools
import types
import typing
import zlib
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import msgpack

from lddp.core import limits
from lddp.core import records as r
from lddp.errors import CorruptError, FormatError, LimitError, NewerFormatError

VERSION = 1
VERSION_OF_CONDITIONS = 2
"""Of a Put that asks for SOME_VERSION, which format 1 takes for no condition."""
VERSION_OF_INODES = 3
"""Of what means one object or directory and no other that has its name (`_EXPECTATIONS`). Formats 1 and 2 end before
these fields."""
VERSION_OF_FILES = 4
"""Of a CreateFile, alone or guarded, which earlier formats do not know."""
VERSIONS = (VERSION, VERSION_OF_CONDITIONS, VERSION_OF_INODES, VERSION_OF_FILES)

CODES: dict[type, int] = {
    r.MakeDirectory: 1,
    r.Create: 2,
    r.Put: 3,
    r.Write: 4,
    r.Append: 5,
    r.Truncate: 6,
    r.Rename: 7,
    r.Unlink: 8,
    r.RemoveDirectory: 9,
    r.Link: 10,
    r.Symlink: 11,
    r.SetAttributes: 12,
    r.SetXattr: 13,
    r.RemoveXattr: 14,
    r.Remove: 15,
    r.Guarded: 16,
    r.CreateFile: 17,
    r.Observation: 32,
    r.CreateRule: 64,
    r.RemoveRule: 65,
    r.SetRuleOptions: 66,
    r.ChangeMigration: 67,
    r.Barrier: 68,
    r.Receipt: 69,
}
_EXPECTATIONS: dict[type, int] = {
    kind: sum(name in ("expected_inode", "expected_parent", "expected_to_parent") for name in kind._fields)
    for kind in (*typing.get_args(r.InPlace), *typing.get_args(r.Naming))
}
"""How many fields at the end of a record say what it means."""
_TYPES = {code: kind for kind, code in CODES.items()}
_OPERATIONS = frozenset(typing.get_args(r.Operation))

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack

Decoder = Callable[[Any], Any]


def encode(record: r.Record) -> bytes:
    """Bytes of a record. LimitError where it, or a field of it, is larger than it may be."""
    fields: tuple[Any, ...] = tuple(record)
    operation = record.operation if type(record) is r.Guarded else None
    for value in (record, *fields, *(operation or ())):
        check = _CHECKS.get(type(value))
        if check is not None:
            check(value)
    version = _version_of(record)
    if operation is not None:
        fields = ((CODES[type(operation)], *operation), *fields[1:])
    elif version < VERSION_OF_INODES and type(record) in _EXPECTATIONS:
        fields = fields[: -_EXPECTATIONS[type(record)]]
    try:
        body: bytes = _pack((CODES[type(record)], *fields))
    except (OverflowError, ValueError, TypeError) as error:
        raise FormatError(f"a record cannot be written: {error}") from error
    if len(body) > limits.RECORD_BYTES_MAX:
        raise LimitError(f"a record of {len(body)} bytes; at most {limits.RECORD_BYTES_MAX}: split it")
    return b"%c" % version + zlib.crc32(body).to_bytes(4, "big") + body


def _version_of(record: r.Record) -> int:
    expectations = _EXPECTATIONS.get(type(record))
    means_one = expectations is not None and any(record[-expectations:])
    if expectations is not None and means_one:
        _check_inodes(record[-expectations:])
    if type(record.operation if type(record) is r.Guarded else record) is r.CreateFile:
        return VERSION_OF_FILES
    if means_one:
        return VERSION_OF_INODES
    if type(record) is r.Put and record.expected_version == r.SOME_VERSION:
        return VERSION_OF_CONDITIONS
    return VERSION


def decode(data: bytes) -> r.Record:
    """The record of these bytes. NewerFormatError, CorruptError (checksum), another FormatError, or LimitError."""
    if len(data) < 6:
        raise FormatError("a record is shorter than its header")
    if len(data) > limits.RECORD_BYTES_MAX + 5:
        raise LimitError(f"a record of {len(data)} bytes; at most {limits.RECORD_BYTES_MAX}")
    if data[0] not in VERSIONS:
        newer = data[0] > VERSIONS[-1]
        raise (NewerFormatError if newer else FormatError)(
            f"a record of format {data[0]}; this version reads up to {VERSIONS[-1]}: upgrade this node"
        )
    body = memoryview(data)[5:]
    if zlib.crc32(body) != int.from_bytes(data[1:5], "big"):
        raise CorruptError("a record's checksum does not match its bytes")
    try:
        fields = msgpack.unpackb(body, use_list=False, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise FormatError(f"a record is not msgpack: {error}") from error
    if not isinstance(fields, tuple) or not fields or not isinstance(fields[0], int):
        raise FormatError("a record is not an array that starts with its type")
    kind = _TYPES.get(fields[0])
    if kind is None:
        raise NewerFormatError(f"a record of unknown type {fields[0]}: upgrade this node")
    try:
        nothing = (r.ANY_INODE,) * _EXPECTATIONS.get(kind, 0) if data[0] < VERSION_OF_INODES else ()
        record: r.Record = _DECODERS[kind](fields[1:] + nothing)
    except (TypeError, ValueError) as error:
        raise FormatError(f"a {kind.__name__} record with a wrong field: {error}") from error
    if _version_of(record) != data[0]:
        raise FormatError(f"a {kind.__name__} record that is not of format {data[0]}")
    return record


# -- decoders from annotations ----------------------------------------------------------------------------------------


def _exact(kind: type) -> Decoder:
    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{kind.__name__} expected, {type(value).__name__} found")
        return value

    return check


def _enum(kind: type[IntEnum]) -> Decoder:
    members = {int(member): member for member in kind}

    def check(value: Any) -> Any:
        if type(value) is not int or value not in members:
            raise ValueError(f"no {kind.__name__} is {value!r}")
        return members[value]

    return check


def _operation(value: Any) -> Any:
    """An operation inside of a record, as [code, *fields]."""
    if type(value) is not tuple or not value or type(value[0]) is not int:
        raise TypeError("an operation expected")
    kind = _TYPES.get(value[0])
    if kind is None or kind not in _OPERATIONS:
        raise ValueError(f"{value[0]} is no operation")
    return _DECODERS[kind](value[1:])


def _optional(inner: Decoder) -> Decoder:
    def check(value: Any) -> Any:
        return None if value is None else inner(value)

    return check


def _sequence(inner: Decoder) -> Decoder:
    def check(value: Any) -> Any:
        if type(value) is not tuple:
            raise TypeError(f"array expected, {type(value).__name__} found")
        return tuple(map(inner, value))

    return check


def _fixed(inners: tuple[Decoder, ...]) -> Decoder:
    def check(value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(inners):
            raise TypeError(f"array of {len(inners)} expected")
        return tuple([inner(item) for inner, item in zip(inners, value, strict=True)])

    return check


def _named(kind: Any) -> Decoder:
    """Checks the types of all fields at once, then converts only those that need it."""
    hints = typing.get_type_hints(kind)
    forms = [_raw_types(hints[name]) for name in kind._fields]
    accepted = set(itertools.product(*forms))
    converters = [
        (position, _decoder(hints[name])) for position, name in enumerate(kind._fields) if not _is_plain(hints[name])
    ]
    verify = _CHECKS.get(kind)
    make = kind._make

    def check(value: Any) -> Any:
        if type(value) is not tuple or tuple(map(type, value)) not in accepted:
            raise TypeError(f"{kind.__name__} has the fields {kind._fields}")
        if converters:
            fields = list(value)
            for position, convert in converters:
                if fields[position] is not None:
                    fields[position] = convert(fields[position])
            value = fields
        made = make(value)
        if verify is not None:
            verify(made)
        return made

    return check


def _raw_types(hint: Any) -> tuple[type, ...]:
    """What msgpack gives for a field of this type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(form for argument in typing.get_args(hint) for form in _raw_types(argument))
    if typing.get_origin(hint) is tuple or hasattr(hint, "_fields"):
        return (tuple,)
    return (int,) if issubclass(hint, IntEnum) else (hint,)


def _is_plain(hint: Any) -> bool:
    """Whether a field is what msgpack gives, without conversion."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return all(map(_is_plain, typing.get_args(hint)))
    return hint in (int, bytes, str, bool, type(None))


def _decoder(hint: Any) -> Decoder:
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if hint == r.Operation:
        return _operation
    if origin in (typing.Union, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return _optional(_decoder(inner))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return _sequence(_decoder(arguments[0]))
        return _fixed(tuple(_decoder(argument) for argument in arguments))
    if issubclass(hint, IntEnum):
        return _enum(hint)
    if hasattr(hint, "_fields"):
        return _named(hint)
    return _exact(hint)


# -- checks of values -------------------------------------------------------------------------------------------------


def check_name(name: bytes) -> None:
    """FormatError or LimitError where `name` cannot be a directory entry."""
    if len(name) > limits.NAME_BYTES_MAX:
        raise LimitError(f"a name of {len(name)} bytes; at most {limits.NAME_BYTES_MAX}")
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise FormatError(f"not a name: {name!r}")


def _check_attributes(value: r.Attributes) -> None:
    if not 0 <= value.mode <= 0o7777:
        raise FormatError(f"mode {value.mode:o} is beyond the twelve permission bits")
    if not (0 <= value.uid < 2**32 and 0 <= value.gid < 2**32):
        raise FormatError("an owner beyond 32 bits")
    if value.xattrs:
        total = sum(len(name) + len(data) for name, data in value.xattrs)
        if total > limits.XATTRS_BYTES_MAX:
            raise LimitError(f"{total} bytes of extended attributes; at most {limits.XATTRS_BYTES_MAX}")
        names = [name for name, _ in value.xattrs]
        if names != sorted(set(names)):
            raise FormatError("extended attributes are not in order of their names")
        for name, data in value.xattrs:
            _check_xattr(name, data)


def _check_xattr(name: bytes, data: bytes) -> None:
    if not 0 < len(name) <= limits.XATTR_NAME_BYTES_MAX or len(data) > limits.XATTR_VALUE_BYTES_MAX:
        raise LimitError("an extended attribute beyond its limits")


def _check_content(value: r.Content) -> None:
    if len(value.digest) != 32:
        raise FormatError("a digest is 32 bytes")
    if not 0 <= value.size <= limits.FILE_BYTES_MAX or value.offset < 0:
        raise FormatError("a content's size or offset is out of range")
    if value.inline is not None:
        if len(value.inline) > limits.INLINE_BYTES_MAX:
            raise LimitError(f"{len(value.inline)} bytes inline; at most {limits.INLINE_BYTES_MAX}")
        if len(value.inline) != value.size:
            raise FormatError("inline bytes are not as many as the content's size")
    if len(value.pack) not in (0, 16):
        raise FormatError("a pack is named by 16 bytes")


def _check_inodes(numbers: tuple[Any, ...]) -> None:
    for number in numbers:
        if type(number) is not int or not 0 <= number <= limits.INODE_MAX:
            raise FormatError(f"no object has the number {number!r}")


def _check_guarded(value: r.Guarded) -> None:
    _version_of(value.operation)


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


_CHECKS: dict[Any, Callable[[Any], None]] = {
    r.Attributes: _check_attributes,
    r.Content: _check_content,
    r.OperationId: _check_id,
    r.ObservedEntry: _check_entry,
    r.Observation: _check_observation,
    r.CreateRule: _check_rule,
    r.SetXattr: lambda value: _check_xattr(value.name, value.value),
    r.Guarded: _check_guarded,
}
_DECODERS: dict[type, Decoder] = {kind: _named(kind) for kind in CODES}
