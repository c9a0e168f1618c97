"""Hypothesis strategies for operations that meet each other often: few names, few depths, few values."""

from __future__ import annotations

from hypothesis import strategies as st

from lddp.core.records import (
    SOME_VERSION,
    Append,
    Create,
    CreateFile,
    Kind,
    Link,
    MakeDirectory,
    Operation,
    Put,
    Remove,
    RemoveDirectory,
    RemoveXattr,
    Rename,
    RenameFlag,
    SetAttributes,
    SetXattr,
    Shorten,
    Symlink,
    Truncate,
    Unlink,
    Write,
    XattrFlag,
)

from .support import SOURCE, TARGET, content, operation_id

NAMES = (b"a", b"b", b"c", b"\xff\xfe")
CURRENT, STALE = -102, -103
"""Placeholders of `expected_version`, resolved when the operation is applied."""
THIS = -101
"""Placeholder of `expected_inode`: what the name stands for then; of `expected_parent`: the directory that it is in."""

names = st.sampled_from(NAMES)
inner_paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: b"/data/" + b"/".join(parts))
odd_paths = st.sampled_from(
    [
        b"",
        b"/",
        b"data/a",
        b"/data/",
        b"/data//a",
        b"/data/./a",
        b"/data/a/..",
        b"/data/a/",
        b"/data/a\0b",
        b"/data/" + b"n" * 256,
        b"/data/" + b"n" * 255,
        b"/database/a",
        b"/dat",
        b"/nowhere/a",
        b"/data",
        b"/other/a",
        b"/other/b",
        b"/other",
    ]
)
paths = st.one_of(inner_paths, inner_paths, inner_paths, inner_paths, inner_paths, inner_paths, odd_paths)
zones = st.sampled_from([SOURCE, SOURCE, TARGET])
times = st.integers(1, 2**40)
modes = st.sampled_from([0o600, 0o755, 0o7777, 0])
owners = st.sampled_from([0, 1000, 2**32 - 2])
contents = st.binary(min_size=1, max_size=6).map(content)
xattr_names = st.sampled_from([b"user.a", b"user.b"])

_id = st.just(operation_id(0))
_expected = st.sampled_from([-1, -1, -1, 0, CURRENT, STALE])
_meant = st.one_of(*[st.just(0)] * 3, *[st.just(THIS)] * 2, st.integers(3, 40).map(lambda gsn: gsn << 16))
"""Nothing, what has the name, or what an early record may have made: it may have any name by now, or none."""
_makes = st.one_of(
    st.builds(MakeDirectory, _id, zones, times, paths, modes, owners, owners, _meant),
    st.builds(
        Create,
        _id,
        zones,
        times,
        paths,
        st.sampled_from([Kind.FILE, Kind.FILE, Kind.FIFO, Kind.CHARACTER_DEVICE]),
        modes,
        owners,
        owners,
        st.just(0),
        _meant,
    ),
    st.builds(CreateFile, _id, zones, times, paths, modes, owners, owners, times, contents, _meant),
    st.builds(Symlink, _id, zones, times, paths, st.sampled_from([b"a", b"/x/y", b"\xff"]), owners, owners, _meant),
    st.builds(
        Put, _id, zones, times, paths, modes, owners, owners, contents, _expected | st.just(SOME_VERSION), _meant
    ),
    st.builds(Link, _id, zones, times, paths, paths, _meant, _meant),
)
_removals = st.one_of(
    st.builds(Unlink, _id, zones, times, paths, _expected, _meant),
    st.builds(RemoveDirectory, _id, zones, times, paths, _meant),
    st.builds(Remove, _id, zones, times, paths, _expected, _meant),
)
_renames = st.builds(
    Rename, _id, zones, times, paths, paths, st.sampled_from([RenameFlag.NONE, *RenameFlag]), _meant, _meant
)
_changes = st.one_of(
    st.builds(Write, _id, zones, times, paths, st.integers(0, 12), contents, _meant),
    st.builds(Append, _id, zones, times, paths, contents, _meant),
    st.builds(Truncate, _id, zones, times, paths, st.integers(0, 12), _meant),
    st.builds(Shorten, _id, zones, times, paths, st.integers(0, 12), _meant),
    st.builds(
        SetAttributes,
        _id,
        zones,
        times,
        paths,
        st.none() | modes,
        st.none() | owners,
        st.none() | owners,
        st.none() | times,
        _meant,
    ),
    st.builds(
        SetXattr, _id, zones, times, paths, xattr_names, st.binary(max_size=4), st.sampled_from([*XattrFlag]), _meant
    ),
    st.builds(RemoveXattr, _id, zones, times, paths, xattr_names, _meant),
)
operations: st.SearchStrategy[Operation] = st.one_of(_makes, _makes, _renames, _removals, _changes)
