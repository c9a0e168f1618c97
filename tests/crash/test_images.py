"""The database opens, whole and with all that was acknowledged, on whatever a power cut leaves of its file."""

from __future__ import annotations

import pytest

from tests.core.support import examples
from tests.crash.images import SECTORS, build
from tests.crash.running import campaign
from tests.crash.stream import FILES, Acknowledged, Event, Sync, Write

PREFIXES_MIN = 500
"""Fewer events of the recorded run than that are a sign that the process is not seen."""


def test_images_of_a_database_after_a_power_cut() -> None:
    done = campaign("images", "--seeds", f"1-{examples(500)}")
    assert done.failed == 0, done.output
    assert done.count == examples(500)


def test_every_prefix_of_what_was_written() -> None:
    """With nothing that no sync covers."""
    done = campaign("prefixes")
    assert done.failed == 0, done.output
    assert done.count > PREFIXES_MIN, done.output


FILE = FILES[0]
EVENTS: list[Event] = [
    Write(FILE, 0, b"a" * 8192, False),
    Sync(FILE, 1),
    Write(FILE, 0, b"b" * 512, True),
    Acknowledged(7),
    Write(FILE, 4096, b"c" * 4096, False),
    Write(FILE, 8192, b"d" * 4096, False),
    Sync(FILE, 5),  # began before the last write
]


def test_what_was_synced_is_in_every_image() -> None:
    seen = set()
    for seed in range(1, 400):
        image = build(EVENTS, seed)
        end, data = int(image.made.split()[0]), image.files.get(FILE, b"")
        if end >= 4:
            assert data[:512] == b"b" * 512
            assert data[512:4096] == b"a" * 3584
            assert image.acknowledged == 7
        if end == 7:
            assert data[4096:8192] == b"c" * 4096
            seen.add(data[8192:])
    assert {b"", b"d" * 4096} < seen, "what no sync covers is there, or not, or in part"


def test_a_write_that_the_power_cut_met_may_be_there_in_part() -> None:
    events: list[Event] = [Write(FILE, 0, b"a" * 1024, True), Write(FILES[1], 0, b"x" * 1024, True)]
    images = [image for image in (build(events, seed) for seed in range(1, 600)) if image.made.startswith("1 of")]
    assert all(image.files[FILE] == b"a" * 1024 for image in images)
    assert {b"", b"x" * 512, bytes(512) + b"x" * 512, b"x" * 1024} == {image.files[FILES[1]] for image in images}


@pytest.mark.parametrize("sector", SECTORS)
def test_writes_are_torn_between_sectors(sector: int) -> None:
    events: list[Event] = [Write(FILE, 0, b"x" * 4 * 4096, False)]
    torn = [image for image in (build(events, seed) for seed in range(1, 200)) if f"torn at {sector}" in image.made]
    written = [image.files[FILE] for image in torn]
    parts = {data[at : at + sector] for data in written for at in range(0, len(data), sector)}
    assert parts == {b"x" * sector, bytes(sector)}
