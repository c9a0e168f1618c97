"""One node: its database, its place in the group, its zone and its doors, started and stopped in the right order."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from lddp.admin.app import build_app, read_token
from lddp.admin.server import Server
from lddp.config import NodeConfig, Role
from lddp.consensus.config import RaftConfig
from lddp.consensus.member import RaftMember
from lddp.content.connections import Connections
from lddp.content.handover import Handover
from lddp.content.limiter import Limiter
from lddp.content.pull import Puller
from lddp.content.push import Pusher
from lddp.content.saving import save
from lddp.content.serve import ContentServer
from lddp.content.store import Store
from lddp.content.traffic import Traffic
from lddp.core.rules import Rule
from lddp.core.view import View
from lddp.errors import StorageError
from lddp.gateway import NO_ZONE, Gateway
from lddp.links.connect import connect
from lddp.links.credentials import Credentials
from lddp.links.listener import Listener
from lddp.migrate.observer import Observer
from lddp.migrate.options import MigrationOptions
from lddp.migrate.portions import room_in
from lddp.node import doors
from lddp.node.backend import NodeBackend
from lddp.node.completion import Completion
from lddp.node.gossip import Gossip
from lddp.node.migration import MigrationDriver
from lddp.node.mounts import Mounts
from lddp.node.originals import Originals
from lddp.node.survey import Surveyor
from lddp.node.sweep import Sweep
from lddp.node.system import SystemClock, SystemRandom
from lddp.node.trees import Trees
from lddp.node.uploads import is_needed
from lddp.replay.progress import Progress
from lddp.replay.projector import Projector
from lddp.replay.retained import Retained
from lddp.storage.environment import Environment
from lddp.zones.posix import PosixZone
from lddp.zones.workers import Workers

_log = logging.getLogger(__name__)
CONTENT_CHANNEL = "content"
STOP_TIMEOUT_S = 5.0
OPEN_AGAIN_S = 1.0


class Node:
    """Everything that runs in one process, with the help of `workers` if there are any; they end with the node."""

    def __init__(self, config: NodeConfig, workers: Workers | None = None) -> None:
        self.config = config
        self.clock = SystemClock()
        self.random = SystemRandom()
        self.witness = config.role is Role.WITNESS
        zone = NO_ZONE if config.zone is None else config.zone.number
        config.data_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.staging_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.environment = Environment.open(
            str(config.data_directory),
            ecosystem=config.ecosystem,
            node=config.name,
            witness=self.witness,
            map_size=config.limits.database_bytes,
        )
        self.gateway = Gateway(self.environment, zone, self.clock, self.random, self.witness)
        self.credentials = self._credentials()
        self.listener = Listener(
            str(config.peer),
            me=config.name,
            ecosystem=config.ecosystem,
            credentials=self.credentials,
            knows=lambda name: name in config.peers,
        )
        self.member = self._build_member()
        self.threads = ThreadPoolExecutor(config.limits.files_parallel, thread_name_prefix="look")
        self.carrying = ThreadPoolExecutor(1, thread_name_prefix="carry")
        self.trees = Trees(self.environment, zone, config.staging_directory, workers, config.zone)
        self.nodes_by_zone = {peer.zone_number: name for name, peer in config.peers.items() if peer.zone}
        self._build_content()
        self.projector = self._build_projector()
        self.surveyor = Surveyor(
            self.environment,
            self.gateway,
            self.member,
            self.trees,
            self.projector,
            self.threads,
            self.nodes_by_zone,
            self.store,
            self._holders,
        )
        self.drivers: dict[int, MigrationDriver] = {}
        self.completion = Completion(self.gateway, self.member, self.drivers.get, self.nodes_by_zone)
        self.gossip = Gossip(self.gateway, self.member, self.projector, config, self._local)
        self.ready_at = self.gateway.gsn
        self.member.on_message.append(self._message)
        self.backend = NodeBackend(self)
        self.mounts = Mounts(self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._driving: dict[int, asyncio.Task[None]] = {}
        token = read_token(config.token_file)
        app = build_app(self.backend, token, doors.mounts(config, self.backend, token))
        self._server = Server(app, config.http, config.tls)
        self.stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- building ---------------------------------------------------------------------------------------------------

    def _credentials(self) -> Credentials | None:
        if self.config.peer.path and all(peer.address.path for peer in self.config.peers.values()):
            return None
        tls = self.config.tls
        return Credentials(str(tls.authority), str(tls.certificate), str(tls.key))

    def _build_member(self) -> RaftMember:
        member = RaftMember(
            self._raft_config(),
            self.environment,
            self.gateway.apply,
            clock=self.clock,
            random=self.random,
            listener=self.listener,
        )
        member.on_folded.append(self.gateway.folded)
        member.on_committed.append(self.gateway.committed)
        return member

    def _raft_config(self) -> RaftConfig:
        raft = self.config.raft
        return RaftConfig(
            node=self.config.name,
            address=str(self.config.peer),
            peers={name: str(peer.address) for name, peer in self.config.peers.items()},
            ecosystem=self.config.ecosystem,
            credentials=self.credentials,
            election_timeout_min_s=raft.election_timeout_s_min,
            election_timeout_max_s=raft.election_timeout_s_max,
            heartbeat_s=raft.heartbeat_s,
            follow_workload_s=raft.follow_workload_s,
            entry_bytes_max=raft.entry_bytes_max,
        )

    def _build_content(self) -> None:
        config = self.config
        rate = config.limits.bandwidth_bytes_per_second or None
        self.limiter = Limiter(self.clock, rate)
        self.traffic = Traffic()
        self.progress = None if config.zone is None else Progress(os.fspath(config.staging_directory / "progress"))
        self.store = Store(
            config.staging_directory / "content",
            memory_bytes_max=config.limits.memory_bytes // 2,
            has_lost=self.progress is not None and self.progress.has_lost,
        )
        self.connections = Connections(self._connect, self.clock)
        self.pusher = Pusher(self.connections, self.limiter, self.store.disk, self.traffic)
        self.puller = Puller(self.store, self.connections, self.traffic)
        self.store.use(self.puller.fetch)
        self.handover = Handover(config.peer.path + ".fd") if config.peer.path else None
        self.content_server = ContentServer(
            self.store,
            self.limiter,
            self.traffic,
            locate=self.trees.locate,
            doubt=self._doubt,
            handover=self.handover,
            is_needed=partial(is_needed, self.environment),
        )
        self.listener.register(CONTENT_CHANNEL, self.content_server.serve)

    def _doubt(self, number: int) -> None:
        for driver in self.drivers.values():
            driver.doubt(number)

    def _doubt_soon(self, number: int) -> None:
        """From any thread, while the node runs."""
        assert self._loop is not None, "effects are carried out by a node that has been started"
        self._loop.call_soon_threadsafe(self._doubt, number)

    async def _connect(self, peer: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await connect(
            str(self.config.peers[peer].address),
            self.credentials,
            me=self.config.name,
            ecosystem=self.config.ecosystem,
            channel=CONTENT_CHANNEL,
            expected_peer=peer,
        )

    def _build_projector(self) -> Projector | None:
        if self.progress is None:
            return None
        projector = Projector(
            self.environment,
            self.member.transact,
            self.trees.carriers,
            self.store,
            self._holders,
            self.progress,
            self.clock,
            self.carrying,
        )
        with self.environment.read() as tables:
            originals = Originals(self.trees, self.gateway.zone, partial(save, self.store), self._doubt_soon)
            projector.retained = retained = Retained(self.store, self._durable_everywhere, tables, originals)
        self.store.is_expected = retained.expected.has
        projector.awaits = self.trees.problems.__contains__
        projector.folded_again = self.gateway.settled
        self.gateway.on_new_effects.append(retained.expected.expect)
        self.gateway.on_effects.append(projector.offer)
        self.gateway.on_applied.append(projector.poke)
        return projector

    def _holders(self, rule_number: int) -> Sequence[str]:
        """Nodes to ask for bytes of a rule, its source first."""
        rule = self.trees.rules.get(rule_number)
        if rule is None:
            return []
        zones = sorted((member.zone for member in rule.members), key=lambda zone: zone != rule.source)
        return [self.nodes_by_zone[zone] for zone in zones if zone in self.nodes_by_zone]

    def _durable_everywhere(self, rule_number: int) -> int:
        """The GSN up to which every zone that has a rule's tree to write is durably projected."""
        rule = self.trees.rules.get(rule_number)
        assert self.projector is not None, "asked for by this node's projector"
        if rule is None:
            return self.projector.durable
        writing = [member.zone for member in rule.members if not member.observe_only]
        others = [
            self.gossip.durable.get(self.nodes_by_zone[zone], 0) for zone in writing if zone in self.nodes_by_zone
        ]
        return min([self.projector.durable, *others])

    def peers_of(self, rule: Rule) -> list[str]:
        """The other nodes whose zones are members of a rule."""
        return [self.nodes_by_zone[m.zone] for m in rule.members if m.zone in self.nodes_by_zone]

    def _observer(self, rule: Rule, zone: PosixZone) -> Observer:
        return Observer(
            self.gateway,
            self.environment,
            zone,
            rule,
            self.surveyor.begin(rule),
            self.pusher,
            self.peers_of(rule),
            self._as_of(rule),
            self.threads,
            self.store.keep_recent,
            settling=self.trees.settling(rule.number),
            unwatched=self.trees.unwatched(rule.number),
            room=room_in(self._raft_config().record_bytes_max),
        )

    def _as_of(self, rule: Rule) -> Callable[[int], int]:
        if rule.observe_only or self.projector is None:
            return lambda gsn: gsn
        projector = self.projector
        return lambda gsn: min(gsn, projector.projected)

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts everything; returns when the node listens, not when it has a leader."""
        self.stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        with self.environment.read() as tables:
            self.trees.refresh({rule.number: rule for rule in View(tables).rules()})
        self._limit_bandwidth()
        self.gateway.start(self.member)
        self.gateway.on_applied.append(self._refresh)
        if self.handover is not None:
            self.handover.start()
        await self.member.start()
        await self.listener.start()
        if self.projector is not None:
            self._spawn(self.projector.run())
        self._spawn(self.gossip.run())
        self._spawn(self.completion.run())
        self._spawn(Sweep(self.environment, self.store).run(self.threads, self.gateway.barrier))
        self._spawn(self._open_again())
        self.url = await self._server.start()
        self._refresh(self.gateway.gsn)
        self._spawn(self.mounts.run())

    async def _open_again(self) -> None:
        """Looks whether trees are where they were, and tries again to open those that could not be opened."""
        while True:
            await asyncio.sleep(OPEN_AGAIN_S)
            had_problems = bool(self.trees.problems)
            try:
                await self.trees.look(self.threads)
            except StorageError:
                if self.progress is not None:
                    self.progress.lost(True)
                raise
            if had_problems or self.trees.problems:
                self._refresh(self.gateway.gsn)
                if self.projector is not None:
                    self.projector.poke()

    def _spawn(self, coroutine: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part of the node that ends by itself has failed: the node stops rather than going on without it."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("a part of this node failed", exc_info=error)
            if not self.member.failed.done():
                self.member.failed.set_exception(error)
                self.member.failed.exception()  # logged above; not a second time where nobody looks at it

    def _local(self) -> dict[str, Any]:
        """What nodes on this host must know to leave this one's own writing alone."""
        workers = [] if self.trees.workers is None else self.trees.workers.processes
        return {"processes": [os.getpid(), *workers], "scratch": self.trees.scratch()}

    def _refresh(self, _gsn: int) -> None:
        """Follows the rules and migrations that the log has."""
        if not self.witness and self.trees.refresh(self.gateway.machine.rules):
            self.gossip.tell()
            self._limit_bandwidth()
        for number in [number for number, one in self.drivers.items() if self.trees.usable(number) is not one.zone]:
            del self.drivers[number]
            self._driving.pop(number).cancel()
        for number, rule in self.trees.rules.items():
            zone = self.trees.usable(number)
            if rule.source == self.gateway.zone and zone is not None and number not in self.drivers:
                driver = MigrationDriver(
                    self.gateway,
                    self.environment,
                    rule,
                    zone,
                    self._observer,
                    self.surveyor.survey,
                    self.gossip.neighbours,
                )
                self.drivers[number] = driver
                task = asyncio.get_running_loop().create_task(driver.run())
                self._driving[number] = task
                self._tasks.add(task)
                task.add_done_callback(self._ended)
        for number, driver in self.drivers.items():
            driver.follow(self.trees.rules[number])

    def _limit_bandwidth(self) -> None:
        """The narrowest of this zone's rules holds, or what the configuration says where they say nothing."""
        rules = [rule for rule in self.trees.rules.values() if rule.member(self.gateway.zone) is not None]
        wished = [bandwidth for rule in rules if (bandwidth := MigrationOptions.from_bytes(rule.options).bandwidth)]
        rate = min(wished, default=self.config.limits.bandwidth_bytes_per_second) or None
        if rate != self.limiter.rate:
            self.limiter.set_rate(rate)

    def _message(self, peer: str, message: dict[str, Any]) -> None:
        if message.get("type") == "progress":
            self.gossip.hear(peer, message)

    async def stop(self) -> None:
        """Stops in the reverse order. What was not acknowledged is unknown to its clients."""
        await self._server.stop()
        await self.mounts.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
        await self.gateway.stop()
        await self.member.stop()
        await self.listener.stop()
        await self.connections.close()
        await self.pusher.close()
        if self.handover is not None:
            self.handover.close()
        self.threads.shutdown(wait=False, cancel_futures=True)
        self.carrying.shutdown(wait=True, cancel_futures=True)
        if self.progress is not None:
            self.progress.close()
        self.trees.close()
        if self.trees.workers is not None:
            self.trees.workers.close()
        self.store.close()
        self.environment.close()
