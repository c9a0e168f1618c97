"""A source that clients write to through the log, while it is scanned: operations are decided as if the whole tree had
been known from the start, and nothing that the scan or the echo of projected changes reports undoes them."""

from __future__ import annotations

import errno
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lddp.core.machine import StateMachine
from lddp.core.records import (
    Append,
    Create,
    CreateFile,
    DirectoryReport,
    InodeReport,
    Kind,
    Link,
    MakeDirectory,
    Operation,
    Put,
    RemoveDirectory,
    Rename,
    RenameFlag,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
)
from tests.fakes.tables import DictTables

from .model import Model, Node, RuleModel
from .source import NAMES, Steps, World, differences, shrink
from .support import SOURCE, TARGET, content, examples, operation_id, seeds, tree
from .test_theorem import random_steps
from .zone import Thing, paths_of

WRITTEN = ["operation"] * 8 + ["scan"] * 5 + ["watch"] * 3 + ["land"] * 6 + ["project"] * 4 + ["land all", "lose"]
DISTURBED = [*WRITTEN, *["change"] * 4]
BATCH = 25


def random_operation(random: Random, sequence: int, paths: list[bytes], zone: int) -> Operation:
    """Mostly on names that exist; paths are relative to the rule."""

    def place() -> bytes:
        if random.random() < 0.65 and paths:
            return b"/data/" + random.choice(paths)
        directory = random.choice([b"", *[path + b"/" for path in paths]])
        return b"/data/" + directory + random.choice(NAMES)

    head = (operation_id(sequence), zone, 10**6 + sequence, place())
    data = content(b"%d" % random.randrange(10**6))
    kind = random.randrange(14)
    if kind < 3:
        flag = random.choice([RenameFlag.NONE, RenameFlag.NONE, RenameFlag.NOREPLACE, RenameFlag.EXCHANGE])
        return Rename(*head, place(), flag)
    choices: list[Operation] = [
        Put(*head, 0o640, 1, 1, data),
        Put(*head, 0o640, 1, 1, data),
        MakeDirectory(*head, 0o750, 1, 1),
        Create(*head, random.choice([Kind.FILE, Kind.FIFO]), 0o640, 1, 1)
        if random.random() < 0.5
        else CreateFile(*head, 0o640, 1, 1, 3, data),
        Unlink(*head),
        RemoveDirectory(*head),
        Link(*head, place()),
        Symlink(*head, b"somewhere", 1, 1),
        SetAttributes(*head, random.choice([0o600, 0o666]), mtime_ns=random.choice([None, 5])),
        SetXattr(*head, b"user.y", b"%d" % random.randrange(9)),
        Append(*head, data) if random.random() < 0.5 else Truncate(*head, random.randrange(9)),
    ]
    return choices[kind - 3]


class Written(World):
    """A world whose source is written to through the log. With `disturbed`, by others too: then the model, which
    knows nothing of those, is not asked."""

    def __init__(self, seed: int, disturbed: bool, in_order: bool) -> None:
        super().__init__(writable=True, seed_tree=seed, in_order=in_order)
        self.disturbed = disturbed
        nodes: dict[int, Node] = {}

        def node_of(thing: Thing) -> Node:
            if id(thing) in nodes:
                nodes[id(thing)].links += 1
                return nodes[id(thing)]
            assert thing.attributes is not None
            attributes = thing.attributes
            node = Node(
                thing.kind, attributes.mode, attributes.uid, attributes.gid, attributes.mtime_ns,
                dict(attributes.xattrs), thing.data, target=thing.target, rdev=thing.rdev,
            )  # fmt: skip
            nodes[id(thing)] = node
            node.children = {name: node_of(child) for name, child in thing.children.items()}
            return node

        self.rule_model = RuleModel(b"/data", SOURCE, node_of(self.source.root))
        self.model = Model([self.rule_model])
        self.operations = 0

    def step(self, what: str, seed: int) -> None:
        if what != "operation":
            super().step(what, seed)
            return
        random = Random(seed)
        self.history.append(f"-- {what} {seed}")
        self.operations += 1
        paths = [path for path, _ in self.model.walk(self.rule_model) if path]
        if self.disturbed:
            paths = [path for path in self.source.live() if path]
        zone = random.choice([SOURCE, SOURCE, TARGET])
        self.submit(random, random_operation(random, 10**6 + self.operations, sorted(paths), zone))

    def submit(self, random: Random, operation: Operation) -> None:
        """What who asks does: on EAGAIN, he waits until what the operation needs to know is reported, and asks anew."""
        for turn in range(6):
            operation = operation._replace(id=operation_id(operation.id.sequence + 10**7 * turn))
            outcome = self.commit(operation)
            if outcome.errno != errno.EAGAIN:
                break
            self.project()
            self.reveal(random, operation.path, operation)
            if isinstance(operation, Rename | Link):
                self.reveal(random, operation.to, operation)
        if self.disturbed:
            return
        assert outcome.errno != errno.EAGAIN, f"{operation} is never decided\n" + "\n".join(self.history)
        if outcome.errno == errno.EROFS:
            assert operation.zone != SOURCE and self.pending(), operation
            return
        verdict = self.model.judge(operation)
        last = "\n".join(self.history)
        assert outcome.errno in verdict.allowed, f"{operation}: {outcome}, allowed {set(verdict.allowed)}\n{last}"
        if outcome.errno == 0:
            assert verdict.commit is not None
            verdict.commit(self.ledger.gsn)

    def see(self, directories: list[DirectoryReport], inodes: list[InodeReport]) -> None:
        """Commits what is seen now, with the source brought to the end of the log."""
        self.project()
        self.commit(self.observe(directories, inodes))

    def reveal(self, random: Random, path: bytes, operation: Operation) -> None:
        """Reports, component by component, what the path leads to."""
        here = self.source.root
        number = self.root
        root = self.ledger.view.inode(number)
        if root is not None and root.mode == -1:
            report = DirectoryReport(number, (), (), False, here.attributes, here.changed)
            self.see([report], [])
        for name in path[len(b"/data/") :].split(b"/") if path != b"/data" else []:
            inode = self.ledger.view.inode(number)
            if inode is None or inode.kind is not Kind.DIRECTORY or not here.is_directory:
                return
            child = here.children.get(name)
            if inode.pending:
                entries = (self.entry(random, name, child),) if child is not None else ()
                absent = (name,) if child is None else ()
                self.see([DirectoryReport(number, entries, absent, False, None, here.changed)], [])
            found = dict(self.ledger.view.list(number, limit=1000)).get(name)
            if child is None or found is None:
                return
            here, number = child, found
        inode = self.ledger.view.inode(number)
        assert inode is not None
        if inode.kind is Kind.DIRECTORY:
            self.reveal_directory(random, number, here)
        elif inode.pending and here.kind is Kind.FILE and isinstance(operation, Append | Truncate | Write):
            assert here.attributes is not None
            seen = InodeReport(number, here.attributes, len(here.data), content(here.data), stamp=here.changed)
            self.see([], [seen])

    def reveal_directory(self, random: Random, number: int, here: Thing) -> None:
        entries = tuple(self.entry(random, name, child) for name, child in sorted(here.children.items()))
        report = DirectoryReport(number, entries, (), True, here.attributes, here.changed)
        self.see([report], [])

    def assert_as_the_model(self) -> None:
        """The tree is what the operations alone make of the tree that was there at first."""
        namespace = tree(self.ledger.view, self.root)
        expected = dict(self.model.walk(self.rule_model))
        assert sorted(expected) == sorted(namespace)
        for path, node in expected.items():
            inode = namespace[path]
            where = f"{path!r}\n" + "\n".join(self.history)
            assert inode.kind is node.kind, where
            if node.kind is not Kind.SYMLINK:
                assert inode.mode == node.mode, where
            assert (inode.uid, inode.gid, inode.mtime_ns) == (node.uid, node.gid, node.mtime_ns), where
            assert dict(inode.xattrs) == node.xattrs, where
            if node.kind is Kind.FILE:
                assert inode.size == len(node.data) and inode.nlink == node.links, where
                for zone in (self.source, *self.targets):
                    assert paths_of(zone.root)[path].data == node.data, f"zone {zone.number}: {where}"


