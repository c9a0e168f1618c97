"""A simulated source: a filesystem with writers of its own, a scanner and a watcher that observe it, and the log.

Every object has a handle that is never used again. Observers look, and what they saw is committed at some later
time, in any order, while the source changes and other records commit. The rules that the observers keep are few:

- an observation carries the GSN that the source had been brought to when it looked (`as_of`);
- every change marks what it changed (directory and name, or the object), and a mark is removed only by looking;
- what came back void is marked again;
- the chunks of one listing are committed in their order.

When the source is quiet and nothing is marked, pending or in flight, the namespace must be the source's tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from blake3 import blake3

from lddp.core.effects import ScopedEffect
from lddp.core.records import (
    Attributes,
    Barrier,
    Content,
    DirectoryReport,
    InodeReport,
    Kind,
    Observation,
    ObservedEntry,
    OperationId,
    Outcome,
    Record,
)

from .support import SOURCE, TARGET, THIRD, Ledger, content, create_rule, operation_id, tree
from .zone import Thing, Zone, attributes_of, bytes_of, check_zone, paths_of, strict_zone

NAMES = (b"a", b"b", b"c", b"d")

NameMark = tuple[bytes, bytes]
"""Handle of a directory, and a name in it."""


class Source(Zone):
    """The source's filesystem. Directories get a new mtime from every change of a name in them."""

    def __init__(self, rule: int) -> None:
        super().__init__(SOURCE, rule, lenient=True)
        self.clock = 1000
        self.handles = 0
        self.by_handle: dict[bytes, Thing] = {}
        self.name_marks: set[NameMark] = set()
        self.object_marks: set[bytes] = set()
        self.root.attributes = Attributes(0o755, 0, 0, 1)
        self.made(self.root)

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    # -- marks --------------------------------------------------------------------------------------------------

    def made(self, thing: Thing) -> None:
        self.handles += 1
        thing.handle = b"handle%d" % self.handles
        self.by_handle[thing.handle] = thing
        thing.changed = self.tick()

    def name_touched(self, directory: Thing, name: bytes) -> None:
        self.name_marks.add((directory.handle, name))
        self.object_touched(directory)

    def object_touched(self, thing: Thing) -> None:
        thing.changed = self.tick()
        self.object_marks.add(thing.handle)

    # -- effects ------------------------------------------------------------------------------------------------

    def put_file(self, inode: int, path: bytes, attributes: Attributes, content: Content) -> None:
        """Replaces the file by a new object, which is what a rename into place does; but a file with several names
        here is changed in place, because the namespace may not know all of its names yet."""
        directory, name = self.where(path)
        there = directory.children.get(name)
        if there is not None and there.kind is Kind.FILE and sum(other is there for _, _, other in self.names()) > 1:
            there.inode, there.data = inode, bytes_of(content)
            self.set_attributes(there, attributes)
            self.name_marks.add((directory.handle, name))
            return
        super().put_file(inode, path, attributes, content)

    # -- what its writers do ------------------------------------------------------------------------------------

    def live(self) -> dict[bytes, Thing]:
        return paths_of(self.root)

    def alive(self, handle: bytes) -> Thing | None:
        for thing in self.live().values():
            if thing.handle == handle:
                return thing
        return None

    def directories(self) -> list[Thing]:
        return [thing for thing in self.live().values() if thing.is_directory]

    def names(self) -> list[tuple[Thing, bytes, Thing]]:
        return [
            (directory, name, child) for directory in self.directories() for name, child in directory.children.items()
        ]

    def edit(self, directory: Thing, name: bytes, thing: Thing | None) -> None:
        """Binds or frees a name, as a writer of the source does."""
        if thing is None:
            del directory.children[name]
        else:
            directory.children[name] = thing
        assert directory.attributes is not None
        directory.attributes = directory.attributes._replace(mtime_ns=self.tick())
        self.name_touched(directory, name)
        directory.attributes = directory.attributes._replace(mtime_ns=self.tick())

    def new(self, random: Random, kind: Kind) -> Thing:
        xattrs = ((b"user.x", b"%d" % random.randrange(9)),) if random.random() < 0.2 else ()
        attributes = Attributes(random.choice([0o644, 0o600]), random.randrange(2), 0, self.tick(), xattrs)
        thing = Thing(kind, attributes)
        if kind is Kind.FILE:
            thing.data = b"%d" % random.randrange(1000) if random.random() < 0.9 else b""
        elif kind is Kind.SYMLINK:
            thing.target = b"to%d" % random.randrange(9)
        elif kind is Kind.CHARACTER_DEVICE:
            thing.rdev = random.randrange(9)
        self.made(thing)
        return thing

    def change(self, random: Random) -> None:
        """One random change by a writer of the source; nothing where it makes no sense."""
        action = random.choice(
            ["file", "file", "directory", "directory", "node", "write", "write", "attributes", "link", "unlink"]
            + ["remove", "tree", "exchange", "there and back"]
            + ["rename"] * 6
        )
        directories = self.directories()
        directory = random.choice(directories)
        name = random.choice(NAMES)
        names = self.names()
        free = name not in directory.children
        files = [row for row in names if row[2].kind is Kind.FILE]
        if action == "file" and (free or not directory.children[name].is_directory):
            self.edit(directory, name, self.new(random, Kind.FILE))
        elif action == "directory" and free:
            self.edit(directory, name, self.new(random, Kind.DIRECTORY))
        elif action == "tree" and free:
            self.edit(directory, name, self.new(random, Kind.DIRECTORY))
            inner = directory.children[name]
            for inner_name in NAMES[: random.randrange(1, 4)]:
                self.edit(inner, inner_name, self.new(random, random.choice([Kind.FILE, Kind.DIRECTORY])))
        elif action == "node" and free:
            kind = random.choice([Kind.SYMLINK, Kind.FIFO, Kind.CHARACTER_DEVICE])
            self.edit(directory, name, self.new(random, kind))
        elif action == "write" and files:
            parent, file_name, thing = random.choice(files)
            assert thing.attributes is not None
            thing.data = b"%d" % random.randrange(1000)
            thing.attributes = thing.attributes._replace(mtime_ns=self.tick())
            self.touched(random, parent, file_name, thing)
        elif action == "attributes" and names:
            parent, changed_name, thing = random.choice(names)
            assert thing.attributes is not None
            thing.attributes = thing.attributes._replace(mode=random.choice([0o644, 0o600, 0o777]))
            self.touched(random, parent, changed_name, thing)
        elif action == "link" and free:
            linked = [row for row in names if not row[2].is_directory]
            if linked:
                self.edit(directory, name, random.choice(linked)[2])
        elif action == "unlink" and names:
            parent, old, thing = random.choice(names)
            if not thing.children:
                self.edit(parent, old, None)
        elif action == "remove" and names:
            parent, old, _ = random.choice(names)
            self.edit(parent, old, None)
        elif action in ("rename", "exchange", "there and back") and names:
            parent, old, thing = random.choice(names)
            self.rename_name(random, action, (parent, old, thing), directory, name)

    def touched(self, random: Random, parent: Thing, name: bytes, thing: Thing) -> None:
        """Marks a change of the object itself, as an event by name or one by handle; by handle where it has several
        names, because the name of the event may be gone when it is looked at."""
        thing.changed = self.tick()
        if random.random() < 0.7:
            self.name_marks.add((parent.handle, name))
            if sum(other is thing for _, _, other in self.names()) == 1:
                return
        self.object_marks.add(thing.handle)

    def rename_name(
        self, random: Random, action: str, row: tuple[Thing, bytes, Thing], directory: Thing, name: bytes
    ) -> None:
        parent, old, thing = row
        below = {id(other) for other in paths_of(thing).values()} if thing.is_directory else set()
        if id(directory) in below:
            return
        there = directory.children.get(name)
        if there is thing:
            return
        thing.changed = self.tick()
        if action == "exchange":
            if there is None or id(parent) in {id(other) for other in paths_of(there).values()}:
                return
            there.changed = self.tick()
            self.edit(directory, name, thing)
            self.edit(parent, old, there)
            return
        if there is not None and (there.children or there.is_directory != thing.is_directory):
            return
        if there is not None and there is parent:
            return
        self.edit(directory, name, thing)
        self.edit(parent, old, None)
        if action == "there and back" and there is None:
            self.edit(parent, old, thing)
            self.edit(directory, name, None)


