"""A node is killed before and after every system call that changes something, and started again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.core.support import examples
from tests.crash.cases import CASES, CONTROL, OBSERVATIONS, OPERATIONS
from tests.crash.coverage import Kinds, had, wanted
from tests.crash.running import campaign
from tests.crash.syscalls import NUMBERS

GROUPS = {
    "making": ("make-directory", "create-file", "create-file-with-bytes", "create-fifo", "symlink", "link"),
    "putting": ("put-inline", "put-packed", "put-large", "put-over", "put-over-linked"),
    "putting-many": ("put-same-bytes", "put-many", "put-and-rename-back"),
    "putting-by-workers": ("put-many-workers",),  # every fourth point: files like these are made the same way
    "writing": ("write", "write-beyond-end", "write-large", "append", "append-twice"),
    "cutting": ("truncate", "truncate-longer", "shorten"),
    "renaming": ("rename-file", "rename-directory", "rename-replace", "rename-chain", "rename-over-link"),
    "exchanging": ("exchange-files", "exchange-directories", "exchange-mixed"),
    "removing": ("unlink", "unlink-linked", "remove-directory", "remove"),
    "attributes": ("set-attributes", "set-xattr", "remove-xattr"),
    "control": tuple(case.name for case in CONTROL),
    "observing": tuple(case.name for case in OBSERVATIONS),
}
POINTS_MIN = 6
"""Fewer points of a case than that are a sign that the process is not seen. A record that changes no file has 9 or 10:
the transaction that folds it is one of its own, or not."""


@pytest.mark.parametrize("names", GROUPS.values(), ids=GROUPS)
def test_a_kill_at_every_point(names: Sequence[str]) -> None:
    some = ["--points", ",".join(map(str, range(1, 400, 4)))] if names == GROUPS["putting-by-workers"] else []
    done = campaign("points", *(argument for name in names for argument in ("--case", name)), *some)
    assert done.failed == 0, done.output
    assert done.counts.keys() == set(names), done.output
    assert min(done.counts.values()) >= POINTS_MIN, done.output


def test_a_kill_of_the_start_that_follows_a_kill() -> None:
    done = campaign("again", "--seeds", f"1-{examples(12)}")
    assert done.failed == 0, done.output
    assert done.count > examples(12), done.output


def test_every_case_is_in_a_group() -> None:
    named = [name for names in GROUPS.values() for name in names]
    assert sorted(named) == sorted(CASES)
    assert len(CASES) == len(OPERATIONS) + len(CONTROL) + len(OBSERVATIONS)


def test_every_kind_of_record_is_in_a_case() -> None:
    """And every kind of effect."""
    missing = Kinds(*(all_kinds - kinds for all_kinds, kinds in zip(wanted(), had(), strict=True)))
    assert missing == Kinds(set(), set())


def test_the_numbers_of_system_calls_are_each_of_one_call() -> None:
    assert len(set(NUMBERS.values())) == len(NUMBERS)
