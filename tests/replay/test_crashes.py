"""Kills at every point: the next start goes on, and the zone equals the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from lddp.core import effects as e
from lddp.core.records import Append, Attributes, Record, Rename, RenameFlag, Truncate, Write
from lddp.errors import UnavailableError
from lddp.replay.existing import OnExisting
from tests.core.support import content
from tests.replay.bench import PATIENCE_S, RULE, Bench, Killed
from tests.replay.test_projector import Records


def history(make: Records) -> list[Record]:
    """Every kind of effect, with names that are used again."""
    return [
        make.directory(b"d"),
        make.directory(b"d/s"),
        make.put(b"d/s/f", b"first"),
        make.link(b"d/s/f", b"d/l"),
        Append(*make.head(b"d/l"), content(b" and more")),
        Write(*make.head(b"d/s/f"), 2, content(b"RST")),
        make.put(b"g", b"another"),
        Rename(*make.head(b"d"), b"/data/g2"),
        make.directory(b"d"),
        make.put(b"d/f", b"under an old name"),
        Rename(*make.head(b"d"), b"/data/g2", RenameFlag.EXCHANGE),
        Truncate(*make.head(b"d/l"), 3),
        make.rename(b"g", b"g2/f"),
        make.unlink(b"d/s/f"),
        make.put(b"d/l", b"replaced"),
        make.rename(b"g2/f", b"g"),
    ]


class Killer:
    """Ends the process at one of the points that it may be killed at, counted from 0."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0

    def __call__(self, _after: bool) -> None:
        self.seen += 1
        if self.seen - 1 == self.at:
            raise Killed


class Once:
    """Only the first process is killed."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, start: int) -> int:
        return self.at if start == 0 else -1


async def ended(bench: Bench) -> bool:
    """Waits until the zone is there, or the process was killed; whether it was."""
    assert bench.task is not None
    settled = asyncio.get_running_loop().create_task(bench.settled())
    await asyncio.wait((settled, bench.task), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    killed = bench.task.done()
    settled.cancel()
    await asyncio.gather(settled, return_exceptions=True)
    return killed


async def run_with_kills(
    directory: Path, kills: Callable[[int], int], records: Callable[[Records], list[Record]]
) -> int:
    """A history; the process of start number n is killed at its point `kills(n)`. How often it was killed."""
    directory.mkdir()
    bench = Bench(directory)
    bench.kill = Killer(kills(0))
    bench.start()
    bench.rule()
    bench.submit_all(records(Records()))
    starts = 0
    while await ended(bench):
        starts += 1
        bench.kill = Killer(kills(starts))
        await bench.restart()
    bench.assert_equal()
    assert bench.effects_left() == 0
    await bench.close()
    return starts


async def test_a_kill_at_each_point_once(tmp_path: Path) -> None:
    at = 0
    while await run_with_kills(tmp_path / str(at), Once(at), history):
        at += 1
    assert at > 60


@pytest.mark.parametrize("step", [1, 2, 3, 5])
async def test_a_kill_after_every_few_points(tmp_path: Path, step: int) -> None:
    """`step` points in, each time: every start comes a little further."""
    kills = await run_with_kills(tmp_path / "k", lambda start: step if start < 200 else -1, history)
    assert kills > 5


class After:
    """Ends the process when an effect has been carried out and is not marked yet, the `count`-th of them."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, after: bool) -> None:
        self.left -= after
        if after and not self.left:
            raise Killed


def found_file(path: bytes) -> e.Effect:
    """A file of the source; unlike an operation, an observation of it does not say its directory's time at once."""
    return e.PutFileEffect(1 << 40, path, Attributes(0o644, 0, 0, 5), content(b"found"), True)


async def test_a_file_that_is_found_as_wanted_after_a_kill_has_moved_its_directorys_time(bench: Bench) -> None:
    """It was put there by the process that was killed before it could say so."""
    bench.policy = OnExisting.SKIP_IDENTICAL
    make = Records()
    bench.submit_all([make.directory(b"d")])
    await bench.settled()
    await bench.restart()
    time = bench.zone.status(b"d").mtime_ns
    bench.kill = After(1)
    bench.append(found_file(b"d/f"))
    assert await ended(bench)
    assert bench.zone.status(b"d").mtime_ns != time
    await bench.restart()
    await bench.settled()
    assert bench.zone.status(b"d").mtime_ns == time


