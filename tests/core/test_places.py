"""Objects that have changed places, all looked at in one round, whatever is reported first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random

import pytest

from lddp.core.records import DirectoryReport, Kind, ObservedEntry

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


# -- while they change ------------------------------------------------------------------------------------------------


class Looking:
    """Somebody looks at one directory after the other while a program goes on moving what is in them. Of every change
    both names are marked, to be looked at again; what comes back void is marked, and nothing else."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.tree = shape(random)
        self.story, _ = build(self.tree)
        self.marks: set[tuple[bytes, bytes]] = set()

    def change(self) -> None:
        """One object moves, perhaps over nothing, or changes places with another one."""
        one = self.random.choice((*DIRECTORIES, *FILES))
        here = self.random.choice(sorted(self.tree[one]))
        there = place(self.random)
        other = next((found for found, places in self.tree.items() if there in places), None)
        moved = dict(self.tree)
        moved[one] = moved[one] - {here} | {there}
        if other is not None and other != one:
            moved[other] = moved[other] - {there} | {here}
        if other != one and is_tree(moved):
            self.tree = moved
            self.marks |= {here, there}

    def number(self, one: bytes) -> int:
        return self.story.root if one == ROOT else self.story.ledger.view.by_identity(self.story.rule, one)

    def look(self, *, changing: bool) -> None:
        marks, self.marks = self.marks, set()
        as_of, looked = self.story.now, []
        names: dict[int, set[tuple[bytes, bytes]]] = {}
        above = sorted({one for one, _ in marks})
        for one in self.random.sample(above, len(above)):
            number = self.number(one)
            if not number:
                continue  # it is listed when it gets there
            wanted = {name for parent, name in marks if parent == one}
            found = [entry for entry in entries(self.tree, one) if entry.name in wanted]
            lost = wanted - {entry.name for entry in found}
            looked.append(DirectoryReport(number, tuple(found), tuple(sorted(lost)), False, None))
            names[number] = {(one, name) for name in wanted}
            if changing and self.random.random() < 0.5:
                self.change()
        if looked:
            outcome = self.story.observe(*looked, as_of=as_of)
            self.marks |= {mark for number in outcome.void for mark in names.get(number, ())}

    def list_pending(self) -> bool:
        pending = list(self.story.ledger.view.pending("data"))
        for number in pending:
            inode = self.story.ledger.view.inode(number)
            if inode is not None and inode.pending:
                report = DirectoryReport(number, tuple(entries(self.tree, inode.identity)), (), True, None)
                self.story.observe(report)
        return bool(pending)


@pytest.mark.parametrize("first", range(0, len(seeds(1000)), BATCH))
def test_what_changes_places_while_it_is_looked_at_is_all_there_in_the_end(first: int) -> None:
    for seed in seeds(1000)[first : first + BATCH]:
        looking = Looking(Random(seed))
        for _ in range(4):
            for _ in range(looking.random.randrange(4)):
                looking.change()
            looking.look(changing=True)
        for _ in range(20):
            looking.look(changing=False)
            if not looking.list_pending() and not looking.marks:
                break
        assert looking.story.paths() == set(paths(looking.tree)), f"seed {seed}"


# -- where the log is newer -------------------------------------------------------------------------------------------


class Overtaken(Looking):
    """Operations change what is being looked at, too: some places of a look are refused, though others of the same
    objects are not. Files have other bytes at each look."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.bytes = 0

    def operate(self) -> None:
        """A file is put where there is none, or in the place of one."""
        parent, name = place(self.random)
        number = self.number(parent)
        inode = self.story.ledger.view.inode(number) if number else None
        if inode is not None and not inode.pending:
            path = self.story.ledger.view.path(inode)
            path = path + b"/" + name if path else name
            found = self.story.ledger.view.resolve(b"/data/" + path)
            if found is None or found.kind is Kind.FILE:
                self.story.put(path, b"operated %d" % self.bytes)

    def report(self) -> None:
        """Of some directories all that they have, while the log goes on."""
        as_of, looked = self.story.now, []
        for one in self.random.sample((ROOT, *DIRECTORIES), self.random.randrange(1, len(DIRECTORIES) + 2)):
            number = self.number(one)
            if number:
                self.bytes += 1
                found = [self.with_bytes(entry) for entry in entries(self.tree, one)]
                lost = {name for name, _ in self.story.ledger.view.list(number)} - {entry.name for entry in found}
                looked.append(DirectoryReport(number, tuple(found), tuple(sorted(lost)), False, None))
            for _ in range(self.random.randrange(3)):
                self.change()
        for _ in range(self.random.randrange(3)):
            self.operate()
        self.story.observe(*looked, as_of=as_of)

    def with_bytes(self, entry: ObservedEntry) -> ObservedEntry:
        if entry.kind is Kind.DIRECTORY:
            return entry
        return file(entry.name, entry.identity, b"%d" % (self.bytes if self.random.random() < 0.7 else 0))


@pytest.mark.parametrize("first", range(0, len(seeds(2000)), BATCH))
def test_zones_follow_what_is_refused_in_part(first: int) -> None:
    for seed in seeds(2000)[first : first + BATCH]:
        looking = Overtaken(Random(seed))
        try:
            for _ in range(4):
                looking.report()
                looking.list_pending()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_two_names_of_a_file_in_a_directory_that_is_refused_where_it_went() -> None:
    story = Story()
    story.see(ROOT, directory(b"g", b"G"), complete=True)
    story.see(b"g", directory(b"x", b"X"), complete=True)
    story.see(b"g/x", file(b"1", b"F"), file(b"2", b"F"), complete=True)
    before, number = story.now, story.number(b"g/x/1")
    story.put(b"b", b"newer")
    outcome = story.see(ROOT, directory(b"b", b"X"), file(b"g", b"F", b"changed"), as_of=before)
    assert outcome.void == (story.root,)
    assert story.paths() == {b"b", b"g"}
    assert story.number(b"g") == number
