"""Small random histories of few names, of anything and of directories: whatever a power cut leaves of one, and
whatever a second cut leaves of the recovery, the zone ends as the namespace. LDDP_EXAMPLES says how many histories,
LDDP_SEED which is the first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.support import seeds
from tests.replay.deep import make_deep_story
from tests.replay.small import Played, Stage, Story, make_story, shorten

DEFAULT = 60
DEEP_DEFAULT = 20
BATCH = 15


@pytest.mark.parametrize("first", range(0, len(seeds(DEFAULT)), BATCH))
def test_a_zone_survives_two_power_cuts(tmp_path: Path, caplog: pytest.LogCaptureFixture, first: int) -> None:
    caplog.set_level(logging.CRITICAL)  # every one of many thousand starts may say something
    survive(tmp_path, make_story, seeds(DEFAULT)[first : first + BATCH])


@pytest.mark.parametrize("first", range(0, len(seeds(DEEP_DEFAULT)), BATCH))
def test_directories_survive_two_power_cuts(tmp_path: Path, caplog: pytest.LogCaptureFixture, first: int) -> None:
    caplog.set_level(logging.CRITICAL)
    survive(tmp_path, make_deep_story, seeds(DEEP_DEFAULT)[first : first + BATCH])


@pytest.mark.parametrize("make", [make_story, make_deep_story])
def test_a_tree_that_programs_could_change_survives_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[int], Story]
) -> None:
    """Where none does anything, what the log has made is known to be its own."""
    caplog.set_level(logging.CRITICAL)
    survive(tmp_path, make, seeds(DEEP_DEFAULT), is_shared=True)


def survive(directory: Path, make: Callable[[int], Story], batch: range, *, is_shared: bool = False) -> None:
    cuts, steps = 0, 0
    for seed in batch:
        played = play(directory, make(seed), seed, is_shared=is_shared)
        assert not played.failure, told(directory, played, seed, is_shared=is_shared)
        cuts += played.cuts
        steps += len(played.story.after)
    assert cuts > 10 * len(batch) and steps > 0


def play(directory: Path, story: Story, seed: int, *, is_shared: bool = False) -> Played:
    stage = Stage(directory, is_shared=is_shared)
    played: Played = stage.run(lambda: stage.play(story, seed))
    return played


def told(directory: Path, played: Played, seed: int, *, is_shared: bool = False) -> str:
    """A failure, with as few steps as show it."""
    stage = Stage(directory, is_shared=is_shared)

    async def fails(story: Story) -> bool:
        return bool((await stage.play(story, seed)).failure)

    story = stage.run(lambda: shorten(played.story, fails))
    failure = play(directory, story, seed, is_shared=is_shared).failure
    return "\n".join(
        [f"seed {seed}: {failure}", "before:", *story.before, f"after, {story.batch} at once:", *story.after]
    )
