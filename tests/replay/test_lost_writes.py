"""A filesystem that says of what it took that it could not write it: it says so once."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable

import pytest

from lddp.core import effects as e
from lddp.core.records import OperationId, Put, Rename, RenameFlag
from lddp.errors import StorageError
from tests.core.support import SOURCE
from tests.replay.bench import PATIENCE_S, Bench

HEAD = SOURCE, 1000, b"/data/a"


def failing_once(sync: Callable[[], None]) -> Callable[[], None]:
    failures = [OSError(errno.EIO, os.strerror(errno.EIO))]

    def fails() -> None:
        if failures:
            raise failures.pop()
        sync()

    return fails


async def test_the_node_ends_and_carries_it_out_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.settled()
    durable = bench.projector.durable
    bench.projector.poke()
    large = bench.hold(b"large" * 10_000)
    bench.submit(Put(OperationId(b"c", 1), *HEAD, 0o644, 0, 0, large))
    bench.submit(Rename(OperationId(b"c", 2), *HEAD, b"/data/b", RenameFlag.NONE))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    monkeypatch.setattr(bench.zone, "sync", failing_once(bench.zone.sync))
    bench.time.now += 1000.0
    bench.projector.poke()
    assert bench.task is not None
    with pytest.raises(StorageError, match="EIO"):
        await bench.task
    assert bench.projector.durable == durable
    bench.task = None

    await bench.restart()
    await bench.supply(large)
    await bench.settled()
    assert [effect.path for effect in bench.carrier.carried if isinstance(effect, e.PutFileEffect)] == [b"a"]
    bench.assert_equal()


async def test_a_kill_right_after_it_forgets_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything could be said of it in the database."""
    await bench.settled()
    large = bench.hold(b"large" * 10_000)
    bench.submit(Put(OperationId(b"c", 1), *HEAD, 0o644, 0, 0, large))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    refused = asyncio.Event()

    def fails() -> None:
        refused.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(bench.zone, "sync", fails)
        transactions = bench.transactions
        bench.time.now += 1000.0
        bench.projector.poke()
        await refused.wait()
        await bench.end()
        assert bench.transactions == transactions
    await bench.restart()
    await bench.supply(large)
    await bench.settled()
    assert any(isinstance(effect, e.PutFileEffect) for effect in bench.carrier.carried)
    bench.assert_equal()

    await bench.restart()
    await bench.settled()
    assert not bench.carrier.carried, "it has been dealt with"


async def test_a_node_that_is_stopped_while_it_syncs_forgets_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.settled()
    large = bench.hold(b"large" * 10_000)
    bench.submit(Put(OperationId(b"c", 1), *HEAD, 0o644, 0, 0, large))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    loop, begun, go_on, over = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), threading.Event()

    def fails() -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(PATIENCE_S)
        try:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        finally:
            over.set()

    with monkeypatch.context() as patched:
        patched.setattr(bench.zone, "sync", fails)
        bench.time.now += 1000.0
        bench.projector.poke()
        await begun.wait()
        ending = asyncio.create_task(bench.end())
        for _ in range(20):
            await asyncio.sleep(0)
        if not ending.done():
            go_on.set()
        await ending
        bench.progress.close()
        go_on.set()
        await asyncio.to_thread(over.wait)
    await bench.restart()
    await bench.supply(large)
    await bench.settled()
    assert any(isinstance(effect, e.PutFileEffect) for effect in bench.carrier.carried)
