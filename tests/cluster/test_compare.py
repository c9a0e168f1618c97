"""The comparison by walking finds what differs, whichever side has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.compare import _by_walk, differences


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


STEP = b"a[*?]\\\n" + b"s" * 190
STEPS = 24


def deep(tree: Path, content: bytes, step: bytes = STEP, steps: int = STEPS) -> None:
    """A file below so many directories."""
    tree.mkdir()
    directories = [os.open(tree, os.O_RDONLY)]
    for _ in range(steps):
        os.mkdir(step, dir_fd=directories[-1])
        directories.append(os.open(step, os.O_RDONLY, dir_fd=directories[-1]))
    descriptor = os.open(b"f", os.O_WRONLY | os.O_CREAT, dir_fd=directories[-1])
    os.write(descriptor, content)
    os.utime(descriptor, ns=(5, 5))
    os.close(descriptor)
    while directories:
        os.utime(directories[-1], ns=(5, 5))
        os.close(directories.pop())


def remove(*trees: Path) -> None:
    """Also what is too deep for Python to remove."""
    subprocess.run(["rm", "-rf", *trees], check=True)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_what_is_too_deep_for_rsync_is_compared_by_walking(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for tree, content in ((one, b"bytes"), (same, b"bytes"), (other, b"other")):
        deep(tree, content)
    (other / "shallow").touch()
    try:
        assert differences(one, same) == []
        found = differences(one, other)
    finally:
        remove(one, same, other)
    assert any(line.startswith("rsync: *deleting") and "shallow" in line for line in found)
    assert any(line.startswith("walk: ") and "/f: bytes: " in line for line in found)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_what_is_deeper_than_functions_can_call_themselves_is_compared(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for tree, content in ((one, b"bytes"), (same, b"bytes"), (other, b"other")):
        deep(tree, content, b"a", sys.getrecursionlimit() + 100)
    try:
        assert differences(one, same) == []
        (found,) = differences(one, other)
    finally:
        remove(one, same, other)
    assert found.startswith("walk: ") and "/f: bytes: " in found
