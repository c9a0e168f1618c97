"""A migration with all its parts: real nodes, real files, a source that changes."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lddp.core.records import MigrationAction
from lddp.doors.intake import Intake
from lddp.errors import UnavailableError
from lddp.node import migration as module
from tests.node.trees import describe, fill
from tests.node.trio import PATIENCE_S, SOURCE, TARGET, Trio

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may open files by their handles")

LIVE = """
printf more >> d/large
truncate -s 100 sparse
printf 'another file' > replacement && mv replacement d/small
mkdir -p new/er && printf new > new/er/file
ln hard new/hard
rm fifo absolute
ln -s elsewhere absolute
chmod 640 many/007
rm -r d/in
mv many/000 new/zero
"""


@pytest.fixture
async def trio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trio]:
    monkeypatch.setattr("lddp.node.survey.ASK_AGAIN_S", 0.2)  # a question to a node that restarts is lost
    trio = Trio(tmp_path)
    fill(trio.source)
    await trio.start()
    yield trio
    await trio.close()


async def assert_holds(trio: Trio) -> None:
    """There is a receipt, made by nobody's memory, and this process sees the same."""
    await trio.until(lambda: bool(trio.nodes[TARGET].backend.receipts("data")))
    (receipt, *_) = trio.nodes[TARGET].backend.receipts("data")
    assert receipt["holds"]
    assert [zone["zone"] for zone in receipt["zones"]] == [SOURCE, TARGET]
    assert describe(trio.target) == describe(trio.source)


async def test_a_live_source_from_the_start_to_the_receipt(trio: Trio) -> None:
    await trio.migrate()
    await trio.state("live")
    await trio.outside(LIVE)
    await trio.caught_up()
    assert (trio.target / "new" / "er" / "file").read_bytes() == b"new"
    assert (trio.target / "d" / "small").read_bytes() == b"another file"
    assert os.stat(trio.target / "new" / "hard").st_nlink == 3

    # A renamed directory stays a rename.
    before, inode = trio.content_bytes(), os.stat(trio.target / "many").st_ino
    await trio.outside("mv many new/moved")
    await trio.caught_up()
    assert os.stat(trio.target / "new" / "moved").st_ino == inode
    assert len(os.listdir(trio.target / "new" / "moved")) == 199
    assert not (trio.target / "many").exists()
    assert trio.content_bytes() == before

    # While it is paused nobody looks; what happened meanwhile is found afterwards.
    await trio.change(MigrationAction.PAUSE)
    await trio.until(lambda: trio.driver.observer is None)
    await trio.outside("printf paused > d/paused; mv new/moved many; rm new/zero")
    assert trio.migration()["state"] == "paused"
    assert not (trio.target / "d" / "paused").exists()
    await trio.change(MigrationAction.RESUME)
    await trio.caught_up()
    assert (trio.target / "d" / "paused").read_bytes() == b"paused"
    assert os.stat(trio.target / "many").st_ino == inode

    await trio.state("live")
    await trio.change(MigrationAction.COMPLETE)
    document = await trio.state("completed", "failed")
    assert document["state"] == "completed", document
    await assert_holds(trio)


async def test_a_target_that_restarts(trio: Trio) -> None:
    await trio.migrate()
    await trio.until(lambda: trio.migration()["files_seen"] > 10)
    await trio.stop(TARGET)
    await trio.outside(LIVE)
    await trio.start(TARGET)
    await trio.state("live")
    await trio.outside("printf again >> many/100; mv d e")
    await trio.caught_up()
    await trio.stop(TARGET)
    await trio.start(TARGET)
    await trio.change(MigrationAction.COMPLETE)
    document = await trio.state("completed", "failed")
    assert document["state"] == "completed", document
    await assert_holds(trio)


async def test_a_source_that_restarts(trio: Trio) -> None:
    await trio.migrate()
    await trio.until(lambda: trio.migration()["files_seen"] > 10)
    await trio.stop(SOURCE)
    await trio.outside(LIVE)
    await trio.start(SOURCE)
    await trio.state("live")
    await trio.change(MigrationAction.COMPLETE)
    document = await trio.state("completed", "failed")
    assert document["state"] == "completed", document
    await assert_holds(trio)


