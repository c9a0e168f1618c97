"""Every operation against the model: outcome, tree, versions, digest, effects, and however the log is cut."""

from __future__ import annotations

import errno
import sys
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lddp.core.machine import StateMachine
from lddp.core.records import (
    SOME_VERSION,
    Append,
    Attributes,
    Content,
    Create,
    CreateFile,
    DirectoryReport,
    InodeReport,
    InPlace,
    Kind,
    Link,
    MakeDirectory,
    Naming,
    Observation,
    ObservedEntry,
    Operation,
    OperationId,
    Put,
    Record,
    Remove,
    RemoveDirectory,
    RemoveXattr,
    Rename,
    RenameFlag,
    SetAttributes,
    SetXattr,
    Shorten,
    Symlink,
    Truncate,
    Unlink,
    Write,
    XattrFlag,
)
from lddp.core.view import View
from tests.fakes.tables import DictTables

from .model import Model, Node, RuleModel, digest_of, path_errno
from .strategies import CURRENT, NAMES, STALE, THIS, operations
from .support import (
    SOURCE,
    TARGET,
    THIRD,
    Ledger,
    canonical,
    content,
    create_rule,
    examples,
    operation_id,
    tree,
)
from .zone import check_zone, strict_zone


@dataclass(frozen=True)
class Reveal:
    """Reports one thing about a directory or file that is not known yet; indexes choose among what there is."""

    directory: int
    name: bytes
    what: str
    data: bytes


reveals = st.builds(
    Reveal,
    st.integers(0, 7),
    st.sampled_from(NAMES),
    st.sampled_from(
        ["pending", "pending", "known", "directory", "directory", "symlink", "absent", "complete", "content"]
    ),
    st.binary(min_size=1, max_size=5),
)


