"""The theorem of the merge rule: however looks, commits and changes of the source interleave, and in whatever order
renames are reported, the namespace ends as the source's tree, and every zone holds what the namespace says."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .source import Steps, World, shrink
from .support import examples, seeds

WATCHED = ["change"] * 5 + ["scan"] * 5 + ["watch"] * 4 + ["land"] * 6 + ["land all", "barrier", "lose"]
BATCH = 50


def run_observed(steps: Steps, seed: int, in_order: bool = False) -> World:
    """A source that is only observed."""
    world = World(seed_tree=seed, in_order=in_order)
    for what, step_seed in steps:
        world.step(what, step_seed)
    world.settle(Random(seed))
    world.assert_converged()
    return world


def random_steps(seed: int, kinds: list[str], longest: int = 60) -> Steps:
    random = Random(seed)
    return [(random.choice(kinds), random.randrange(2**32)) for _ in range(random.randrange(longest))]


def fails(steps: Steps, seed: int) -> bool:
    try:
        run_observed(steps, seed)
    except AssertionError:
        return True
    return False


def shortest_failure(seed: int) -> tuple[Steps, str]:
    """The steps of a failing seed without those that it fails without, and its message."""
    steps = shrink(random_steps(seed, WATCHED), lambda fewer: fails(fewer, seed))
    try:
        run_observed(steps, seed)
    except AssertionError as error:
        return steps, str(error)
    raise AssertionError("a failure that does not repeat")


@settings(max_examples=examples(150))
@given(st.lists(st.tuples(st.sampled_from(WATCHED), st.integers(0, 2**16)), max_size=40), st.integers(0, 200))
def test_an_observed_source_converges(steps: Steps, seed: int) -> None:
    world = run_observed(steps, seed)
    assert world.pending() == []


@pytest.mark.parametrize("first", range(0, len(seeds(1000)), BATCH))
def test_an_observed_source_converges_at_random(first: int) -> None:
    batch = seeds(1000)[first : first + BATCH]
    for seed in batch:
        if fails(random_steps(seed, WATCHED), seed):
            steps, message = shortest_failure(seed)
            pytest.fail(f"seed {seed}, steps {steps}:\n{message}")
    assert batch


@pytest.mark.parametrize("first", range(0, len(seeds(500)), BATCH))
def test_an_observed_source_converges_in_order_at_random(first: int) -> None:
    """Observers that commit in the order in which they looked: nothing depends on what an older look may do."""
    converged = 0
    for seed in seeds(500)[first : first + BATCH]:
        world = run_observed(random_steps(seed, WATCHED), seed, in_order=True)
        converged += world.pending() == []
    assert converged == len(seeds(500)[first : first + BATCH])
