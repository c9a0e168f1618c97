"""The projector on a real filesystem: what a zone in memory cannot show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from lddp.zones.posix import PosixZone
from tests.replay.bench import PATIENCE_S, RULE, Bench
from tests.replay.test_projector import Records


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Files are made in `tree`; the store is on the same filesystem, so blobs are moved into place."""
    for name in ("tree", "staging"):
        (tmp_path / name).mkdir()
    bench = Bench(tmp_path)
    with PosixZone(str(tmp_path / "tree"), str(tmp_path / "staging")) as zone:
        use(bench, Carrier(zone, OnExisting.SKIP_IDENTICAL))
        bench.start()
        bench.rule()
        yield bench
        await bench.close()


def use(bench: Bench, carrier: Carrier) -> None:
    """In place of the bench's own, which is over a zone in memory."""
    cast(Any, bench.projector._carriers)[RULE] = carrier


async def there(bench: Bench) -> dict[str, bytes]:
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        await bench.projector.checkpoint()
    top = bench.directory / "tree"
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.mark.parametrize("here", [True, False])
async def test_files_of_the_same_bytes_do_not_take_each_others(bench: Bench, here: bool) -> None:
    """The first file is made by moving the blob; the others need the bytes again."""
    make, data = Records(), b"same" * 5000
    what = bench.hold(data) if here else bench.late(data)
    await bench.supply(what)
    bench.submit_all([make.put(name, what) for name in (b"a", b"b", b"c")])
    assert await there(bench) == {"a": data, "b": data, "c": data}
    assert bench.store.usage().blobs == 0
    drift = [path for carrier in bench.projector._carriers.values() for path in carrier.drift]
    assert drift == []


async def test_a_put_that_is_repeated_after_its_blob_was_taken(bench: Bench) -> None:
    """As after a power cut: the effect is there again, its bytes come from another node."""
    make, data = Records(), b"once" * 5000
    what = bench.hold(data)
    bench.submit(make.put(b"a", what))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    carrier = bench.projector._carriers[RULE]
    await bench.end()
    Path(bench.directory / "progress").unlink()
    bench._build()
    use(bench, carrier)
    bench.start()
    await bench.supply(what)
    assert await there(bench) == {"a": data}
