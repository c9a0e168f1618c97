"""Where a zone's trees are: no other directory is taken for one, as where a filesystem is not mounted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lddp.config import NodeConfig
from lddp.core.records import MigrationAction
from lddp.core.tables import Table
from tests.node.trees import describe
from tests.node.trio import PATIENCE_S, RULE, SOURCE, TARGET, Trio

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may open files by their handles")
FILES = 5


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


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Trio]:
    """Its migration is live, and all is at the target."""
    trio = Trio(tmp_path)
    for number in range(FILES):
        (trio.source / f"f{number}").write_bytes(b"precious")
    await trio.start()
    await trio.migrate()
    await trio.state("live")
    await trio.caught_up()
    assert len(os.listdir(trio.target)) == FILES
    yield trio
    await trio.close()


def problems(trio: Trio, name: str) -> list[str]:
    return list(trio.nodes[name].backend.status()["problems"])


async def no_problem(trio: Trio, name: str) -> None:
    await trio.until(lambda: not problems(trio, name))


async def barrier(trio: Trio) -> None:
    """The target has carried out what is in the log."""
    gsn = await trio.nodes[TARGET].backend.barrier(PATIENCE_S)
    await trio.nodes[TARGET].backend.wait(gsn, PATIENCE_S)


async def assert_is_missed(trio: Trio, path: Path, name: str) -> None:
    """The node says so in one line, in its status and in that of the migration."""
    # Where it is looked between the two steps of a test, it is gone at first.
    await trio.until(lambda: any("another directory than before" in problem for problem in problems(trio, name)))
    (problem,) = problems(trio, name)
    for part in (f"rule {RULE}", repr(str(path)), "another directory than before", "mount it", "remove the rule"):
        assert part in problem
    document = trio.nodes[name].backend.migration(RULE)
    assert document is not None
    assert (document["state"], document["problem"]) == ("live", problem)


async def test_a_source_that_is_not_mounted_at_a_start_empties_no_target(trio: Trio) -> None:
    """It is followed again once it is there."""
    away = trio.directory / "not mounted"
    await trio.stop(SOURCE)
    trio.source.rename(away)
    trio.source.mkdir()
    (trio.source / "on the disk below").write_bytes(b"x")
    await trio.start(SOURCE)
    await trio.until(lambda: trio.nodes[SOURCE].member.leader is not None)
    await assert_is_missed(trio, trio.source, SOURCE)
    assert not trio.nodes[SOURCE].drivers
    await barrier(trio)
    assert describe(trio.target) == describe(away)

    trio.source.rename(trio.directory / "below")
    await trio.until(lambda: "is gone" in problems(trio, SOURCE)[0])
    (away / "meanwhile").write_bytes(b"y")
    away.rename(trio.source)
    await no_problem(trio, SOURCE)
    await trio.until(lambda: bool(trio.nodes[SOURCE].drivers))
    await trio.caught_up()
    assert describe(trio.target) == describe(trio.source)
    assert (trio.target / "meanwhile").exists() and not (trio.target / "on the disk below").exists()


async def test_a_source_that_is_taken_away_from_a_running_node_empties_no_target(trio: Trio) -> None:
    away = trio.directory / "not mounted"
    trio.source.rename(away)
    trio.source.mkdir()
    (trio.source / "on the disk below").write_bytes(b"x")
    await assert_is_missed(trio, trio.source, SOURCE)
    await trio.until(lambda: not trio.nodes[SOURCE].drivers)
    (away / "meanwhile").write_bytes(b"y")
    (trio.source / "on the disk below").unlink()
    await barrier(trio)
    assert len(os.listdir(trio.target)) == FILES

    trio.source.rmdir()
    away.rename(trio.source)
    await no_problem(trio, SOURCE)
    await trio.until(lambda: bool(trio.nodes[SOURCE].drivers))
    await trio.caught_up()
    assert describe(trio.target) == describe(trio.source)


async def test_no_receipt_is_given_while_a_target_is_another_directory(trio: Trio) -> None:
    """What its node has open is still the old one, and gets all changes; but nobody sees that at its path."""
    away = trio.directory / "not mounted"
    trio.target.rename(away)
    trio.target.mkdir()
    await assert_is_missed(trio, trio.target, TARGET)
    await trio.outside("echo new > new")
    await trio.caught_up()
    await trio.change(MigrationAction.COMPLETE)
    await trio.until(lambda: "another directory than before" in trio.migration()["problem"])
    assert trio.migration()["state"] == "live"
    assert not os.listdir(trio.target)

    trio.target.rmdir()
    away.rename(trio.target)
    document = await trio.state("completed", "failed")
    assert document["state"] == "completed", document
    assert describe(trio.target) == describe(trio.source)


async def test_a_target_that_was_replaced_gets_nothing(trio: Trio) -> None:
    """Changes wait; other rules of the node do not."""
    away = trio.directory / "not mounted"
    await trio.stop(TARGET)
    trio.target.rename(away)
    trio.target.mkdir()
    await trio.start(TARGET)
    await trio.outside("echo new > new; rm f0")
    await assert_is_missed(trio, trio.target, TARGET)
    observer = trio.driver.observer
    assert observer is not None
    await observer.drained()
    await trio.nodes[TARGET].gateway.wait(trio.nodes[SOURCE].gateway.gsn, PATIENCE_S)
    assert not os.listdir(trio.target) and not (trio.directory / f".{trio.target.name}.lddp-1").exists()

    trio.target.rmdir()
    away.rename(trio.target)
    await no_problem(trio, TARGET)
    await trio.caught_up()
    await trio.change(MigrationAction.COMPLETE)  # directories get their times at checkpoints, or now
    document = await trio.state("completed", "failed")
    assert document["state"] == "completed", document
    assert describe(trio.target) == describe(trio.source)


async def test_another_directory_is_meant_where_the_rule_is_made_anew(trio: Trio) -> None:
    await trio.stop(SOURCE)
    trio.source.rename(trio.directory / "old")
    trio.source.mkdir()
    (trio.source / "other").write_bytes(b"other")
    await trio.start(SOURCE)
    await trio.until(lambda: trio.nodes[SOURCE].member.leader is not None)
    await assert_is_missed(trio, trio.source, SOURCE)
    backend = trio.nodes[SOURCE].backend
    _, outcome = await backend.remove_rule(RULE, backend.next_id(), PATIENCE_S)
    assert outcome.errno == 0
    await no_problem(trio, SOURCE)
    await trio.migrate(delete_extraneous=True)
    await trio.state("live")
    await trio.change(MigrationAction.COMPLETE)
    document = await trio.state("completed", "failed")
    assert document["state"] == "completed", document
    assert describe(trio.target) == describe(trio.source)


async def test_what_is_there_when_a_node_notes_it_first_is_right(trio: Trio) -> None:
    """As after an upgrade from a version that noted nothing."""
    await trio.stop(SOURCE)
    await trio.start(SOURCE)
    await trio.caught_up()
    environment = trio.nodes[SOURCE].environment
    with environment.write() as tables:
        (key,) = [key for key, _ in tables.scan(Table.LOCAL, b"root-identity:", b"root-identity;")]
        tables.delete(Table.LOCAL, key)
    await trio.stop(SOURCE)
    await trio.start(SOURCE)
    await trio.caught_up()
    with trio.nodes[SOURCE].environment.read() as tables:
        assert tables.get(Table.LOCAL, key) is not None
    assert problems(trio, SOURCE) == []


async def test_a_target_that_is_not_mounted_at_a_start_is_not_made_anew(trio: Trio) -> None:
    away = trio.directory / "not mounted"
    await trio.stop(TARGET)
    trio.target.rename(away)
    await trio.start(TARGET)
    await trio.until(lambda: bool(problems(trio, TARGET)))
    assert f"{str(trio.target)!r} is gone" in problems(trio, TARGET)[0]
    await trio.outside("echo new > new")
    observer = trio.driver.observer
    assert observer is not None
    await observer.drained()
    await trio.nodes[TARGET].gateway.wait(trio.nodes[SOURCE].gateway.gsn, PATIENCE_S)
    assert not trio.target.exists()

    away.rename(trio.target)
    await no_problem(trio, TARGET)
    await trio.caught_up()
    assert describe(trio.target) == describe(trio.source)


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


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """What a container sees of an image that has a directory `data`."""
    for name in ("lower/data", "upper", "work", "merged"):
        (tmp_path / "layers" / name).mkdir(parents=True)
    how = ",".join(f"{one}dir={tmp_path / 'layers' / one}" for one in ("lower", "upper", "work"))
    merged = tmp_path / "layers" / "merged"
    command = ["mount", "-t", "overlay", "overlay", "-o", how, str(merged)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip(result.stderr)
    yield merged
    subprocess.run(["umount", "--lazy", merged], check=True)


async def test_a_directory_of_an_image_is_still_the_target_once_something_is_put_into_it(
    tmp_path: Path, image: Path
) -> None:
    """Which copies it up; it is known at a later start, too."""
    trio = Trio(tmp_path)
    trio.target = image / "data"
    (trio.source / "f").write_bytes(b"precious")
    try:
        await trio.start()
        await trio.migrate()
        await trio.state("live")
        await trio.caught_up()
        await trio.stop(TARGET)
        await trio.start(TARGET)
        await trio.outside("echo new > new")
        await trio.caught_up()
        await trio.change(MigrationAction.COMPLETE)
        document = await trio.state("completed", "failed")
        assert document["state"] == "completed", document
        assert problems(trio, TARGET) == []
        assert describe(trio.target) == describe(trio.source)
    finally:
        await trio.close()
