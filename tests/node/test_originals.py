"""Files of a source that operations change before every zone has what they were."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lddp.core.records import Append, Operation, Truncate, Write
from tests.core.support import content
from tests.node.trees import describe
from tests.node.trio import PATIENCE_S, SOURCE, TARGET, Trio

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may open files by their handles")

SMALL, LARGE = os.urandom(3000), os.urandom(700_000)


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Trio]:
    trio = Trio(tmp_path)
    for name in ("appended", "cut", "written", "twice"):
        (trio.source / name).write_bytes(SMALL)
    (trio.source / "large").write_bytes(LARGE)
    await trio.start()
    yield trio
    await trio.close()


async def do(trio: Trio, operation: Operation) -> None:
    _, outcome = await trio.nodes[SOURCE].backend.submit(operation, PATIENCE_S)
    assert not outcome.errno


async def test_a_target_that_was_away_finds_what_operations_have_changed_since(trio: Trio) -> None:
    await trio.until(lambda: all(node.member.leader is not None for node in trio.nodes.values()))
    await trio.stop(TARGET)
    await trio.migrate(observe_only=False)
    await trio.state("live")
    # The packs that the source has sent are gone with it: from now on the bytes are in its files alone.
    await trio.stop(SOURCE)
    await trio.start(SOURCE)
    await trio.until(lambda: trio.driver.observer is not None)
    observer = trio.driver.observer
    assert observer is not None
    async with asyncio.timeout(PATIENCE_S):
        await observer.drained()
    next_id = trio.nodes[SOURCE].backend.next_id
    await do(trio, Append(next_id(), 0, 10**18, b"/data/appended", content(b"more")))
    await do(trio, Truncate(next_id(), 0, 10**18, b"/data/cut", 9))
    await do(trio, Write(next_id(), 0, 10**18, b"/data/written", 100, content(b"other")))
    await do(trio, Truncate(next_id(), 0, 10**18, b"/data/twice", 2000))
    await do(trio, Write(next_id(), 0, 10**18, b"/data/twice", 10, content(b"other")))
    await do(trio, Write(next_id(), 0, 10**18, b"/data/large", 300_000, content(b"other")))
    await trio.start(TARGET)
    await trio.caught_up()
    target = trio.nodes[TARGET].projector
    assert target is not None
    await target.checkpoint()  # directories have their times then
    assert describe(trio.target) == describe(trio.source)
    assert (trio.target / "appended").read_bytes() == SMALL + b"more"
    assert (trio.target / "cut").read_bytes() == SMALL[:9]
    assert (trio.target / "written").read_bytes() == SMALL[:100] + b"other" + SMALL[105:]
    assert (trio.target / "twice").read_bytes() == SMALL[:10] + b"other" + SMALL[15:2000]
    assert (trio.target / "large").read_bytes() == LARGE[:300_000] + b"other" + LARGE[300_005:]
    # What every zone has is not kept.
    blobs = trio.directory / SOURCE / "staging" / "content" / "blobs"
    await trio.until(lambda: not list(blobs.iterdir()))
