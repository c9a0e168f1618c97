"""The simulator notices every deliberate fault: one that notices nothing is worth nothing."""

from __future__ import annotations

import pytest

from tests.sim.mutants.faults import Mutant
from tests.sim.mutants.hunt import MUTANTS, hunt


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_is_noticed(mutant: Mutant) -> None:
    assert hunt(mutant), f"{mutant.name} is not noticed by {mutant.seeds_max} seeds of {mutant.kind}"
