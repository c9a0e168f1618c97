"""Mounts of simulated nodes, without a kernel: the production code of the FUSE door, whose requests come from programs
of the simulator. A mount ends with its node, and another one takes its place after the next start."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from blake3 import blake3

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.namespace import Inode
from lddp.core.records import Outcome, Record
from lddp.core.view import View
from lddp.doors.fuse.filesystem import Filesystem
from lddp.doors.fuse.following import Following
from lddp.doors.fuse.ground import Patience, Top
from lddp.doors.fuse.protocol import ROOT, Opcode
from lddp.doors.fuse.tree import Tree
from lddp.gateway import NO_ZONE
from tests.doors.fuse.kernel import Kernel, Open, Refused
from tests.doors.fuse.passing import Modes
from tests.sim.alike import is_alike
from tests.sim.cache import Cache
from tests.sim.checks import Violation
from tests.sim.ground import SimulatedGround, Uploading
from tests.sim.promises import History, Promise, meant_by
from tests.sim.world import World

if TYPE_CHECKING:
    from tests.sim.node import Machine, Node

NOTICE_S = (0.0, 0.01)
PASSING = 0.5
"""How many mounts have passthrough."""
READERS_MAX = 5
"""Of one mount, that stay open."""
UNMOUNT_S = 10.0


class WatchedTree(Tree):
    """Writes down what it is asked for, and with what meaning, and when its barriers return."""

    def __init__(self, ground: SimulatedGround, top: Top, soft_s: float | None, mode: WriteMode, life: Life) -> None:
        super().__init__(ground, top, Patience(soft_s), 0, mode)
        self._life = life
        self._history = life.history
        self._many = self.orders.many
        self.orders.many = self._watched  # type: ignore[method-assign]

    async def _watched(self, records: Sequence[Record]) -> list[Outcome]:
        history, promises = self._history, []
        with self.ground.view() as view:
            for record in records:
                assert isinstance(record, r.Operation), "a mount asks for operations"
                paths = (record.path, record.to) if isinstance(record, r.Rename | r.Link) else (record.path,)
                meant = tuple(meant_by(view, self.top.path, self.top.root, path) for path in paths)
                promises.append(Promise(history.tick(), self.ground.applied(), record, meant))
        history.promises += promises
        outcomes = await self._many(records)
        for promise, outcome in zip(promises, outcomes, strict=True):
            promise.is_refused = bool(outcome.errno)
            if promise.is_refused:
                history.refused_at_once.append((history.tick(), promise.concerned))
            elif isinstance(promise.record, r.MakeDirectory | r.Create | r.Symlink):
                promise.made = outcome.inode
            self._life.tell(lambda promise=promise: setattr(promise, "is_answered", True))
        return outcomes

    async def barrier(self) -> None:
        begun = self._history.tick()
        await super().barrier()
        self._history.barred = max(self._history.barred, begun)


class SimulatedKernel(Kernel):
    """Asks a filesystem over a simulated ground, and believes what it is told."""

    def __init__(self, ground: SimulatedGround, filesystem: Filesystem) -> None:
        self.ground = ground  # type: ignore[assignment]
        self.filesystem = filesystem
        self.tree = filesystem.tree
        self.uid = self.gid = 0
        self.cache = Cache()
        self.modes = Modes()
        self._waits = False
        self._unique = 0

    async def __call__(self, opcode: Opcode, node: int = ROOT, body: bytes = b"") -> bytes:
        for at, place in enumerate(self.cache.wanted(opcode, node, body)):
            if place not in self.cache.names:
                try:
                    await self(Opcode.LOOKUP, place[0], place[1] + b"\0")
                except Refused as refused:
                    if at == 0 or refused.number != errno.ENOENT:
                        raise
        begun = self.cache.begun(node)
        answer = await super().__call__(opcode, node, body)
        self.cache.answered(opcode, node, body, answer)
        if opcode is Opcode.READ:
            self.cache.read(node, answer, begun)
        return answer


class Life:
    """One mount, from its beginning to the end of it or of its node."""

    def __init__(self, node: Node, name: str, random: Random, contents: dict[bytes, bytes], mode: WriteMode) -> None:
        self.node = node
        self.random = random
        self.history = History(name, is_pipelined=mode is WriteMode.PIPELINED)
        self.soft_s = random.choice([None, None, None, 2.0])
        self.is_ended = False
        self.is_compared = False
        ground = SimulatedGround(node, Uploading(random.choice([8, 200]), random.choice([0.0, 0.5])), contents)
        self.history.ids = ground.ids
        with ground.view() as view:
            rule = view.rule("data")
        assert rule is not None, "who mounts has looked"
        top = Top(rule.number, rule.name, rule.path, rule.root)
        self.tree = WatchedTree(ground, top, self.soft_s, mode, self)
        self._ground = ground
        self._filesystem = Filesystem(self.tree)
        self.kernel = SimulatedKernel(ground, self._filesystem)
        self._following = Following(self.tree, self._notify)
        self.tree.ground.follow(self._following.changed)
        self._follower = node.spawn(self._following.run())
        self.programs: list[asyncio.Task[None]] = []
        self.is_stopping = False
        self.passing = Random(repr((node.world.seed, name, "passthrough")))
        """For what only mounts with passthrough do, so that all others do what they always did."""
        self.readers: list[Open] = []
        """Files that stay open, most of them passed."""
        self.is_alike = is_alike(node.world.seed)
        self.flag: Open | None = None
        """One of them, where all is alike."""
        self.passes = self.passing.random() < PASSING
        if self.passes:
            self.kernel.passes()

    async def _notify(self, notices: list[Sequence[bytes]]) -> None:
        self.kernel.cache.told(notices)
        await asyncio.sleep(self.random.uniform(*NOTICE_S))

    @property
    def is_over(self) -> bool:
        return self.is_ended or self.node.process.dead

    @property
    def is_idle(self) -> bool:
        """Whether its programs have come to their ends."""
        return self.is_over or all(task.done() for task in self.programs)

    @property
    def is_ordered(self) -> bool:
        """Whether nothing is queued any more, and the kernel has been told of all changes."""
        return self.is_over or (not self.tree.pipeline and self._following.is_told)

    def tell(self, what: object) -> None:
        """Does something outside of the node, if that does not end before it is done with what it did before."""
        process, world = self.node.process, self.node.world
        told_at = process.now()

        def tell() -> None:
            if told_at <= process.died_at:
                what()  # type: ignore[operator]

        world.loop.at(told_at, world.loop.outside, tell)

    async def unmount(self) -> None:
        """As `Mount.stop`: what is queued goes into the log before, if that does not take long."""
        self.is_stopping = True
        if self.programs:
            await asyncio.wait(self.programs)
        try:
            begun = self.history.tick()
            await asyncio.wait_for(self.tree.commit_all(), UNMOUNT_S)
            self.tell(lambda: setattr(self.history, "sure", max(self.history.sure, begun)))
        except (TimeoutError, OSError):
            self.node.world.count("mount ended with a queue")
        self.tree.ground.unfollow(self._following.changed)
        self._follower.cancel()
        await asyncio.wait([self._follower])
        await self._filesystem.close()
        self.is_ended = True

    async def compare_bytes(self) -> None:
        """Every file that was read has the log's bytes, and so have the pages of it that the kernel keeps."""
        cache = self.kernel.cache
        for node, cached in list(cache.pages.items()):
            with self._ground.view() as view:
                inode = view.inode(self.kernel.real(node))
            try:
                if inode is None:
                    continue  # it is its holders' own
                opened = await self.kernel.open(node)
                data = await opened.read()
                await opened.close()
            except Refused as refused:
                raise Violation(f"{self.history.name}: {node} cannot be read: {refused}") from None
            if not await self._is_right(inode, data) or (opened.keeps_cache and cached != data):
                raise Violation(f"{self.history.name}: of {node} {cached!r} are kept, {data!r} are there")
        await self._compare_readers()
        self.is_compared = True

    async def _is_right(self, inode: Inode, data: bytes) -> bool:
        """Whether these are the bytes of a file; the zone's own has those of which the log has no digest."""
        assert inode.content is not None, "a file of a rule without a source has its bytes in the log"
        if inode.content.sealed:
            return blake3(data).digest() == inode.content.digest
        with self._ground.view() as view:
            path = b"/".join([self.tree.top.path, view.path(inode)])
        opened = await self._ground.open_file(path)
        try:
            self.node.world.count("changed in part, compared")
            return data == os.pread(opened.descriptor, opened.entry.size, 0)
        finally:
            opened.close()

    async def _compare_readers(self) -> None:
        """Who has had a file open for long sees what the log has by now."""
        for reader in self.readers:
            with self._ground.view() as view:
                inode = view.inode(self.kernel.real(reader.node))
            if inode is None:
                continue  # it is its holders' own
            try:
                data = await reader.read()
            except Refused as refused:
                raise Violation(f"{self.history.name}: {reader.node} cannot be read: {refused}") from None
            if not await self._is_right(inode, data):
                raise Violation(
                    f"{self.history.name}: a reader of {reader.node} sees {data!r}, which is not in the log"
                )
            self.node.world.count("reader compared, passed" if reader.passes else "reader compared")

    def closed(self) -> None:
        """The kernel closes the files of a process that is gone."""
        self.tree.files.close()
        self.kernel.modes.end()
        if self.kernel.modes.backing is not None:
            self.kernel.modes.backing.end()

    def differs(self) -> str:
        """How the mount shows its tree otherwise than the log has it, where nothing is queued."""
        top = self.tree.top
        with self._ground.view() as below:
            wanted = _shown(below, top.root)
        with self.tree.ground.view() as view:
            found = _shown(view, top.root)
        for path in sorted(wanted.keys() | found.keys()):
            if wanted.get(path) != found.get(path):
                return f"{path!r} is shown as {found.get(path)}, and is {wanted.get(path)}"
        return self.kernel.cache.differs(self.tree)


