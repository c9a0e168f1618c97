"""What is still to be looked at."""

from __future__ import annotations

import os

from lddp.core.records import Put, Write
from lddp.migrate.backlog import DIRECTORIES, FAILED_LISTED_MAX, Backlog
from lddp.migrate.dirty import Work
from tests.core.support import content
from tests.migrate.conftest import root_only
from tests.migrate.world import World
from tests.migrate.writable import Writable

pytestmark = root_only


def test_a_file_that_is_doubted_is_read_whatever_its_times_say(scanned: World) -> None:
    """Bytes that changed without moving a time, as a store through a mapping may."""
    path = scanned.source / "small"
    path.write_bytes(b"old bytes of it" * 100)
    scanned.look("small")
    before = path.stat()
    path.write_bytes(b"new bytes of it" * 100)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    number = scanned.inode("small").number
    backlog = Backlog(scanned.environment, scanned.rule, lambda: 0.0)
    assert backlog.is_idle()
    assert backlog.doubt(number)
    assert not backlog.is_idle()
    work = backlog.take_dirty()
    assert work is not None and work.files == {number}
    scanned.rounds.look(work, scanned.ship)
    scanned.settle()
    scanned.assert_same()


def test_only_files_of_the_rule_are_doubted(scanned: World) -> None:
    backlog = Backlog(scanned.environment, scanned.rule, lambda: 0.0)
    for number in (scanned.inode("d").number, scanned.rule.root, 1 << 40):
        assert not backlog.doubt(number)
    assert backlog.is_idle()


def test_what_could_not_be_read_is_tried_again_at_once(scanned: World) -> None:
    """Also where it had been in vain so often that it would wait for seconds."""
    backlog = Backlog(scanned.environment, scanned.rule, lambda: 0.0)
    number = scanned.inode("d").number
    for _ in range(12):
        backlog.fail(number, b"d", 13)
    backlog.dirty.add_name(number, b"")
    assert backlog.is_idle()
    assert not backlog.take_dirty()
    backlog.try_failed()
    assert not backlog.failures
    assert not backlog.is_idle()
    assert backlog.take_dirty().names == {number: {b""}}


def test_to_try_again_is_no_change(scanned: World) -> None:
    backlog = Backlog(scanned.environment, scanned.rule, lambda: 0.0)
    directory, file, other = (scanned.inode(path).number for path in ("d", "linked", "d/small"))
    for number, path in ((directory, b"d"), (file, b"linked")):
        backlog.fail(number, path, 5)
    tried = Work({directory: {b"small", b""}}, set(), {file}, {b"identity": {b"name"}}, {})
    assert backlog.changes_in(tried) == 0
    assert backlog.changes_in(tried._replace(files={file, other})) == 1
    backlog.try_failed()
    assert backlog.changes_in(tried) == 4


def test_all_that_cannot_be_read_is_known_however_much_it_is(scanned: World) -> None:
    """Where it is and why is kept of the first only; what was asked about the others waited for them without end."""
    backlog = Backlog(scanned.environment, scanned.rule, lambda: 0.0)
    numbers = [scanned.inode(path).number for path in ("d", "linked")]
    numbers += range(1 << 40, (1 << 40) + FAILED_LISTED_MAX)
    for number in reversed(numbers):
        backlog.fail(number, b"path", 13)
        backlog.large.add(number)
    assert len(backlog.failures) == FAILED_LISTED_MAX
    assert backlog.is_idle()
    backlog.dirty.compare.add(numbers[0])
    assert backlog.is_idle()
    assert backlog.changes_in(Work({numbers[0]: {b"name"}}, set(), {numbers[1]}, {b"identity": {b""}}, {})) == 0
    backlog.forget_the_gone()
    assert backlog.failed == set(numbers[:2])
    backlog.forget_failure(numbers[0])
    assert not backlog.is_idle()


