"""A projector between a log and a zone in memory, and the model that the zone must equal in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from operator import itemgetter
from pathlib import Path
from typing import Any

from blake3 import blake3

from lddp.content.store import Store
from lddp.core import effects as e
from lddp.core.machine import StateMachine
from lddp.core.records import Content, Kind, Outcome, Record
from lddp.core.tables import Tables
from lddp.core.view import View
from lddp.errors import UnavailableError
from lddp.ports import ContentSource
from lddp.replay import outbox
from lddp.replay.carrier import Carrier
from lddp.replay.existing import OnExisting
from lddp.replay.progress import Progress
from lddp.replay.projector import Projector
from tests.core.support import TARGET, create_rule, with_bytes
from tests.core.zone import Thing, Zone, paths_of
from tests.fakes.memory import MemoryKeyValue
from tests.fakes.power import PowerZone
from tests.fakes.zone import FakeZone, Inode

RULE = 1
PATIENCE_S = 20.0
"""When a test that waits in vain gives up."""


class Killed(BaseException):
    """The process ends here."""


class Inline(Executor):
    """Runs what is submitted at once."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it, as in a thread
            future.set_exception(error)
        return future


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class Wait:
    """Stands for the pause before the next try: ends when the test says so."""

    def __init__(self) -> None:
        self.entered = 0
        self._changed = asyncio.Condition()
        self._passed = 0

    async def __call__(self, _seconds: float) -> None:
        async with self._changed:
            self.entered += 1
            number = self.entered
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._passed >= number)

    async def reached(self, count: int) -> None:
        """Until the wait has been entered so many times."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.entered >= count)

    async def go(self) -> None:
        """Ends the pauses so far."""
        async with self._changed:
            self._passed = self.entered
            self._changed.notify_all()


class WatchedCarrier(Carrier):
    """Ends the process before or after the effect `kill_at`, counted from 0 over all carriers of one start."""

    def __init__(
        self, zone: FakeZone, policy: OnExisting, kill: Callable[[bool], None], *, is_shared: bool = False
    ) -> None:
        super().__init__(zone, policy, is_shared=is_shared)
        self._kill = kill
        self.carried: list[e.Effect] = []

    def carry(self, effect: e.Effect, source: ContentSource | None) -> None:
        self._kill(False)
        super().carry(effect, source)
        self.carried.append(effect)
        self._kill(True)


class Strict:
    """A log of recoveries that gives none of them up."""

    def critical(self, text: str, *arguments: object) -> None:
        raise AssertionError(text % arguments)


class Bench:
    """`late` says which contents are not here at once; they come when `supply` is called. Bytes go into the log as
    digests where `late` holds for them. A shared tree is one that programs change, too."""

    def __init__(self, directory: Path, policy: OnExisting = OnExisting.OVERWRITE, *, is_shared: bool = False) -> None:
        self.directory = directory
        self.policy = policy
        self.is_shared = is_shared
        self.environment = MemoryKeyValue()
        with self.environment.read() as tables:
            self.machine = StateMachine(tables)
        self.zone = PowerZone()
        self.zone.tears_attributes = not is_shared
        self.model = Zone(TARGET, RULE)
        self.store = Store(directory / "content")
        self.bytes: dict[bytes, bytes] = {}
        self.supplied: set[bytes] = set()
        self.asked: list[bytes] = []
        self._arrived = asyncio.Condition()
        self._gave_up = False
        self.time = Time()
        self.wait = Wait()
        self.transactions = 0
        self.kill: Callable[[bool], None] = lambda _after: None
        self.task: asyncio.Task[None] | None = None
        self._build()

    # -- processes --------------------------------------------------------------------------------------------------

    def build_closed(self) -> dict[int, Carrier]:
        """A process starts that cannot open its tree yet; it is open once its carrier is in the dictionary."""
        self.progress.close()
        carriers: dict[int, Carrier] = {}
        self._build(carriers)
        self.projector.awaits = lambda rule: rule not in carriers
        return carriers

    def _build(self, carriers: dict[int, Carrier] | None = None) -> None:
        """A process starts: nothing is known but what is in the database and in the file of marks."""
        self.store.close()
        self.store = Store(self.directory / "content")
        self.store.use(self._fetch)
        self.progress = Progress(str(self.directory / "progress"))
        self.carrier = WatchedCarrier(self.zone, self.policy, lambda after: self.kill(after), is_shared=self.is_shared)
        self.projector = Projector(
            self.environment,
            self._transact,
            {RULE: self.carrier} if carriers is None else carriers,
            self.store,
            lambda _rule: ["elsewhere"],
            self.progress,
            self.time,
            Inline(),
            sleep=self.wait,
        )

    def _transact(self, change: Callable[[Tables], None]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.kill(False)
        with self.environment.write() as tables:
            change(tables)
        self.transactions += 1
        self.kill(True)
        future.set_result(None)
        return future

    def start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.projector.run())

    async def end(self) -> None:
        """The process is gone, however it was."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.task = None

    async def restart(self) -> None:
        if self.task is not None:
            await self.end()
        self.progress.close()
        self._build()
        self.start()

    async def close(self) -> None:
        if self.task is not None:
            await self.end()
        self.progress.close()
        self.store.close()

    # -- the log ----------------------------------------------------------------------------------------------------

    def late(self, data: bytes) -> Content:
        """A content whose bytes are not here."""
        digest = blake3(data).digest()
        self.bytes[digest] = data
        return Content(digest, len(data))

    def submit(self, record: Record) -> Outcome:
        """Orders and folds one record, and tells the projector, as the gateway does."""
        with self.environment.write() as tables:
            self.machine.bind(tables)
            outcome, effects = self.machine.apply(record)
            items = outbox.append(tables, self.machine.gsn, TARGET, effects)
            self.machine.flush()
        self.model.apply_all([with_bytes(effect, self.bytes) for effect in effects])
        if self.projector.retained is not None:
            self.projector.retained.expected.expect(items)
        self.projector.offer(items, self.machine.gsn)
        self.projector.poke()
        return outcome

    def submit_all(self, records: Sequence[Record]) -> None:
        for record in records:
            outcome = self.submit(record)
            assert outcome.errno == 0, (record, outcome)

    def rule(self) -> None:
        self.submit_all([create_rule()])

    def append(self, *effects: e.Effect) -> None:
        """Puts effects of one record into the outbox that no record of the namespace explains."""
        with self.environment.write() as tables:
            self.machine.bind(tables)
            self.machine.gsn += 1
            scoped = [e.ScopedEffect(RULE, e.Scope(), effect) for effect in effects]
            items = outbox.append(tables, self.machine.gsn, TARGET, scoped)
            self.machine.flush()
        if self.projector.retained is not None:
            self.projector.retained.expected.expect(items)
        self.projector.offer(items, self.machine.gsn)
        self.projector.poke()

    @property
    def gsn(self) -> int:
        return self.machine.gsn

    def view(self) -> View:
        with self.environment.read() as tables:
            return View(tables)

    # -- bytes ------------------------------------------------------------------------------------------------------

    def hold(self, data: bytes) -> Content:
        """A content whose bytes are here, as a blob."""
        content = self.late(data)
        arrival = self.store.arrival()
        arrival.write([data])
        self.store.publish(arrival, content.digest)
        return content

    async def supply(self, *contents: Content) -> None:
        """The other node has these bytes from now on."""
        async with self._arrived:
            self.supplied.update(content.digest for content in contents)
            self._arrived.notify_all()

    async def supply_all(self) -> None:
        async with self._arrived:
            self.supplied.update(self.bytes)
            self._arrived.notify_all()

    async def refuse(self) -> None:
        """Fetches that wait now hear that nobody has the bytes."""
        async with self._arrived:
            self._gave_up = True
            self._arrived.notify_all()

    async def _fetch(self, content: Content, _inode: int, holders: Sequence[str]) -> None:
        assert list(holders) == ["elsewhere"]
        async with self._arrived:
            self.asked.append(content.digest)
            self._arrived.notify_all()
            self._gave_up = False
            await self._arrived.wait_for(lambda: content.digest in self.supplied or self._gave_up)
            if content.digest not in self.supplied:
                raise UnavailableError("nobody has it")
        # As production, beside the loop.
        if await asyncio.get_running_loop().run_in_executor(None, self.store.open, content) is None:
            self.hold(self.bytes[content.digest])

    async def asked_for(self, *contents: Content) -> None:
        """Until these bytes have been asked for."""
        wanted = {content.digest for content in contents}
        async with asyncio.timeout(PATIENCE_S), self._arrived:
            await self._arrived.wait_for(lambda: wanted <= set(self.asked))

    # -- the end ----------------------------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Everything is in the zone, with directory times, and durable."""
        await self.projector.wait_through(self.gsn, PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            await self.projector.checkpoint()

    async def noted(self) -> None:
        """A checkpoint is due, and what it says is in the database."""
        transactions = self.transactions
        async with asyncio.timeout(PATIENCE_S):
            while self.transactions == transactions:
                self.time.now += 1000.0
                self.projector.poke()
                await asyncio.sleep(0)

    def effects_left(self) -> int:
        with self.environment.read() as tables:
            return outbox.count_after(tables, (0, 0), 1 << 30)

    def assert_equal(self) -> None:
        """The zone holds what the model holds: names, kinds, attributes, times, bytes, links."""
        assert describe_zone(walk(self.zone)) == describe_model(self.model)
        assert not self.zone.parked
        assert not self.carrier.drift


def walk(zone: FakeZone) -> list[tuple[bytes, Inode]]:
    """Everything in it, in order of path."""
    found: list[tuple[bytes, Inode]] = [(b"", zone.root)]
    for prefix, inode in found:
        below = prefix + b"/" if prefix else b""
        found += [(below + name, child) for name, child in inode.entries.items()]
    return sorted(found, key=itemgetter(0))


def describe_zone(found: list[tuple[bytes, Inode]]) -> dict[bytes, tuple[object, ...]]:
    """What `walk` gave, to be compared with a model."""
    firsts: dict[int, bytes] = {}
    for path, inode in found:
        firsts.setdefault(inode.number, path)
    return {
        path: (inode.kind, inode.attributes, bytes(inode.data), inode.target, inode.rdev, firsts[inode.number])
        for path, inode in found
    }


def describe_model(model: Zone) -> dict[bytes, tuple[object, ...]]:
    found: dict[bytes, Thing] = paths_of(model.root)
    firsts: dict[int, bytes] = {}
    for path in sorted(found):
        firsts.setdefault(id(found[path]), path)
    return {
        path: (t.kind, t.attributes, t.data if t.kind is Kind.FILE else b"", t.target, t.rdev, firsts[id(t)])
        for path, t in sorted(found.items())
    }
