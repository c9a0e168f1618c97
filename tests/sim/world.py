"""The simulated world: nodes on their machines, the network between them, and time."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import lddp.consensus.member
import lddp.node.gossip
import lddp.node.migration
import lddp.replay.progress
import lddp.replay.projector
import lddp.replay.rewind
from lddp.consensus.config import RaftConfig
from lddp.consensus.wire import HandOver, Message
from lddp.gateway import NO_ZONE
from tests.fakes.zone import FakeZone
from tests.memory import memory_directory
from tests.sim.checks import Checks, Violation
from tests.sim.content import SimulatedStore
from tests.sim.files import Descriptors
from tests.sim.loop import Process, SimulatedLoop
from tests.sim.network import Network
from tests.sim.node import Machine
from tests.sim.quorums import Quorums

MARKS_MAX = 10_240
"""Marks of a projector between two checkpoints: little to write, and more than a batch."""


RESTLESS = {"follow_workload_s": 0.5, "follow_look_s": 0.1, "follow_records_min": 2}
"""Leadership goes to where the work is, and a little work is enough."""


@dataclass(frozen=True)
class Settings:
    """One ecosystem. `zones` are the zone numbers of the nodes, NO_ZONE for a witness."""

    zones: tuple[int, ...] = (1, 2, 3)
    heartbeat_s: float = 0.1
    election_timeout_min_s: float = 0.5
    election_timeout_max_s: float = 1.0
    delay_s: tuple[float, float] = (0.0002, 0.005)
    sync_s: tuple[float, float] = (0.0, 0.002)
    log_entries_kept: int = 10_000
    compact_entries_min: int = 10_000
    checkpoint_s: float = 5.0
    raft: Mapping[str, Any] = field(default_factory=dict)


class World:
    """Everything of one simulation; a context manager, because a few names of modules are its own meanwhile."""

    def __init__(self, seed: object, settings: Settings) -> None:
        self.seed = seed
        self.settings = settings
        self.random = Random(repr((seed, "world")))
        self.loop = SimulatedLoop(seed)  # type: ignore[abstract]
        self.network = Network(self.loop, (seed, "network"))
        self.network.delay_s = settings.delay_s
        self.network.before_leaving = self._before_leaving
        self.descriptors = Descriptors()
        self.checks = Checks(self.loop)
        self.processes: list[Process] = [self.loop.outside]
        self.stores: dict[str, SimulatedStore] = {}
        self.uploads = itertools.count()
        self.machines: dict[str, Machine] = {}
        self._quorums = Quorums(self.machines, self.checks.fail)
        self.began = self.loop.now
        self.counts: dict[str, int] = {}
        """Faults injected, by kind."""
        self.interfere: Callable[[int, int], None] = lambda _zone, _rule: None
        """Called before a node looks at files: (zone, rule)."""
        self.open_watcher: Callable[[bytes], Any] | None = None
        self.looks: list[Callable[[], None]] = []
        """Called whenever the simulation is looked at: after each fault, and when something was waited for."""
        self.directory = Path(tempfile.mkdtemp(prefix="simulation-", dir=memory_directory()))
        for number, zone in enumerate(settings.zones):
            name = "abcdefgh"[number]
            self.machines[name] = Machine(self, name, zone)
            self.machines[name].sync_s = settings.sync_s
        is_restless = Random(repr((seed, "workload"))).random() < 0.5
        self.following = RESTLESS if is_restless else {}
        self._exit = ExitStack()

    def __enter__(self) -> World:
        stack = self._exit
        stack.callback(shutil.rmtree, self.directory)
        stack.enter_context(self.descriptors.installed())
        stack.enter_context(patch.object(lddp.consensus.member, "Links", self.network.links))
        stack.enter_context(patch.object(lddp.replay.progress, "MARKS_MAX", MARKS_MAX))
        stack.enter_context(patch.object(lddp.replay.progress, "boot_id", self._boot_id))
        stack.enter_context(patch.object(lddp.node.gossip, "COMPACT_ENTRIES_MIN", self.settings.compact_entries_min))
        stack.enter_context(patch.object(lddp.replay.projector, "CHECKPOINT_S", self.settings.checkpoint_s))
        stack.enter_context(patch.object(lddp.replay.rewind._log, "critical", self._given_up))
        if self.open_watcher is not None:
            stack.enter_context(patch.object(lddp.node.migration, "open_watcher", self.open_watcher))
        stack.enter_context(_clocked_logging(self.loop))
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Violation):
            error.counts = self.counts
        for machine in self.machines.values():
            if machine.node is not None:
                machine.node.progress_closed()
        self.loop.close_all(self.processes)
        self._exit.close()

    def _before_leaving(self, name: str, peer: str, message: Message) -> None:
        if isinstance(message, HandOver):
            self.count("hand-over of the leadership")
        self.checks.leaves(self.machines[name], peer, message)
        self._quorums.leaves(name, message)

    def _given_up(self, text: str, *arguments: object) -> None:
        self.checks.fail(f"a recovery of {self.loop.current.name} is given up: {text % arguments}")

    def _boot_id(self) -> bytes:
        return b"%36d" % self.machines[self.loop.current.name].boot

    @contextmanager
    def within(self, process: Process) -> Iterator[None]:
        with self.loop.within(process), _running(self.loop):
            yield

    def raft_config(self, name: str) -> RaftConfig:
        settings = self.settings
        return RaftConfig(
            fold_delay_s=0.02,  # what the seeds of the past were found with
            node=name,
            address="unix:/simulated",
            peers={other: "unix:/simulated" for other in self.machines if other != name},
            ecosystem="simulated",
            heartbeat_s=settings.heartbeat_s,
            election_timeout_min_s=settings.election_timeout_min_s,
            election_timeout_max_s=settings.election_timeout_max_s,
            **self.following,
            **settings.raft,
        )

    # -- running ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for machine in self.machines.values():
            machine.start()

    def run_for(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Raises Violation as soon as something that must hold does not."""
        found = self.loop.run_until(condition, self.loop.now + seconds)
        self.look()
        return found

    def look(self) -> None:
        """Raises Violation where something is wrong."""
        for look in self.looks:
            look()
        for machine in self.up:
            node = machine.node
            if node is not None and node.failed and not node.environment.error:
                trace = "".join(traceback.format_exception(node.member.failed.exception()))
                raise Violation(f"{machine.name} has stopped:\n{trace}")
        if self.loop.failures:
            raise Violation("; ".join(self.loop.failures))
        if self.checks.violation:
            raise Violation(self.checks.violation + "\n" + self.checks.trace)

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def up(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.up]

    @property
    def leader(self) -> Machine | None:
        leading = [m for m in self.up if m.node is not None and m.node.leads]
        return max(leading, key=lambda m: m.node.member.term if m.node is not None else 0) if leading else None

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def zone_files(self, rule: int) -> dict[str, FakeZone]:
        return {m.name: m.zone_files(rule) for m in self.machines.values() if m.zone != NO_ZONE}

    def fingerprint(self) -> str:
        """Equal for two runs exactly where they did the same."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.loop.now, self.loop.handles_run, self.network.messages)).encode())
        for record in self.checks.records():
            digest.update(record)
        return digest.hexdigest()


@contextmanager
def _running(loop: SimulatedLoop) -> Iterator[None]:
    before = asyncio._get_running_loop()
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(before)


@contextmanager
def _clocked_logging(loop: SimulatedLoop) -> Iterator[None]:
    """What nodes log is dropped, unless the simulator's own logger is on: then it says who and when."""
    chosen = logging.getLogger("simulation")
    if not chosen.isEnabledFor(logging.DEBUG):
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
        return

    def stamp(record: logging.LogRecord) -> bool:
        record.msg = f"{loop.now:10.4f} {loop.current.name}: {record.msg}"
        return True

    handler = logging.StreamHandler()
    handler.addFilter(stamp)
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