def test_files_changed_in_part_are_brought_to_what_the_source_has(writable: Writable) -> None:
    """No digest says what bytes they have, so a zone that has others cannot tell."""
    whole, part = writable.source / "whole", writable.source / "part"
    for path in (whole, part):
        writable.do(Put(*writable.head(), b"/data/" + os.fsencode(path.name), 0o644, 0, 0, content(b"made")))
        path.write_bytes(b"made")
    writable.do(Write(*writable.head(), b"/data/part", 0, content(b"f")))
    part.write_bytes(b"fade")
    for path in (whole, part, writable.source):
        os.utime(path, ns=(1, 1))
    writable.glance(*((writable.inode(name).number, name) for name in ("whole", "part")))
    target = writable.target / "part"
    found = target.stat()
    target.write_bytes(b"face")
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    source, other = writable.verify(writable.source_zone), writable.verify()
    assert not source.differences and not other.differences
    assert source.total != other.total
    backlog = Backlog(writable.environment, writable.rule, lambda: 0.0)
    backlog.doubt_unsealed()
    work = backlog.take_dirty()
    assert work.files == {writable.inode("part").number}
    left = writable.rounds.look(work, writable.ship)
    writable.settle()
    writable.finish(left)
    writable.assert_same()
    assert target.read_bytes() == b"fade"


def test_a_directory_is_not_listed_while_names_in_it_are_reported(world: World) -> None:
    """An object went there from elsewhere: the round found it without having taken the directory."""
    (world.source / "d").mkdir()
    world.look("d")
    backlog, number = Backlog(world.environment, world.rule, lambda: 0.0), world.inode("d").number
    root = backlog.begin({world.inode().number})
    backlog.reports(root, [number])
    assert number not in backlog.take_pending(DIRECTORIES, 10)
    backlog.end(root)
    assert number in backlog.take_pending(DIRECTORIES, 10)
    assert not backlog.dirty


def test_a_directory_that_two_rounds_report_at_once_is_compared_behind_them(scanned: World) -> None:
    """Which of them looked at it later nobody can tell, and the log may take them in either order."""
    backlog = Backlog(scanned.environment, scanned.rule, lambda: 0.0)
    root, number, other = (scanned.inode(path).number for path in ("", "d", "d/deep"))
    backlog.dirty.names = {number: {b"small"}}
    listing = backlog.begin(set(backlog.take_dirty().names))
    early, late = backlog.begin({root}), backlog.begin(set())
    backlog.reports(early, [root, number, other])
    backlog.end(early)
    assert backlog.dirty.compare == {number}
    assert not backlog.take_dirty(), "it is being listed still"
    backlog.end(listing)
    assert backlog.take_dirty().compare == {number}
    backlog.reports(late, [number, other])
    backlog.end(late)
    assert backlog.dirty.compare == {number, other}, "it began before the others had ended"
    assert not backlog.jobs


def test_what_was_being_looked_at_when_all_was_doubted_is_compared_behind_the_last_of_it(scanned: World) -> None:
    backlog = Backlog(scanned.environment, scanned.rule, lambda: 0.0)
    directories = {scanned.inode(path).number for path in ("", "d", "d/deep", "empty directory")}
    first, second = backlog.begin({1 << 40}), backlog.begin({1 << 41})
    backlog.doubt_rounds()
    later = backlog.begin({1 << 42})
    backlog.end(first)
    backlog.end(later)
    assert not backlog.dirty.compare
    backlog.end(second)
    assert backlog.dirty.compare == directories


def test_what_was_written_by_a_name_is_left_to_do_while_its_directory_is_busy(scanned: World) -> None:
    """The name is looked at before, and what was seen then is on its way to the log."""
    (scanned.source / "small").write_bytes(b"bytes")
    scanned.look("small")
    backlog = Backlog(scanned.environment, scanned.rule, lambda: 0.0)
    root, small = scanned.rule.root, scanned.inode("small").number
    backlog.dirty.add_written(root, b"small")
    backlog.busy.add(root)
    backlog.dirty.names.clear()
    assert not backlog.take_dirty()
    backlog.busy.discard(root)
    assert not backlog.is_idle()
    assert backlog.take_dirty().files == {small}