def run_written(steps: Steps, seed: int, disturbed: bool = False, in_order: bool = False) -> Written:
    world = Written(seed, disturbed, in_order)
    for what, step_seed in steps:
        world.step(what, step_seed)
    # An effect may have been carried out below a directory that a writer had put in the place of the right one.
    # Only a scrub finds that.
    world.source.conflicts = disturbed
    world.settle(Random(seed))
    world.assert_converged()
    if not disturbed:
        world.assert_as_the_model()
    return world


def run_disturbed(steps: Steps, seed: int, in_order: bool = False) -> Written:
    return run_written(steps, seed, True, in_order)


def message_of_failure(steps: Steps, seed: int, disturbed: bool) -> str:
    try:
        run_written(steps, seed, disturbed)
    except AssertionError as error:
        return str(error) or "an assertion of the core"
    return ""


def check_seeds(first: int, disturbed: bool) -> int:
    kinds = DISTURBED if disturbed else WRITTEN
    done = 0
    for seed in seeds(400)[first : first + BATCH]:
        steps = random_steps(seed, kinds)
        if message_of_failure(steps, seed, disturbed):
            steps = shrink(steps, lambda fewer, seed=seed: bool(message_of_failure(fewer, seed, disturbed)))  # type: ignore[misc]
            pytest.fail(f"seed {seed}, steps {steps}:\n{message_of_failure(steps, seed, disturbed)}")
        done += 1
    return done


@pytest.mark.parametrize("first", range(0, len(seeds(400)), BATCH))
def test_operations_and_the_scan_at_random(first: int) -> None:
    assert check_seeds(first, False) > 0


@pytest.mark.parametrize("first", range(0, len(seeds(400)), BATCH))
def test_operations_and_the_scan_and_other_writers_at_random(first: int) -> None:
    assert check_seeds(first, True) > 0


@settings(max_examples=examples(80))
@given(st.lists(st.tuples(st.sampled_from(WRITTEN), st.integers(0, 2**16)), max_size=40), st.integers(0, 200))
def test_operations_are_decided_as_if_all_were_known(steps: Steps, seed: int) -> None:
    world = run_written(steps, seed)
    assert not list(differences(world.source.root, tree(world.ledger.view, world.root)))


@pytest.mark.parametrize("seed", seeds(40))
def test_a_node_that_starts_anew_before_each_record_has_the_same_effects(seed: int) -> None:
    """What a fold keeps in memory is what it would read from its tables."""
    world = run_written(random_steps(seed, WRITTEN, 200), seed)
    tables = DictTables()
    for position, record in enumerate(world.ledger.records):
        machine = StateMachine(tables)
        _, effects = machine.apply(record)
        machine.flush()
        assert list(effects) == world.ledger.effects[position], record
    assert tables.snapshot() == world.ledger.tables.snapshot()
