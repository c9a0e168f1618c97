"""Files for private copies, made before somebody writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from lddp.doors.fuse.spares import SPARES_MAX, Spares


class Place:
    """A directory, and who opens files in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.threads = ThreadPoolExecutor(2)
        self.spares = Spares(lambda: self.path, self.threads)

    async def made(self) -> None:
        """Returns when all that was begun has been made."""
        for spare in list(self.spares._spares):
            with suppress(OSError):
                await asyncio.shield(spare)

    def opened(self) -> int:
        """How many files without a name there are."""
        return sum(link.startswith(os.fspath(self.path) + "/#") for link in _links())


def _links() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{name}")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    place.spares.close()
    await asyncio.sleep(0)
    assert place.opened() == 0
    place.threads.shutdown()


async def test_everybody_gets_an_empty_file_of_his_own(place: Place) -> None:
    taken = [await place.spares.take() for _ in range(2 * SPARES_MAX)]
    assert len(set(taken)) == len(taken)
    for descriptor in taken:
        assert os.fstat(descriptor).st_size == os.fstat(descriptor).st_nlink == 0
        os.close(descriptor)
    await place.made()
    assert place.opened() == SPARES_MAX, "no more than that are kept"


async def test_the_next_one_waits_for_no_thread(place: Place) -> None:
    os.close(await place.spares.take())
    await place.made()
    taking = place.spares.take()
    with pytest.raises(StopIteration) as taken:
        taking.send(None)
    os.close(taken.value.value)
    await place.made()


async def test_what_could_not_be_made_is_made_once_it_can(place: Place) -> None:
    here = place.path
    place.path = here / "gone"
    with pytest.raises(FileNotFoundError):
        await place.spares.take()
    await place.made()
    place.path = here
    os.close(await place.spares.take())
    await place.made()


async def test_who_is_cancelled_leaves_nothing_open(place: Place) -> None:
    taking = asyncio.create_task(place.spares.take())
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    await place.made()
    assert place.opened() == len(place.spares._spares)


async def test_closing_waits_for_no_turn_of_the_loop(place: Place) -> None:
    os.close(await place.spares.take())
    await place.made()
    assert place.opened()
    place.spares.close()
    assert not place.opened()