class Trial:
    """A ledger and a model side by side."""

    def __init__(self, source: int = -1, observe_only: bool = False) -> None:
        self.ledger = Ledger()
        self.sequence = 0
        self.handles = 0
        self.rules = [
            RuleModel(
                b"/data",
                source,
                Node(Kind.DIRECTORY, listed=source == -1, attributes_known=source == -1),
                observe_only,
            ),
            RuleModel(b"/other", -1, Node(Kind.DIRECTORY)),
        ]
        self.model = Model(self.rules)
        for sequence, (name, rule) in enumerate(zip(("data", "other"), self.rules, strict=True)):
            outcome, _effects = self.ledger.apply(
                create_rule(name, rule.path, rule.source, rule.observe_only, sequence=sequence)
            )
            assert outcome.errno == 0
            inode = self.ledger.view.resolve(rule.path)
            assert inode is not None
            rule.root.mode, rule.root.uid, rule.root.gid = inode.mode, inode.uid, inode.gid
            rule.root.mtime_ns = inode.mtime_ns
            rule.root.versions = {inode.version}
            rule.root.number = inode.number
        found = self.ledger.view.rule("data")
        assert found is not None
        self.rule = found.number
        self.zones = {zone: strict_zone(zone, self.rule) for zone in (TARGET, THIRD)}
        if source == -1:
            self.zones[SOURCE] = strict_zone(SOURCE, self.rule)
        self.numbers: dict[Node, int] = {}
        self.check()

    def resolve(self, operation: Operation) -> Operation:
        """Gives the operation its id, its expected version and what it means."""
        self.sequence += 1
        operation = operation._replace(id=operation_id(self.sequence))
        inode = self.at(operation.path)
        if isinstance(operation, Put | Unlink | Remove) and operation.expected_version in (CURRENT, STALE):
            version = 7
            if inode is not None:
                version = inode.version + (1 if operation.expected_version == STALE else 0)
            operation = operation._replace(expected_version=version)
        if isinstance(operation, InPlace) and operation.expected_inode == THIS:
            operation = operation._replace(expected_inode=7 if inode is None else inode.number)
        for expectation, path in (("expected_parent", "path"), ("expected_to_parent", "to")):
            if getattr(operation, expectation, 0) == THIS:
                above = self.at(getattr(operation, path).rpartition(b"/")[0])
                operation = operation._replace(**{expectation: 7 if above is None else above.number})
        return operation

    def at(self, path: bytes) -> Any:
        return None if path_errno(path) or path == b"/" else self.ledger.view.resolve(path)

    def apply(self, operation: Operation) -> int:
        operation = self.resolve(operation)
        verdict = self.model.judge(operation)
        before = self.ledger.tables.snapshot() if 0 not in verdict.allowed else None
        digests = self.digests()
        outcome, effects = self.ledger.apply(operation)
        assert outcome.errno in verdict.allowed, f"{operation}: {outcome}, allowed {set(verdict.allowed)}"
        assert outcome.void == ()
        if outcome.errno == 0:
            assert verdict.commit is not None
            verdict.commit(self.ledger.gsn)
            if not isinstance(operation, Unlink | RemoveDirectory | Remove):
                path = operation.to if isinstance(operation, Rename | Link) else operation.path
                inode = self.ledger.view.resolve(path)
                assert inode is not None and inode.number == outcome.inode
                assert outcome.version == inode.version
        else:
            assert effects == [], (operation, outcome, effects)
            assert self.digests() == digests
            assert before is not None
            assert self.namespace_tables(before) == self.namespace_tables(self.ledger.tables.snapshot())
        for zone in self.zones.values():
            zone.apply_all(effects)
        self.check()
        return outcome.errno

    @staticmethod
    def namespace_tables(snapshot: Any) -> Any:
        return {table: rows for table, rows in snapshot.items() if table in ("inodes", "dentries", "links", "pending")}

    def digests(self) -> tuple[bytes, ...]:
        return tuple(self.ledger.machine.digest(name) for name in ("data", "other"))

    def reveal(self, step: Reveal) -> None:
        rule = self.rules[0]
        view = self.ledger.view
        number = self.rule
        self.sequence += 1
        where = operation_id(self.sequence, b"observer")
        gsn = self.ledger.gsn
        if step.what == "content":
            pending = [
                (path, node) for path, node in sorted(self.model.walk(rule), key=lambda row: row[0]) if node.pending
            ]
            if not pending:
                return
            path, node = pending[step.directory % len(pending)]
            inode = view.resolve(b"/data/" + path)
            assert inode is not None
            attributes = Attributes(0o640, 7, 8, 99, ((b"user.x", b"y"),))
            report = InodeReport(inode.number, attributes, len(step.data), content(step.data), stamp=5)
            record = Observation(where, SOURCE, gsn, number, (), (report,))
            outcome, effects = self.ledger.apply(record)
            assert outcome.errno == 0 and outcome.void == ()
            node.pending, node.data, node.sealed = False, step.data, True
            node.mode, node.uid, node.gid, node.mtime_ns = 0o640, 7, 8, 99
            node.xattrs = {b"user.x": b"y"}
            node.changed(gsn + 1)
        else:
            unlisted = [
                (path, node)
                for path, node in sorted(self.model.walk(rule), key=lambda row: row[0])
                if node.is_directory and not node.listed
            ]
            if not unlisted:
                return
            path, node = unlisted[step.directory % len(unlisted)]
            inode = view.resolve(b"/data/" + path if path else b"/data")
            assert inode is not None
            entries: tuple[ObservedEntry, ...] = ()
            absent: tuple[bytes, ...] = ()
            attributes = Attributes(0o750, 1, 2, 77)
            observed: Attributes | None = None
            if step.what == "absent":
                if step.name in node.children:
                    return
                absent = (step.name,)
                node.tombstones.add(step.name)
            elif step.what != "complete":
                if step.name in node.children or step.name in node.tombstones:
                    return
                self.handles += 1
                handle = b"h%d" % self.handles
                kind = {"directory": Kind.DIRECTORY, "symlink": Kind.SYMLINK}.get(step.what, Kind.FILE)
                entry = ObservedEntry(step.name, handle, kind, attributes)
                child = Node(kind, 0o750, 1, 2, 77, listed=kind is not Kind.DIRECTORY, versions={gsn + 1})
                if kind is Kind.FILE:
                    entry = entry._replace(size=len(step.data))
                    child.pending, child.pending_size = True, len(step.data)
                    if step.what == "known":
                        entry = entry._replace(content=content(step.data))
                        child.pending, child.data = False, step.data
                elif kind is Kind.SYMLINK:
                    entry = entry._replace(target=b"t")
                    child.target = b"t"
                    child.mode = None
                child.number = (gsn + 1) << 16
                node.children[step.name] = child
                entries = (entry,)
            else:
                node.listed = True
                node.tombstones.clear()
                if not node.attributes_known:
                    node.attributes_known = True
                    node.mode, node.uid, node.gid, node.mtime_ns = 0o750, 1, 2, 77
                    observed = attributes
            record = Observation(
                where,
                SOURCE,
                gsn,
                number,
                (DirectoryReport(inode.number, entries, absent, step.what == "complete", observed),),
                (),
            )
            outcome, effects = self.ledger.apply(record)
            assert outcome.errno == 0 and outcome.void == (), (record, outcome)
            node.versions = node.versions | {gsn + 1}
        for scoped in effects:
            assert scoped.scope.but == SOURCE, scoped
        for zone in self.zones.values():
            zone.apply_all(effects)
        self.check()

    def check(self) -> None:
        """The namespace is what the model says, and the zones hold what the namespace says."""
        view = self.ledger.view
        for name, rule in zip(("data", "other"), self.rules, strict=True):
            root = view.resolve(rule.path)
            assert root is not None
            actual = tree(view, root.number)
            expected = dict(self.model.walk(rule))
            assert sorted(actual) == sorted(expected)
            seen: dict[int, Node] = {}
            for path, node in expected.items():
                inode = actual[path]
                assert node.number == inode.number, path
                assert self.numbers.setdefault(node, inode.number) == inode.number, path
                assert seen.setdefault(inode.number, node) is node, path
                compare(path, node, inode)
                resolved = view.resolve(rule.path + (b"/" + path if path else b""))
                assert resolved is not None and resolved.number == inode.number
            pending = {self.numbers[node] for node in expected.values() if node.pending or not node.listed}
            assert set(view.pending(name)) == pending
            if name == "data":
                for zone in self.zones.values():
                    check_zone(zone, actual, {path: node.data for path, node in expected.items()})


