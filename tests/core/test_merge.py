"""The merge rule, one story at a time: the shortest cases in which a wrong rule loses something."""

from __future__ import annotations

import pytest

from lddp.core.effects import (
    LinkEffect,
    MakeDirectoryEffect,
    ParkEffect,
    PutFileEffect,
    RemoveEffect,
    RenameEffect,
    ScopedEffect,
    UnparkEffect,
)
from lddp.core.records import (
    Attributes,
    Create,
    DirectoryReport,
    InodeReport,
    Kind,
    MakeDirectory,
    Observation,
    ObservedEntry,
    Outcome,
    Put,
    SetAttributes,
    Symlink,
    Truncate,
)

from .support import SOURCE, TARGET, Ledger, content, create_rule, operation_id, tree
from .zone import check_zone, strict_zone

ATTRIBUTES = Attributes(0o755, 0, 0, 1)


def directory(name: bytes, identity: bytes) -> ObservedEntry:
    return ObservedEntry(name, identity, Kind.DIRECTORY, ATTRIBUTES)


def file(name: bytes, identity: bytes, data: bytes | None = b"x", attributes: Attributes = ATTRIBUTES) -> ObservedEntry:
    known = None if data is None else content(data)
    return ObservedEntry(name, identity, Kind.FILE, attributes, len(data or b"x"), known)


