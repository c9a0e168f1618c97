"""Power cuts at a tree that programs change, too: what a program does is never lost for what is done again. Where no
program does anything, all is as at other trees: `test_power_cuts` and `test_small_histories` say that."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from lddp.core.records import Attributes, Kind
from tests.core.support import seeds
from tests.fakes.zone import Bytes
from tests.replay.among import play
from tests.replay.bench import Bench, Killed, walk
from tests.replay.deep import make_deep_story
from tests.replay.small import Story, make_story
from tests.replay.test_crashes import ended
from tests.replay.test_power_cuts import Boots, played, told
from tests.replay.test_projector import Records

DEFAULT = 40


THEIRS = Attributes(0o644, 0, 0, 5)


async def begun(directory: Path, before: str, after: str) -> Bench:
    """Steps as `tests.replay.small` has them, all of them carried out, and nothing of the second ones durable."""
    return await played(directory / "tree", lambda make: told(make, before, after), is_shared=True)


def theirs(bench: Bench, path: bytes) -> None:
    """A program puts a file there, with bytes that say so."""
    bench.zone.put_file(path, THEIRS, Bytes(b"theirs"))


def tree(bench: Bench) -> dict[bytes, bytes | None]:
    """Bytes of files, None of directories, by path; nothing may be parked."""
    assert not bench.zone.parked
    found = [(path, inode) for path, inode in walk(bench.zone) if path]
    return {path: None if inode.kind is Kind.DIRECTORY else bytes(inode.data) for path, inode in found}


async def recovered(bench: Bench, boots: Boots) -> dict[bytes, bytes | None]:
    """What is there after a power cut that leaves all that was done, of which the log does not know that."""
    bench.zone.sync()
    await boots.cut(bench, Random(0))
    await bench.settled()
    found = tree(bench)
    await bench.close()
    return found


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> Boots:
    return Boots(monkeypatch)


async def test_a_file_in_the_place_of_a_directory_is_not_replaced(tmp_path: Path, boots: Boots) -> None:
    """What was moved out of the directory cannot be put back into it, and stays where it was moved to."""
    bench = await begun(tmp_path, "mkdir b; changed b/e", "rename b/e c")
    data = bytes(bench.zone.root.entries[b"c"].data)
    bench.zone.remove(b"b")
    theirs(bench, b"b")
    assert await recovered(bench, boots) == {b"b": b"theirs", b"c": data}


async def test_a_directory_that_went_is_not_made_in_the_place_of_a_file(tmp_path: Path, boots: Boots) -> None:
    bench = await begun(tmp_path, "mkdir x; mkdir x/d; changed x/d/f", "rename x/d d; rmdir x")
    theirs(bench, b"x")
    found = await recovered(bench, boots)
    assert found.keys() == {b"x", b"d", b"d/f"} and found[b"x"] == b"theirs"


async def test_a_file_at_the_old_name_of_what_was_moved_is_neither_replaced_nor_moved(
    tmp_path: Path, boots: Boots
) -> None:
    bench = await begun(tmp_path, "changed a; mkdir d; changed d/f", "rename a b; rename d e")
    data = bytes(bench.zone.root.entries[b"b"].data)
    theirs(bench, b"a")
    theirs(bench, b"d")
    found = await recovered(bench, boots)
    assert found.keys() == {b"a", b"b", b"d", b"e", b"e/f"}
    assert (found[b"a"], found[b"b"], found[b"d"]) == (b"theirs", data, b"theirs")


async def test_a_file_that_a_program_has_replaced_is_not_put_again(tmp_path: Path, boots: Boots) -> None:
    bench = await begun(tmp_path, "changed a", "put a; put b; symlink g")
    for path in (b"a", b"b", b"g"):
        theirs(bench, path)
    assert await recovered(bench, boots) == dict.fromkeys((b"a", b"b", b"g"), b"theirs")


async def test_a_file_that_a_program_has_changed_in_place_is_not_put_again(tmp_path: Path, boots: Boots) -> None:
    bench = await begun(tmp_path, "mkdir d", "put a; put b; rename b x")
    for path in (b"a", b"x"):
        bench.zone.write(path, 0, Bytes(b"theirs"), 6, THEIRS)
    assert await recovered(bench, boots) == {b"a": b"theirs", b"x": b"theirs", b"d": None}


async def test_what_is_changed_in_place_is_not_what_a_program_has_put_there(tmp_path: Path, boots: Boots) -> None:
    bench = await begun(tmp_path, "changed a; changed b; changed x", "append a; truncate b; mode x")
    for path in (b"a", b"b", b"x"):
        theirs(bench, path)
    assert await recovered(bench, boots) == dict.fromkeys((b"a", b"b", b"x"), b"theirs")
    assert bench.zone.status(b"x").mtime_ns == THEIRS.mtime_ns


async def test_a_file_is_not_cut_once_more_after_a_program_has_written_to_it(tmp_path: Path, boots: Boots) -> None:
    bench = await begun(tmp_path, "changed a", "truncate a; mode a")
    bench.zone.write(b"a", 0, Bytes(b"theirs"), 6, THEIRS)
    assert await recovered(bench, boots) == {b"a": b"theirs"}


@pytest.mark.parametrize("unit_ns", [100, 10**6, 10**9])
async def test_what_was_put_is_known_where_times_are_kept_in_larger_units(
    tmp_path: Path, boots: Boots, unit_ns: int
) -> None:
    """A file that a power cut has torn is put again."""
    bench = await begun(tmp_path, "mkdir d", "put a")
    inode = bench.zone.root.entries[b"a"]
    inode.attributes = inode.attributes._replace(mtime_ns=inode.attributes.mtime_ns // unit_ns * unit_ns)
    wanted, inode.data = bytes(inode.data), bytearray()
    assert await recovered(bench, boots) == {b"a": wanted, b"d": None}


async def test_a_write_to_what_a_program_has_written_to_is_done_again_and_shows(tmp_path: Path, boots: Boots) -> None:
    """A process may have been ended in the middle of it. The time is not the one that the log knows."""
    bench = await begun(tmp_path, "put a", "write a")
    wanted = bytes(bench.zone.root.entries[b"a"].data)
    bench.zone.write(b"a", len(wanted), Bytes(b"theirs"), len(wanted) + 6, THEIRS)
    assert await recovered(bench, boots) == {b"a": wanted + b"theirs"}
    assert bench.zone.status(b"a").mtime_ns == THEIRS.mtime_ns


async def test_a_name_that_was_taken_away_is_not_taken_from_a_program(tmp_path: Path, boots: Boots) -> None:
    bench = await begun(tmp_path, "changed a; mkdir d; mkdir e", "unlink a; rmdir d; rmdir e")
    theirs(bench, b"a")
    theirs(bench, b"d")
    bench.zone.make_directory(b"e", THEIRS)
    theirs(bench, b"e/in")
    assert await recovered(bench, boots) == {b"a": b"theirs", b"d": b"theirs", b"e": None, b"e/in": b"theirs"}


async def test_what_an_old_file_got_after_the_cut_is_not_replaced(tmp_path: Path, boots: Boots) -> None:
    """The machine is up before the node: nothing of the log's is there yet, and a program changes what is."""
    bench = await begun(tmp_path, "changed a; changed b; changed x", "put a; rename b x")
    data = bench.zone._synced[0].entries[b"b"].data
    await bench.end()
    bench.zone.cut(Random(0), 0)
    for path in (b"a", b"x"):
        bench.zone.write(path, 0, Bytes(b"theirs"), 6, THEIRS)
    bench.zone.sync()
    boots.count += 1
    await bench.restart()
    await bench.settled()
    assert tree(bench) == {b"a": b"theirs", b"x": b"theirs", b"b": bytes(data)}
    await bench.close()


