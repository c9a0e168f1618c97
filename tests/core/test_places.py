"""Objects that have changed places, all looked at in one round, whatever is reported first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random

import pytest

from lddp.core.records import DirectoryReport, ObservedEntry

from .support import seeds
from .test_merge import Story, directory, file

ROOT = b""
DIRECTORIES = (b"A", b"B", b"C", b"D")
FILES = (b"F", b"G")
NAMES = (b"x", b"y", b"z")
BATCH = 250

Shape = dict[bytes, frozenset[tuple[bytes, bytes]]]
"""The places of each object, by identity: its parent, `ROOT` for the root, and its name there. A directory has one."""


def shape(random: Random) -> Shape:
    """A tree in which no two objects have the same place; files have up to two."""
    while True:
        found: Shape = {one: frozenset({place(random)}) for one in DIRECTORIES}
        found |= {one: frozenset(place(random) for _ in range(random.choice((1, 1, 2)))) for one in FILES}
        if is_tree(found):
            return found


def place(random: Random) -> tuple[bytes, bytes]:
    return random.choice((ROOT, *DIRECTORIES)), random.choice(NAMES)


def is_tree(found: Shape) -> bool:
    places = [one for places in found.values() for one in places]
    return len(set(places)) == len(places) and all(is_attached(found, one) for one in found if one in DIRECTORIES)


def is_attached(tree: Shape, one: bytes) -> bool:
    climbed = set()
    while one != ROOT:
        if one in climbed:
            return False
        climbed.add(one)
        ((one, _),) = tree[one]
    return True


def path_of(tree: Shape, parent: bytes, name: bytes) -> bytes:
    parts = [name]
    while parent != ROOT:
        ((parent, name),) = tree[parent]
        parts.append(name)
    return b"/".join(reversed(parts))


def paths(tree: Shape) -> dict[bytes, bytes]:
    """Objects by path."""
    return {path_of(tree, *place): one for one, places in tree.items() for place in places}


def entries(tree: Shape, parent: bytes) -> list[ObservedEntry]:
    found = [(name, one) for one, places in tree.items() for above, name in places if above == parent]
    return [directory(name, one) if one in DIRECTORIES else file(name, one) for name, one in sorted(found)]


def build(tree: Shape) -> tuple[Story, dict[bytes, int]]:
    """A namespace that has all of it listed, and the numbers of its inodes."""
    story = Story()
    story.see(ROOT, *entries(tree, ROOT), complete=True)
    found = paths(tree)
    for path in sorted(found, key=lambda path: path.count(b"/")):
        if found[path] in DIRECTORIES:
            story.see(path, *entries(tree, found[path]), complete=True)
    return story, {ROOT: story.root} | {one: story.number(path) for path, one in found.items()}


def reports(old: Shape, new: Shape, numbers: dict[bytes, int]) -> Iterator[DirectoryReport]:
    """Of every directory: what it has, and which names it has lost."""
    for one in (ROOT, *(one for one in new if one in DIRECTORIES)):
        found = entries(new, one)
        before = {name for places in old.values() for parent, name in places if parent == one}
        lost = before - {entry.name for entry in found}
        yield DirectoryReport(numbers[one], tuple(found), tuple(sorted(lost)), False, None)


def check(old: Shape, new: Shape, order: Sequence[int]) -> None:
    story, numbers = build(old)
    found = list(reports(old, new, numbers))
    looked = [found[number] for number in order]
    for _ in range(len(order) + 1):
        if not looked:
            break
        outcome = story.observe(*looked)
        looked = [report for report in looked if report.inode in outcome.void]
    wanted = paths(new)
    assert story.paths() == set(wanted), (old, new)
    assert {path: story.number(path) for path in wanted} == {path: numbers[one] for path, one in wanted.items()}


@pytest.mark.parametrize("first", range(0, len(seeds(2000)), BATCH))
def test_what_changed_places_is_all_there(first: int) -> None:
    for seed in seeds(2000)[first : first + BATCH]:
        random = Random(seed)
        old, new = shape(random), shape(random)
        order = random.sample(range(len(DIRECTORIES) + 1), len(DIRECTORIES) + 1)
        try:
            check(old, new, order)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_every_change_of_two_directories_in_every_order_of_reports() -> None:
    places = list(itertools.product((ROOT, b"A", b"B"), NAMES[:2]))
    trees: list[Shape] = [{b"A": frozenset({a}), b"B": frozenset({b})} for a, b in itertools.product(places, repeat=2)]
    whole = [tree for tree in trees if is_tree(tree)]
    assert len(whole) == 10
    for old, new in itertools.product(whole, repeat=2):
        for order in itertools.permutations(range(3)):
            check(old, new, order)
