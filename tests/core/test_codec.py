"""The record format: round trips, damage, limits."""

from __future__ import annotations

import zlib
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lddp.core import checks, limits, records
from lddp.core.codec import CODES, UNREADABLE, decode, encode
from lddp.core.records import (
    Attributes,
    Barrier,
    ChangeMigration,
    Content,
    Create,
    CreateFile,
    CreateRule,
    DirectoryReport,
    InodeReport,
    Kind,
    Link,
    MakeDirectory,
    MigrationAction,
    Observation,
    ObservedEntry,
    OperationId,
    Put,
    Receipt,
    Record,
    RemoveRule,
    Rename,
    RenameFlag,
    SetAttributes,
    SetRuleOptions,
    SetXattr,
    Symlink,
    Write,
    ZoneFinding,
    ZoneMember,
)
from lddp.errors import FormatError, LimitError, NewerFormatError

from .support import content, create_rule, examples, operation_id

_components = (
    st.binary(min_size=1, max_size=12)
    .map(lambda b: b.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in (b".", b".."))
)
_paths = st.lists(_components, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
_u32 = st.integers(0, 2**32 - 1)
_ids = st.builds(OperationId, st.binary(min_size=1, max_size=16), st.integers(0, 2**63 - 1))
_zones = st.integers(0, 63)
_times = st.integers(-(2**40), 2**63 - 1)
_modes = st.integers(0, 0o7777)
_digests = st.binary(min_size=32, max_size=32)
_sizes = st.integers(0, limits.FILE_BYTES_MAX)
_inlines = st.binary(max_size=64).map(content)
_contents = st.one_of(
    _inlines,
    st.builds(Content, _digests, _sizes, st.none(), st.just(b""), st.just(0), st.booleans()),
    st.builds(Content, _digests, _sizes, st.none(), st.binary(min_size=16, max_size=16), st.integers(0, 2**40)),
)
_xattrs = st.dictionaries(_components, st.binary(max_size=20), max_size=3).map(lambda d: tuple(sorted(d.items())))
_attributes = st.builds(Attributes, _modes, _u32, _u32, _times, _xattrs)
_inodes = st.integers(1, 2**63 - 1)
_stamps = st.integers(0, 2**63 - 1)
_meant = st.just(0) | _inodes
_texts = st.text(st.characters(codec="utf-8"), max_size=12)
_rule_names = st.text("abcdefghij-0123456789", min_size=1, max_size=12)


def _entry(kind: Kind, body: tuple[int, Content | None], target: bytes, entry: ObservedEntry) -> ObservedEntry:
    """Only a file has a size and content, only a symlink a target, only a device a device number."""
    if kind is Kind.FILE:
        size, observed = body
        return entry._replace(kind=kind, size=size if observed is None else observed.size, content=observed)
    if kind is Kind.SYMLINK:
        return entry._replace(kind=kind, target=target)
    return entry._replace(kind=kind)


_entries = st.builds(
    _entry,
    st.sampled_from(Kind),
    st.tuples(_sizes, st.none() | _contents),
    _components,
    st.builds(
        ObservedEntry,
        _components,
        st.binary(min_size=1, max_size=20),
        st.just(Kind.FILE),
        _attributes,
        st.just(0),
        st.none(),
        st.just(b""),
        st.just(0),
        _stamps,
    ),
)
_directory_reports = st.builds(
    DirectoryReport,
    _inodes,
    st.lists(_entries, max_size=3, unique_by=lambda entry: entry.name).map(tuple),
    st.lists(_components, max_size=2, unique=True).map(tuple),
    st.booleans(),
    st.none() | _attributes,
    _stamps,
).filter(lambda report: not {entry.name for entry in report.entries} & set(report.absent))
_inode_reports = st.builds(
    lambda inode, attributes, size, observed, stamp: InodeReport(
        inode, attributes, size if observed is None else observed.size, observed, b"", stamp
    ),
    _inodes,
    _attributes,
    _sizes,
    st.none() | _contents,
    _stamps,
)
_members = st.lists(
    st.builds(ZoneMember, _zones, _rule_names, _paths, st.booleans()),
    min_size=1,
    max_size=3,
    unique_by=lambda member: member.zone,
).map(tuple)
_head = (_ids, _zones, _times, _paths)
_all: dict[str, st.SearchStrategy[Record]] = {
    "MakeDirectory": st.builds(MakeDirectory, *_head, _modes, _u32, _u32, _meant),
    "Create": st.builds(
        Create,
        *_head,
        st.sampled_from([Kind.FILE, Kind.FIFO, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE]),
        _modes,
        _u32,
        _u32,
        st.integers(0, 2**32 - 1),
        _meant,
    ),
    "CreateFile": st.builds(CreateFile, *_head, _modes, _u32, _u32, _times, _contents, _meant),
    "Put": st.builds(Put, *_head, _modes, _u32, _u32, _contents, st.integers(-2, 2**40), _meant),
    "Write": st.builds(Write, *_head, st.integers(0, 2**40), _inlines, _meant),
    "Append": st.builds(records.Append, *_head, _inlines, _meant),
    "Truncate": st.builds(records.Truncate, *_head, _sizes, _meant),
    "Shorten": st.builds(records.Shorten, *_head, _sizes, _meant),
    "Rename": st.builds(Rename, *_head, _paths, st.sampled_from(RenameFlag), _meant, _meant),
    "Unlink": st.builds(records.Unlink, *_head, st.integers(-1, 2**40), _meant),
    "RemoveDirectory": st.builds(records.RemoveDirectory, *_head, _meant),
    "Remove": st.builds(records.Remove, *_head, st.integers(-1, 2**40), _meant),
    "Link": st.builds(Link, *_head, _paths, _meant, _meant),
    "Symlink": st.builds(Symlink, *_head, _components, _u32, _u32, _meant),
    "SetAttributes": st.builds(
        SetAttributes, *_head, st.none() | _modes, st.none() | _u32, st.none() | _u32, st.none() | _times, _meant
    ),
    "SetXattr": st.builds(
        SetXattr, *_head, _components, st.binary(max_size=30), st.sampled_from(records.XattrFlag), _meant
    ),
    "RemoveXattr": st.builds(records.RemoveXattr, *_head, _components, _meant),
    "Observation": st.builds(
        Observation,
        _ids,
        _zones,
        st.integers(0, 2**40),
        st.integers(1, 2**20),
        st.lists(_directory_reports, max_size=3).map(tuple),
        st.lists(_inode_reports, max_size=3).map(tuple),
    ),
    "CreateRule": st.builds(
        CreateRule, _ids, _times, _rule_names, _paths, st.just(-1), _members, st.binary(max_size=30)
    ),
    "RemoveRule": st.builds(RemoveRule, _ids, _times, _rule_names),
    "SetRuleOptions": st.builds(SetRuleOptions, _ids, _times, _rule_names, st.binary(max_size=30)),
    "ChangeMigration": st.builds(ChangeMigration, _ids, _times, _rule_names, st.sampled_from(MigrationAction), _texts),
    "Barrier": st.builds(Barrier, _ids, _times, _rule_names),
    "Receipt": st.builds(
        Receipt,
        _ids,
        _times,
        _rule_names,
        st.integers(0, 2**40),
        st.lists(st.builds(ZoneFinding, _zones, _digests, _u32, _u32, _sizes), max_size=3).map(tuple),
    ),
}
_operations = st.one_of(*(_all[kind.__name__] for kind in get_args(records.Operation)))
_numbers = st.integers(-(2**62), 2**62)
_all["Guarded"] = st.builds(records.Guarded, _operations, st.none() | _ids, _numbers, _numbers, _numbers, _numbers)
_records = st.one_of(*_all.values())


def exact(value: object) -> object:
    """The value with the types of everything in it: NamedTuples of the same fields are equal, these are not."""
    if isinstance(value, tuple):
        return (type(value).__name__, tuple(exact(part) for part in value))
    return (type(value).__name__, value)


def test_every_record_type_is_tried() -> None:
    named = {
        name
        for name, thing in vars(records).items()
        if isinstance(thing, type) and issubclass(thing, tuple) and "id" in getattr(thing, "_fields", ())
    }
    assert named | {"Guarded"} == set(_all)


@pytest.mark.parametrize("name", sorted(_all))
def test_round_trip(name: str) -> None:
    @settings(max_examples=examples(60))
    @given(_all[name])
    def trip(record: Record) -> None:
        data = encode(record)
        assert isinstance(data, bytes)
        assert exact(decode(data)) == exact(record)
        assert encode(decode(data)) == data

    trip()


@settings(max_examples=examples(300))
@given(_records, st.data())
def test_damage_of_one_bit_is_found(record: Record, data: st.DataObject) -> None:
    encoded = encode(record)
    position = data.draw(st.integers(0, len(encoded) * 8 - 1))
    damaged = bytearray(encoded)
    damaged[position // 8] ^= 1 << position % 8
    with pytest.raises(FormatError):
        decode(bytes(damaged))


@settings(max_examples=examples(150))
@given(_records, st.data())
def test_damage_of_length_is_found(record: Record, data: st.DataObject) -> None:
    encoded = encode(record)
    with pytest.raises(FormatError):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(FormatError):
        decode(encoded + data.draw(st.binary(min_size=1, max_size=8)))


@settings(max_examples=examples(600))
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data)


@settings(max_examples=examples(300))
@given(_records, st.data())
def test_spliced_records_are_refused(record: Record, data: st.DataObject) -> None:
    encoded = encode(record)
    start = data.draw(st.integers(0, len(encoded)))
    stop = data.draw(st.integers(start, len(encoded)))
    spliced = encoded[:start] + data.draw(st.binary(max_size=12)) + encoded[stop:]
    if spliced == encoded:
        return
    with pytest.raises(FormatError):
        decode(spliced)


HEAD = (OperationId(b"s", 1), 0, 5, b"/data/f")
LETTER = Content(bytes(range(32)), 1, b"x")


def test_what_an_older_node_would_misread_has_a_format_of_its_own() -> None:
    """It would put the file whether one is there or not."""
    put = Put(operation_id(1), 0, 5, b"/data/f", 0o644, 0, 0, content(b"x"))
    assert encode(put)[0] == encode(put._replace(expected_version=7))[0] == 1
    conditional = bytearray(encode(put._replace(expected_version=records.SOME_VERSION)))
    assert conditional[0] == 2
    conditional[0] = 1
    with pytest.raises(FormatError, match="not of format 1"):
        decode(bytes(conditional))


MEANING: list[records.InPlace | records.Naming] = [
    Put(*HEAD, 0o644, 0, 0, LETTER),
    Put(*HEAD, 0o644, 0, 0, LETTER, records.SOME_VERSION),
    Write(*HEAD, 3, LETTER),
    records.Append(*HEAD, LETTER),
    records.Truncate(*HEAD, 9),
    Link(*HEAD, b"/data/g"),
    SetAttributes(*HEAD, mode=0o600),
    SetXattr(*HEAD, b"user.a", b"v", records.XattrFlag.CREATE),
    records.RemoveXattr(*HEAD, b"user.a"),
    MakeDirectory(*HEAD, 0o755, 0, 0),
    Create(*HEAD, Kind.FILE, 0o644, 0, 0),
    Symlink(*HEAD, b"t", 0, 0),
    records.Unlink(*HEAD),
    records.RemoveDirectory(*HEAD),
    records.Remove(*HEAD, 7),
    Rename(*HEAD, b"/data/g", RenameFlag.EXCHANGE),
]
EXPECTATIONS = ("expected_inode", "expected_parent", "expected_to_parent")
WRITTEN_BEFORE_INODES = [
    "014de7921a9a0392c40173010005c4072f646174612f66cd01a4000096c420000102030405060708090a0b0c0d0e0f10111213141516171819"
    "1a1b1c1d1e1f01c40178c40000c3ff",
    "023ae0a28c9a0392c40173010005c4072f646174612f66cd01a4000096c420000102030405060708090a0b0c0d0e0f10111213141516171819"
    "1a1b1c1d1e1f01c40178c40000c3fe",
    "01c40f16f0970492c40173010005c4072f646174612f660396c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d"
    "1e1f01c40178c40000c3",
    "015178cfe7960592c40173010005c4072f646174612f6696c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e"
    "1f01c40178c40000c3",
    "01e30c9419960692c40173010005c4072f646174612f6609",
    "015b578cd8960a92c40173010005c4072f646174612f66c4072f646174612f67",
    "0170f2f6c7990c92c40173010005c4072f646174612f66cd0180c0c0c0",
    "01548042cf980d92c40173010005c4072f646174612f66c406757365722e61c4017601",
    "01c93d400a960e92c40173010005c4072f646174612f66c406757365722e61",
    "01ee404e7a980192c40173010005c4072f646174612f66cd01ed0000",
    "018faf019d9a0292c40173010005c4072f646174612f6601cd01a4000000",
    "01868140f4980b92c40173010005c4072f646174612f66c401740000",
    "01aeffd1b9960892c40173010005c4072f646174612f66ff",
    "014cf19510950992c40173010005c4072f646174612f66",
    "01fcb7a1f3960f92c40173010005c4072f646174612f6607",
    "0178a5d858970792c40173010005c4072f646174612f66c4072f646174612f6702",
]
"""The same records as lddp wrote them before they could say what they mean."""


@pytest.mark.parametrize(
    ("record", "field"),
    [(record, field) for record in MEANING for field in EXPECTATIONS if field in record._fields],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_record_that_means_one_object_has_a_format_of_its_own(
    record: records.InPlace | records.Naming, field: str
) -> None:
    """An older node would change whatever has the name."""
    meaning = record._replace(**{field: 7 << 16})
    encoded = bytearray(encode(meaning))
    assert encoded[0] == 3 and exact(decode(bytes(encoded))) == exact(meaning)
    for older in (1, 2):
        encoded[0] = older
        with pytest.raises(FormatError):
            decode(bytes(encoded))
    for number in (-1, limits.INODE_MAX + 1, True):
        with pytest.raises(FormatError):
            encode(record._replace(**{field: number}))


def test_what_older_versions_wrote_is_read_and_written_as_ever() -> None:
    for record, text in zip(MEANING, WRITTEN_BEFORE_INODES, strict=True):
        assert encode(record).hex() == text
        assert exact(decode(bytes.fromhex(text))) == exact(record)


@pytest.mark.parametrize("meant", [0, 7 << 16])
@pytest.mark.parametrize(
    ("operation", "field", "version"),
    [
        (CreateFile(*HEAD, 0o644, 0, 0, 4, LETTER), "expected_parent", 4),
        (records.Shorten(*HEAD, 9), "expected_inode", 5),
    ],
    ids=["CreateFile", "Shorten"],
)
def test_an_operation_that_came_later_has_a_format_of_its_own(
    operation: CreateFile | records.Shorten, field: str, version: int, meant: int
) -> None:
    """An older node would take one in a row for a damaged record, and not say that it is to be upgraded."""
    one = operation._replace(**{field: meant})
    for record in (one, records.Guarded(one, above=-1)):
        encoded = bytearray(encode(record))
        assert encoded[0] == version and exact(decode(bytes(encoded))) == exact(record)
        for older in range(1, version):
            encoded[0] = older
            with pytest.raises(FormatError):
                decode(bytes(encoded))
    for number in (-1, limits.INODE_MAX + 1, True):
        with pytest.raises(FormatError):
            encode(one._replace(**{field: number}))


def test_a_later_format_stops_a_node() -> None:
    encoded = encode(records.Shorten(*HEAD, 9))
    with pytest.raises(NewerFormatError, match="upgrade this node"):
        decode(bytes([encoded[0] + 1]) + encoded[1:])


def test_every_other_first_byte_is_refused() -> None:
    encoded = encode(create_rule())
    for first in range(256):
        if first != encoded[0]:
            with pytest.raises(FormatError):
                decode(bytes([first]) + encoded[1:])


# -- limits ---------------------------------------------------------------------------------------------------------


def _put(path: bytes = b"/data/f", data: bytes = b"x") -> Put:
    return Put(operation_id(1), 1, 1, path, 0o644, 0, 0, content(data))


def _entry_of(name: bytes = b"f", xattrs: records.Xattrs = (), target: bytes = b"") -> ObservedEntry:
    kind = Kind.SYMLINK if target else Kind.FILE
    return ObservedEntry(name, b"h", kind, Attributes(0o644, 0, 0, 1, xattrs), target=target)


def _observe(*entries: ObservedEntry, absent: tuple[bytes, ...] = ()) -> Observation:
    return Observation(operation_id(1), 1, 1, 1, (DirectoryReport(1, entries, absent, False, None),), ())


_many = 4096
AT_THE_LIMIT: list[tuple[str, Record]] = [
    ("inline", _put(data=b"x" * limits.INLINE_BYTES_MAX)),
    ("name", _put(b"/data/" + b"n" * limits.NAME_BYTES_MAX)),
    ("target", Symlink(operation_id(1), 1, 1, b"/data/s", b"t" * limits.SYMLINK_TARGET_BYTES_MAX, 0, 0)),
    ("xattr name", SetXattr(operation_id(1), 1, 1, b"/data/f", b"n" * limits.XATTR_NAME_BYTES_MAX, b"")),
    ("xattr value", SetXattr(operation_id(1), 1, 1, b"/data/f", b"user.a", b"v" * limits.XATTR_VALUE_BYTES_MAX)),
    ("entry name", _observe(_entry_of(b"n" * limits.NAME_BYTES_MAX))),
    ("items", _observe(*(_entry_of(b"%d" % i) for i in range(limits.OBSERVATION_ITEMS_MAX - 1)))),
]
BEYOND_THE_LIMIT: list[tuple[str, Record]] = [
    ("inline", _put(data=b"x" * (limits.INLINE_BYTES_MAX + 1))),
    ("xattr name", SetXattr(operation_id(1), 1, 1, b"/data/f", b"n" * (limits.XATTR_NAME_BYTES_MAX + 1), b"")),
    ("xattr value", SetXattr(operation_id(1), 1, 1, b"/data/f", b"user.a", b"v" * (limits.XATTR_VALUE_BYTES_MAX + 1))),
    ("entry name", _observe(_entry_of(b"n" * (limits.NAME_BYTES_MAX + 1)))),
    ("absent name", _observe(absent=(b"n" * (limits.NAME_BYTES_MAX + 1),))),
    ("entry target", _observe(_entry_of(target=b"t" * (limits.SYMLINK_TARGET_BYTES_MAX + 1)))),
    ("entry xattr", _observe(_entry_of(xattrs=((b"user.a", b"v" * (limits.XATTR_VALUE_BYTES_MAX + 1)),)))),
    (
        "entry xattrs together",
        _observe(_entry_of(xattrs=tuple((b"user.%d" % i, b"v" * limits.XATTR_VALUE_BYTES_MAX) for i in range(5)))),
    ),
    ("items", _observe(*(_entry_of(b"%d" % i) for i in range(limits.OBSERVATION_ITEMS_MAX + 1)))),
    ("items absent", _observe(absent=tuple(b"%d" % i for i in range(limits.OBSERVATION_ITEMS_MAX + 1)))),
    (
        "items over reports",
        Observation(
            operation_id(1),
            1,
            1,
            1,
            tuple(
                DirectoryReport(n + 1, tuple(_entry_of(b"%d" % i) for i in range(_many)), (), False, None)
                for n in range(3)
            ),
            (),
        ),
    ),
    (
        "record",
        _observe(*(_entry_of(b"%d" % i, ((b"user.a", b"v" * limits.XATTR_VALUE_BYTES_MAX),)) for i in range(80))),
    ),
    (
        "zones",
        create_rule()._replace(
            members=tuple(ZoneMember(n, f"z{n}", b"/mnt", False) for n in range(limits.ZONES_MAX + 1))
        ),
    ),
    ("options", create_rule()._replace(options=b"o" * (limits.RECORD_BYTES_MAX + 1))),
]


@pytest.mark.parametrize("record", [case[1] for case in AT_THE_LIMIT], ids=[case[0] for case in AT_THE_LIMIT])
def test_at_the_limit(record: Record) -> None:
    assert exact(decode(encode(record))) == exact(record)


@pytest.mark.parametrize("record", [case[1] for case in BEYOND_THE_LIMIT], ids=[case[0] for case in BEYOND_THE_LIMIT])
def test_beyond_the_limit(record: Record) -> None:
    """No node ever writes such a record, and none applies it."""
    with pytest.raises(LimitError):
        encode(record)
    with pytest.raises(LimitError):
        decode(_unchecked(record))


def _one_of(plain: object, *edges: object) -> st.SearchStrategy[Any]:
    """Mostly the plain value, so that what is drawn is often beyond one limit, or none."""
    return st.sampled_from([plain] * 3 * len(edges) + list(edges))


def _sizes_at(limit: int) -> list[int]:
    return [0, 1, limit, limit + 1]


_edge_names = _one_of(
    b"f", b"", b".", b"..", b"a/b", b"a\0b", *(b"n" * (limits.NAME_BYTES_MAX + more) for more in (0, 1))
)
_edge_times = _one_of(1, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64)
_edge_owners = _one_of(0, -1, 2**32 - 1, 2**32)
_edge_xattr_names = _one_of(
    b"user.a", b"user.b", b"user.c", b"", *(b"n" * (limits.XATTR_NAME_BYTES_MAX + more) for more in (0, 1))
)
_edge_xattr_values = _one_of(b"v", *(b"v" * size for size in _sizes_at(limits.XATTR_VALUE_BYTES_MAX)))
_most_xattrs = tuple((b"%d" % n, b"v" * (limits.XATTRS_BYTES_MAX // 4 - 1)) for n in range(4))
_edge_xattrs = st.one_of(
    st.lists(st.tuples(_edge_xattr_names, _edge_xattr_values), max_size=2).map(tuple),
    st.sampled_from([_most_xattrs, (*_most_xattrs, (b"9", b""))]),
)
_edge_attributes = st.builds(
    Attributes, _one_of(0o644, -1, 0o7777, 0o10000), _edge_owners, _edge_owners, _edge_times, st.just(()) | _edge_xattrs
)
_edge_contents = st.builds(
    Content,
    st.sampled_from([bytes(32)] * 8 + [bytes(31), bytes(33)]),
    _one_of(5, -1, limits.FILE_BYTES_MAX, limits.FILE_BYTES_MAX + 1),
    st.none(),
    _one_of(b"", bytes(16), bytes(15), bytes(17)),
    _one_of(0, -1),
    st.booleans(),
) | st.sampled_from(_sizes_at(limits.INLINE_BYTES_MAX)).map(lambda size: Content(bytes(32), size, bytes(size)))
_edge_entries = st.builds(
    ObservedEntry,
    _edge_names,
    _one_of(b"handle", b"h" * 256, b"h" * 257),
    st.sampled_from(Kind),
    _edge_attributes,
    _one_of(0, -1),
    st.none() | _edge_contents,
    _one_of(b"", *(b"t" * size for size in _sizes_at(limits.SYMLINK_TARGET_BYTES_MAX))),
    st.just(0),
    _edge_times,
)
_edge_directories = st.builds(
    DirectoryReport,
    st.just(1),
    st.lists(_edge_entries, max_size=2).map(tuple),
    st.lists(_edge_names, max_size=2).map(tuple),
    st.booleans(),
    st.none() | _edge_attributes,
    _edge_times,
)
_edge_inodes = st.builds(
    InodeReport, st.just(1), _edge_attributes, st.just(5), st.none() | _edge_contents, st.just(b""), _edge_times
)
_edge_ids = st.builds(OperationId, _one_of(b"client", b"", bytes(32), bytes(33)), _one_of(1, -1, 2**63 - 1, 2**63))
_edge_records: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        Observation,
        _edge_ids,
        st.just(1),
        st.just(1),
        st.just(1),
        st.lists(_edge_directories, max_size=2).map(tuple),
        st.lists(_edge_inodes, max_size=1).map(tuple),
    ),
    st.builds(
        Put, _edge_ids, _zones, _edge_times, _paths, _modes, _edge_owners, _u32, _edge_contents, st.just(-1), _meant
    ),
    st.builds(Write, _edge_ids, _zones, _times, _paths, _edge_times, _edge_contents, _meant),
)


@settings(max_examples=examples(1500))
@given(_edge_records)
def test_what_encodes_decodes_and_nothing_else_does(record: Record) -> None:
    """A node folds its own records without decoding them: the others must be able to."""
    try:
        data = encode(record)
    except UNREADABLE:
        with pytest.raises((*UNREADABLE, OverflowError)):
            decode(_unchecked(record))
    else:
        assert exact(decode(data)) == exact(record)


def test_what_is_guarded_is_an_operation_within_its_limits() -> None:
    inner = records.SetXattr(operation_id(1), 0, 5, b"/data/f", b"user.a", b"x")
    with pytest.raises(LimitError):
        encode(records.Guarded(inner._replace(value=b"x" * (limits.XATTR_VALUE_BYTES_MAX + 1))))
    with pytest.raises(FormatError):
        encode(records.Guarded(inner._replace(expected_inode=-1)))
    for wrong in (b"", (1,), (69, 1), (16, 1), (99,)):
        with pytest.raises(FormatError):
            decode(_framed((16, wrong, None, 0, 0, 0, 0)))


def _unchecked(record: Record) -> bytes:
    """The record as it would be written if nothing of it were checked, without what it means."""
    return _framed((CODES[type(record)], *record[: len(record) - checks.EXPECTATIONS.get(type(record), 0)]))


def _framed(fields: tuple[object, ...]) -> bytes:
    body: bytes = msgpack.packb(fields)
    return b"\1" + zlib.crc32(body).to_bytes(4, "big") + body
