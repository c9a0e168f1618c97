"""Where a zone's trees are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from lddp.config import NodeConfig
from tests.node.trees import describe
from tests.node.trio import PATIENCE_S, RULE, SOURCE, TARGET, Trio

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may open files by their handles")


class Narrow(Trio):
    """The target's zone is one directory."""

    def config(self, name: str) -> NodeConfig:
        config = super().config(name)
        if name == TARGET and config.zone is not None:
            config = replace(config, zone=replace(config.zone, root=self.directory / "zone"))
        return config


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lddp.node.runtime.OPEN_AGAIN_S", 0.01)


def problems(trio: Trio, name: str) -> list[str]:
    return list(trio.nodes[name].backend.status()["problems"])


async def no_problem(trio: Trio, name: str) -> None:
    await trio.until(lambda: not problems(trio, name))


async def test_a_rule_made_at_another_node_does_not_leave_a_zone(tmp_path: Path) -> None:
    """Made within the zone, it is used."""
    trio = Narrow(tmp_path)
    (tmp_path / "zone").mkdir()
    (trio.source / "f").write_bytes(b"x")
    trio.target = tmp_path / "outside" / "to"
    try:
        await trio.start()
        await trio.migrate()
        await trio.state("live")
        await trio.until(lambda: bool(problems(trio, TARGET)))
        (problem,) = problems(trio, TARGET)
        assert f"{str(trio.target)!r} is outside of this zone's root {tmp_path / 'zone'}" in problem
        await trio.nodes[TARGET].gateway.wait(trio.nodes[SOURCE].gateway.gsn, PATIENCE_S)
        assert not trio.target.parent.exists()
        assert not os.listdir(tmp_path / "zone")

        backend = trio.nodes[SOURCE].backend
        await backend.remove_rule(RULE, backend.next_id(), PATIENCE_S)
        await no_problem(trio, TARGET)
        trio.target = tmp_path / "zone" / "to"
        await trio.migrate()
        await trio.state("live")
        await trio.caught_up()
        assert describe(trio.target) == describe(trio.source)
    finally:
        await trio.close()
