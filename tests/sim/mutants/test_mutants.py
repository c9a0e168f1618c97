"""The simulator notices every deliberate fault: one that notices nothing is worth nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.sim.mutants.checks import is_noticed_by
from tests.sim.mutants.faults import Mutant
from tests.sim.mutants.hunt import MUTANTS, hunt

TABLE = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_is_noticed(mutant: Mutant) -> None:
    noticed = hunt(mutant)
    assert noticed, f"{mutant.name} is not noticed by {mutant.seeds_max} seeds of {mutant.kind}"
    assert is_noticed_by(mutant.noticed_by, noticed.failure), noticed.failure


def test_the_tables_are_true() -> None:
    """Which check notices which mutant is said to readers, too."""
    rows = dict(re.findall(r"^\| ([^|]+?) \| \w+: ([^|]+?) \|$", TABLE.read_text("utf-8"), re.MULTILINE))
    assert rows == {mutant.name: mutant.noticed_by for mutant in MUTANTS}