class Story:
    """A rule with a source, and a target zone that follows it and is compared after every record."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.ledger.apply(create_rule(source=SOURCE))
        root = self.ledger.view.resolve(b"/data")
        rule = self.ledger.view.rule("data")
        assert root is not None and rule is not None
        self.root, self.rule = root.number, rule.number
        self.zone = strict_zone(TARGET, self.rule)
        self.sequence = 0
        self.effects: list[ScopedEffect] = []

    @property
    def now(self) -> int:
        return self.ledger.gsn

    def follow(self, outcome: Outcome, effects: list[ScopedEffect]) -> Outcome:
        self.effects = effects
        self.zone.apply_all(effects)
        check_zone(self.zone, tree(self.ledger.view, self.root))
        return outcome

    def observe(
        self, *reports: DirectoryReport, inodes: tuple[InodeReport, ...] = (), as_of: int | None = None
    ) -> Outcome:
        self.sequence += 1
        when = self.now if as_of is None else as_of
        identity = operation_id(self.sequence, b"observer")
        return self.follow(*self.ledger.apply(Observation(identity, SOURCE, when, self.rule, reports, inodes)))

    def see(
        self,
        path: bytes,
        *entries: ObservedEntry,
        absent: tuple[bytes, ...] = (),
        complete: bool = False,
        as_of: int | None = None,
    ) -> Outcome:
        return self.observe(self.report(path, *entries, absent=absent, complete=complete), as_of=as_of)

    def report(
        self, path: bytes, *entries: ObservedEntry, absent: tuple[bytes, ...] = (), complete: bool = False
    ) -> DirectoryReport:
        return DirectoryReport(self.number(path), entries, absent, complete, None)

    def number(self, path: bytes) -> int:
        inode = self.ledger.view.resolve(b"/data/" + path if path else b"/data")
        assert inode is not None, path
        return inode.number

    def do(self, operation: Put | Truncate | SetAttributes | MakeDirectory | Symlink | Create) -> None:
        self.sequence += 1
        outcome = self.follow(*self.ledger.apply(operation._replace(id=operation_id(self.sequence))))
        assert outcome.errno == 0

    def put(self, path: bytes, data: bytes) -> None:
        self.do(Put(operation_id(0), TARGET, 50, b"/data/" + path, 0o644, 0, 0, content(data)))

    def replacing(self) -> dict[bytes, bool]:
        """Of each file that the last record put, whether it replaces another."""
        puts = [scoped.effect for scoped in self.effects if isinstance(scoped.effect, PutFileEffect)]
        return {put.path: put.replaces for put in puts}

    def paths(self) -> set[bytes]:
        return set(tree(self.ledger.view, self.root)) - {b""}


def test_an_absent_name_of_an_unlisted_directory_is_free() -> None:
    story = Story()
    story.see(b"", absent=(b"d",))
    story.do(MakeDirectory(operation_id(0), SOURCE, 5, b"/data/d", 0o755, 0, 0))
    assert story.paths() == {b"d"}


def test_an_absence_in_an_unlisted_directory_outlives_an_older_look() -> None:
    story = Story()
    before = story.now
    story.see(b"", absent=(b"a",))
    assert story.see(b"", file(b"a", b"A"), as_of=before).void == (story.root,)
    assert story.paths() == set()


def test_a_removal_in_an_unlisted_directory_outlives_an_older_look() -> None:
    story = Story()
    story.see(b"", file(b"a", b"A"))
    before = story.now
    story.see(b"", absent=(b"a",))
    assert story.see(b"", file(b"a", b"A"), as_of=before).void == (story.root,)
    assert story.paths() == set()


def test_a_removal_in_an_unlisted_directory_outlives_its_listing() -> None:
    story = Story()
    story.see(b"", file(b"a", b"A"))
    before = story.now
    story.see(b"", absent=(b"a",))
    story.see(b"", complete=True)
    assert story.see(b"", file(b"a", b"A"), as_of=before).void == (story.root,)
    assert story.paths() == set()


def test_a_file_saved_from_a_directory_has_the_bytes_of_its_other_name() -> None:
    """It waits aside with the old bytes, while the same look finds new ones under the name that it has kept."""
    story = Story()
    story.see(b"", directory(b"d", b"D"), file(b"k", b"X"), complete=True)
    story.see(b"d", file(b"x", b"X"), complete=True)
    story.see(b"", directory(b"d", b"N"), file(b"k", b"X", b"new"), file(b"n", b"X", b"new"))
    assert story.paths() == {b"d", b"k", b"n"}
    assert story.number(b"k") == story.number(b"n")


def test_what_stays_in_a_directory_moves_with_it_whatever_was_reported_first() -> None:
    """Two directories change places while the names of the one, its own and theirs are looked at in one round."""
    for reversed_order in (False, True):
        story = Story()
        story.see(b"", directory(b"f", b"F"), directory(b"h", b"H"), complete=True)
        story.see(b"f", directory(b"c", b"C"), complete=True)
        story.see(b"f/c", directory(b"b", b"B"), complete=True)
        story.see(b"f/c/b", file(b"x", b"X"), complete=True)
        story.see(b"h", complete=True)
        reports = [
            story.report(b"f/c/b", file(b"x", b"X")),
            story.report(b"f/c", directory(b"b", b"B")),
            story.report(b"f", directory(b"c", b"C"), directory(b"n", b"N")),
            story.report(b"", directory(b"f", b"H"), directory(b"h", b"F")),
        ]
        outcome = story.observe(*reversed(reports) if reversed_order else reports)
        assert outcome.void == ()
        assert story.paths() == {b"f", b"h", b"h/c", b"h/c/b", b"h/c/b/x", b"h/n"}
        assert not any(isinstance(scoped.effect, PutFileEffect) for scoped in story.effects)


def test_a_file_that_loses_two_names_before_it_gets_another_waits_aside_once() -> None:
    story = Story()
    story.see(b"", directory(b"d", b"D"), file(b"f", b"F"), file(b"k", b"G"), complete=True)
    story.see(b"d", file(b"g", b"G"), complete=True)
    story.see(b"", file(b"d", b"F"), file(b"k", b"F"), file(b"m", b"G"), absent=(b"f",))
    assert story.paths() == {b"d", b"k", b"m"}
    assert [type(scoped.effect) for scoped in story.effects].count(ParkEffect) == 1


def test_what_is_dropped_though_a_directory_was_seen_to_have_it_is_looked_at_again() -> None:
    """It was seen at two places, and the second one is in a directory that has lost its place since."""
    story = Story()
    story.see(b"", directory(b"f", b"F"), directory(b"h", b"H"), directory(b"c", b"C"), complete=True)
    for path in (b"f", b"h", b"c"):
        story.see(path, complete=True)
    outcome = story.observe(
        story.report(b"", directory(b"c", b"C")),
        story.report(b"f", directory(b"c", b"C")),
        story.report(b"", directory(b"f", b"H"), directory(b"h", b"F")),
    )
    assert story.paths() == {b"f", b"h"}
    assert outcome.void == tuple(sorted((story.root, story.number(b"h"))))


def test_a_move_from_an_unlisted_directory_outlives_an_older_look() -> None:
    story = Story()
    story.see(b"", directory(b"a", b"A"), directory(b"b", b"B"))
    before = story.now
    story.see(b"b", directory(b"moved", b"A"))
    assert story.see(b"", directory(b"a", b"A"), as_of=before).void == (story.root,)
    assert story.paths() == {b"b", b"b/moved"}


def test_what_was_confirmed_outlives_an_older_look() -> None:
    """a became b and then a again; the look in between arrives last."""
    story = Story()
    story.see(b"", file(b"a", b"A"), complete=True)
    before = story.now
    story.see(b"", file(b"a", b"A"), absent=(b"b",))
    assert story.see(b"", file(b"b", b"A"), absent=(b"a",), as_of=before).void == (story.root,)
    assert story.paths() == {b"a"}


def test_attributes_that_were_confirmed_outlive_an_older_look() -> None:
    story = Story()
    story.see(b"", file(b"a", b"A"), complete=True)
    before = story.now
    number = story.number(b"a")
    story.observe(inodes=(InodeReport(number, ATTRIBUTES, 1, content(b"x"), stamp=3),))
    between = InodeReport(number, ATTRIBUTES._replace(mode=0), 1, content(b"x"), stamp=2)
    assert story.observe(inodes=(between,), as_of=before).void == (number,)
    inode = story.ledger.view.inode(number)
    assert inode is not None and inode.mode == ATTRIBUTES.mode


def test_an_object_that_had_changed_at_a_name_that_is_void_is_looked_at_itself() -> None:
    """It may have lost that name by then, and nobody would look at the other one."""
    story = Story()
    story.see(b"", file(b"a", b"A"), file(b"d", b"D"), complete=True)
    before = story.now
    story.put(b"a", b"newer")
    as_it_was = file(b"a", b"D")
    assert story.see(b"", as_it_was, as_of=before).void == (story.root,)
    changed = file(b"a", b"D", b"changed")._replace(stamp=as_it_was.stamp + 1)
    assert story.see(b"", changed, as_of=before).void == tuple(sorted((story.root, story.number(b"d"))))


def test_an_object_that_had_changed_in_a_directory_that_is_gone_is_looked_at_itself() -> None:
    story = Story()
    story.see(b"", directory(b"d", b"D"), file(b"k", b"K"), complete=True)
    story.see(b"d", file(b"x", b"K"), complete=True)
    as_it_was = file(b"x", b"K")
    reports = [story.report(b"d", as_it_was), story.report(b"d", as_it_was._replace(stamp=as_it_was.stamp + 1))]
    gone = story.number(b"d")
    story.see(b"", absent=(b"d",))
    assert [story.observe(report).void for report in reports] == [(gone,), tuple(sorted((gone, story.number(b"k"))))]


def test_a_directory_found_elsewhere_is_not_moved_by_an_older_look() -> None:
    story = Story()
    story.see(b"", directory(b"a", b"A"), complete=True)
    story.see(b"a", complete=True)
    before = story.now
    story.see(b"", directory(b"new", b"X"))
    assert story.see(b"a", directory(b"old", b"X"), as_of=before).void == (story.number(b"a"),)
    assert story.paths() == {b"a", b"new"}


def test_the_echo_of_a_replaced_file_does_not_undo_what_came_after() -> None:
    """The source replaced the file by a new object when it projected the put, and reports that; meanwhile the file
    was truncated and changed again by clients."""
    story = Story()
    story.see(b"", file(b"f", b"old"), complete=True)
    number = story.number(b"f")
    story.put(b"f", b"12345678")
    echo = story.now
    story.do(Truncate(operation_id(0), TARGET, 60, b"/data/f", 3))
    story.do(SetAttributes(operation_id(0), TARGET, 61, b"/data/f", mode=0o600))
    seen = file(b"f", b"new", b"12345678", ATTRIBUTES._replace(mtime_ns=50))
    assert story.see(b"", seen, as_of=echo).void != ()
    inode = story.ledger.view.resolve(b"/data/f")
    assert inode is not None
    assert (inode.number, inode.size, inode.mode) == (number, 3, 0o600)


def test_a_name_that_another_object_takes_leaves_the_zones() -> None:
    """The old object has another name and is not destroyed; the new one is pending and cannot replace it yet."""
    story = Story()
    story.see(b"", file(b"a", b"A"), file(b"b", b"A"), complete=True)
    story.see(b"", file(b"a", b"new", None))
    assert story.paths() == {b"a", b"b"}
    story = Story()
    story.see(b"", file(b"a", b"A"), file(b"b", b"A"), complete=True)
    story.see(b"", directory(b"a", b"D"))
    assert any(isinstance(scoped.effect, RemoveEffect) for scoped in story.effects)
    assert any(isinstance(scoped.effect, MakeDirectoryEffect) for scoped in story.effects)


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("kind", [Kind.SYMLINK, Kind.CHARACTER_DEVICE])
def test_what_points_elsewhere_than_before_is_another_object(kind: Kind, is_known: bool) -> None:
    """A program gave the name of what an operation had made to an object of the same kind; or a filesystem gave the
    handle of what was known to another one."""
    story = Story()
    story.see(b"", complete=True)
    story.do(
        Symlink(operation_id(0), SOURCE, 50, b"/data/s", b"here", 0, 0)
        if kind is Kind.SYMLINK
        else Create(operation_id(0), SOURCE, 50, b"/data/s", kind, 0o777, 0, 0, 5)
    )
    first, target = story.number(b"s"), b"here" if kind is Kind.SYMLINK else b""
    rdev = 0 if kind is Kind.SYMLINK else 5
    if is_known:
        story.see(b"", ObservedEntry(b"s", b"A", kind, ATTRIBUTES, target=target, rdev=rdev))
        assert story.number(b"s") == first, "what an operation made is recognised"
    other = {"target": b"there"} if kind is Kind.SYMLINK else {"rdev": 6}
    story.see(b"", ObservedEntry(b"s", b"A", kind, ATTRIBUTES, **other))
    inode = story.ledger.view.resolve(b"/data/s")
    assert inode is not None and inode.number != first
    assert (inode.target, inode.rdev, inode.identity) == (other.get("target", b""), other.get("rdev", 0), b"A")


def test_a_file_that_takes_the_name_of_another_says_so() -> None:
    """What the zones have under the name is there because of the log: no on-existing policy is to judge it."""
    story = Story()
    story.see(b"", file(b"e", b"E"), file(b"f", b"A", b"old"), complete=True)
    assert story.replacing() == {b"e": False, b"f": False}
    story.see(b"", file(b"f", b"B", b"new"), file(b"g", b"C", b"free"))
    assert story.replacing() == {b"f": True, b"g": False}
    story.see(b"", file(b"p", b"P", None))
    story.see(b"", file(b"p", b"Q", b"bytes"))
    assert story.replacing() == {b"p": False}


def test_a_pending_file_that_waited_aside_has_no_effects() -> None:
    story = Story()
    story.see(b"", file(b"a", b"A", None), file(b"b", b"B"), complete=True)
    before = story.now
    story.see(b"", file(b"c", b"C"))
    story.see(b"", file(b"a", b"N"), file(b"free", b"A", None), as_of=before)
    assert not any(isinstance(scoped.effect, RemoveEffect | ParkEffect) for scoped in story.effects)


def test_a_directory_that_takes_the_name_of_the_one_it_was_in() -> None:
    """mv a/inner t; rmdir a; mv t a"""
    story = Story()
    story.see(b"", directory(b"a", b"A"), complete=True)
    story.see(b"a", directory(b"inner", b"I"), complete=True)
    story.see(b"a/inner", file(b"f", b"F"), complete=True)
    kept = story.number(b"a/inner/f")
    story.see(b"", directory(b"a", b"I"), absent=(b"t",))
    assert story.paths() == {b"a", b"a/f"}
    assert story.number(b"a/f") == kept
    assert any(isinstance(scoped.effect, UnparkEffect | RenameEffect) for scoped in story.effects)


def test_a_file_that_takes_the_name_of_the_directory_it_was_in() -> None:
    """mv a/f t; rmdir a; mv t a"""
    story = Story()
    story.see(b"", directory(b"a", b"A"), complete=True)
    story.see(b"a", file(b"f", b"F"), complete=True)
    kept = story.number(b"a/f")
    story.see(b"", file(b"a", b"F"), absent=(b"t",))
    assert story.paths() == {b"a"}
    assert story.number(b"a") == kept


def test_a_directory_and_the_one_inside_it_change_places() -> None:
    """mv a/b t; mv a t/b; mv t a"""
    story = Story()
    story.see(b"", directory(b"a", b"A"), complete=True)
    story.see(b"a", directory(b"b", b"B"), file(b"f", b"F"), complete=True)
    story.see(b"a/b", file(b"g", b"G"), complete=True)
    outer, inner = story.number(b"a"), story.number(b"a/b")
    reports = (
        DirectoryReport(story.root, (directory(b"a", b"B"),), (), False, None),
        DirectoryReport(inner, (directory(b"b", b"A"),), (), False, None),
        DirectoryReport(outer, (), (b"b",), False, None),
    )
    if story.observe(*reports).void:
        story.observe(*(r for r in reports if story.ledger.view.inode(r.inode) is not None))
    assert story.number(b"a") == inner
    assert {b"a", b"a/b", b"a/g"} <= story.paths()


def test_two_names_change_places_in_one_look() -> None:
    story = Story()
    story.see(b"", directory(b"a", b"A"), directory(b"b", b"B"), file(b"f", b"F"), complete=True)
    story.see(b"a", file(b"g", b"G"), complete=True)
    numbers = [story.number(name) for name in (b"a", b"b", b"a/g", b"f")]
    story.see(b"", directory(b"a", b"B"), directory(b"b", b"A"))
    assert [story.number(name) for name in (b"b", b"a", b"b/g", b"f")] == numbers
    story.see(b"", file(b"a", b"F"), directory(b"f", b"B"))
    assert [story.number(name) for name in (b"b", b"f", b"b/g", b"a")] == numbers


def test_a_rename_in_one_look_moves_in_either_order_of_directories() -> None:
    for swapped in (False, True):
        story = Story()
        story.see(b"", directory(b"a", b"A"), directory(b"b", b"B"), complete=True)
        story.see(b"a", directory(b"x", b"X"), file(b"f", b"F"), complete=True)
        story.see(b"b", complete=True)
        numbers = story.number(b"a/x"), story.number(b"a/f")
        reports = [
            story.report(b"a", absent=(b"x", b"f")),
            story.report(b"b", directory(b"y", b"X"), file(b"g", b"F")),
        ]
        story.observe(*(reversed(reports) if swapped else reports))
        assert (story.number(b"b/y"), story.number(b"b/g")) == numbers
        assert story.paths() == {b"a", b"b", b"b/y", b"b/g"}


def test_a_second_name_is_a_hard_link() -> None:
    story = Story()
    story.see(b"", file(b"a", b"A"))
    story.see(b"", file(b"b", b"A"), complete=True)
    assert story.number(b"a") == story.number(b"b")
    assert [type(scoped.effect) for scoped in story.effects] == [LinkEffect]
