"""One hypothesis profile for the core: the same cases on every run, or many random ones with LDDP_EXAMPLES."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

_CAMPAIGN = "LDDP_EXAMPLES" in os.environ
settings.register_profile(
    "lddp-core",
    deadline=None,
    derandomize=not _CAMPAIGN,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],
    print_blob=_CAMPAIGN,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile("lddp-core")
