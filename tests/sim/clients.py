"""Clients of the simulated ecosystem: they ask any node, try again with the same id elsewhere, and remember it all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random

from lddp.core.records import OperationId, Record
from lddp.errors import LddpError, OutcomeUnknownError, UnavailableError
from lddp.gateway import NO_ZONE
from lddp.submissions import Applied
from tests.sim.checks import Call
from tests.sim.loop import Process
from tests.sim.node import Machine, Node
from tests.sim.uploads import Upload, abort_all, use_all
from tests.sim.visible import check_acknowledged
from tests.sim.world import World

ON_THE_WAY_S = (0.0001, 0.003)
Make = Callable[[OperationId, int], tuple[Record, dict[bytes, bytes]]]
"""(id, zone) -> a record, and the bytes by digest of contents that are not in it."""


class Client:
    """One program. It waits for each answer before it asks for more; `patience_s` is how long it waits for a node."""

    def __init__(self, world: World, name: str, rule: int) -> None:
        self.world = world
        self.random = Random(repr((world.seed, name)))
        self.patience_s = self.random.choice([1.0, 5.0, 30.0])
        self._session = name.encode()
        self._sequence = 0
        self._rule = rule
        self.busy = False

    def next_id(self) -> OperationId:
        self._sequence += 1
        return OperationId(self._session, self._sequence)

    def _choose(self) -> Machine:
        return self.random.choice([m for m in self.world.machines.values() if m.zone != NO_ZONE])

    async def do(self, make: Make) -> Applied:
        """One operation's outcome, however long it takes."""
        machine = self._choose()
        record, contents = make(self.next_id(), machine.zone)
        return await self.send(record, contents, machine)

    async def send(self, record: Record, contents: dict[bytes, bytes], machine: Machine) -> Applied:
        call = Call(record, self.world.loop.now)
        self.world.checks.calls.append(call)
        self.busy = True
        while True:
            try:
                applied = await self._ask(machine, record, contents)
            except (UnavailableError, TimeoutError):
                await asyncio.sleep(self.random.uniform(0.01, 0.5))
                if self.random.random() < 0.6:
                    machine = self._choose()
                continue
            self.busy = False
            self.world.checks.acknowledged(call, applied, self.world.loop.now)
            return applied

    async def read(self) -> None:
        """A read point, which covers everything that anybody was told before. Most are asked of a node that leads, or
        still thinks so."""
        leading = [m for m in self.world.up if m.zone != NO_ZONE and m.node is not None and m.node.leads]
        machine = self.random.choice(leading) if leading and self.random.random() < 0.7 else self._choose()
        node, expected = machine.node, self.world.checks.acknowledged_gsn
        if node is None:
            return
        answer: asyncio.Future[int] = self.world.loop.create_future()
        self._begin(node, lambda: node.spawn(self._barrier(node, answer)))
        try:
            gsn = await asyncio.wait_for(answer, self.patience_s)
        except (UnavailableError, TimeoutError):
            return
        self.world.checks.read(machine.name, expected, gsn)

    # -- in the node's process ----------------------------------------------------------------------------------------

    def _begin(self, node: Node, serve: Callable[[], object]) -> None:
        at = self.world.loop.now + self.random.uniform(*ON_THE_WAY_S)
        self.world.loop.at(at, node.process, serve)

    async def _ask(self, machine: Machine, record: Record, contents: dict[bytes, bytes]) -> Applied:
        node = machine.node
        if node is None:
            raise UnavailableError("connection refused")
        answer: asyncio.Future[Applied] = self.world.loop.create_future()
        self._begin(node, lambda: node.spawn(self._serve(node, record, contents, answer)))
        return await asyncio.wait_for(answer, self.patience_s)

    async def _serve(
        self, node: Node, record: Record, contents: dict[bytes, bytes], answer: asyncio.Future[Applied]
    ) -> None:
        uploads: list[Upload] = []
        try:
            try:
                for data in contents.values():
                    await self._upload(node, data, uploads)
                applied = await node.submit(record, self.patience_s * 0.9, partial(use_all, uploads))
            except OutcomeUnknownError:
                raise  # the record may come yet, and need the bytes
            except LddpError:
                await abort_all(uploads)
                raise
            if applied.outcome.errno:
                await abort_all(uploads)
            check_acknowledged(node, record, applied)
        except LddpError as error:
            self._tell(node.process, answer.set_exception, answer, error)
        else:
            self._tell(node.process, answer.set_result, answer, applied)

    async def _upload(self, node: Node, data: bytes, uploads: list[Upload]) -> None:
        rule = node.trees.rules.get(self._rule)
        if rule is None:
            raise UnavailableError("this node does not know the rule yet")
        uploads.append(upload := Upload(node, rule, data))
        await upload.spread(self.random)

    async def _barrier(self, node: Node, answer: asyncio.Future[int]) -> None:
        try:
            gsn = await node.gateway.barrier(self.patience_s * 0.9)
        except UnavailableError as error:
            self._tell(node.process, answer.set_exception, answer, error)
        else:
            self._tell(node.process, answer.set_result, answer, gsn)

    def _tell(self, process: Process, settle: Callable[..., None], answer: asyncio.Future, value: object) -> None:  # type: ignore[type-arg]
        """The answer leaves when the node is done with what it did before, and not if it is killed by then."""
        at = process.now() + self.random.uniform(*ON_THE_WAY_S)
        self.world.loop.at(at, self.world.loop.outside, _arrive, process, process.now(), settle, answer, value)


def _arrive(
    process: Process,
    sent_at: float,
    settle: Callable[..., None],
    answer: asyncio.Future,  # type: ignore[type-arg]
    value: object,
) -> None:
    if not answer.done() and sent_at <= process.died_at:
        settle(value)
