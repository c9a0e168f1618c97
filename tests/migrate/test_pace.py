"""How fast a migration goes, by a clock that moves when it is told to."""

from __future__ import annotations

from lddp.migrate.pace import WINDOW_S, Pace
from tests.content.world import FakeClock


def test_what_went_lately_counts() -> None:
    clock = FakeClock()
    pace = Pace(clock)
    assert pace.per_second() == 0
    pace.passed(1000)
    assert pace.per_second() == 1000, "the first second is a whole one"
    for _ in range(20):
        clock.now += 1
        pace.passed(300)
    assert pace.per_second() == 300
    clock.now += WINDOW_S
    assert pace.per_second() == 0
    assert pace.total == 7000


def test_a_file_counts_while_it_is_read() -> None:
    pace = Pace(FakeClock())
    with pace.reading(1) as one, pace.reading(2) as other:
        one(100)
        other(10)
        one(250)
        assert (pace.under_way, pace.total) == (260, 260)
        one(50)  # it is read again from the beginning
    assert (pace.under_way, pace.total) == (0, 60)
