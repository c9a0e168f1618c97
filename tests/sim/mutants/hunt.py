"""Hunts a mutant: runs seeds with it until one fails that holds without it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from unittest.mock import patch

from tests.sim.campaign import run
from tests.sim.mutants.answers import ANSWER_MUTANTS
from tests.sim.mutants.checks import is_noticed_by
from tests.sim.mutants.faults import MUTANTS as OTHER_MUTANTS
from tests.sim.mutants.faults import Mutant
from tests.sim.mutants.mounts import MOUNT_MUTANTS

MUTANTS = (*OTHER_MUTANTS, *ANSWER_MUTANTS, *MOUNT_MUTANTS)


class Noticed(NamedTuple):
    """The first seed that shows the mutant, and what the simulator said."""

    seed: int
    failure: str


@contextmanager
def installed(mutant: Mutant) -> Iterator[None]:
    with ExitStack() as stack:
        for place, name, value in mutant.patches():
            stack.enter_context(patch.object(place, name, value, create=True))
        yield


def hunt(mutant: Mutant) -> Noticed | None:
    """What its check says of it, or another one where its own says nothing. None where the seeds that the mutant is
    allowed do not show it."""
    by_another: Noticed | None = None
    for seed in (mutant.seed, *range(1, mutant.seeds_max + 1)):
        with installed(mutant):
            failure = run(mutant.kind, seed).failure
        if failure and not run(mutant.kind, seed).failure:
            noticed = Noticed(seed, failure)
            if is_noticed_by(mutant.noticed_by, failure):
                return noticed
            by_another = by_another or noticed
    return by_another


def main(names: list[str]) -> int:
    """Says of each mutant, or of those named in part, what notices it; 1 where nothing does."""
    missed = 0
    for mutant in MUTANTS:
        if names and not any(name in mutant.name for name in names):
            continue
        noticed = hunt(mutant)
        missed += noticed is None
        said = "NOT NOTICED" if noticed is None else f"seed {noticed.seed}: {noticed.failure.strip().splitlines()[0]}"
        print(f"{mutant.name} ({mutant.kind}): {said}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