def compare(path: bytes, node: Node, inode: Any) -> None:
    assert inode.kind == node.kind, path
    if node.mode is not None:
        assert inode.mode == node.mode, path
    assert (inode.uid, inode.gid, inode.mtime_ns) == (node.uid, node.gid, node.mtime_ns), path
    assert dict(inode.xattrs) == node.xattrs and list(inode.xattrs) == sorted(inode.xattrs), path
    assert (inode.target, inode.rdev) == (node.target, node.rdev), path
    assert inode.version in node.versions, (path, inode.version, node.versions)
    node.versions = {inode.version}
    assert inode.pending == (node.pending or not node.listed), path
    if node.is_directory:
        return
    assert inode.nlink == node.links, path
    if node.kind is not Kind.FILE:
        return
    assert inode.size == (node.pending_size if node.pending else len(node.data)), path
    if node.pending:
        assert inode.content is None
    elif inode.content is not None:
        assert inode.content.size == len(node.data)
        if node.sealed:
            assert inode.content.sealed
        if inode.content.sealed:
            assert inode.content.digest == digest_of(node), path
        else:
            assert len(inode.content.digest) == 32
    else:
        assert node.data == b""


@settings(max_examples=examples(250))
@given(st.lists(operations, max_size=40))
def test_operations_follow_posix(steps: list[Operation]) -> None:
    trial = Trial()
    for operation in steps:
        trial.apply(operation)


@settings(max_examples=examples(250))
@given(st.lists(st.one_of(operations, operations, reveals), max_size=40))
def test_operations_while_the_source_is_being_discovered(steps: list[Operation | Reveal]) -> None:
    trial = Trial(source=SOURCE)
    for step in steps:
        if isinstance(step, Reveal):
            trial.reveal(step)
        else:
            trial.apply(step)


@settings(max_examples=examples(40))
@given(st.lists(st.one_of(operations, reveals), max_size=25))
def test_an_observe_only_source_refuses_every_change(steps: list[Operation | Reveal]) -> None:
    trial = Trial(source=SOURCE, observe_only=True)
    for step in steps:
        if isinstance(step, Reveal):
            trial.reveal(step)
        elif trial.apply(step) == 0:
            assert step.path.startswith(b"/other")


# -- digests and cuts -----------------------------------------------------------------------------------------------


def record_everything(steps: list[Operation | Reveal]) -> Ledger:
    trial = Trial(source=SOURCE)
    for step in steps:
        if isinstance(step, Reveal):
            trial.reveal(step)
        else:
            trial.apply(step)
    return trial.ledger


@settings(max_examples=examples(120))
@given(
    st.lists(st.one_of(operations, operations, reveals), max_size=30),
    st.lists(st.integers(0, 40)),
    st.lists(st.integers(0, 40)),
)
def test_it_does_not_matter_how_the_log_is_cut(
    steps: list[Operation | Reveal], flushes: list[int], reopens: list[int]
) -> None:
    ledger = record_everything(steps)
    for cuts_flush, cuts_reopen in (([], []), (flushes, []), (flushes, reopens)):
        tables = DictTables()
        machine = StateMachine(tables)
        for position, record in enumerate(ledger.records):
            outcome, effects = machine.apply(record)
            assert outcome == ledger.outcomes[position], record
            assert list(effects) == ledger.effects[position], record
            if position in cuts_flush:
                machine.flush()
            if position in cuts_reopen:
                machine.flush()
                machine = StateMachine(tables)
        assert machine.gsn == ledger.gsn
        assert machine.digest("data") == ledger.machine.digest("data")
        machine.flush()
        assert machine.digest("data") == ledger.machine.digest("data")
        assert tables.snapshot() == ledger.tables.snapshot()


@settings(max_examples=examples(150))
@given(st.lists(operations, max_size=40))
def test_equal_digests_mean_equal_trees(steps: list[Operation]) -> None:
    trial = Trial()
    digest_by_tree: dict[tuple[Any, ...], bytes] = {}
    tree_by_digest: dict[bytes, tuple[Any, ...]] = {}
    for operation in steps:
        trial.apply(operation)
        view = trial.ledger.view
        root = view.resolve(b"/data")
        assert root is not None
        rows = canonical(view, root.number)
        digest = trial.ledger.machine.digest("data")
        assert len(digest) == 32
        assert digest_by_tree.setdefault(rows, digest) == digest
        assert tree_by_digest.setdefault(digest, rows) == rows


