"""What a batch of effects asks of a zone's filesystem."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from lddp.core import effects as e
from lddp.core.records import Attributes, Content, Kind
from lddp.errors import LddpError
from lddp.ports import ContentSource, NewFile, Status
from lddp.replay import unwatched as replay_unwatched
from lddp.replay.batches import Batches, Ready
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from lddp.replay.notes import Boot
from lddp.replay.outbox import Item
from lddp.replay.progress import Progress
from tests.fakes.zone import Bytes, FakeZone

RULE, DIRECTORY, OTHER = 1, 7, 8


class Zone(FakeZone):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []

    def put_files(self, files: Sequence[NewFile]) -> tuple[int, OSError | LddpError | None]:
        self.asked.append([file.path for file in files])
        return super().put_files(files)

    def set_attributes(self, path: bytes, kind: Kind, attributes: Attributes) -> bytes:
        self.asked.append((path, attributes.mode, attributes.mtime_ns))
        return super().set_attributes(path, kind, attributes)


class Bench:
    def __init__(self, directory: Path, *, is_shared: bool = False, zone: Zone | None = None) -> None:
        self.zone = zone or Zone()
        for name in (b"d", b"other"):
            self.zone.make_directory(name, Attributes(0o755, 0, 0, 1))
        self.progress = Progress(str(directory / "progress"))
        self.carrier = Carrier(self.zone, OnExisting.OVERWRITE, is_shared=is_shared)
        self.carrier.unwatched.take()  # somebody observes it
        self.batches = Batches({RULE: self.carrier}, self.progress, Boot(self.progress.boot, 0, ()))
        self._gsn = 0

    def put(self, path: bytes) -> Ready:
        data = b"bytes of " + path
        content = Content(bytes(32), len(data), inline=data)
        effect = e.PutFileEffect(100 + self._gsn, path, Attributes(0o644, 0, 0, 5), content, observed=False)
        return self.item(effect), Bytes(data)

    def time(self, mtime_ns: int, mode: int = 0o755, inode: int = DIRECTORY, path: bytes = b"d") -> Ready:
        attributes = Attributes(mode, 0, 0, mtime_ns)
        return self.item(e.SetAttributesEffect(inode, path, Kind.DIRECTORY, attributes)), None

    def item(self, effect: e.Effect) -> Item:
        self._gsn += 1
        return Item((self._gsn, 0), RULE, effect)

    def carry(self, *ready: Ready) -> list[object]:
        """What the zone was asked for; all is marked."""
        self.zone.asked = []
        assert self.batches.carry(ready) == (len(ready), None)
        return self.zone.asked


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_files_go_together_and_their_directory_gets_its_last_time(bench: Bench) -> None:
    assert bench.carry(bench.time(10)) == [(b"d", 0o755, 10)]
    room = bench.progress.room
    asked = bench.carry(
        bench.put(b"d/a"), bench.time(11), bench.put(b"d/b"), bench.time(12), bench.put(b"d/c"), bench.time(13)
    )
    assert asked == [[b"d/a", b"d/b", b"d/c"], (b"d", 0o755, 13)]
    assert bench.progress.room == room - 6, "what is passed over is marked, or it would be carried out after a kill"
    assert bench.zone.status(b"d").mtime_ns == 13


def test_of_two_directories_each_gets_its_last_time(bench: Bench) -> None:
    other = (0o755, OTHER, b"other")
    bench.carry(bench.time(1), bench.time(1, *other))
    asked = bench.carry(
        bench.put(b"d/a"),
        bench.time(2),
        bench.put(b"other/a"),
        bench.time(3, *other),
        bench.put(b"d/b"),
        bench.time(4),
        bench.put(b"other/b"),
        bench.time(5, *other),
    )
    assert asked == [[b"d/a", b"other/a", b"d/b"], (b"d", 0o755, 4), (b"other", 0o755, 5)]
    assert bench.zone.status(b"other/b").kind is Kind.FILE


def test_what_a_directory_had_before_is_not_guessed(bench: Bench) -> None:
    """By a process that has not carried any of it out: the mode may be new, and the files need it."""
    asked = bench.carry(bench.put(b"d/a"), bench.time(11), bench.put(b"d/b"), bench.time(12), bench.time(13))
    assert asked == [(b"d", 0o755, 11), (b"d", 0o755, 13)]


def test_a_mode_is_set_where_the_log_has_it(bench: Bench) -> None:
    """Whoever is not root needs it for what comes between."""
    bench.carry(bench.time(1))
    asked = bench.carry(
        bench.time(2, 0o555),
        bench.time(3, 0o755),
        bench.put(b"d/a"),
        bench.time(4),
        bench.put(b"d/b"),
        bench.time(5),
        bench.time(6, 0o555),
    )
    assert asked == [(b"d", 0o555, 2), (b"d", 0o755, 3), [b"d/a", b"d/b"], (b"d", 0o555, 6)]


def test_after_a_refusal_it_goes_on_where_it_was(bench: Bench) -> None:
    bench.carry(bench.time(1))
    ready = [bench.put(b"d/a"), bench.time(2), bench.put(b"d/b"), bench.time(3), bench.put(b"d/c"), bench.time(4)]
    bench.zone.fail(errno.ENOSPC, method="put_file", path=b"d/b", times=3)
    bench.zone.asked = []
    done, error = bench.batches.carry(ready)
    assert done == 2 and isinstance(error, OSError) and error.errno == errno.ENOSPC
    assert bench.batches.carry(ready[done:]) == (4, None)
    assert bench.zone.status(b"d").mtime_ns == 4
    assert [bench.zone.status(b"d/" + name).size for name in (b"a", b"b", b"c")] == [12, 12, 12]


def test_where_programs_change_the_tree_it_is_not_known_what_a_directory_has(tmp_path: Path) -> None:
    """They may have given it another mode since, which the log does not tell their own zone of."""
    bench = Bench(tmp_path, is_shared=True)
    bench.carry(bench.time(1))
    asked = bench.carry(bench.time(2), bench.put(b"d/a"), bench.time(3), bench.put(b"d/b"), bench.time(4))
    assert asked == [(b"d", 0o755, 2), [b"d/a", b"d/b"], (b"d", 0o755, 4)]


def test_what_was_not_there_has_nothing(bench: Bench) -> None:
    bench.zone.remove(b"d")
    assert bench.carry(bench.time(1)) == [(b"d", 0o755, 1)]
    assert bench.carrier.drift == [b"d"]
    bench.zone.make_directory(b"d", Attributes(0o700, 0, 0, 1))
    asked = bench.carry(bench.time(2), bench.put(b"d/a"), bench.time(3), bench.put(b"d/b"), bench.time(4))
    assert asked == [(b"d", 0o755, 2), [b"d/a", b"d/b"], (b"d", 0o755, 4)]


def test_what_lost_its_place_to_a_program_is_told_of(tmp_path: Path) -> None:
    """Nobody watches what the node does itself: its new name would not be seen before the next start."""
    bench = Bench(tmp_path, is_shared=True)
    bench.carry(bench.put(b"d/f"))
    inode = 100
    bench.carry((bench.item(e.ParkEffect(inode, b"d/f")), None))
    bench.zone.remove(b"d")
    bench.carry((bench.item(e.UnparkEffect(inode, b"d/f")), None))
    assert bench.carrier.unwatched.take().paths == {b"f.lddp-1"}
    assert bench.zone.status(b"f.lddp-1").kind is Kind.FILE


@pytest.mark.parametrize("is_shared", [False, True])
def test_files_with_several_names_are_told_of_where_programs_give_them(tmp_path: Path, is_shared: bool) -> None:
    bench = Bench(tmp_path, is_shared=is_shared)
    bench.carry(bench.put(b"d/f"), bench.put(b"d/g"))
    bench.zone.link(b"d/f", b"other/f")
    handle, attributes = bench.zone.status(b"d/f").handle, Attributes(0o644, 0, 0, 9)
    content = Content(bytes(32), 1, inline=b"X")
    for path, inode in ((b"d/f", 1), (b"d/g", 2)):
        bench.carry(
            (bench.item(e.WriteEffect(inode, path, 0, content, 9, attributes)), Bytes(b"X")),
            (bench.item(e.TruncateEffect(inode + 10, path, 3, attributes)), None),
            (bench.item(e.SetAttributesEffect(inode + 20, path, Kind.FILE, attributes)), None),
        )
    told = {(handle, 1), (handle, 11), (handle, 21)} if is_shared else set()
    assert bench.carrier.unwatched.take().files == told


def test_what_cannot_be_remembered_is_lost_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_unwatched, "UNWATCHED_MAX", 2)
    unwatched = replay_unwatched.Unwatched()
    unwatched.add_path(b"before anybody asked")
    assert unwatched.take() == ({}, set(), set(), False)
    unwatched.add_path(b"a")
    unwatched.add_path(b"")
    for _ in range(2):
        unwatched.add_file(b"handle", 1)
    assert unwatched.take() == ({}, {b"a"}, {(b"handle", 1)}, False)
    for inode in range(2):
        unwatched.add_file(b"handle", inode)
    unwatched.add_place(b"handle", b"d", b"f")
    unwatched.add_path(b"a")
    assert unwatched.take() == ({}, set(), set(), True)
    assert unwatched.take() == ({}, set(), set(), False)
    unwatched.end()
    unwatched.add_path(b"after the last one has asked")
    assert unwatched.take() == ({}, set(), set(), False)


class Moving(Zone):
    """A program exchanges two directories right before an effect, or behind it."""

    def __init__(self, *, is_before: bool) -> None:
        super().__init__()
        self._is_before = is_before
        self._is_done = False

    def put_file(self, path: bytes, attributes: Attributes, source: ContentSource, *, look: bool = True) -> Status:
        if self._is_before:
            self._move()
        status = super().put_file(path, attributes, source, look=look)
        self._move()
        return status

    def _move(self) -> None:
        if not self._is_done:
            self._is_done = True
            self.exchange(b"d", b"other")


@pytest.mark.parametrize("is_before", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_where_names_are_given_is_told_of(tmp_path: Path, is_before: bool, count: int) -> None:
    bench = Bench(tmp_path, is_shared=True, zone=Moving(is_before=is_before))
    first, second = (bench.zone.status(path).handle for path in (b"d", b"other"))
    names = {b"%d" % number for number in range(count)}
    bench.carry(*(bench.put(b"d/" + name) for name in sorted(names)), bench.put(b"in the root"))
    assert bench.carrier.unwatched.take().places == {(first, b"d"): names, (second, b"d"): names}


@pytest.mark.parametrize("is_shared", [False, True])
def test_where_names_are_given_is_not_asked_where_nobody_would_look(tmp_path: Path, is_shared: bool) -> None:
    bench = Bench(tmp_path, is_shared=is_shared)
    bench.carrier.unwatched.end()
    bench.carry(bench.put(b"d/a"), bench.put(b"d/b"))
    assert not bench.carrier.unwatched.take().places
    assert [call for call in bench.zone.calls if call == ("status", b"d")] == []
