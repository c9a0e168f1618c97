"""The seeds that a campaign is asked to run."""

from __future__ import annotations


def seeds_of(text: str) -> list[int]:
    """`7`, `1-20` or `1,4-6` as the numbers that are meant. ValueError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
