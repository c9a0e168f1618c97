"""The exhaustive search finds what no order explains, and lets pass what one does."""

from __future__ import annotations

import errno
import random

import pytest

from cluster.chaos import search
from cluster.chaos.search import NEVER, Step, check

OK = (0, None)
ABSENT = (errno.ENOENT, None)


def put(invoked: float, completed: float, data: bytes, known: bool = True) -> Step:
    return Step("put", invoked, completed if known else NEVER, data, OK if known else None)


def append(invoked: float, completed: float, data: bytes, known: bool = True) -> Step:
    return Step("append", invoked, completed if known else NEVER, data, OK if known else None)


def read(invoked: float, completed: float, value: bytes | None) -> Step:
    return Step("read", invoked, completed, b"", ABSENT if value is None else (0, value))


def test_operations_one_after_the_other() -> None:
    steps = [read(0, 1, None), put(2, 3, b"a"), append(4, 5, b"b"), read(6, 7, b"ab")]
    assert check(steps).linearizable


def test_concurrent_operations_may_come_in_either_order() -> None:
    for value in (b"ab", b"ba"):
        steps = [put(0, 1, b""), append(2, 10, b"a"), append(2, 10, b"b"), read(11, 12, value)]
        assert check(steps).linearizable


def test_a_lost_acknowledged_write() -> None:
    answer = check([put(0, 1, b"a"), append(2, 3, b"b"), read(4, 5, b"a")])
    assert answer.linearizable is False
    assert [step.name for step in answer.stuck] == ["read"]


def test_a_stale_read() -> None:
    assert check([put(0, 1, b"a"), put(2, 3, b"b"), read(4, 5, b"a")]).linearizable is False


def test_a_read_that_goes_back() -> None:
    steps = [put(0, 1, b"a"), put(2, 10, b"b"), read(3, 4, b"b"), read(5, 6, b"a")]
    assert check(steps).linearizable is False


def test_a_doubled_append() -> None:
    assert check([put(0, 1, b""), append(2, 3, b"x"), read(4, 5, b"xx")]).linearizable is False


def test_a_reordered_pair() -> None:
    steps = [put(0, 1, b""), append(2, 3, b"a"), append(4, 5, b"b"), read(6, 7, b"ba")]
    assert check(steps).linearizable is False


def test_what_nobody_wrote() -> None:
    assert check([put(0, 1, b"a"), read(2, 3, b"z")]).linearizable is False


@pytest.mark.parametrize("value", [b"a", b"ab"])
def test_an_unknown_outcome_may_be_either(value: bytes) -> None:
    steps = [put(0, 1, b"a"), append(2, 3, b"b", known=False), read(10, 11, value)]
    assert check(steps).linearizable


def test_an_unknown_outcome_may_come_late_but_not_be_taken_back() -> None:
    late = [put(0, 1, b"a"), append(2, 3, b"b", known=False), read(10, 11, b"a"), read(12, 13, b"ab")]
    assert check(late).linearizable
    back = [put(0, 1, b"a"), append(2, 3, b"b", known=False), read(10, 11, b"ab"), read(12, 13, b"a")]
    assert check(back).linearizable is False


def test_an_unknown_outcome_takes_effect_once() -> None:
    steps = [put(0, 1, b""), append(2, 3, b"b", known=False), read(10, 11, b"bb")]
    assert check(steps).linearizable is False


def test_more_than_is_bearable_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CONFIGURATIONS_MAX", 5)
    steps = [append(0, 100, bytes([number])) for number in range(8)]
    assert check([put(-2, -1, b""), *steps, read(101, 102, b"no")]).linearizable is None


def made(chance: random.Random, count: int) -> list[Step]:
    """Five clients at a file that is what it should be: each operation takes effect at a moment of its own."""
    state: search.State = None
    moments = sorted(chance.uniform(0, count) for _ in range(count))
    free = [0.0] * 5
    steps = []
    for moment in moments:
        client = chance.randrange(5)
        begin = max(free[client], moment - chance.uniform(0, 3))
        end = max(begin, moment) + chance.uniform(0, 3)
        if begin > moment:
            continue
        free[client] = end
        name = chance.choice(("put", "append", "append", "unlink", "read", "read"))
        step = Step(name, begin, end, chance.randbytes(2))
        if name != "read" and chance.random() < 0.05:
            if chance.random() < 0.5:
                _, state = search.carry_out(step, state)
            steps.append(Step(name, begin, NEVER, step.argument))
            continue
        result, state = search.carry_out(step, state)
        steps.append(Step(name, begin, end, step.argument, result))
    return steps


@pytest.mark.parametrize("seed", range(20))
def test_histories_of_a_right_file_pass_and_of_a_wrong_one_do_not(seed: int) -> None:
    chance = random.Random(seed)
    assert check(made(chance, search.OPERATIONS_MAX)).linearizable
    steps = made(chance, 60)
    assert check(steps).linearizable
    reads = [place for place, step in enumerate(steps) if step.name == "read" and step.result]
    place = chance.choice(reads)
    wrong = steps[place]
    steps[place] = Step("read", wrong.invoked, wrong.completed, b"", (0, b"never written"))
    assert check(steps).linearizable is False