async def test_a_target_that_cannot_be_opened_at_first(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its effects wait for the tree; the source goes on, and the target says why it does not."""
    monkeypatch.setattr("lddp.node.runtime.OPEN_AGAIN_S", 0.05)
    trio.target.write_bytes(b"in the way")
    await trio.migrate()
    await trio.state("live")
    target = trio.nodes[TARGET]
    await target.gateway.wait(trio.nodes[SOURCE].gateway.gsn, PATIENCE_S)
    (problem,) = target.backend.status()["problems"]
    assert str(trio.target) in problem
    assert "File exists" in problem
    assert target.projector is not None
    assert target.projector.projected < target.gateway.gsn
    trio.target.unlink()
    await trio.caught_up()
    assert target.backend.status()["problems"] == []
    await trio.change(MigrationAction.COMPLETE)
    document = await trio.state("completed", "failed")
    assert document["state"] == "completed", document
    await assert_holds(trio)


async def test_a_byte_that_somebody_changed_in_the_target(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size, same times: only reading tells. The file is brought back to what the log says, and that is told."""
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    await trio.migrate()
    await trio.state("live")
    await trio.caught_up()
    path = trio.target / "many" / "123"
    found, right = path.stat(), path.read_bytes()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    gone = trio.target / "many" / "124"
    gone.unlink()
    await trio.change(MigrationAction.COMPLETE)
    document = await trio.state("completed", "failed")
    assert document["state"] == "completed", document
    assert document["findings"]["1"]["repaired"] >= 2
    assert document["findings"]["0"]["repaired"] == 0
    assert path.read_bytes() == right
    assert gone.exists()
    await assert_holds(trio)


async def test_a_file_that_cannot_be_read_fails_the_migration(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often that is tried again meanwhile: to try is no change of the source."""
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    await trio.migrate()
    await trio.state("live")
    await trio.caught_up()
    zone, broken = trio.driver.zone, set[bytes]()
    opened = zone.open_read

    def open_read(path: bytes) -> int:
        if path == b"many/123":
            broken.add(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return opened(path)

    monkeypatch.setattr(zone, "open_read", open_read)
    await trio.outside("printf more >> many/123")
    await trio.until(lambda: bool(broken))
    await trio.change(MigrationAction.COMPLETE)
    document = await trio.state("completed", "failed")
    assert (document["state"], document["detail"]) == ("failed", "1 paths cannot be read"), document


async def test_a_kept_difference_is_not_repaired(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that leaves the target's own bytes is respected: then the migration does not claim to be complete."""
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    (trio.target / "many").mkdir(parents=True)
    (trio.target / "many" / "123").write_bytes(b"the target's own")
    await trio.migrate(on_existing="keep")
    await trio.state("live")
    await trio.caught_up()
    await trio.change(MigrationAction.COMPLETE)
    document = await trio.state("completed", "failed")
    assert document["state"] == "failed"
    assert "many/123" in [difference["path"] for difference in document["findings"]["1"]["differences"]]
    assert (trio.target / "many" / "123").read_bytes() == b"the target's own"
    assert trio.nodes[TARGET].backend.receipts("data") == []


async def test_a_node_that_stops_while_a_migration_ends_watches_no_more(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What watches the source has a queue in the kernel that grows without a limit when nobody reads it."""
    follow, ending = Intake.run, asyncio.Event()

    async def reluctant(self: Intake) -> None:
        try:
            await follow(self)
        finally:
            ending.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(Intake, "run", reluctant)
    await trio.migrate()
    await trio.state("live")
    watcher = trio.driver.watcher
    assert watcher is not None
    await trio.change(MigrationAction.STOP)
    async with asyncio.timeout(PATIENCE_S):
        await ending.wait()
    await trio.stop(SOURCE)
    with pytest.raises(UnavailableError):
        watcher.mark()
