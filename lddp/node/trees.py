"""This zone's trees: one filesystem adapter and one carrier for every rule that the zone is a member of."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path

from lddp.config import ZoneConfig
from lddp.core.records import Content, Kind
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.errors import StorageError, ZoneError
from lddp.migrate.options import MigrationOptions
from lddp.node.roots import look_at, note, problem_of, read_noted
from lddp.ports import KeyValue
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from lddp.replay.unwatched import Taken
from lddp.zones.posix import PosixZone
from lddp.zones.roots import RootIdentity
from lddp.zones.workers import Workers

_log = logging.getLogger(__name__)


class UnwatchedOfRule:
    """Implements `lddp.replay.unwatched.Source` for the carrier that a rule has, if any."""

    def __init__(self, carriers: Mapping[int, Carrier], rule: int) -> None:
        self._carriers = carriers
        self._rule = rule

    def take(self) -> Taken:
        carrier = self._carriers.get(self._rule)
        return Taken() if carrier is None else carrier.unwatched.take()

    def end(self) -> None:
        if self._rule in self._carriers:
            self._carriers[self._rule].unwatched.end()


class Trees:
    """Opens and closes trees as rules come and go. All of them are in the root that `config` gives the zone."""

    def __init__(
        self,
        environment: KeyValue,
        zone: int,
        staging: Path,
        workers: Workers | None = None,
        config: ZoneConfig | None = None,
    ) -> None:
        self._environment = environment
        self._zone = zone
        self._staging = staging
        self._config = config
        self.workers = workers
        self.zones: dict[int, PosixZone] = {}
        self.carriers: dict[int, Carrier] = {}
        """Only of rules that this node writes; a source that is only observed has none."""
        self.rules: dict[int, Rule] = {}
        self.problems: dict[int, str] = {}
        """Of trees that cannot be opened, and of those that are open and not at their paths any more."""
        self._roots: dict[int, RootIdentity] = {}
        """Of the trees that are open."""

    def refresh(self, rules: dict[int, Rule]) -> bool:
        """Brings the trees in line with the rules; whether anything changed."""
        if rules == self.rules and not self.problems:
            return False
        for number in [number for number in self.zones if number not in rules]:
            # Closed when the threads that still use it have let it go, and not under their hands.
            self.carriers.pop(number, None)
            self.zones.pop(number)
            self._roots.pop(number, None)
        for number in [number for number in self.problems if number not in rules]:
            del self.problems[number]
        for number, rule in rules.items():
            member = rule.member(self._zone)
            if member is None:
                continue
            if number not in self.zones:
                self._open(rule, member.local_path, member.observe_only)
            carrier = self.carriers.get(number)
            if carrier is not None:
                carrier.policy = OnExisting(MigrationOptions.from_bytes(rule.options).on_existing)
        self.rules = dict(rules)
        return True

    def _open(self, rule: Rule, local_path: bytes, observe_only: bool) -> None:
        try:
            zone = self._opened(rule, local_path, observe_only)
        except OSError as error:
            problem = f"rule {rule.name}: {os.fsdecode(local_path)!r} cannot be opened: {error.strerror}"
            self._note_problem(rule, problem)
            return
        except ZoneError as error:
            self._note_problem(rule, str(error))
            return
        self.problems.pop(rule.number, None)
        self.zones[rule.number] = zone
        if not observe_only:
            options = MigrationOptions.from_bytes(rule.options)
            is_shared = rule.source == self._zone
            self.carriers[rule.number] = Carrier(zone, OnExisting(options.on_existing), is_shared=is_shared)

    def _opened(self, rule: Rule, local_path: bytes, observe_only: bool) -> PosixZone:
        """ZoneError where what is at the path is not to be used; then nothing is made there."""
        self._refuse_outside(rule, local_path)
        with self._environment.read() as tables:
            noted = read_noted(tables, rule.number)
        is_new = False
        if noted is not None:
            self._refuse_other(rule, local_path, noted, look_at({0: local_path}).get(0, noted))
        elif not observe_only:
            is_new = not os.path.exists(local_path)
            os.makedirs(local_path, mode=0o755, exist_ok=True)
        staging = None if observe_only else bytes(self._staging_for(rule, Path(os.fsdecode(local_path))))
        zone = PosixZone(local_path, staging, observe_only=observe_only)
        root = zone.root()
        if noted is not None:
            self._refuse_other(rule, local_path, noted, root)
        if not observe_only:
            zone.discard_leftovers()
            if is_new:
                zone.sync()  # after a power cut it is known by its handle
            if self.workers is not None:
                zone.use(self.workers)
        if noted is None:
            with self._environment.write() as tables:
                note(tables, rule.number, root)
        self._roots[rule.number] = root
        return zone

    def _refuse_outside(self, rule: Rule, local_path: bytes) -> None:
        """The node at which the rule was made does not know this zone's root."""
        if self._config is not None and not self._config.contains(local_path):
            raise ZoneError(
                errno.EACCES,
                f"rule {rule.name}: {os.fsdecode(local_path)!r} is outside of this zone's root {self._config.root}:"
                " create the rule anew with another path, or set a wider root and start this node again",
            )

    def _refuse_other(self, rule: Rule, path: bytes, noted: RootIdentity, found: RootIdentity | None) -> None:
        problem = problem_of(rule, path, noted, found)
        if problem:
            raise ZoneError(errno.ESTALE, problem)

    def _note_problem(self, rule: Rule, problem: str) -> None:
        if self.problems.get(rule.number) != problem:
            _log.error("%s", problem)
        self.problems[rule.number] = problem

    def usable(self, number: int) -> PosixZone | None:
        """The tree of a rule, unless something is wrong with it."""
        return None if number in self.problems else self.zones.get(number)

    async def look(self, executor: Executor) -> None:
        """Looks whether the trees that are open are at their paths yet. One that is not stays as it is, because it is
        reached by its root, which is kept open; but what its path leads to now is not that. StorageError where a tree
        that this node writes is on a filesystem that was mounted anew: nobody knows what became of the old one."""
        members = {number: self.rules[number].member(self._zone) for number in self._roots}
        paths = {number: member.local_path for number, member in members.items() if member is not None}
        if not paths:
            return
        found = await asyncio.get_running_loop().run_in_executor(executor, look_at, paths)
        for number, now in found.items():
            rule, opened = self.rules.get(number), self._roots.get(number)
            if rule is None or opened is None:
                continue  # it was removed meanwhile
            problem = problem_of(rule, paths[number], opened, now)
            if problem:
                self._note_problem(rule, problem)
            elif now is not None and now.device == opened.device:
                self.problems.pop(number, None)
            elif number in self.carriers:
                raise StorageError(f"the filesystem of rule {rule.name} was mounted anew; start this node again")
            else:
                del self.zones[number], self._roots[number]
                self._note_problem(rule, f"rule {rule.name}: {os.fsdecode(paths[number])!r} was mounted anew")

    def _staging_for(self, rule: Rule, root: Path) -> Path:
        """A directory on the tree's own filesystem, from which files can be renamed into place: the node's staging
        directory, else beside the tree, else in it, where it is hidden from replication."""
        hidden = f".{root.name}.lddp-{rule.number}"
        device = root.stat().st_dev
        for staging in (self._staging / f"rule-{rule.number}", root.parent / hidden, root / hidden):
            if staging.parent.stat().st_dev == device:
                staging.mkdir(mode=0o700, parents=True, exist_ok=True)
                return staging
        raise OSError(errno.EXDEV, "no staging directory can be made on its filesystem")

    def scratch(self) -> list[bytes]:
        """Directories in which files are made before they are put in place."""
        return [zone.scratch for zone in self.zones.values() if zone.scratch]

    def settling(self, rule: int) -> Callable[[bytes], bool]:
        """Whether the time of a directory of this rule is still to be put right."""

        def settling(path: bytes) -> bool:
            carrier = self.carriers.get(rule)
            return carrier is not None and path in carrier.touched

        return settling

    def unwatched(self, rule: int) -> UnwatchedOfRule:
        """What this node has done in a rule's tree that nobody would look at: each is given once."""
        return UnwatchedOfRule(self.carriers, rule)

    def locate(self, content: Content, number: int) -> int | None:
        """An open descriptor of the file that is believed to hold these bytes, for another node that lacks them."""
        with self._environment.read() as tables:
            view = View(tables)
            inode = view.inode(number)
            if inode is None or inode.kind is not Kind.FILE or inode.content is None:
                return None
            zone = self.zones.get(inode.rule)
            if zone is None or inode.content.digest != content.digest or not content.sealed:
                return None
            path = view.path(inode)
        try:
            return zone.open_read(path)
        except OSError:
            return None

    def close(self) -> None:
        for zone in self.zones.values():
            zone.close()
        self.zones.clear()
        self.carriers.clear()
