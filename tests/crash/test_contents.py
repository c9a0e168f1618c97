"""A content that was said to be durable, which an acknowledgement may rest on, outlives a power cut."""

from __future__ import annotations

import pytest

from tests.crash.contents import SIZES
from tests.crash.running import module


def lost(*arguments: str) -> tuple[int, int]:
    """How many contents are gone after a cut: of those that were said to be durable, and of others."""
    ended = module("tests.crash.contents", *arguments)
    if ended.stdout.startswith("not here: "):
        pytest.skip(ended.stdout.strip())
    assert ended.returncode == 0, ended.stderr
    durable, _, others, _ = ended.stdout.split()
    return int(durable), int(others)


def test_what_is_durable_is_there_after_a_power_cut() -> None:
    assert lost() == (0, len(SIZES)), "the others tell that something is lost at all"


def test_contents_that_nobody_synced_are_noticed() -> None:
    durable, _ = lost("--unsynced")
    assert durable > 0
