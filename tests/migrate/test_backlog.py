"""What is still to be looked at."""

from __future__ import annotations

import os

from lddp.migrate.backlog import Backlog
from tests.migrate.conftest import root_only
from tests.migrate.world import World

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
