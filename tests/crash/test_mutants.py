"""Every deliberate fault of the node is noticed: a test that notices none is worth nothing."""

from __future__ import annotations

import pytest

from tests.crash.mutants import MUTANTS, Mutant
from tests.crash.running import campaign


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_is_noticed(mutant: Mutant) -> None:
    kind, which = mutant.noticed_by
    done = campaign(kind, "--case" if kind == "points" else "--seeds", which, "--mutant", mutant.name)
    assert done.failed > 0, done.output
    assert mutant.says in done.output, done.output
