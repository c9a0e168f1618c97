"""A filesystem that says of what it took that it could not write it: it says so once."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lddp.core import effects as e
from lddp.core.records import Attributes, Content, OperationId, Put, Rename, RenameFlag
from lddp.errors import StorageError
from lddp.replay import progress as module
from lddp.replay.existing import OnExisting
from tests.core.support import SOURCE, content
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


def found(path: bytes, bytes_of_it: Content) -> e.PutFileEffect:
    """A migration has it from the source."""
    return e.PutFileEffect((1 << 40) + path[0], path, Attributes(0o644, 0, 0, 5), bytes_of_it, observed=True)


async def lose(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sync of a checkpoint is refused; the zone shows all that it was given."""
    with monkeypatch.context() as patched:
        patched.setattr(bench.zone, "sync", failing_once(bench.zone.sync))
        checkpoint = asyncio.create_task(bench.projector.checkpoint())
        assert bench.task is not None
        with pytest.raises(StorageError, match="EIO"):
            await bench.task
        checkpoint.cancel()
    bench.task = None


@pytest.fixture(params=list(OnExisting))
async def migrating(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A bench with a rule, whose target has what exists treated in one of the ways that there are."""
    made = Bench(tmp_path, request.param)
    made.start()
    made.rule()
    await made.settled()
    await made.restart()  # it has not made the root itself: it looks at what is there
    yield made
    await made.close()


@pytest.mark.parametrize("is_killed", [False, True])
async def test_what_still_reads_right_is_written_again(
    migrating: Bench, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """The kernel shows what it has dropped, and no later sync brings it to the disk. With a kill in between, which
    leaves no word of the loss but what the start before has noted."""
    bench = migrating
    bench.append(found(b"f", content(b"found")))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    lost = bench.zone.status(b"f").handle
    await lose(bench, monkeypatch)
    if is_killed:
        bench.zone.fail(errno.EACCES, method="put_file")
        entered = bench.wait.entered
        await bench.restart()
        await bench.wait.reached(entered + 1)
        bench.zone.heal()
    await bench.restart()
    await bench.settled()
    assert bench.projector.durable == bench.gsn
    assert bench.zone.status(b"f").handle != lost


async def test_what_somebody_else_has_put_there_is_not_believed_either(
    migrating: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was made before, and that the disk perhaps does not have. Policies that ask for no bytes leave it."""
    bench, other = migrating, Attributes(0o644, 0, 0, 5 if migrating.policy is not OnExisting.KEEP else 6)
    for path in (b"f", b"g"):
        copied = bench.store.open(content(b"copied"))
        assert copied is not None
        bench.zone.put_file(path, other, copied)
    copies = {path: bench.zone.status(path).handle for path in (b"f", b"g")}
    bench.append(found(b"f", content(b"copied")))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await lose(bench, monkeypatch)
    await bench.restart()
    bench.append(found(b"g", content(b"copied")))
    await bench.settled()
    kept = {path for path, handle in copies.items() if bench.zone.status(path).handle == handle}
    match bench.policy:
        case OnExisting.KEEP:
            assert kept == {b"f", b"g"}
        case OnExisting.SKIP_SAME_SIZE_MTIME:
            assert kept == {b"g"}
        case _:
            assert not kept


async def test_in_another_boot_what_reads_right_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read then, the disk has."""
    bench = Bench(tmp_path, OnExisting.SKIP_IDENTICAL)
    bench.start()
    bench.rule()
    await bench.settled()
    bench.append(found(b"f", content(b"found")))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    there = bench.zone.status(b"f").handle
    await lose(bench, monkeypatch)
    monkeypatch.setattr(module, "boot_id", lambda: b"another".ljust(36))
    await bench.restart()
    await bench.settled()
    assert bench.zone.status(b"f").handle == there
    await bench.close()
