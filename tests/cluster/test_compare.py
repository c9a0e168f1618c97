"""The comparison by walking finds what differs, whichever side has it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.compare import _by_walk


def bytes_differ(tree: Path) -> None:
    (tree / "f").write_bytes(b"other")


def another_kind(tree: Path) -> None:
    (tree / "f").unlink()
    (tree / "f").symlink_to("x")


def a_directory(tree: Path) -> None:
    (tree / "f").unlink()
    (tree / "f").mkdir()


def links_of_its_own(tree: Path) -> None:
    (tree / "g").unlink()
    os.link(tree / "f", tree / "g")


def one_more(tree: Path) -> None:
    (tree / "h").write_bytes(b"")


@pytest.mark.parametrize("change", [bytes_differ, another_kind, a_directory, links_of_its_own, one_more])
def test_a_difference_is_found_from_both_sides(tmp_path: Path, change: Callable[[Path], None]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for tree in (one, other):
        tree.mkdir()
        for name in ("f", "g"):
            (tree / name).write_bytes(b"bytes")
            os.utime(tree / name, ns=(5, 5))
        os.utime(tree, ns=(5, 5))
    assert list(_by_walk(one, other)) == []
    change(other)
    assert list(_by_walk(one, other))
    assert list(_by_walk(other, one))
