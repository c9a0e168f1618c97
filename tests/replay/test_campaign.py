"""Random histories with kills, power cuts, late and lost bytes, refusals and late trees: the zone ends as the
namespace, by replay alone, and nothing in it counts as somebody else's change. LDDP_EXAMPLES says how many, LDDP_SEED
which is the first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.core.support import seeds
from tests.replay.campaign import run_campaign

DEFAULT = 160
BATCH = 40


@pytest.mark.parametrize("first", range(0, len(seeds(DEFAULT)), BATCH))
def test_a_zone_ends_as_the_namespace(tmp_path: Path, first: int) -> None:
    kills = cuts = compared = looked = 0
    for seed in seeds(DEFAULT)[first : first + BATCH]:
        campaign = run_campaign(tmp_path, seed)
        kills += campaign.kills
        cuts += campaign.cuts
        compared += campaign.compared
        looked += campaign.looked
    batch = len(seeds(DEFAULT)[first : first + BATCH])
    assert batch < BATCH or min(kills, cuts, compared, looked) > batch // 2


@pytest.mark.skipif(os.geteuid() != 0, reason="files get owners, and devices are made")
def test_a_zone_of_real_files_ends_as_the_namespace(tmp_path: Path) -> None:
    compared = 0
    for seed in seeds(15):
        compared += run_campaign(tmp_path, seed, real=True).compared
        shutil.rmtree(tmp_path / str(seed))
    assert compared > 0