async def test_directories_that_were_exchanged_before_a_checkpoint_and_not_forgotten(bench: Bench) -> None:
    """The exchange is done, but stays in the outbox, because an earlier effect waits: the next start knows both its end
    and that it was carried out."""
    make = Records()
    late = bench.late(b"1" * 5000)
    bench.submit_all([make.directory(path) for path in (b"a", b"a/in", b"b", b"b/in")])
    await bench.settled()
    time = bench.zone.status(b"a/in").mtime_ns
    bench.append(found_file(b"a/in/f"))
    bench.submit(make.put(b"late", late))
    bench.submit(make.rename(b"a", b"b", RenameFlag.EXCHANGE))
    await bench.projector.wait(bench.gsn, PATIENCE_S)
    await bench.noted()
    await bench.restart()
    await bench.supply(late)
    await bench.settled()
    assert bench.zone.status(b"b/in").mtime_ns == time


async def test_directory_times_of_a_tree_that_is_opened_late(bench: Bench) -> None:
    bench.submit(Records().directory(b"d"))
    await bench.settled()
    time = bench.zone.status(b"d").mtime_ns
    bench.append(found_file(b"d/f"))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await bench.end()
    for opened in (False, False, True):
        carriers = bench.build_closed()
        bench.start()
        await bench.projector.checkpoint()
        if opened:
            carriers[RULE] = bench.carrier
            await bench.settled()
        await bench.end()
    assert bench.zone.status(b"d").mtime_ns == time


async def test_only_what_may_have_been_done_already_is_excused(bench: Bench) -> None:
    """Of the effects that were there at the start, the one under way at the kill, and no other."""
    make = Records()
    bench.submit_all([make.put(name, name) for name in (b"a", b"b", b"c")])
    await bench.settled()
    bench.kill = After(2)
    bench.submit_all([make.rename(name, name + b"2") for name in (b"a", b"b", b"c")])
    assert await ended(bench)
    bench.zone.remove(b"c")  # by somebody else
    await bench.restart()
    await bench.settled()
    assert bench.carrier.drift == [b"c"]
    assert sorted(bench.zone.root.entries) == [b"a2", b"b2"]


async def test_an_effect_that_was_marked_is_not_carried_out_again(bench: Bench) -> None:
    make = Records()
    bench.submit_all(history(make))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    done = len(bench.carrier.carried)
    assert done > 20
    await bench.restart()
    bench.submit(make.put(b"last", b"-"))
    await bench.settled()
    assert [type(effect) for effect in bench.carrier.carried[:1]] == [e.PutFileEffect]
    assert len(bench.carrier.carried) < 4
    bench.assert_equal()


async def test_after_a_power_cut_all_runs_again_from_the_checkpoint(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marks of another boot are not believed; what they name is done twice, to the same end."""
    make = Records()
    bench.submit_all(history(make)[:5])
    await bench.settled()
    bench.submit_all(history(make)[5:])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    monkeypatch.setattr("lddp.replay.progress.boot_id", lambda: b"another boot".ljust(36))
    await bench.restart()
    assert not bench.progress.survived
    with pytest.raises(UnavailableError):
        await bench.projector.wait_through(bench.gsn, 0.0)
    await bench.settled()
    bench.carrier.drift.clear()  # names that later effects had taken away already
    bench.assert_equal()


async def test_what_waits_for_bytes_survives_a_restart(bench: Bench) -> None:
    make = Records()
    late = bench.late(b"1" * 5000)
    bench.submit_all([make.directory(b"d"), make.put(b"d/late", late), make.rename(b"d", b"e"), make.put(b"f", b"2")])
    await bench.asked_for(late)
    bench.time.now += 1000.0
    bench.submit(make.put(b"g", b"3"))
    await bench.projector.wait(bench.gsn, PATIENCE_S)
    await bench.restart()
    bench.submit(make.put(b"h", b"4"))
    await bench.projector.wait(bench.gsn, PATIENCE_S)
    assert [effect.path for effect in bench.carrier.carried if isinstance(effect, e.PutFileEffect)] == [b"h"]
    await bench.supply(late)
    await bench.settled()
    bench.assert_equal()


async def test_renames_that_run_again_after_a_power_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Records()
    bench.submit_all([make.put(b"a", b"five"), make.put(b"b", b"six")])
    await bench.settled()
    bench.submit_all([make.rename(b"a", b"c"), make.rename(b"b", b"a")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    monkeypatch.setattr("lddp.replay.progress.boot_id", lambda: b"another boot".ljust(36))
    await bench.restart()
    await bench.settled()
    bench.carrier.drift.clear()
    bench.assert_equal()


async def test_a_start_knows_of_no_more_directories_than_there_are(bench: Bench) -> None:
    make = Records()
    bench.submit(make.directory(b"d"))
    for number in range(8):
        aside = b"aside%d" % number
        bench.submit_all([make.rename(b"d", aside), make.directory(b"d"), make.rename(aside, b"d/s")])
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    await bench.restart()
    bench.submit(make.put(b"f", b"-"))
    await bench.projector.wait_through(bench.gsn, PATIENCE_S)
    assert len(bench.carrier.touched) < 30
    await bench.settled()
    bench.assert_equal()
