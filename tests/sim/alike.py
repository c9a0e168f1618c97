"""Worlds where clients and programs bring the same bytes again and again: a store has them once, for all."""

from __future__ import annotations

from random import Random

SHARE = 0.2


def is_alike(seed: object) -> bool:
    """Whether the world of this seed is one. Drawn apart, so that all others do what they always did."""
    return Random(repr((seed, "alike"))).random() < SHARE


def some_of_the_same(random: Random) -> bytes:
    return b"%d " % random.randrange(3) * random.choice([4, 25])
