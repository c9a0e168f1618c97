"""A source tree, the log, and a target tree, with rounds of looking between them and nothing that runs by itself."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from blake3 import blake3

from lddp.core import effects as e
from lddp.core.codec import decode, encode
from lddp.core.limits import RECORD_BYTES_MAX
from lddp.core.machine import StateMachine
from lddp.core.namespace import RULE, Inode
from lddp.core.records import Content, InodeReport, Observation, OperationId, Outcome
from lddp.core.rules import Rule
from lddp.core.tables import Table
from lddp.core.view import View
from lddp.migrate.batch import Shipment
from lddp.migrate.dirty import Work
from lddp.migrate.look import Looker, SourceZone
from lddp.migrate.options import Exclusion, MigrationOptions
from lddp.migrate.portions import Pack, room_in
from lddp.migrate.rounds import Leftover, Rounds
from lddp.migrate.seen import report_of
from lddp.migrate.strays import directories_in, taken_for_others
from lddp.migrate.verify import Finding, Verifier
from lddp.ports import ZoneFilesystem
from lddp.replay import outbox
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from lddp.replay.settling import directory_attributes, set_directories
from lddp.replay.unwatched import Unwatched
from lddp.zones.attributes import read_xattrs
from lddp.zones.posix import PosixZone
from tests.core.support import SOURCE, TARGET, create_rule
from tests.fakes.memory import MemoryKeyValue
from tests.fakes.zone import Bytes

NOW_NS = 2_000_000_000 * 10**9


class World:
    """The target is real too, unless it is not asked for."""

    def __init__(
        self,
        directory: Path,
        options: MigrationOptions | None = None,
        zone: SourceZone | None = None,
        *,
        observe_only: bool = True,
        record_bytes_max: int = RECORD_BYTES_MAX,
    ) -> None:
        self.source = directory / "source"
        self.target = directory / "target"
        for path in (self.source, self.target, directory / "staging"):
            path.mkdir()
        self.source_zone: SourceZone = zone or PosixZone(str(self.source), None, observe_only=True)
        self.target_zone = PosixZone(str(self.target), str(directory / "staging"))
        self.carrier = Carrier(self.target_zone, OnExisting.OVERWRITE)
        self.environment = MemoryKeyValue()
        with self.environment.read() as tables:
            self.machine = StateMachine(tables)
        self._record_bytes_max = record_bytes_max
        self.settling: set[bytes] = set()
        self.as_of = 1 << 62
        """Up to which GSN the source has followed the log, if not to its end."""
        self.unwatched = Unwatched()
        self.packs: dict[bytes, bytes] = {}
        self.blobs: dict[bytes, bytes] = {}
        self._numbers = itertools.count(1)
        self.shipments: list[Shipment] = []
        self.outcomes: list[Outcome] = []
        self.mistaken: set[int] = set()
        """Directories that the observer would compare next, because another one was taken for them."""
        self.fold(create_rule(source=SOURCE, observe_only=observe_only))
        self.rule: Rule = self.machine.rules[1]
        self.begin(options or MigrationOptions())

    def begin(self, options: MigrationOptions, now_ns: int = NOW_NS) -> None:
        """An observer begins, at the first or a later start."""
        self.exclusion = Exclusion(options, now_ns)
        self.rounds = Rounds(
            self.environment,
            self.source_zone,
            self.rule,
            self.exclusion,
            lambda gsn: min(gsn, self.as_of),
            self._token,
            self.settling.__contains__,
            self.unwatched,
            room_in(self._record_bytes_max),
        )

    def close(self) -> None:
        for zone in (self.source_zone, self.target_zone):
            if isinstance(zone, PosixZone):
                zone.close()

    def _token(self, size: int) -> bytes:
        return next(self._numbers).to_bytes(size, "big")

    # -- the log ----------------------------------------------------------------------------------------------------

    def fold(self, record: Observation | object) -> Outcome:
        with self.environment.write() as tables:
            self.machine.bind(tables)
            outcome, effects = self.machine.apply(record)  # type: ignore[arg-type]
            self.machine.flush()
        for scoped in effects:
            if outbox.is_for(TARGET, scoped.scope):
                self.carrier.carry(scoped.effect, self._bytes_of(scoped.effect))
        return outcome

    def _bytes_of(self, effect: e.Effect) -> Bytes | None:
        if not isinstance(effect, e.PutFileEffect | e.WriteEffect):
            return None
        content = effect.content
        if content.inline is not None:
            return Bytes(content.inline)
        if content.pack:
            return Bytes(self.packs[content.pack][content.offset : content.offset + content.size])
        return Bytes(self.blobs[content.digest], size=content.size)

    def ship(self, shipment: Shipment) -> None:
        """What the observer does with a shipment: the bytes first, then the record, which goes through the log."""
        self.shipments.append(shipment)
        self.packs[shipment.pack.id] = shipment.pack.bytes()
        id_ = OperationId(b"observer", next(self._numbers))
        record = Observation(id_, SOURCE, shipment.as_of, 1, shipment.directories, shipment.inodes)
        data = encode(record)
        assert len(data) <= self._record_bytes_max
        known = directories_in(self.view(), self.rule, record)
        self.outcomes.append(self.fold(decode(data)))
        self.mistaken |= taken_for_others(self.view(), self.rule, known)

    # -- looking ----------------------------------------------------------------------------------------------------

    def view(self) -> View:
        with self.environment.read() as tables:
            return View(tables)

    def inode(self, path: str = "") -> Inode:
        found = self.view().resolve(b"/data/" + os.fsencode(path) if path else b"/data")
        assert found is not None, path
        return found

    def has(self, path: str) -> bool:
        return self.view().resolve(b"/data/" + os.fsencode(path)) is not None

    def looker(self) -> Looker:
        return Looker(self.source_zone, self.view(), self.exclusion, Pack(self._token(16)))

    def pending(self) -> list[int]:
        with self.environment.read() as tables:
            keys = [key for key, _ in tables.scan(Table.PENDING, RULE.pack(1), RULE.pack(2))]
        return [int.from_bytes(key[5:13], "big") for key in keys]

    def scan(self) -> list[Leftover]:
        """Rounds until nothing is pending."""
        left: list[Leftover] = []
        while numbers := self.pending():
            directories = [n for n in numbers if self._kind(n)]
            if directories:
                left.append(self.rounds.scan(directories, self.ship))
            for number in set(numbers) - set(directories):
                self.read_large(number)
            assert len(left) < 100, "the scan does not come to an end"
        self.settle()
        return left

    def _kind(self, number: int) -> bool:
        inode = self.view().inode(number)
        assert inode is not None
        return inode.kind == 2

    def read_large(self, number: int) -> None:
        view = self.view()
        inode = view.inode(number)
        assert inode is not None
        looker = self.looker()
        _, descriptor, found = looker.open_file(inode)
        try:
            data = os.pread(descriptor, found.st_size + 1, 0)
            content = Content(blake3(data).digest(), len(data))
            self.blobs[content.digest] = data
            report: InodeReport = report_of(inode, found, read_xattrs(descriptor), content)
        finally:
            os.close(descriptor)
        self.ship(Shipment(view.gsn, (), (report,), Pack(self._token(16))))

    def look(
        self,
        *names: str,
        files: tuple[str, ...] = (),
        compare: tuple[str, ...] = (),
        strays: dict[bytes, set[bytes]] | None = None,
        operated: dict[tuple[int, bytes], int] | None = None,
    ) -> Leftover:
        """A round that looks at these paths by name, at these files, compares these directories, finds these
        strays, and glances at what operations changed."""
        by_directory: dict[int, set[bytes]] = {}
        for path in names:
            parent, _, name = path.rpartition("/")
            by_directory.setdefault(self.inode(parent).number, set()).add(os.fsencode(name))
        numbers = [{self.inode(path).number for path in paths} for paths in (compare, files)]
        work = Work(by_directory, *numbers, strays or {}, operated or {})
        left = self.rounds.look(work, self.ship)
        self.settle()
        return left

    def again(self, left: Leftover) -> Leftover:
        left = self.rounds.look(left.again, self.ship)
        self.settle()
        return left

    def settle(self) -> None:
        wanted = directory_attributes(self.view(), 1, self.carrier.touched, is_source=False)
        set_directories(self.carrier, wanted)
        self.carrier.touched.clear()

    # -- comparing --------------------------------------------------------------------------------------------------

    def verify(self, zone: ZoneFilesystem | None = None) -> Finding:
        """What is found in the target, or in another zone."""
        which = zone or self.target_zone
        return Verifier(which, self.view(), self.rule, self.exclusion, which is self.source_zone).run()

    def assert_same(self) -> None:
        """Source and target are as the namespace says, and so each other's equals."""
        source, target = self.verify(self.source_zone), self.verify()
        assert (source.differences, target.differences, target.extraneous) == ([], [], [])
        assert source.total == target.total
        assert source.of_zone(1).digest == self.view().digest(1)