@dataclass
class Flight:
    """An observation that was made and is not committed yet. `listing` orders the chunks of one listing."""

    observation: Observation
    names: set[NameMark] = field(default_factory=set)
    objects: set[bytes] = field(default_factory=set)
    listing: int = 0
    numbers: dict[bytes, int] = field(default_factory=dict)
    """Of the directories that `names` are in."""


@dataclass
class ListingLook:
    """A directory being listed in chunks: the names that readdir gave and that are still to be looked at."""

    number: int
    inode: int
    handle: bytes
    names: list[bytes]


class World:
    """Source, log, observers and targets, driven by steps: (what, seed)."""

    def __init__(
        self,
        *,
        writable: bool = False,
        seed_tree: int = 0,
        check: bool = True,
        in_order: bool = False,
    ) -> None:
        self.ledger = Ledger()
        self.in_order = in_order
        self.writable = writable
        self.check = check
        outcome, effects = self.ledger.apply(create_rule(source=SOURCE, observe_only=not writable))
        assert outcome.errno == 0
        rule: Any = self.ledger.view.rule("data")
        self.rule = rule.number
        root = self.ledger.view.resolve(b"/data")
        assert root is not None
        self.root = root.number
        self.source = Source(self.rule)
        self.targets = [strict_zone(zone, self.rule) for zone in (TARGET, THIRD)]
        self.flights: list[Flight] = []
        self.looks: list[ListingLook] = []
        self.sequence = 0
        self.listings = 0
        self.unprojected: list[tuple[int, list[ScopedEffect]]] = []
        self.projected = self.ledger.gsn
        self.history: list[str] = []
        self._known: tuple[int, dict[bytes, int]] = (-1, {})
        random = Random(seed_tree)
        for _ in range(random.randrange(4, 16)):
            self.source.change(random)
        self.source.name_marks.clear()
        self.source.object_marks.clear()
        self.absorb(effects)

    # -- the log ------------------------------------------------------------------------------------------------

    def commit(self, record: Record) -> Outcome:
        outcome, effects = self.ledger.apply(record)
        self.history.append(f"{self.ledger.gsn}: {record} -> {outcome} {effects}")
        self.absorb(effects)
        return outcome

    def absorb(self, effects: list[ScopedEffect]) -> None:
        last = self.history[-1] if self.history else ""
        for target in self.targets:
            try:
                target.apply_all(effects)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{last}") from None
        mine = [scoped for scoped in effects if self.source.concerns(scoped)]
        if self.writable:
            self.unprojected.append((self.ledger.gsn, mine))
        else:
            assert mine == [], "an effect for a zone that is only observed"
            self.projected = self.ledger.gsn
        if self.check:
            namespace = tree(self.ledger.view, self.root)
            for target in self.targets:
                try:
                    check_zone(target, namespace)
                except AssertionError as error:
                    raise AssertionError(f"{error}\n{last}") from None

    def project(self, records: int = 10**9) -> None:
        """Brings the source forward by so many records."""
        while self.unprojected and records > 0:
            gsn, effects = self.unprojected.pop(0)
            self.source.apply_all(effects)
            self.projected = gsn
            records -= 1

    def next_id(self, session: bytes = b"observer") -> OperationId:
        self.sequence += 1
        return operation_id(self.sequence, session)

    # -- what the observers know of the namespace ---------------------------------------------------------------

    def known(self) -> dict[bytes, int]:
        """Inode number by handle: from the namespace's identities, and from what this zone projected itself."""
        if self._known[0] != self.ledger.gsn:
            numbers = {self.source.root.handle: self.root}
            for path, inode in tree(self.ledger.view, self.root).items():
                if path and inode.identity:
                    numbers[inode.identity] = inode.number
            self._known = (self.ledger.gsn, numbers)
        numbers = dict(self._known[1])
        if self.writable:
            for thing in self.source.live().values():
                if thing.inode and thing.handle not in numbers and self.ledger.view.inode(thing.inode) is not None:
                    numbers[thing.handle] = thing.inode
        return numbers

    def pending(self) -> list[int]:
        return list(self.ledger.view.pending("data"))

    # -- looking ------------------------------------------------------------------------------------------------

    def entry(self, random: Random, name: bytes, thing: Thing) -> ObservedEntry:
        assert thing.attributes is not None
        entry = ObservedEntry(name, thing.handle, thing.kind, thing.attributes, stamp=thing.changed)
        if thing.kind is Kind.FILE:
            number = self.known().get(thing.handle)
            inode = None if number is None else self.ledger.view.inode(number)
            can_wait = inode is None or inode.pending
            carried = None if can_wait and random.random() < 0.6 else content(thing.data)
            return entry._replace(size=len(thing.data), content=carried)
        return entry._replace(target=thing.target, rdev=thing.rdev)

    def observe(
        self, directories: list[DirectoryReport], inodes: list[InodeReport], as_of: int | None = None
    ) -> Observation:
        when = self.projected if as_of is None else as_of
        return Observation(self.next_id(), SOURCE, when, self.rule, tuple(directories), tuple(inodes))

    def wants_attributes(self, number: int) -> bool:
        """Whether the namespace does not know them yet: so it is with the root until the first report of it."""
        inode = self.ledger.view.inode(number)
        return inode is not None and inode.mode == -1

    def look_at_names(self, random: Random, marks: set[NameMark]) -> Flight | None:
        known = self.known()
        by_directory: dict[bytes, list[bytes]] = {}
        for handle, name in sorted(marks):
            by_directory.setdefault(handle, []).append(name)
        reports = []
        kept: set[NameMark] = set()
        handles = list(by_directory)
        random.shuffle(handles)
        for handle in handles:
            directory = self.source.alive(handle)
            if directory is None:
                continue
            if handle not in known:
                # A directory that is not in the namespace is listed when it gets there, by a later look.
                if self.writable:
                    self.source.name_marks |= {(handle, name) for name in by_directory[handle]}
                continue
            names = by_directory[handle]
            random.shuffle(names)
            entries = tuple(
                self.entry(random, name, directory.children[name]) for name in names if name in directory.children
            )
            absent = tuple(name for name in names if name not in directory.children)
            attributes = directory.attributes if self.wants_attributes(known[handle]) else None
            reports.append(DirectoryReport(known[handle], entries, absent, False, attributes, directory.changed))
            kept |= {(handle, name) for name in names}
        if not reports:
            return None
        return Flight(self.observe(reports, []), names=kept, numbers={handle: known[handle] for handle, _ in kept})

    def look_at_object(self, random: Random, handle: bytes) -> Flight | None:
        thing = self.source.alive(handle)
        if thing is None:
            return None
        known = self.known()
        if handle not in known:
            # It may be in flight, seen before this change.
            if self.flights or self.looks or self.source.name_marks or self.writable:
                self.source.object_marks.add(handle)
            return None
        return Flight(self.report_object(random, known[handle], thing), objects={handle})

    def report_object(self, random: Random, number: int, thing: Thing) -> Observation:
        assert thing.attributes is not None
        if thing.is_directory:
            report = DirectoryReport(number, (), (), False, thing.attributes, thing.changed)
            return self.observe([report], [])
        carried = content(thing.data) if thing.kind is Kind.FILE else None
        return self.observe(
            [], [InodeReport(number, thing.attributes, len(thing.data), carried, thing.target, thing.changed)]
        )

    def start_listing(self, inode: Any) -> None:
        handle = self.source.root.handle if inode.number == self.root else inode.identity
        directory = self.source.alive(handle)
        if directory is None:
            return
        self.listings += 1
        self.looks.append(ListingLook(self.listings, inode.number, handle, sorted(directory.children)))

    def next_chunk(self, random: Random, look: ListingLook) -> Flight | None:
        directory = self.source.alive(look.handle)
        if directory is None:
            self.looks.remove(look)
            return None
        size = random.choice([1, 2, 10])
        names, look.names = look.names[:size], look.names[size:]
        entries = tuple(
            self.entry(random, name, directory.children[name]) for name in names if name in directory.children
        )
        absent = tuple(name for name in names if name not in directory.children and random.random() < 0.5)
        complete = not look.names
        if complete:
            self.looks.remove(look)
        wanted = complete or self.wants_attributes(look.inode) or random.random() < 0.3
        attributes = directory.attributes if wanted else None
        report = DirectoryReport(look.inode, entries, absent, complete, attributes, directory.changed)
        marks = {(look.handle, name) for name in names}
        objects = {look.handle} if attributes else set()
        return Flight(self.observe([report], []), marks, objects, look.number, {look.handle: look.inode})

    def scan(self, random: Random) -> None:
        """One step of the scanner: begin a directory, take its next chunk, or read a file."""
        if self.looks and random.random() < 0.6:
            self.launch(self.next_chunk(random, random.choice(self.looks)))
            return
        pending = self.pending()
        if not pending:
            return
        inode = self.ledger.view.inode(random.choice(pending))
        assert inode is not None and inode.pending
        if inode.kind is Kind.DIRECTORY:
            self.start_listing(inode)
            return
        thing = self.source.alive(inode.identity)
        if thing is not None:
            self.launch(Flight(self.report_object(random, inode.number, thing), objects={thing.handle}))

    def watch(self, random: Random) -> None:
        """One step of the watcher: look at some of what is marked."""
        if self.source.object_marks and random.random() < 0.4:
            handle = random.choice(sorted(self.source.object_marks))
            self.source.object_marks.discard(handle)
            self.launch(self.look_at_object(random, handle))
            return
        marks = sorted(self.source.name_marks)
        if not marks:
            return
        style = random.random()
        chosen = {random.choice(marks)} if style < 0.5 else {mark for mark in marks if random.random() < 0.7}
        if style > 0.85:
            chosen = set(marks)
        self.source.name_marks -= chosen
        self.launch(self.look_at_names(random, chosen))

    def launch(self, flight: Flight | None) -> None:
        if flight is not None:
            self.flights.append(flight)

    # -- landing ------------------------------------------------------------------------------------------------

    def landable(self) -> list[Flight]:
        """Any flight, except that a chunk waits for those of its listing before it; only the first `in_order`."""
        if self.in_order:
            return self.flights[:1]
        listings: set[int] = set()
        found = []
        for flight in self.flights:
            if flight.listing and flight.listing in listings:
                continue
            listings.add(flight.listing)
            found.append(flight)
        return found

    def land(self, random: Random, flight: Flight) -> None:
        self.flights.remove(flight)
        outcome = self.commit(flight.observation)
        assert outcome.errno == 0, outcome
        if outcome.void:
            # No more than the observer does: other directories of the same observation are not looked at again.
            void = {handle for handle, number in flight.numbers.items() if number in outcome.void}
            self.source.name_marks |= {mark for mark in flight.names if mark[0] in void}
            self.source.object_marks |= flight.objects
        if random.random() < 0.1:
            if random.random() < 0.5:
                self.commit(Barrier(self.next_id(b"admin"), 1, "data"))
            self.commit(flight.observation)

    def lose(self, random: Random) -> None:
        """An observer crashes: what it saw is never submitted. The scanner's work list needs nothing; marks return."""
        if self.flights:
            flight = random.choice(self.flights)
            lost = [
                other
                for other in self.flights
                if other is flight or (flight.listing and other.listing == flight.listing)
            ]
            self.looks = [look for look in self.looks if look.number != flight.listing or not flight.listing]
            for other in lost:
                self.flights.remove(other)
                if not other.listing:
                    self.source.name_marks |= other.names
                    self.source.object_marks |= other.objects

    def step(self, what: str, seed: int) -> None:
        random = Random(seed)
        self.history.append(f"-- {what} {seed}")
        match what:
            case "change":
                self.source.change(random)
            case "scan":
                self.scan(random)
            case "watch":
                self.watch(random)
            case "land":
                landable = self.landable()
                if landable:
                    self.land(random, random.choice(landable))
            case "land all":
                while landable := self.landable():
                    self.land(random, random.choice(landable))
            case "barrier":
                self.commit(Barrier(self.next_id(b"admin"), 1, "data"))
            case "lose":
                self.lose(random)
            case "project":
                self.project(random.randrange(1, 4))
            case _:
                raise AssertionError(what)

    # -- the end ------------------------------------------------------------------------------------------------

    def scrub(self) -> None:
        """Marks everything: what a zone does when it may have missed something."""
        known = self.known()
        for thing in self.source.live().values():
            if thing.handle not in known:
                continue
            self.source.object_marks.add(thing.handle)
            if not thing.is_directory:
                continue
            names = set(thing.children)
            after = b""
            while entries := list(self.ledger.view.list(known[thing.handle], after=after, limit=5)):
                names |= {name for name, _ in entries}
                after = entries[-1][0]
            self.source.name_marks |= {(thing.handle, name) for name in names}

    def settle(self, random: Random) -> None:
        """The source is quiet: look until there is nothing left to look at."""
        scrubbed = 0
        for _ in range(400):
            self.project()
            while landable := self.landable():
                self.land(random, random.choice(landable))
            self.project()
            before = len(self.ledger.records)
            marks, self.source.name_marks = sorted(self.source.name_marks), set()
            random.shuffle(marks)
            while marks:
                size = random.choice([1, 2, 8])
                chosen, marks = marks[:size], marks[size:]
                self.launch(self.look_at_names(random, set(chosen)))
            for handle in sorted(self.source.object_marks):
                self.source.object_marks.discard(handle)
                self.launch(self.look_at_object(random, handle))
            for number in self.pending():
                inode = self.ledger.view.inode(number)
                assert inode is not None
                if inode.kind is Kind.DIRECTORY:
                    self.start_listing(inode)
                elif (thing := self.source.alive(inode.identity)) is not None:
                    self.launch(Flight(self.report_object(random, number, thing), objects={thing.handle}))
            while self.looks:
                self.launch(self.next_chunk(random, random.choice(self.looks)))
            if not self.flights and len(self.ledger.records) == before:
                if self.source.conflicts and scrubbed < 20:
                    scrubbed += 1
                    self.source.conflicts = False
                    self.scrub()
                    continue
                return
        raise AssertionError("the observers never come to an end")

    def difference(self) -> list[str]:
        """How the namespace differs from the source."""
        return list(differences(self.source.root, tree(self.ledger.view, self.root)))

    def assert_converged(self) -> None:
        found = self.difference()
        assert not found, "\n".join(["the namespace is not the source's tree:", *found, "log:", *self.history])
        assert self.pending() == []
        namespace = tree(self.ledger.view, self.root)
        for target in self.targets:
            check_zone(target, namespace)