def test_the_digest_returns_with_the_tree() -> None:
    trial = Trial()
    trial.apply(MakeDirectory(operation_id(0), SOURCE, 5, b"/data/d", 0o755, 0, 0))
    trial.apply(Put(operation_id(0), SOURCE, 5, b"/data/d/f", 0o644, 0, 0, content(b"one")))
    root_at_rest = SetAttributes(operation_id(0), SOURCE, 9, b"/data", mtime_ns=9)
    directory_at_rest = SetAttributes(operation_id(0), SOURCE, 9, b"/data/d", mtime_ns=9)
    trial.apply(root_at_rest)
    trial.apply(directory_at_rest)
    before = trial.ledger.machine.digest("data")
    there_and_back: list[list[Operation]] = [
        [
            Rename(operation_id(0), SOURCE, 6, b"/data/d", b"/data/e"),
            Rename(operation_id(0), SOURCE, 6, b"/data/e", b"/data/d"),
        ],
        [
            Link(operation_id(0), SOURCE, 6, b"/data/d/f", b"/data/g"),
            Unlink(operation_id(0), SOURCE, 6, b"/data/g"),
        ],
        [
            Symlink(operation_id(0), SOURCE, 6, b"/data/s", b"x", 0, 0),
            Unlink(operation_id(0), SOURCE, 6, b"/data/s"),
        ],
        [
            SetXattr(operation_id(0), SOURCE, 6, b"/data/d/f", b"user.a", b"v"),
            SetAttributes(operation_id(0), SOURCE, 6, b"/data/d/f", mode=0o600),
            SetAttributes(operation_id(0), SOURCE, 6, b"/data/d/f", mode=0o644),
        ],
    ]
    for steps in there_and_back[:3]:
        for operation in steps:
            assert trial.apply(operation) == 0
            assert trial.ledger.machine.digest("data") != before
        trial.apply(root_at_rest)
        trial.apply(directory_at_rest)
        assert trial.ledger.machine.digest("data") == before
    for operation in there_and_back[3]:
        assert trial.apply(operation) == 0
    assert trial.ledger.machine.digest("data") != before


# -- exactly once ---------------------------------------------------------------------------------------------------


@settings(max_examples=examples(80))
@given(st.lists(operations, min_size=1, max_size=25), st.data())
def test_a_retry_gets_the_first_outcome_and_changes_nothing(steps: list[Operation], data: st.DataObject) -> None:
    trial = Trial()
    for operation in steps:
        trial.apply(operation)
        position = data.draw(st.integers(2, len(trial.ledger.records) - 1))
        digests = trial.digests()
        rows = Trial.namespace_tables(trial.ledger.tables.snapshot())
        outcome, effects = trial.ledger.apply(trial.ledger.records[position])
        assert outcome == trial.ledger.outcomes[position]
        assert effects == []
        assert trial.digests() == digests
        assert Trial.namespace_tables(trial.ledger.tables.snapshot()) == rows


def test_another_session_with_the_same_sequence_is_another_request() -> None:
    trial = Trial()
    first = MakeDirectory(OperationId(b"one", 1), SOURCE, 5, b"/data/d", 0o755, 0, 0)
    assert trial.ledger.apply(first)[0].errno == 0
    assert trial.ledger.apply(first._replace(id=OperationId(b"two", 1)))[0].errno == errno.EEXIST
    assert trial.ledger.apply(first)[0].errno == 0


def test_a_retry_with_an_outcome_of_failure_fails_again() -> None:
    trial = Trial()
    removal = Unlink(OperationId(b"one", 1), SOURCE, 5, b"/data/f")
    assert trial.ledger.apply(removal)[0].errno == errno.ENOENT
    trial.ledger.apply(Put(OperationId(b"one", 2), SOURCE, 5, b"/data/f", 0o644, 0, 0, content(b"x")))
    assert trial.ledger.apply(removal)[0].errno == errno.ENOENT
    assert trial.ledger.view.resolve(b"/data/f") is not None


# -- told one at a time ---------------------------------------------------------------------------------------------

Case = tuple[str, list[Operation], Operation, int]


def mkdir(path: bytes, zone: int = SOURCE) -> Operation:
    return MakeDirectory(operation_id(0), zone, 5, path, 0o755, 0, 0)


def put(path: bytes, data: bytes = b"x", expected: int = -1) -> Operation:
    return Put(operation_id(0), SOURCE, 5, path, 0o644, 0, 0, content(data), expected)


def remove(path: bytes, expected: int = -1) -> Operation:
    return Remove(operation_id(0), SOURCE, 5, path, expected)


def rename(path: bytes, to: bytes, flag: RenameFlag = RenameFlag.NONE) -> Operation:
    return Rename(operation_id(0), SOURCE, 6, path, to, flag)


