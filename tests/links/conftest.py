from __future__ import annotations

from pathlib import Path

import pytest

from lddp.links.credentials import Credentials
from lddp.links.issue import create_authority, issue


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two ecosystems' authorities, and one that only pretends to be the first."""
    root = tmp_path_factory.mktemp("authorities")
    made = {}
    for name, ecosystem in (("ours", "ours"), ("other", "other"), ("forged", "ours")):
        made[name] = root / name
        create_authority(str(made[name]), ecosystem=ecosystem)
    return made


@pytest.fixture(scope="session")
def credentials(
    authorities: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Credentials]:
    """(authority, node) -> its credentials."""
    root = tmp_path_factory.mktemp("nodes")
    return {
        (authority, node): issue(str(path), str(root / authority), node=node)
        for authority, path in authorities.items()
        for node in ("a", "b", "c")
    }