def differences(root: Thing, namespace: dict[bytes, Any]) -> Iterator[str]:
    source = paths_of(root)
    for path in sorted(source.keys() | namespace.keys()):
        thing, inode = source.get(path), namespace.get(path)
        if thing is None or inode is None:
            yield f"{path!r}: {'only in the namespace' if thing is None else 'only in the source'}"
            continue
        if thing.kind is not inode.kind:
            yield f"{path!r}: {inode.kind!r}, in the source {thing.kind!r}"
            continue
        if inode.pending:
            yield f"{path!r}: still pending"
        if attributes_of(inode) != thing.attributes:
            yield f"{path!r}: {attributes_of(inode)}, in the source {thing.attributes}"
        if (inode.target, inode.rdev) != (thing.target, thing.rdev):
            yield f"{path!r}: target {inode.target!r} {inode.rdev}, in the source {thing.target!r} {thing.rdev}"
        if thing.kind is Kind.FILE:
            digest = None if inode.content is None else inode.content.digest
            sealed = inode.content is None or inode.content.sealed
            if inode.size != len(thing.data):
                yield f"{path!r}: size {inode.size}, in the source {len(thing.data)}"
            elif sealed and (digest is not None or thing.data) and digest != blake3(thing.data).digest():
                yield f"{path!r}: other bytes than in the source"
    things: dict[bytes, set[bytes]] = {}
    for path, thing in source.items():
        things.setdefault(thing.handle, set()).add(path)
    for path, inode in namespace.items():
        if path in source:
            names = {other for other, one in namespace.items() if one.number == inode.number}
            if names != things[source[path].handle]:
                yield f"{path!r}: names {names}, in the source {things[source[path].handle]}"
            if inode.kind is not Kind.DIRECTORY and inode.nlink != len(names):
                yield f"{path!r}: nlink {inode.nlink}, but names {names}"


Steps = list[tuple[str, int]]


def shrink(steps: Steps, fails: Callable[[Steps], bool]) -> Steps:
    """Removes steps while it still fails."""
    size = max(1, len(steps) // 2)
    while size:
        position = 0
        while position < len(steps):
            fewer = steps[:position] + steps[position + size :]
            if fails(fewer):
                steps = fewer
            else:
                position += size
        size //= 2
    return steps
