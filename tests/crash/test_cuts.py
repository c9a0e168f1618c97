"""Power cuts of a real filesystem: what was acknowledged is in the log, and the zone becomes what the log says."""

from __future__ import annotations

import pytest

from tests.core.support import examples
from tests.crash.running import campaign


@pytest.mark.parametrize("of", ["database", "still", "moves"])
def test_power_cuts(of: str) -> None:
    """Of the database alone under any load; of the zone too, without and with names that stand for other objects
    than at the last checkpoint."""
    done = campaign("cuts", "--of", of, "--seeds", f"1-{examples(5)}")
    assert done.failed == 0, done.output
    assert done.count >= examples(5)
