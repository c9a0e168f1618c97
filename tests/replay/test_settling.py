"""Modes of directories that a kill has left open to their owner, who could change nothing in them otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lddp.core import effects as e
from lddp.core.records import MakeDirectory, Record, Rename, RenameFlag
from tests.replay.bench import Bench, Killed
from tests.replay.test_crashes import ended
from tests.replay.test_projector import Records


def moved(make: Records) -> list[Record]:
    return [make.rename(b"ro", b"d/moved")]


def exchanged(make: Records) -> list[Record]:
    return [Rename(*make.head(b"ro"), b"/data/d/other", RenameFlag.EXCHANGE)]


CHANGES: list[tuple[Callable[[Records], list[Record]], type, bytes]] = [
    (moved, e.RenameEffect, b"d/moved"),
    (exchanged, e.RenameEffect, b"ro"),
    (exchanged, e.UnparkEffect, b"d/other"),
]


@pytest.mark.parametrize(("records", "kind", "path"), CHANGES)
async def test_what_a_kill_has_left_open_gets_its_mode_again(
    tmp_path: Path, records: Callable[[Records], list[Record]], kind: type, path: bytes
) -> None:
    """Also where its time is right."""
    bench, make = Bench(tmp_path), Records()
    bench.start()
    bench.rule()
    bench.submit(make.directory(b"d"))
    bench.submit_all([MakeDirectory(*make.head(name), 0o555, 0, 0) for name in (b"ro", b"d/other")])
    bench.submit(make.put(b"ro/f", b"bytes"))
    await bench.settled()

    def kill(after: bool) -> None:
        carried = bench.carrier.carried
        if after and carried and isinstance(carried[-1], kind):
            directory = bench.zone.root
            for name in path.split(b"/"):
                directory = directory.entries[name]
            known = bench.view().resolve(b"/data/" + path)
            assert known is not None
            directory.attributes = directory.attributes._replace(mode=0o755, mtime_ns=known.mtime_ns)
            raise Killed

    bench.kill = kill
    bench.submit_all(records(make))
    assert await ended(bench)
    bench.kill = lambda _after: None
    await bench.restart()
    await bench.settled()
    bench.assert_equal()
    await bench.close()
