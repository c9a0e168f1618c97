"""The database opens, whole and with all that was acknowledged, on whatever a power cut leaves of its file."""

from __future__ import annotations

import pytest

from tests.core.support import examples
from tests.crash.images import SECTORS, build
from tests.crash.running import campaign
from tests.crash.stream import Acknowledged, Event, Sync, Write


def test_images_of_a_database_after_a_power_cut() -> None:
    done = campaign("images", "--seeds", f"1-{examples(500)}")
    assert done.failed == 0, done.output
    assert done.count == examples(500)


EVENTS: list[Event] = [
    Write(0, b"a" * 8192, False),
    Sync(1),
    Write(0, b"b" * 512, True),
    Acknowledged(7),
    Write(4096, b"c" * 4096, False),
    Write(8192, b"d" * 4096, False),
    Sync(5),  # began before the last write
]


def test_what_was_synced_is_in_every_image() -> None:
    seen = set()
    for seed in range(1, 400):
        image = build(EVENTS, seed)
        end = int(image.made.split()[0])
        if end >= 4:
            assert image.data[:512] == b"b" * 512
            assert image.data[512:4096] == b"a" * 3584
            assert image.acknowledged == 7
        if end == 7:
            assert image.data[4096:8192] == b"c" * 4096
            seen.add(image.data[8192:])
    assert {b"", b"d" * 4096} < seen, "what no sync covers is there, or not, or in part"


@pytest.mark.parametrize("sector", SECTORS)
def test_writes_are_torn_between_sectors(sector: int) -> None:
    events: list[Event] = [Write(0, b"x" * 4 * 4096, False)]
    torn = [image for image in (build(events, seed) for seed in range(1, 200)) if f"torn at {sector}" in image.made]
    parts = {image.data[at : at + sector] for image in torn for at in range(0, len(image.data), sector)}
    assert parts == {b"x" * sector, bytes(sector)}