async def test_what_a_program_has_put_into_a_new_directory_stays_in_it(tmp_path: Path, boots: Boots) -> None:
    """It is set aside meanwhile, because another one had its place."""
    bench = await begun(tmp_path, "mkdir d; changed d/x", "rename d e; mkdir d; rename d g")
    theirs(bench, b"g/in")
    found = await recovered(bench, boots)
    assert found.keys() == {b"e", b"e/x", b"g", b"g/in"} and found[b"g/in"] == b"theirs"


async def test_a_new_directory_that_cannot_be_made_again_stays_where_it_is(tmp_path: Path, boots: Boots) -> None:
    bench = await begun(tmp_path, "mkdir g", "mkdir d; rename d e; put e/x")
    theirs(bench, b"e/in")
    theirs(bench, b"d")
    found = await recovered(bench, boots)
    assert found.keys() == {b"d", b"e", b"e/in", b"e/x", b"g"} and found[b"d"] == found[b"e/in"] == b"theirs"


@pytest.mark.parametrize("path", [b"a", b"b"])
async def test_an_exchange_with_what_a_program_has_put_there_leaves_both(
    tmp_path: Path, boots: Boots, path: bytes
) -> None:
    bench = await begun(tmp_path, "changed a; changed b", "exchange a b")
    other = b"ab".replace(path, b"")
    kept = bytes(bench.zone.root.entries[other].data)
    theirs(bench, path)
    assert await recovered(bench, boots) == {path: b"theirs", other: kept}


async def test_what_is_parked_gets_a_name_where_a_program_has_its_place(tmp_path: Path, boots: Boots) -> None:
    """A cut in the middle of an exchange: `a` is outside of the tree, and its old name is taken, too."""
    bench = await begun(tmp_path, "changed a; changed b", "exchange a b")
    await bench.end()
    (park,) = [number for number, change in enumerate(bench.zone.changes) if change.method == "park"]
    bench.zone.cut(Random(0), park + 1)
    (kept,) = [bytes(inode.data) for inode in bench.zone.parked.values()]
    other = bytes(bench.zone.root.entries[b"b"].data)
    theirs(bench, b"a")
    bench.zone.sync()
    boots.count += 1
    await bench.restart()
    await bench.settled()
    assert tree(bench) == {b"a": b"theirs", b"a.lddp-1": kept, b"b": other}
    await bench.close()


async def test_after_a_kill_nothing_but_what_it_was_about_is_moved(tmp_path: Path, boots: Boots) -> None:
    """It ended before it could say that it was done."""
    make = Records()
    bench = await played(tmp_path / "tree", lambda _make: told(make, "changed a", "put x"), is_shared=True)
    data = bytes(bench.zone.root.entries[b"a"].data)

    def kill(after: bool) -> None:
        if after and b"a" not in bench.zone.root.entries:
            raise Killed

    bench.kill = kill
    bench.submit_all([make.rename(b"a", b"b")])
    assert await ended(bench)
    bench.kill = lambda _after: None
    theirs(bench, b"a")
    await bench.restart()
    await bench.settled()
    found = tree(bench)
    assert (found[b"a"], found[b"b"]) == (b"theirs", data)
    await bench.close()


@pytest.mark.parametrize("make", [make_story, make_deep_story])
def test_programs_lose_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[int], Story]) -> None:
    """Whatever they do around a power cut. LDDP_EXAMPLES says how many histories, LDDP_SEED which is the first."""
    caplog.set_level(logging.CRITICAL)
    files = 0
    for seed in seeds(DEFAULT):
        outcome = play(tmp_path, make(seed), seed)
        assert not outcome.failure
        files += outcome.files
    assert files > 0