CASES: list[Case] = [
    ("rename into itself", [mkdir(b"/data/d")], rename(b"/data/d", b"/data/d/e"), errno.EINVAL),
    (
        "rename into a descendant",
        [mkdir(b"/data/d"), mkdir(b"/data/d/e")],
        rename(b"/data/d", b"/data/d/e/f"),
        errno.EINVAL,
    ),
    ("rename over an ancestor", [mkdir(b"/data/d"), put(b"/data/d/f")], rename(b"/data/d/f", b"/data/d"), errno.EISDIR),
    ("rename onto itself", [put(b"/data/f")], rename(b"/data/f", b"/data/f"), 0),
    (
        "rename onto another name of it",
        [put(b"/data/f"), Link(operation_id(0), SOURCE, 5, b"/data/f", b"/data/g")],
        rename(b"/data/f", b"/data/g"),
        0,
    ),
    ("rename the root", [], rename(b"/data", b"/data/x"), errno.EBUSY),
    ("rename over the root", [mkdir(b"/data/d")], rename(b"/data/d", b"/data"), errno.EBUSY),
    ("rename to another rule", [put(b"/data/f")], rename(b"/data/f", b"/other/f"), errno.EXDEV),
    ("link to another rule", [put(b"/data/f")], Link(operation_id(0), SOURCE, 5, b"/data/f", b"/other/f"), errno.EXDEV),
    (
        "rename a directory over a file",
        [mkdir(b"/data/d"), put(b"/data/f")],
        rename(b"/data/d", b"/data/f"),
        errno.ENOTDIR,
    ),
    (
        "rename a file over a directory",
        [mkdir(b"/data/d"), put(b"/data/f")],
        rename(b"/data/f", b"/data/d"),
        errno.EISDIR,
    ),
    (
        "rename over a full directory",
        [mkdir(b"/data/d"), mkdir(b"/data/e"), put(b"/data/e/f")],
        rename(b"/data/d", b"/data/e"),
        errno.ENOTEMPTY,
    ),
    (
        "rename over an empty directory",
        [mkdir(b"/data/d"), mkdir(b"/data/e"), put(b"/data/d/f")],
        rename(b"/data/d", b"/data/e"),
        0,
    ),
    (
        "noreplace",
        [put(b"/data/f"), put(b"/data/g")],
        rename(b"/data/f", b"/data/g", RenameFlag.NOREPLACE),
        errno.EEXIST,
    ),
    ("exchange with nothing", [put(b"/data/f")], rename(b"/data/f", b"/data/g", RenameFlag.EXCHANGE), errno.ENOENT),
    (
        "exchange with an ancestor",
        [mkdir(b"/data/d"), put(b"/data/d/f")],
        rename(b"/data/d/f", b"/data/d", RenameFlag.EXCHANGE),
        errno.EINVAL,
    ),
    (
        "exchange a file and a directory",
        [mkdir(b"/data/d"), put(b"/data/d/g"), put(b"/data/f")],
        rename(b"/data/f", b"/data/d", RenameFlag.EXCHANGE),
        0,
    ),
    ("remove the root", [], RemoveDirectory(operation_id(0), SOURCE, 5, b"/data"), errno.EBUSY),
    (
        "remove a full directory",
        [mkdir(b"/data/d"), put(b"/data/d/f")],
        RemoveDirectory(operation_id(0), SOURCE, 5, b"/data/d"),
        errno.ENOTEMPTY,
    ),
    ("rmdir a file", [put(b"/data/f")], RemoveDirectory(operation_id(0), SOURCE, 5, b"/data/f"), errno.ENOTDIR),
    ("unlink a directory", [mkdir(b"/data/d")], Unlink(operation_id(0), SOURCE, 5, b"/data/d"), errno.EISDIR),
    ("remove a file or an empty directory: a file", [put(b"/data/f")], remove(b"/data/f"), 0),
    ("remove a file or an empty directory: a directory", [mkdir(b"/data/d")], remove(b"/data/d"), 0),
    ("remove what is not there", [], remove(b"/data/f"), errno.ENOENT),
    ("remove what holds something", [mkdir(b"/data/d"), put(b"/data/d/f")], remove(b"/data/d"), errno.ENOTEMPTY),
    ("remove the root, whatever it is", [], remove(b"/data"), errno.EBUSY),
    ("remove a file at its version", [put(b"/data/f")], remove(b"/data/f", CURRENT), 0),
    ("remove a file at another version", [put(b"/data/f")], remove(b"/data/f", STALE), errno.ESTALE),
    ("remove a directory at its version", [mkdir(b"/data/d")], remove(b"/data/d", CURRENT), 0),
    ("remove a directory at another version", [mkdir(b"/data/d")], remove(b"/data/d", STALE), errno.ESTALE),
    ("replace what is there", [put(b"/data/f")], put(b"/data/f", b"y", SOME_VERSION), 0),
    ("replace what is not there", [], put(b"/data/f", b"y", SOME_VERSION), errno.ESTALE),
    ("link a directory", [mkdir(b"/data/d")], Link(operation_id(0), SOURCE, 5, b"/data/d", b"/data/e"), errno.EPERM),
    (
        "link over a file",
        [put(b"/data/f"), put(b"/data/g")],
        Link(operation_id(0), SOURCE, 5, b"/data/f", b"/data/g"),
        errno.EEXIST,
    ),
    ("put on a directory", [mkdir(b"/data/d")], put(b"/data/d"), errno.EISDIR),
    ("put on a symlink", [Symlink(operation_id(0), SOURCE, 5, b"/data/s", b"f", 0, 0)], put(b"/data/s"), errno.EINVAL),
    (
        "through a symlink",
        [mkdir(b"/data/d"), Symlink(operation_id(0), SOURCE, 5, b"/data/s", b"d", 0, 0)],
        put(b"/data/s/f"),
        errno.ENOTDIR,
    ),
    ("through a file", [put(b"/data/f")], put(b"/data/f/g"), errno.ENOTDIR),
    ("put that wants the name free", [put(b"/data/f")], put(b"/data/f", expected=0), errno.EEXIST),
    ("put that wants another version", [put(b"/data/f")], put(b"/data/f", expected=1), errno.ESTALE),
    ("no rule", [], mkdir(b"/nowhere/d"), errno.ENOENT),
    ("a rule's name as a prefix only", [], mkdir(b"/database"), errno.ENOENT),
    ("relative", [], mkdir(b"data/d"), errno.EINVAL),
    ("dot", [], mkdir(b"/data/./d"), errno.EINVAL),
    ("dot dot", [], mkdir(b"/data/../d"), errno.EINVAL),
    ("empty component", [], mkdir(b"/data//d"), errno.EINVAL),
    ("NUL", [], mkdir(b"/data/d\0"), errno.EINVAL),
    ("long name", [], mkdir(b"/data/" + b"n" * 256), errno.ENAMETOOLONG),
    ("longest name", [], mkdir(b"/data/" + b"n" * 255), 0),
    (
        "xattr create",
        [put(b"/data/f"), SetXattr(operation_id(0), SOURCE, 5, b"/data/f", b"user.a", b"1")],
        SetXattr(operation_id(0), SOURCE, 5, b"/data/f", b"user.a", b"2", XattrFlag.CREATE),
        errno.EEXIST,
    ),
    (
        "xattr replace",
        [put(b"/data/f")],
        SetXattr(operation_id(0), SOURCE, 5, b"/data/f", b"user.a", b"2", XattrFlag.REPLACE),
        errno.ENODATA,
    ),
    (
        "user xattr of a fifo",
        [Create(operation_id(0), SOURCE, 5, b"/data/p", Kind.FIFO, 0o600, 0, 0)],
        SetXattr(operation_id(0), SOURCE, 5, b"/data/p", b"user.a", b"2"),
        errno.EPERM,
    ),
    (
        "trusted xattr of a fifo",
        [Create(operation_id(0), SOURCE, 5, b"/data/p", Kind.FIFO, 0o600, 0, 0)],
        SetXattr(operation_id(0), SOURCE, 5, b"/data/p", b"trusted.a", b"2"),
        0,
    ),
    (
        "write a fifo",
        [Create(operation_id(0), SOURCE, 5, b"/data/p", Kind.FIFO, 0o600, 0, 0)],
        Append(operation_id(0), SOURCE, 5, b"/data/p", content(b"x")),
        errno.EINVAL,
    ),
]


