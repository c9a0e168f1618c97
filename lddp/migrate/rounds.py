"""One round of looking, in a thread: from what is to be looked at to reports that can be shipped.

A name that is gone may have been moved. Before it is reported absent, the kernel is asked where its object is now; if
it lives elsewhere in the tree, that place is looked at in the same round, and the absence waits until it can be
reported together with it or after it. So a renamed directory stays a rename.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from lddp.core.namespace import Inode
from lddp.core.records import DirectoryReport, InodeReport, Kind
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.migrate.batch import Batch, Emit, Growth
from lddp.migrate.dirty import OPERATED, STRAYS, Work
from lddp.migrate.glance import Glance
from lddp.migrate.listing import located
from lddp.migrate.look import SMALL_BYTES_MAX, Failure, Looker, Moved, SourceZone
from lddp.migrate.nameless import Nameless
from lddp.migrate.options import Exclusion
from lddp.migrate.portions import ROOM
from lddp.migrate.strays import OwnChanges, Strays
from lddp.ports import KeyValue
from lddp.replay.unwatched import Source, Unwatched


class Leftover(NamedTuple):
    """What a round could not finish: to be looked at again, and what failed for good reason."""

    again: Work
    postponed: set[int]
    large: set[int]
    failures: list[tuple[int, Failure]]
    excluded: set[bytes]
    skipped: set[bytes]
    met: set[bytes]
    """Unknown objects with several names that it reports. Once that is in the log, `ended` is to be told."""
    changed: frozenset[bytes] = frozenset()
    """Identities of files that this node has changed, also under names that are not in the log."""
    lost: bool = False
    """Whether it has changed more than it can say."""


class Place(NamedTuple):
    """A name in a directory that the namespace knows. `whole`: it is the object's own name, not that of an unknown
    directory above it."""

    directory: int
    name: bytes
    whole: bool


class Rounds:
    """Looks for one rule. Each method runs in a thread with a snapshot of its own. `room`: bytes of reports that fit
    into one observation."""

    def __init__(
        self,
        environment: KeyValue,
        zone: SourceZone,
        rule: Rule,
        exclusion: Exclusion,
        as_of: Callable[[int], int],
        token: Callable[[int], bytes],
        settling: Callable[[bytes], bool] = lambda _path: False,
        unwatched: Source | None = None,
        room: int = ROOM,
    ) -> None:
        self._environment = environment
        self._zone = zone
        self._rule = rule
        self._exclusion = exclusion
        self._as_of = as_of
        self._token = token
        self._settling = settling
        self._own_changes = OwnChanges(unwatched or Unwatched())
        self._room = room
        self._growth = Growth()
        self._nameless = Nameless()

    def ended(self, left: Leftover) -> None:
        """All that a round has reported is in the log."""
        self._nameless.end(left.met)

    def scan(self, numbers: list[int], emit: Emit) -> Leftover:
        """Lists pending directories; `emit` may block, which bounds what is in flight."""
        with self._environment.read() as tables:
            view = View(tables)
            as_of = self._as_of(view.gsn)
            batch = Batch(as_of, emit, self._token, self._growth, self._room)
            looker = Looker(self._zone, view, self._exclusion, batch.pack, self._room)
            left = _leftover(looker)
            unknown: set[bytes] = set()
            for number in numbers:
                inode = view.inode(number)
                if inode is None or not inode.pending:
                    continue
                self._expect_other_time(view, inode, left)
                try:
                    for report in looker.scan(inode):
                        unknown |= self._unknown(view, looker)
                        batch.add(report)
                        looker.pack = batch.pack
                except Moved:
                    _moved(left, inode)
                except OSError as error:
                    left.failures.append((number, Failure(view.path(inode), error.errno or 0)))
                    left.postponed.add(number)
            batch.ship()
            self._end(view, looker, unknown, left)
        return left

    def look(self, work: Work, emit: Emit) -> Leftover:
        """Looks at names, directories and small files, and reports them together."""
        self._nameless.forget_ended()  # what they told of is in the view that is opened now
        with self._environment.read() as tables:
            view = View(tables)
            as_of = self._as_of(view.gsn)
            batch = Batch(as_of, emit, self._token, self._growth, self._room)
            looker = Looker(self._zone, view, self._exclusion, batch.pack, self._room)
            left = _leftover(looker)
            names = {number: set(found) for number, found in work.names.items()}
            work = work._replace(names=names, compare=set(work.compare))
            unwatched = self._own_changes.take(view, as_of)
            strays = Strays(self._zone, view, self._rule, self._exclusion, work, left.again)
            left = left._replace(changed=strays.take(unwatched), lost=unwatched.lost)
            strays.find()
            Glance(self._zone, view, self._rule, as_of, self._settling, work, self._nameless).over(left.again)
            left.postponed.update({STRAYS} if left.again.strays else ())
            left.postponed.update({OPERATED} if left.again.operated else ())
            for number in work.compare:
                self._compare(view, looker, left, number, names)
            reports = self._look_names(view, looker, left, names)
            for number in work.files:
                self._small_file(view, looker, left, batch, number)
            unknown = self._unknown(view, looker)
            batch.add_all(reports)
            batch.ship()
            self._end(view, looker, unknown, left)
        return left

    # -- parts ------------------------------------------------------------------------------------------------------

    def _expect_other_time(self, view: View, inode: Inode, left: Leftover) -> None:
        """A directory whose time this node is still to put right, of which no event will tell, is looked at again."""
        if not self._rule.observe_only and self._settling(view.path(inode)):
            left.again.names.setdefault(inode.number, set()).add(b"")
            left.postponed.add(inode.number)

    def _unknown(self, view: View, looker: Looker) -> set[bytes]:
        """What was just seen, has several names, and is not in the log."""
        linked, looker.linked = looker.linked, set()
        if self._rule.observe_only:
            return set()
        unknown = {one for one in linked if not view.by_identity(self._rule.number, one)}
        self._nameless.meet(unknown)
        return unknown

    def _end(self, view: View, looker: Looker, unknown: set[bytes], left: Leftover) -> None:
        """What an operation made may be among the unknown, under another name."""
        left.large.update(looker.unverified)
        for number, name, failure in looker.unread:
            left.failures.append((number, failure))
            left.postponed.add(number)
            left.again.names.setdefault(number, set()).add(name)
        left.met.update(unknown)
        if unknown:
            self._nameless.report_among(view, self._zone, unknown, left.again)
        self._nameless.report_surplus(view, left.again)

    def _compare(self, view: View, looker: Looker, left: Leftover, number: int, names: dict[int, set[bytes]]) -> None:
        inode = view.inode(number)
        if inode is None or inode.kind is not Kind.DIRECTORY or inode.pending:
            return
        try:
            found = looker.differences(inode)
        except Moved:
            _moved(left, inode)
            left.again.compare.add(number)
            return
        except OSError as error:
            left.failures.append((number, Failure(view.path(inode), error.errno or 0)))
            left.again.compare.add(number)
            left.postponed.add(number)
            return
        if found:
            names.setdefault(number, set()).update(found)

    def _look_names(
        self, view: View, looker: Looker, left: Leftover, names: dict[int, set[bytes]]
    ) -> list[DirectoryReport]:
        """Reports of all names, following what was moved to where it is now."""
        reports: list[DirectoryReport] = []
        looked: set[tuple[int, bytes]] = set()
        while names:
            held: dict[int, set[bytes]] = {}
            for number, wanted in names.items():
                fresh = {name for name in wanted if (number, name) not in looked}
                report = self._look_directory(view, looker, left, number, fresh) if fresh else None
                looked.update((number, name) for name in fresh)
                if report is not None:
                    reports.append(report)
            for position, report in enumerate(reports):
                reports[position] = self._follow(view, report, looked, held, left)
            names = held
        return reports

    def _look_directory(
        self, view: View, looker: Looker, left: Leftover, number: int, names: set[bytes]
    ) -> DirectoryReport | None:
        inode = view.inode(number)
        if inode is None or inode.kind is not Kind.DIRECTORY:
            return None
        self._expect_other_time(view, inode, left)
        try:
            return looker.names(inode, names)
        except Moved:
            _moved(left, inode)
            left.again.names.setdefault(number, set()).update(names)
        except OSError as error:
            left.failures.append((number, Failure(view.path(inode), error.errno or 0)))
            left.again.names.setdefault(number, set()).update(names)
            left.postponed.add(number)
        return None

    def _follow(
        self,
        view: View,
        report: DirectoryReport,
        looked: set[tuple[int, bytes]],
        also: dict[int, set[bytes]],
        left: Leftover,
    ) -> DirectoryReport:
        """The report without absences of objects that live on at a place which cannot be reported yet."""
        kept: list[bytes] = []
        for name in report.absent:
            try:
                place = self._where_now(view, report.inode, name)
            except OSError:
                # The kernel cannot tell now (it was short of memory, or the object is just being removed).
                left.again.names.setdefault(report.inode, set()).add(name)
                continue
            if place is None:
                kept.append(name)
                continue
            if (place.directory, place.name) not in looked:
                also.setdefault(place.directory, set()).add(place.name)
            if place.whole:
                kept.append(name)
            else:
                left.again.names.setdefault(report.inode, set()).add(name)
        return report._replace(absent=tuple(kept)) if len(kept) != len(report.absent) else report

    def _where_now(self, view: View, directory: int, name: bytes) -> Place | None:
        """Where a vanished object is to be seen now; None where it is gone, or only one of its names is."""
        child = view.inode(view.child(directory, name))
        if child is None or not child.identity or child.nlink > 1:
            return None
        path = located(self._zone.locate, self._exclusion, view, child)
        if not path:
            return None
        number = self._rule.root
        parts = path.split(b"/")
        for part in parts[:-1]:
            known = view.child(number, part)
            inode = view.inode(known) if known else None
            if inode is None or inode.kind is not Kind.DIRECTORY:
                return Place(number, part, False)
            number = known
        return Place(number, parts[-1], True)

    def _small_file(self, view: View, looker: Looker, left: Leftover, batch: Batch, number: int) -> None:
        inode = view.inode(number)
        if inode is None or inode.kind is not Kind.FILE or inode.identity in looker.read:
            return
        try:
            path, descriptor, found = looker.open_file(inode)
        except Moved:
            # It may live on under a name that is not in the log yet.
            left.postponed.add(number)
            left.again.files.add(number)
            for parent, name in view.links(inode):
                left.again.names.setdefault(parent, set()).add(name)
            return
        except OSError as error:
            left.failures.append((number, Failure(view.path(inode), error.errno or 0)))
            left.again.files.add(number)
            left.postponed.add(number)
            return
        try:
            report: InodeReport | None
            if found.st_size > SMALL_BYTES_MAX:
                left.large.add(number)
                report = looker.bare_report(inode, descriptor)
            else:
                report = looker.small_report(inode, descriptor, found)
        except OSError as error:
            left.failures.append((number, Failure(path, error.errno or 0)))
            report = None
        finally:
            os.close(descriptor)
        if report is None:
            left.again.files.add(number)
            left.postponed.add(number)
            return
        batch.add_file(report)
        looker.pack = batch.pack


def _leftover(looker: Looker) -> Leftover:
    return Leftover(Work({}, set(), set(), {}, {}), set(), set(), [], looker.excluded, looker.skipped, set())


def _moved(left: Leftover, inode: Inode) -> None:
    """The object is not where the namespace has it: its parent's entry is to be looked at."""
    left.postponed.add(inode.number)
    if inode.parent:
        left.again.names.setdefault(inode.parent, set()).add(inode.name)
