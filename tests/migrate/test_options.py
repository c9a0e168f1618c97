"""What a migration leaves out."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from lddp.core.records import Kind
from lddp.errors import UsageError
from lddp.migrate.options import Exclusion, MigrationOptions
from lddp.ports import Status

NOW_S = 1_000_000


def status(kind: Kind | None = Kind.FILE, size: int = 10, age_s: int = 100) -> Status:
    mtime_ns = (NOW_S - age_s) * 10**9
    return Status(kind, 0o644, 0, 0, size, mtime_ns, mtime_ns, 5, 1, 1, 0, b"h")


def exclusion(**settings: object) -> Exclusion:
    return Exclusion(MigrationOptions.from_mapping(settings), NOW_S * 10**9)


def test_defaults_leave_nothing_out() -> None:
    found = exclusion()
    assert found.excludes_nothing
    assert not found.excludes(b"\xff/.anything", status())
    assert not found.hides(b"a/b", Kind.FILE)


@pytest.mark.parametrize(
    ("glob", "out", "kept"),
    [
        ("*.tmp", [b"a.tmp", b"d/b.tmp", b".tmp", b"d/e/new\nline.tmp"], [b"a.tmpx", b"tmp", b"a.tmp/inside"]),
        ("cache", [b"cache", b"d/cache"], [b"cache2", b"d/cache/x", b"mycache"]),
        ("d/*", [b"d/x", b"d/x/y"], [b"d", b"e/d/x"]),
        ("/d", [b"d"], [b"e/d", b"d/x"]),
        ("/*.o", [b"x.o", b"d/x.o"], [b"x.c"]),
        ("d/*.o", [b"d/x.o", b"d/e/x.o"], [b"x.o", b"e/d/x.o"]),
        ("[ab]?", [b"a1", b"x/b2"], [b"a", b"c1", b"a12"]),
        ("caf\u00e9", ["caf\u00e9".encode()], [b"caf\xe9"]),
        ("\udcff*", [b"\xff1"], [b"\xfe1"]),
        ("caf?", ["caf\u00e9".encode(), b"cafe", b"caf\xe9"], [b"caf\xe9\xe8"]),
        ("[\u00e4\u00f6]*", ["\u00e4pfel".encode(), "d/\u00f6l".encode()], ["\u00e9t\u00e9".encode(), b"\xc3"]),
        ("[!a]?", ["\u00e4b".encode(), b"\xffb"], [b"ab", "\u00e4".encode()]),
        ("\udcc3\udca9", ["\u00e9".encode()], [b"\xc3", b"\xa9"]),
    ],
)
def test_globs(glob: str, out: list[bytes], kept: list[bytes]) -> None:
    found = exclusion(exclude=[glob])
    assert [path for path in out + kept if found.excludes(path, status())] == out
    assert [path for path in out + kept if found.excludes(path, status(Kind.DIRECTORY))] == out


def test_a_glob_that_ends_in_a_slash_means_directories() -> None:
    found = exclusion(exclude=["cache/", "/a/b/"])
    for path in (b"cache", b"d/cache", b"a/b"):
        assert found.excludes(path, status(Kind.DIRECTORY))
        assert not found.excludes(path, status())
        assert found.hides(path, Kind.DIRECTORY)
        assert not found.hides(path, Kind.FILE)
        assert found.hides(path + b"/below", Kind.FILE)
    assert not found.excludes(b"d/a/b", status(Kind.DIRECTORY))


def test_expressions_have_flags_and_groups_of_their_own() -> None:
    found = exclusion(exclude=["*.o"], exclude_regex=[r"(?i)log", r"(a)\1", r"(?P<x>b)(?P=x)", r"(?P<x>c)"])
    paths = [b"LOG", b"x.o", b"aa", b"ab", b"bb", b"c", b"X.O"]
    assert [path for path in paths if found.excludes(path, status())] == [b"LOG", b"x.o", b"aa", b"bb", b"c"]


def test_what_a_pattern_leaves_out_hides_what_is_below_it() -> None:
    found = exclusion(exclude=["cache"])
    assert found.hides(b"d/cache/x/y", Kind.FILE)
    assert found.hides(b"cache", Kind.FILE)
    assert not found.hides(b"d/x", Kind.FILE)


def test_regular_expressions_and_globs_together() -> None:
    found = exclusion(exclude=["*.o"], exclude_regex=[r"^build(/|$)", r"\.(bak|old)$"])
    paths = [b"a.o", b"build", b"build/x", b"x/build", b"a.bak", b"d/a.old", b"a.older"]
    assert [path for path in paths if found.excludes(path, status())] == [
        b"a.o", b"build", b"build/x", b"a.bak", b"d/a.old",
    ]  # fmt: skip


def test_regular_expressions_are_of_characters() -> None:
    found = exclusion(exclude_regex=[r"^caf.$", "[\u00e4\u00f6]1", "(?i)\u00c9x", "^\udcff", r"\u00fc$"])
    out = ["caf\u00e9".encode(), b"caf\xe9", "\u00e41".encode(), "\u00e9X".encode(), b"\xff", "\u00fc".encode()]
    kept = [b"caf", "\u00e91".encode(), b"\xc31", b"a\xff", "\u00ff".encode(), b"\xbc"]
    assert [path for path in out + kept if found.excludes(path, status())] == out


@pytest.mark.parametrize(
    ("settings", "size", "age_s", "out"),
    [
        ({"size_bytes_min": 10}, 9, 0, True),
        ({"size_bytes_min": 10}, 10, 0, False),
        ({"size_bytes_max": 10}, 10, 0, False),
        ({"size_bytes_max": 10}, 11, 0, True),
        ({"age_s_min": 60}, 5, 59, True),
        ({"age_s_min": 60}, 5, 61, False),
        ({"age_s_max": 60}, 5, 59, False),
        ({"age_s_max": 60}, 5, 61, True),
        ({"age_s_max": 60}, 5, -1000, False),
    ],
)
def test_sizes_and_ages_concern_files_only(settings: dict[str, int], size: int, age_s: int, out: bool) -> None:
    found = exclusion(**settings)
    assert not found.excludes_nothing
    assert found.excludes(b"f", status(size=size, age_s=age_s)) is out
    for kind in (Kind.DIRECTORY, Kind.SYMLINK, Kind.FIFO):
        assert not found.excludes(b"f", status(kind, size, age_s))
    assert not found.hides(b"f", Kind.FILE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"excludes": []}, "unknown option 'excludes'; known are age_s_max"),
        ({"on_existing": "rename"}, "not 'rename'"),
        ({"exclude_regex": ["("]}, r"'\(' is not valid"),
        ({"exclude_regex": ["[z-a]"]}, "is not valid"),
        ({"exclude_regex": ["a{99999999999999999}"]}, r"'a\{99999999999999999\}' is not valid: the repetition number"),
        ({"exclude_regex": ["(" * 3000]}, r"'\({100}\.\.\.' is not valid: it is nested too deeply"),
        ({"exclude_regex": ["\ud800"]}, r"'\\ud800' is not valid: it has half of a surrogate pair"),
        ({"exclude": ["a/\ud800"]}, r"the pattern 'a/\\ud800' is not valid: it has half of a surrogate pair"),
        ({"bandwidth": 100000000000 << 30}, "bandwidth is at most 9223372036854775807, not 107374182400000000000"),
        ({"age_s_max": 1 << 63}, "age_s_max is at most 9223372036854775807"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MigrationOptions.from_mapping(settings)


def test_the_largest_values_can_be_stored() -> None:
    options = MigrationOptions.from_mapping({"bandwidth": (1 << 63) - 1, "exclude": ["\udcff"]})
    assert MigrationOptions.from_bytes(options.to_bytes()) == options


def test_options_survive_their_way_through_the_log() -> None:
    options = MigrationOptions("keep", True, ("*.tmp", "\udcff"), ("^a",), 1, 2, 3, 4, 5)
    assert MigrationOptions.from_mapping(asdict(options)) == options
    assert MigrationOptions.from_bytes(b"") == MigrationOptions()
    plain = MigrationOptions("keep", True, ("*.tmp",), ("^a",), 1, 2, 3, 4, 5)
    assert MigrationOptions.from_bytes(plain.to_bytes()) == plain


def test_a_name_that_is_not_utf8_may_be_a_pattern() -> None:
    """The command line gives such bytes as surrogates."""
    options = MigrationOptions(exclude=("\udcff",))
    assert MigrationOptions.from_bytes(options.to_bytes()) == options