@pytest.mark.parametrize(
    ("before", "operation", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_one_operation(before: list[Operation], operation: Operation, expected: int) -> None:
    trial = Trial()
    for one in before:
        assert trial.apply(one) == 0
    assert trial.apply(operation) == expected


def in_place(path: bytes, number: int) -> list[Operation]:
    """Everything that changes an object where it is, and means one with this number."""
    head = operation_id(0), SOURCE, 7, path
    return [
        Put(*head, 0o644, 0, 0, content(b"put"), expected_inode=number),
        Write(*head, 1, content(b"write"), number),
        Append(*head, content(b"append"), number),
        Truncate(*head, 1, number),
        Shorten(*head, 1, number),
        Link(*head, b"/data/link", number),
        SetAttributes(*head, mode=0o600, expected_inode=number),
        SetXattr(*head, b"user.a", b"set", XattrFlag.NONE, number),
        RemoveXattr(*head, b"user.a", number),
    ]


def test_everything_in_place_can_say_what_it_means() -> None:
    assert {type(operation) for operation in in_place(b"/data/f", 1)} == set(get_args(InPlace))


SINCE: list[tuple[str, list[Operation], int]] = [
    ("nothing", [], 0),
    ("changed as a whole", [put(b"/data/f", b"changed")], 0),
    ("moved away", [rename(b"/data/f", b"/data/g")], errno.ENOENT),
    ("moved away, and another file is there", [rename(b"/data/f", b"/data/g"), put(b"/data/f")], errno.ESTALE),
    ("another file moved over it", [put(b"/data/g"), rename(b"/data/g", b"/data/f")], errno.ESTALE),
    (
        "exchanged with another file",
        [put(b"/data/g"), rename(b"/data/f", b"/data/g", RenameFlag.EXCHANGE)],
        errno.ESTALE,
    ),
    ("removed, and a directory is there", [remove(b"/data/f"), mkdir(b"/data/f")], errno.ESTALE),
    (
        "removed, and a fifo is there",
        [remove(b"/data/f"), Create(operation_id(0), SOURCE, 5, b"/data/f", Kind.FIFO, 0o600, 0, 0)],
        errno.ESTALE,
    ),
]


@pytest.mark.parametrize(("since", "expected"), [case[1:] for case in SINCE], ids=[case[0] for case in SINCE])
@pytest.mark.parametrize("which", range(len(get_args(InPlace))))
def test_a_change_of_what_had_the_name(since: list[Operation], expected: int, which: int) -> None:
    """Decided by what the name stands for at its turn, and by nothing else of it."""
    trial = Trial()
    trial.apply(put(b"/data/f", b"f"))
    trial.apply(SetXattr(operation_id(0), SOURCE, 5, b"/data/f", b"user.a", b"1"))
    meant = trial.ledger.view.resolve(b"/data/f")
    assert meant is not None
    for one in since:
        assert trial.apply(one) == 0
    operation = in_place(b"/data/f", meant.number)[which]
    if expected == errno.ENOENT and isinstance(operation, Put):
        expected = errno.ESTALE  # without the expectation it would make the file
    assert trial.apply(operation) == expected


def naming(above: bytes, number: int) -> list[Operation]:
    """Everything that makes or takes a name in a directory, and means the one with this number."""
    new, old, full = above + b"/new", above + b"/f", above + b"/d"
    head = operation_id(0), SOURCE, 7
    return [
        MakeDirectory(*head, new, 0o755, 0, 0, number),
        Create(*head, new, Kind.FILE, 0o600, 0, 0, expected_parent=number),
        CreateFile(*head, new, 0o600, 0, 0, 6, content(b"bytes"), number),
        Symlink(*head, new, b"target", 0, 0, number),
        Unlink(*head, old, expected_parent=number),
        RemoveDirectory(*head, full, number),
        Remove(*head, old, expected_parent=number),
        Rename(*head, old, b"/data/to", expected_parent=number),
        Rename(*head, b"/data/from", new, expected_to_parent=number),
        Link(*head, b"/data/from", new, expected_to_parent=number),
    ]


def test_everything_that_names_can_say_in_which_directory() -> None:
    assert {type(operation) for operation in naming(b"/data", 1)} == {*get_args(Naming), Link}


MOVED: list[tuple[str, list[Operation], int]] = [
    ("nothing", [], 0),
    ("moved away", [rename(b"/data/a", b"/data/b")], errno.ENOENT),
    (
        "moved away, and another directory like it is there",
        [rename(b"/data/a", b"/data/b"), mkdir(b"/data/a"), put(b"/data/a/f"), mkdir(b"/data/a/d")],
        errno.ESTALE,
    ),
    ("moved away, and an empty one is there", [rename(b"/data/a", b"/data/b"), mkdir(b"/data/a")], errno.ESTALE),
    ("moved away, and a file is there", [rename(b"/data/a", b"/data/b"), put(b"/data/a")], errno.ESTALE),
]


@pytest.mark.parametrize(("since", "expected"), [case[1:] for case in MOVED], ids=[case[0] for case in MOVED])
@pytest.mark.parametrize("which", range(len(naming(b"/data", 1))))
def test_a_name_in_what_had_the_place(since: list[Operation], expected: int, which: int) -> None:
    trial = Trial()
    for step in (mkdir(b"/data/a"), put(b"/data/a/f"), mkdir(b"/data/a/d"), put(b"/data/from")):
        assert trial.apply(step) == 0
    meant = trial.ledger.view.resolve(b"/data/a")
    assert meant is not None
    for step in since:
        assert trial.apply(step) == 0
    assert trial.apply(naming(b"/data/a", meant.number)[which]) == expected


def test_objects_of_one_version_are_told_apart() -> None:
    """An exchange gives two files one version, and a directory that moves leaves it to them."""
    trial = Trial()
    for step in (mkdir(b"/data/a"), mkdir(b"/data/b"), put(b"/data/a/f"), put(b"/data/b/f")):
        assert trial.apply(step) == 0
    assert trial.apply(rename(b"/data/a/f", b"/data/b/f", RenameFlag.EXCHANGE)) == 0
    meant = trial.ledger.view.resolve(b"/data/a/f")
    assert trial.apply(rename(b"/data/a", b"/data/b", RenameFlag.EXCHANGE)) == 0
    there = trial.ledger.view.resolve(b"/data/a/f")
    assert meant is not None and there is not None
    assert there.version == meant.version and there.number != meant.number
    change = Put(operation_id(0), SOURCE, 9, b"/data/a/f", 0o644, 0, 0, content(b"y"), meant.version)
    assert trial.apply(change._replace(expected_inode=meant.number)) == errno.ESTALE
    assert trial.apply(change) == 0


def test_writes_chain_the_digest_and_extend_the_file() -> None:
    trial = Trial()
    trial.apply(put(b"/data/f", b"hello"))
    digests: set[bytes] = set()

    def file() -> Any:
        inode = trial.ledger.view.resolve(b"/data/f")
        assert inode is not None and inode.content is not None
        assert inode.content.size == inode.size
        return inode

    for operation, size in (
        (Write(operation_id(0), SOURCE, 11, b"/data/f", 1, content(b"E")), 5),
        (Write(operation_id(0), SOURCE, 12, b"/data/f", 1, content(b"E")), 5),
        (Write(operation_id(0), SOURCE, 13, b"/data/f", 10, content(b"end")), 13),
        (Append(operation_id(0), SOURCE, 14, b"/data/f", content(b"!")), 14),
        (Append(operation_id(0), SOURCE, 15, b"/data/f", content(b"!")), 15),
        (Truncate(operation_id(0), SOURCE, 16, b"/data/f", 3), 3),
        (Truncate(operation_id(0), SOURCE, 17, b"/data/f", 30), 30),
        (Shorten(operation_id(0), SOURCE, 18, b"/data/f", 7), 7),
    ):
        assert trial.apply(operation) == 0
        inode = file()
        assert (inode.size, inode.content.sealed, inode.mtime_ns) == (size, False, operation.time_ns)
        assert inode.content.digest not in digests
        digests.add(inode.content.digest)
    trial.apply(put(b"/data/f", b"again"))
    assert file().content.sealed


def test_what_is_shortened_is_never_made_longer() -> None:
    trial = Trial()
    trial.apply(put(b"/data/f", b"12345"))
    for size, expected in ((6, errno.EINVAL), (5, 0), (2, 0), (3, errno.EINVAL), (0, 0)):
        assert trial.apply(Shorten(operation_id(0), SOURCE, 11, b"/data/f", size)) == expected


def test_the_same_partial_writes_give_the_same_digest() -> None:
    records: list[Record] = []
    for ledger in (Ledger(), Ledger()):
        ledger.apply(create_rule())
        for sequence, operation in enumerate(
            (put(b"/data/f", b"base"), Write(operation_id(0), SOURCE, 6, b"/data/f", 2, content(b"zz")))
        ):
            ledger.apply(operation._replace(id=operation_id(sequence)))
        inode = ledger.view.resolve(b"/data/f")
        assert inode is not None and inode.content is not None
        records.append(inode.content)  # type: ignore[arg-type]
    assert records[0] == records[1]
    assert isinstance(records[0], Content)


def test_unknown_names_are_not_absent_names() -> None:
    trial = Trial(source=SOURCE)
    assert trial.apply(mkdir(b"/data/d")) == errno.EAGAIN
    assert trial.apply(mkdir(b"/data/d", TARGET)) == errno.EROFS
    assert trial.apply(mkdir(b"/data/d/e")) == errno.EAGAIN
    trial.reveal(Reveal(0, b"d", "absent", b""))
    assert trial.apply(mkdir(b"/data/d/e")) == errno.ENOENT
    assert trial.apply(mkdir(b"/data/d")) == 0
    assert trial.apply(mkdir(b"/data/d/e", TARGET)) == 0
    assert trial.apply(RemoveDirectory(operation_id(0), SOURCE, 5, b"/data/d/e")) == 0
    assert trial.apply(RemoveDirectory(operation_id(0), SOURCE, 5, b"/data/d")) == 0
    assert trial.apply(Unlink(operation_id(0), TARGET, 5, b"/data/d")) == errno.ENOENT
    trial.reveal(Reveal(0, b"", "complete", b""))
    assert trial.apply(mkdir(b"/data/x", TARGET)) == 0


def test_a_copy_of_what_was_to_be_asked_for_again_comes_to_nothing() -> None:
    """Who asked has given up its bytes by then, or has asked anew."""
    trial = Trial(source=SOURCE)
    late = mkdir(b"/data/d")._replace(id=operation_id(10**6))
    decided = trial.ledger.apply(late)[0]
    assert decided.errno == errno.EAGAIN
    trial.reveal(Reveal(0, b"d", "absent", b""))
    assert trial.ledger.apply(late) == (decided, [])
    assert trial.apply(late) == 0, "under another id"


def test_a_pending_file_can_be_named_but_not_changed_in_part() -> None:
    trial = Trial(source=SOURCE)
    trial.reveal(Reveal(0, b"a", "pending", b"12345"))
    for operation in (
        Write(operation_id(0), SOURCE, 5, b"/data/a", 0, content(b"x")),
        Append(operation_id(0), SOURCE, 5, b"/data/a", content(b"x")),
        Truncate(operation_id(0), SOURCE, 5, b"/data/a", 0),
        Shorten(operation_id(0), SOURCE, 5, b"/data/a", 0),
    ):
        assert trial.apply(operation) == errno.EAGAIN
    trial.reveal(Reveal(0, b"b", "absent", b""))
    trial.reveal(Reveal(0, b"c", "absent", b""))
    assert trial.apply(SetAttributes(operation_id(0), TARGET, 5, b"/data/a", mode=0o604)) == 0
    assert trial.apply(rename(b"/data/a", b"/data/b")) == 0
    assert trial.apply(Link(operation_id(0), SOURCE, 5, b"/data/b", b"/data/c")) == 0
    assert trial.apply(Unlink(operation_id(0), SOURCE, 5, b"/data/b")) == 0
    assert trial.apply(put(b"/data/c", b"whole")) == 0
    assert trial.apply(Append(operation_id(0), TARGET, 5, b"/data/c", content(b"!"))) == 0


def test_views_of_nothing() -> None:
    view = View(DictTables())
    assert view.resolve(b"/data") is None
    assert view.inode(4711) is None


def test_the_model_knows_trees_that_are_deeper_than_functions_can_call_themselves() -> None:
    bottom = Node(Kind.DIRECTORY)
    top = bottom
    for _ in range(sys.getrecursionlimit() + 100):
        top = Node(Kind.DIRECTORY, children={b"a": top})
    assert top.contains(bottom)
    assert not bottom.contains(top)