def _shown(view: View, root: int, path: bytes = b"") -> dict[bytes, tuple[object, ...]]:
    """Every path with what a program sees of it, but for its number."""
    found: dict[bytes, tuple[object, ...]] = {}
    for name, number in view.list(root):
        inode = view.inode(number)
        assert inode is not None, "an entry names an inode"
        digest = b"" if inode.content is None else inode.content.digest
        found[path + b"/" + name] = inode.kind, inode.attributes, inode.size, inode.nlink, digest
        if inode.kind is r.Kind.DIRECTORY:
            found |= _shown(view, number, path + b"/" + name)
    return found


class Mounts:
    """Keeps the rule mounted at some nodes, whenever they are up. Every mount that there ever was is in `lives`."""

    def __init__(self, world: World, random: Random, contents: dict[bytes, bytes], program: object) -> None:
        self._world = world
        self._random = random
        self._contents = contents
        self._program = program
        zones = [machine for machine in world.machines.values() if machine.zone != NO_ZONE]
        self._machines = random.sample(zones, random.randrange(1, len(zones) + 1))
        self._modes = [random.choice([WriteMode.PIPELINED] * 4 + [WriteMode.SYNC]) for _ in self._machines]
        self._per_node = random.choice([1, 1, 2])
        self._programs = random.choice([1, 1, 2])
        self.lives: list[Life] = []
        self._is_stopping = False

    async def keep(self) -> None:
        while not self._is_stopping:
            for machine, mode in zip(self._machines, self._modes, strict=True):
                node = machine.node
                alive = [life for life in self.lives if life.node is node and not life.is_over]
                if node is not None and len(alive) < self._per_node:
                    self._world.loop.at(self._world.loop.now, node.process, self._mount, machine, node, mode)
                elif alive and self._random.random() < 0.02:
                    life = self._random.choice(alive)
                    if not life.is_stopping:
                        self._world.count("unmount")
                        life.is_stopping = True
                        self._world.loop.at(self._world.loop.now, life.node.process, self._unmount, life)
            await asyncio.sleep(self._random.uniform(0.05, 0.4))

    def _mount(self, machine: Machine, node: Node, mode: WriteMode) -> None:
        if self._is_stopping or machine.node is not node or node.failed or not node.member.is_settled:
            return
        with node.gateway.latest() as view:
            if view.rule("data") is None:
                return
            if view.gsn < machine.shown:
                self._world.checks.fail(f"{machine.name} shows {view.gsn} after a start, and had shown {machine.shown}")
        name = f"mount {len(self.lives)} at {machine.name}"
        life = Life(node, name, Random(repr((self._world.seed, name))), self._contents, mode)
        self.lives.append(life)
        life.programs = [node.spawn(self._program(life, number)) for number in range(self._programs)]  # type: ignore[operator]

    def _unmount(self, life: Life) -> None:
        life.node.spawn(life.unmount())

    def stop(self) -> None:
        """Programs finish what they do, sync what they have, and end."""
        self._is_stopping = True
        for life in self.lives:
            life.is_stopping = True

    @property
    def are_idle(self) -> bool:
        return all(life.is_idle for life in self.lives)

    @property
    def are_ordered(self) -> bool:
        return all(life.is_ordered for life in self.lives)

    def compare(self) -> None:
        for life in self.lives:
            if not life.is_over:
                self._world.loop.at(self._world.loop.now, life.node.process, self._compare, life)

    def _compare(self, life: Life) -> None:
        life.node.spawn(life.compare_bytes())

    @property
    def are_compared(self) -> bool:
        return all(life.is_over or life.is_compared for life in self.lives)

    def close(self) -> None:
        for life in self.lives:
            life.closed()
