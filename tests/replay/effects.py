"""Strategies for effects: few names and inodes, so that they meet often."""

from __future__ import annotations

from hypothesis import strategies as st

from lddp.core import effects as e
from lddp.core.records import Attributes, Content, Kind

INODES = st.integers(1, 9) | st.integers(1, 2**63 - 1)
NAMES = st.sampled_from([b"a", b"b", b"ab", b"\xff\xfe", b"new\nline"])
PATHS = st.lists(NAMES, max_size=3).map(b"/".join)
XATTRS = st.dictionaries(st.sampled_from([b"user.a", b"user.b"]), st.binary(max_size=9), max_size=2).map(
    lambda found: tuple(sorted(found.items()))
)
ATTRIBUTES = st.builds(
    Attributes,
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**62), 2**62),
    XATTRS,
)
SIZES = st.integers(0, 2**60)
CONTENTS = st.builds(
    Content,
    st.binary(min_size=32, max_size=32),
    SIZES,
    st.none() | st.binary(max_size=20),
    st.just(b"") | st.binary(min_size=16, max_size=16),
    SIZES,
    st.booleans(),
)
KINDS = st.sampled_from(Kind)
BASES = st.none() | st.builds(e.Base, CONTENTS, st.integers(0, 2**40))
EFFECTS: st.SearchStrategy[e.Effect] = st.one_of(
    st.builds(e.MakeDirectoryEffect, INODES, PATHS, ATTRIBUTES),
    st.builds(e.PutFileEffect, INODES, PATHS, ATTRIBUTES, CONTENTS, st.booleans()),
    st.builds(e.MakeNodeEffect, INODES, PATHS, KINDS, ATTRIBUTES, st.binary(max_size=9), st.integers(0, 2**40)),
    st.builds(e.LinkEffect, INODES, PATHS, PATHS),
    st.builds(e.RenameEffect, INODES, PATHS, PATHS, st.booleans()),
    st.builds(e.ParkEffect, INODES, PATHS),
    st.builds(e.UnparkEffect, INODES, PATHS),
    st.builds(e.RemoveEffect, INODES, PATHS, st.booleans()),
    st.builds(e.SetAttributesEffect, INODES, PATHS, KINDS, ATTRIBUTES),
    st.builds(e.WriteEffect, INODES, PATHS, SIZES, CONTENTS, SIZES, ATTRIBUTES, BASES),
    st.builds(e.TruncateEffect, INODES, PATHS, SIZES, ATTRIBUTES, BASES),
)
