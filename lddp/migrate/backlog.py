"""What an observer has still to look at: pending inodes, dirty names, large files, and what could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lddp.core.namespace import RULE, Inode
from lddp.core.records import Kind
from lddp.core.rules import Rule
from lddp.core.tables import Table
from lddp.core.view import View
from lddp.migrate.dirty import OPERATED, STRAYS, Dirty, Work
from lddp.migrate.look import Failure
from lddp.ports import KeyValue

FAILED_LISTED_MAX = 1000
DIRECTORIES = b"\0"
FILES = b"\1"


@dataclass(eq=False, slots=True)
class Round:
    """One look at these inodes, until all that it reports is in the log."""

    taken: set[int]
    also: set[int] = field(default_factory=set)
    """Further directories that it turned out to report, because an object was there that had gone from elsewhere."""
    overlapped: set[int] = field(default_factory=set)
    """What other rounds have looked at and brought into the log since this one began."""
    crossed: set[int] = field(default_factory=set)
    """Further directories that another round looked at meanwhile: which of the two was later nobody can tell."""
    is_doubted: bool = False
    """Whether it may have looked before a change that nobody told of."""


class Backlog:
    """Of one rule. `busy` are inodes that somebody looks at now; `failed` those that could not be read, which is tried
    again until they can; `failures` says of the first FAILED_LISTED_MAX of them where they are and why."""

    def __init__(self, environment: KeyValue, rule: Rule, monotonic: Callable[[], float]) -> None:
        self._environment = environment
        self._rule = rule
        self._monotonic = monotonic
        self.dirty = Dirty(monotonic)
        self.busy: set[int] = set()
        self.large: set[int] = set()
        """Files whose bytes are to be compared with what the log knows, though they are not pending."""
        self._rounds: set[Round] = set()
        self.failed: set[int] = set()
        self.failures: dict[int, Failure] = {}

    # -- taking -----------------------------------------------------------------------------------------------------

    def take_pending(self, order: bytes, limit: int) -> list[int]:
        """Pending inodes that nobody looks at now, DIRECTORIES or FILES; they are busy then."""
        now = self._monotonic()
        found: list[int] = []
        start = RULE.pack(self._rule.number) + order
        with self._environment.read() as tables:
            for key, _ in tables.scan(Table.PENDING, start, start + b"\xff"):
                number = int.from_bytes(key[5:13], "big")
                if number not in self.busy and self.dirty.is_due(number, now):
                    found.append(number)
                    if len(found) >= limit:
                        break
        self.busy.update(found)
        return found

    def take_large(self) -> int:
        """A file whose bytes are to be read one at a time, which is busy then; 0 where there is none."""
        now = self._monotonic()
        number = next((n for n in self.large if n not in self.busy and self.dirty.is_due(n, now)), 0)
        if number:
            self.busy.add(number)
        else:
            number = next(iter(self.take_pending(FILES, 1)), 0)
        self.large.discard(number)
        return number

    def take_dirty(self) -> Work:
        """All that is dirty and may be looked at now; it is busy then."""
        self._find_written()
        work = self.dirty.take(self.busy)
        if work:
            self._sort(work)
            self.busy |= numbers_of(work)
        return work

    def changes_in(self, work: Work) -> int:
        """How many names and files something has changed: what could not be read is only tried again."""
        names = sum(len(names) for number, names in work.names.items() if number not in self.failed)
        strays = 0 if self.failed else len(work.strays)  # which may be below what cannot be read
        return names + len(work.files - self.failed) + strays

    def _find_written(self) -> None:
        """What was written by name is read, where all that was seen of its directory is in the log. A name that is not
        there has no bytes in it either, and is read when it is looked at."""
        free = self.dirty.written.keys() - self.busy
        if not free:
            return
        with self._environment.read() as tables:
            view = View(tables)
            for directory in free:
                for name in self.dirty.written.pop(directory):
                    inode = view.inode(view.child(directory, name))
                    if inode is not None and inode.kind is Kind.FILE and inode.identity:
                        self.dirty.files.add(inode.number)

    def _sort(self, work: Work) -> None:
        """What came in as a file and is something else (a void attribute) is looked at under its names."""
        with self._environment.read() as tables:
            view = View(tables)
            for number in list(work.files):
                inode = view.inode(number)
                if inode is not None and inode.kind is Kind.FILE:
                    continue
                work.files.discard(number)
                if inode is not None:
                    for parent, name in view.links(inode):
                        work.names.setdefault(parent or number, set()).add(name)

    # -- rounds -----------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> int:
        """Rounds that run now."""
        return len(self._rounds)

    def begin(self, taken: set[int]) -> Round:
        one = Round(taken)
        self._rounds.add(one)
        return one

    def reports(self, one: Round, numbers: Iterable[int]) -> None:
        """What a round has to say of these directories is on its way: nobody else is to look at them before it is in
        the log, which cannot tell an older look at a name from a newer listing that does not have it."""
        for number in set(numbers) - one.taken - one.also:
            if number in self.busy or number in one.overlapped:
                one.crossed.add(number)
            else:
                self.busy.add(number)
                one.also.add(number)

    def end(self, one: Round) -> None:
        """All that it had to say is in the log, or never will be."""
        self._rounds.discard(one)
        self.busy -= one.taken | one.also
        self.dirty.compare |= one.crossed
        for other in self._rounds:
            other.overlapped |= one.taken | one.also
        if one.is_doubted and not any(other.is_doubted for other in self._rounds):
            self.scrub()

    def doubt_rounds(self) -> None:
        """What is just being looked at or reported may be older than what is found now: once it is in the log,
        everything is compared again."""
        for one in self._rounds:
            one.is_doubted = True

    # -- adding -----------------------------------------------------------------------------------------------------

    def fail(self, number: int, path: bytes, errno: int) -> None:
        self.note_failure(number, Failure(path, errno))
        self.dirty.postpone(number)

    def note_failure(self, number: int, failure: Failure) -> None:
        """It could not be read; the caller has said when it is tried again."""
        self.failed.add(number)
        if len(self.failures) < FAILED_LISTED_MAX or number in self.failures:
            self.failures[number] = failure

    def forget_failure(self, number: int) -> None:
        """It has been read, or is gone."""
        self.failed.discard(number)
        self.failures.pop(number, None)

    def try_failed(self) -> None:
        """What could not be read is tried again at once, however often that was in vain: it is no failure again before
        that has been tried."""
        for number in self.failed:
            self.dirty.settled(number)
        self.failed.clear()
        self.failures.clear()

    def scrub(self) -> None:
        """Every listed directory is to be compared with the source: what changed while nobody looked is found."""
        self.dirty.compare.update(
            inode.number for inode in self._all() if inode.kind is Kind.DIRECTORY and not inode.pending
        )

    def doubt_unsealed(self) -> None:
        """Files that operations changed in part are read: the log has no digest of their bytes, so none of the zones
        can tell whether they are right. The source's are."""
        self.dirty.files.update(
            inode.number for inode in self._all() if inode.content is not None and not inode.content.sealed
        )

    def _all(self) -> Iterator[Inode]:
        """Everything in the rule's tree, a file once for each of its names."""
        with self._environment.read() as tables:
            view = View(tables)
            root = view.inode(self._rule.root)
            assert root is not None
            yield root
            waiting = [root.number]
            while waiting:
                for _, number in view.list(waiting.pop()):
                    inode = view.inode(number)
                    assert inode is not None
                    yield inode
                    if inode.kind is Kind.DIRECTORY:
                        waiting.append(number)

    def distrust(self, paths: Iterable[bytes]) -> None:
        """These paths, relative to the rule's root, are looked at again, and the bytes of files among them are read
        whatever their times say."""
        with self._environment.read() as tables:
            view = View(tables)
            for path in paths:
                parent = self._rule.root
                *above, name = path.split(b"/")
                for part in above:
                    parent = view.child(parent, part) or parent
                self.dirty.add_name(parent, name)
                inode = view.inode(view.child(parent, name)) if name else None
                if inode is not None and inode.kind is Kind.FILE:
                    self.dirty.files.add(inode.number)

    def doubt(self, number: int) -> bool:
        """The bytes of a file are read whatever its times say. Whether it is a file of this rule."""
        with self._environment.read() as tables:
            inode = View(tables).inode(number)
        if inode is None or inode.rule != self._rule.number or inode.kind is not Kind.FILE:
            return False
        self.dirty.files.add(number)
        return True

    # -- is there anything left -------------------------------------------------------------------------------------

    def is_idle(self) -> bool:
        """Nothing pending, dirty or being looked at, except what cannot be read."""
        if self.busy or self.jobs or (self.large - self.failed) or self.dirty.has_other_than(self.failed):
            return False
        return all(number in self.failed for number in self._pending())

    def is_scanned(self) -> bool:
        """Everything that was there has been looked at once; changes may still be on their way."""
        if self.dirty.compare:
            return False
        return all(number in self.failed or self.dirty.is_postponed(number) for number in self._pending())

    def _pending(self) -> Iterable[int]:
        start, stop = RULE.pack(self._rule.number), RULE.pack(self._rule.number + 1)
        with self._environment.read() as tables:
            for key, _ in tables.scan(Table.PENDING, start, stop):
                yield int.from_bytes(key[5:13], "big")

    def forget_the_gone(self) -> None:
        """What could not be read and is not there any more is no failure."""
        with self._environment.read() as tables:
            view = View(tables)
            for number in [number for number in self.failed if view.inode(number) is None]:
                self.forget_failure(number)


def numbers_of(work: Work) -> set[int]:
    aside = ({STRAYS} if work.strays else set()) | ({OPERATED} if work.operated else set())
    return set(work.names) | work.compare | work.files | aside
