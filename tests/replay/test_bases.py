"""What a source's file was before an operation changes it in part is kept for zones that do not have it yet."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lddp.content.saving import save
from lddp.core import effects as e
from lddp.core.records import (
    Append,
    Attributes,
    Content,
    DirectoryReport,
    Kind,
    Observation,
    ObservedEntry,
    OperationId,
    Truncate,
    Write,
)
from lddp.replay import outbox
from lddp.replay.carrier import Carrier
from lddp.replay.retained import Retained
from tests.core.support import TARGET, content, create_rule
from tests.fakes.zone import Bytes
from tests.replay.bench import RULE, Bench, Killed
from tests.replay.test_crashes import Killer, ended

DATA = b"what it was " * 1000
ATTRIBUTES = Attributes(0o644, 0, 0, 1)
HEAD = TARGET, 1000, b"/data/a"


class Here:
    """The zone of the bench is the source, unless the test says otherwise, with `room` for what it saves."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.sources = {RULE}
        self.room = True
        self.saved = 0
        self.doubted: list[int] = []

    def is_source(self, rule: int) -> bool:
        return rule in self.sources

    def save(self, content: Content, descriptor: int) -> bool:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        before = self._bench.store.open(content)
        is_there = save(self._bench.store, content, descriptor)
        self.saved += before is None and is_there
        return is_there

    def doubt(self, inode: int) -> None:
        self.doubted.append(inode)


class Source(Bench):
    """A bench that is a rule's source, with one file that it has reported. `everywhere` is how far the others are."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.here = Here(self)
        self.everywhere = 0
        self.model.lenient = True  # the file came before the log
        self.submit_all([create_rule(source=TARGET)])
        self.base = self.late(DATA)
        self.zone.put_file(b"a", ATTRIBUTES, Bytes(DATA))
        root = self.view().resolve(b"/data")
        assert root is not None
        entry = ObservedEntry(b"a", b"identity", Kind.FILE, ATTRIBUTES, len(DATA), self.base)
        report = DirectoryReport(root.number, (entry,), (), True, Attributes(0o755, 0, 0, 1), 1)
        self.submit_all([Observation(OperationId(b"observer", 1), TARGET, self.gsn, RULE, (report,), ())])
        self.reported = self.gsn
        found = self.view().resolve(b"/data/a")
        assert found is not None
        self.number = found.number

    def _build(self, carriers: dict[int, Carrier] | None = None) -> None:
        super()._build(carriers)
        with self.environment.read() as tables:
            retained = Retained(self.store, lambda _rule: self.everywhere, tables, getattr(self, "here", None))
        self.store.is_expected = retained.expected.has
        self.projector.retained = retained
        self.retained = retained

    def rebuild(self) -> None:
        """A process starts that knows who is the source."""
        self.progress.close()
        self._build()

    def held(self) -> bytes | None:
        """What another node gets that asks for the bytes."""
        source = self.store.open(self.base)
        return None if source is None else b"".join(bytes(piece) for _, piece in source.chunks())

    def file(self) -> bytes:
        return bytes(self.zone.root.entries[b"a"].data)


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Source]:
    source = Source(tmp_path)
    source.rebuild()
    source.start()
    yield source
    await source.close()


CHANGES = [
    (Truncate(OperationId(b"c", 1), *HEAD, 9), DATA[:9]),
    (Append(OperationId(b"c", 1), *HEAD, content(b"more")), DATA + b"more"),
    (Write(OperationId(b"c", 1), *HEAD, 2, content(b"other")), DATA[:2] + b"other" + DATA[7:]),
]


@pytest.mark.parametrize(("change", "after"), CHANGES)
async def test_what_a_file_was_stays_until_every_zone_has_it(
    source: Source, change: Truncate | Append | Write, after: bytes
) -> None:
    source.submit_all([change])
    await source.settled()
    assert source.file() == after
    assert source.held() == DATA
    await source.end()
    source.rebuild()
    source.start()
    await source.settled()
    source.everywhere = source.reported - 1
    source.retained.release_due()
    assert source.held() == DATA
    source.everywhere = source.reported
    source.retained.release_due()
    assert source.held() is None
    assert source.here.doubted == []


async def test_a_file_is_copied_once(source: Source) -> None:
    source.submit_all([change._replace(id=OperationId(b"c", n)) for n, (change, _) in enumerate(CHANGES, 1)])
    await source.settled()
    assert source.here.saved == 1
    assert source.held() == DATA


async def test_what_every_zone_has_is_not_copied(source: Source) -> None:
    source.everywhere = source.reported
    source.submit_all([CHANGES[0][0]])
    await source.settled()
    assert source.here.saved == 0
    assert source.held() is None


async def test_only_the_source_copies(source: Source) -> None:
    source.here.sources.clear()
    source.submit_all([CHANGES[0][0]])
    await source.settled()
    assert source.held() is None
    assert source.here.doubted == []


async def test_a_file_that_a_program_has_changed_is_looked_at_again(source: Source) -> None:
    source.zone.root.entries[b"a"].data[:5] = b"WHAT "
    source.submit_all([CHANGES[0][0]])
    await source.settled()
    assert source.file() == b"WHAT it w"
    assert source.held() is None
    assert source.here.doubted == [source.number]


async def test_without_room_the_change_is_made_and_the_file_looked_at_again(source: Source) -> None:
    source.here.room = False
    source.submit_all([CHANGES[0][0]])
    await source.settled()
    assert source.file() == DATA[:9]
    assert not source.projector.stopped
    assert source.here.doubted == [source.number]


async def test_a_file_that_is_gone_does_not_stop_the_zone(source: Source) -> None:
    source.zone.remove(b"a")
    source.submit_all([CHANGES[0][0]])
    await source.settled()
    assert source.here.doubted == [source.number]


async def test_a_kill_at_each_point(tmp_path: Path) -> None:
    for at in range(1000):
        directory = tmp_path / str(at)
        directory.mkdir()
        source = Source(directory)
        source.rebuild()
        source.kill = Killer(at)
        source.start()
        source.submit_all([change._replace(id=OperationId(b"c", n)) for n, (change, _) in enumerate(CHANGES, 1)])
        was_killed = await ended(source)
        if was_killed:
            source.kill = lambda _after: None
            await source.restart()
            await source.settled()
        assert source.held() == DATA
        assert source.here.doubted == []
        source.everywhere = source.reported
        source.retained.release_due()
        assert source.held() is None
        await source.close()
        if not was_killed:
            break
    assert at > 8


async def test_a_kill_while_it_is_copied(source: Source) -> None:
    """Nothing has been changed by then."""
    whole = source.here.save

    def killed(content: Content, descriptor: int) -> bool:
        whole(content, descriptor)
        raise Killed

    source.here.save = killed  # type: ignore[method-assign]
    source.submit_all([CHANGES[0][0]])
    assert await ended(source)
    assert source.file() == DATA
    source.here.save = whole  # type: ignore[method-assign]
    await source.restart()
    await source.settled()
    assert source.file() == DATA[:9]
    assert source.held() == DATA


def test_the_first_change_alone_says_what_the_file_was(tmp_path: Path) -> None:
    source = Source(tmp_path)
    source.submit_all([change._replace(id=OperationId(b"c", n)) for n, (change, _) in enumerate(CHANGES, 1)])
    with source.environment.read() as tables:
        effects = [item.effect for item in outbox.read(tables, (0, 0), 100)]
    found = [one.base for one in effects if isinstance(one, e.WriteEffect | e.TruncateEffect)]
    assert found == [e.Base(source.base, source.reported), None, None]
    source.progress.close()
    source.store.close()
