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
from lddp.core.checks import CHECKS, EXPECTATIONS, Part, check_limits, means_one
from lddp.errors import CorruptError, FormatError, LimitError, NewerFormatError

VERSION = 1
VERSION_OF_CONDITIONS = 2
"""Of a Put that asks for SOME_VERSION, which format 1 takes for no condition."""
VERSION_OF_INODES = 3
"""Of what means one object or directory and no other that has its name (`EXPECTATIONS`). Formats 1 and 2 end before
these fields."""
VERSION_OF_FILES = 4
"""Of a CreateFile, alone or guarded, which earlier formats do not know."""
VERSION_OF_SHORTENING = 5
"""Of a Shorten, likewise."""
VERSIONS = (VERSION, VERSION_OF_CONDITIONS, VERSION_OF_INODES, VERSION_OF_FILES, VERSION_OF_SHORTENING)

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
    r.Shorten: 18,
    r.Observation: 32,
    r.CreateRule: 64,
    r.RemoveRule: 65,
    r.SetRuleOptions: 66,
    r.ChangeMigration: 67,
    r.Barrier: 68,
    r.Receipt: 69,
}
_TYPES = {code: kind for kind, code in CODES.items()}
_FIRST_VERSIONS: dict[type, int] = {r.CreateFile: VERSION_OF_FILES, r.Shorten: VERSION_OF_SHORTENING}
"""Of the operations that the formats before do not know."""
_OPERATIONS = frozenset(typing.get_args(r.Operation))

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack

Decoder = Callable[[Any], Any]

UNREADABLE = (FormatError, LimitError)
"""What `decode` raises for a record of the log that has no effect, on no node. Newer formats aside, what encodes also
decodes, so that a node may fold its own records without decoding them. Earlier versions wrote observations beyond the
limits: the node that had submitted one folded it, and no other could go on. Every node that folds such a record now
passes over it, also its own after a restart. Only what its own node has made durable of it before stays in that node's
state, until it is set up anew."""


def encode(record: r.Record) -> bytes:
    """Bytes of a record, which `decode` reads. LimitError where it, or anything in it, is larger than it may be;
    FormatError where it cannot be written."""
    fields: tuple[Any, ...] = tuple(record)
    operation = record.operation if type(record) is r.Guarded else None
    check_limits(record)
    version = _version_of(record)
    if operation is not None:
        fields = ((CODES[type(operation)], *operation), *fields[1:])
    elif version < VERSION_OF_INODES and type(record) in EXPECTATIONS:
        fields = fields[: -EXPECTATIONS[type(record)]]
    try:
        body: bytes = _pack((CODES[type(record)], *fields))
    except (OverflowError, ValueError, TypeError) as error:
        raise FormatError(f"a record cannot be written: {error}") from error
    if len(body) > limits.RECORD_BYTES_MAX:
        raise LimitError(f"a record of {len(body)} bytes; at most {limits.RECORD_BYTES_MAX}: split it")
    return b"%c" % version + zlib.crc32(body).to_bytes(4, "big") + body


def size_of(part: Part) -> int:
    """Bytes that a part of an observation takes in its record. FormatError where it cannot be written."""
    try:
        return len(msgpack.packb(part))  # for any thread, as `_pack` is not
    except (OverflowError, ValueError, TypeError) as error:
        raise FormatError(f"a part of a record cannot be written: {error}") from error


def _version_of(record: r.Record) -> int:
    is_one_meant = means_one(record)
    first = _FIRST_VERSIONS.get(type(record.operation if type(record) is r.Guarded else record))
    if first is not None:
        return first
    if is_one_meant:
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
        nothing = (r.ANY_INODE,) * EXPECTATIONS.get(kind, 0) if data[0] < VERSION_OF_INODES else ()
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
    verify = CHECKS.get(kind)
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


_DECODERS: dict[type, Decoder] = {kind: _named(kind) for kind in CODES}
