"""What becomes of the bytes of several records of one commit, of which the log takes only some."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import Outcome
from tests.doors.fuse.kernel import Kernel, MachineGround
from tests.doors.fuse.test_elsewhere import BIG, Elsewhere, moved, opened, removed, replaced


@pytest.fixture
def mode() -> WriteMode:
    """In a pipelined mount the queue knows what became of each record: `test_pipeline.py`."""
    return WriteMode.SYNC


def between(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch, second: Callable[[r.Record], Outcome | None]
) -> None:
    """The first two records that are sent together do not come one right after the other; what `second` gives is the
    answer to the second one, which is not ordered then."""
    honest = ground.submit_folded

    async def submit_folded(records: Sequence[r.Record], timeout_s: float) -> list[tuple[int, Outcome]]:
        if len(records) != 2:
            return await honest(records, timeout_s)
        monkeypatch.setattr(ground, "submit_folded", honest)
        first = await honest(records[:1], timeout_s)
        outcome = second(records[1])
        return [*first, (0, outcome)] if outcome is not None else [*first, *await honest(records[1:], timeout_s)]

    monkeypatch.setattr(ground, "submit_folded", submit_folded)


async def written(kernel: Kernel, ground: MachineGround) -> list[tuple[bool, bool]]:
    """Of two small parts of a big file: whether a record used their bytes, and whether they were given up."""
    file = await opened(kernel, ground, BIG)
    await file.write(10, b"first")
    await file.write(BIG - 10, b"last")
    await file.close()
    return [(upload.is_used, upload.aborted) for upload in ground.uploads]


async def test_what_was_ordered_before_another_one_was_refused_is_used(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then all of it is sent."""
    between(ground, monkeypatch, lambda _: Outcome(errno.ENOSPC))
    used, refused, whole = await written(kernel, ground)
    assert used == whole == (True, False) and refused == (False, True)
    expected = b"a" * 10 + b"first" + b"a" * (BIG - 25) + b"last" + b"a" * 6
    assert ground.content(b"/data/f") == expected


@pytest.mark.parametrize("elsewhere", [replaced, removed])
async def test_what_was_ordered_before_the_file_lost_its_name_is_used(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch, elsewhere: Elsewhere
) -> None:
    """Another zone may have to bring it to the file before that goes."""
    between(ground, monkeypatch, lambda _: elsewhere(ground))
    assert await written(kernel, ground) == [(True, False), (False, True)]
    assert ground.content(b"/data/f") == b"theirs"


async def test_what_was_ordered_at_a_second_try_is_used(
    kernel: Kernel, ground: MachineGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    between(ground, monkeypatch, lambda _: moved(ground))
    assert await written(kernel, ground) == [(True, False), (True, False)]
    assert ground.content(b"/data/g").endswith(b"last" + b"a" * 6) and ground.content(b"/data/f") == b"theirs"
