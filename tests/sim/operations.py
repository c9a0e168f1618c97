"""Random operations at all zones of a rule without a source, under faults, judged by the model that knows no log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from blake3 import blake3

from lddp.core.codec import decode
from lddp.core.records import (
    Append,
    Attributes,
    Content,
    Create,
    CreateRule,
    Guarded,
    InPlace,
    Kind,
    Link,
    MakeDirectory,
    Operation,
    OperationId,
    Put,
    Record,
    RemoveDirectory,
    RemoveXattr,
    Rename,
    RenameFlag,
    SetAttributes,
    SetXattr,
    Symlink,
    Truncate,
    Unlink,
    Write,
    XattrFlag,
    ZoneMember,
)
from lddp.core.view import View
from lddp.gateway import NO_ZONE
from tests.core.model import Model, RuleModel, Verdict
from tests.core.model import Node as ModelNode
from tests.sim.alike import is_alike, some_of_the_same
from tests.sim.checks import Row, Violation, check_equal, difference, namespace_rows, zone_rows
from tests.sim.clients import Client
from tests.sim.faults import Faults
from tests.sim.visible import check_projected
from tests.sim.world import Settings, World

RULE = 1
PATH = b"/data"
NAMES = (b"a", b"b", b"c", b"\xff\xfe")
SMALL = {"entry_bytes_max": 1024, "entry_bytes_ceiling": 1024, "entry_records_max": 2, "flight_bytes_max": 1024}
"""Entries and messages so small that a follower is brought along in many steps."""
REST_S = 120.0
"""Simulated time within which everything must have come to rest once the faults have stopped."""


class Maker:
    """Makes operations that meet each other often: few names, few depths. Bytes that are not in a record are kept in
    `contents` by their digests."""

    def __init__(
        self,
        random: Random,
        contents: dict[bytes, bytes],
        path: bytes = PATH,
        existing: Callable[[], list[bytes]] = list,
        seen: Callable[[bytes, Random], int] = lambda _path, _random: 0,
        *,
        alike: bool = False,
    ) -> None:
        self.random = random
        self._alike = alike
        self.contents = contents
        self._root = path
        self._existing = existing
        """Paths that a client might see now: half of what is done is done to one of them."""
        self._seen = seen
        """The inode that a path has at some node, 0 where there is none: what a client means that has looked there."""
        self._large_share = random.choice([0.0, 0.1, 0.9])
        self._fresh = 0

    def _path(self) -> bytes:
        existing = self._existing()
        if existing and self.random.random() < 0.5:
            return self._root + b"/" + self.random.choice(existing)
        return self._root + b"".join(
            b"/" + self.random.choice(NAMES) for _ in range(self.random.choice([1, 1, 2, 2, 3]))
        )

    def _content(self) -> Content:
        random = self.random
        if random.random() < 0.6:
            # Now and then so large that few records go into one message.
            is_large = random.random() < self._large_share
            data = random.randbytes(random.randrange(200, 600) if is_large else random.randrange(1, 8))
            return Content(blake3(data).digest(), len(data), data)
        # Bytes that nobody else has, and now and then some that others have too.
        self._fresh += random.random() < 0.9
        data = some_of_the_same(random) if self._alike else b"%d " % self._fresh * random.randrange(2, 40)
        self.contents[blake3(data).digest()] = data
        return Content(blake3(data).digest(), len(data))

    def make(self, id_: OperationId, zone: int, time_ns: int) -> tuple[Record, dict[bytes, bytes]]:
        random, head = self.random, (id_, zone, time_ns)
        kind = random.choices(range(14), [6, 3, 8, 3, 2, 2, 5, 4, 2, 2, 2, 2, 1, 1])[0]
        operation: Operation
        match kind:
            case 0:
                operation = MakeDirectory(*head, self._path(), 0o755, 0, 0)
            case 1:
                operation = Create(*head, self._path(), random.choice([Kind.FILE, Kind.FILE, Kind.FIFO]), 0o600, 1, 1)
            case 2:
                operation = Put(*head, self._path(), 0o644, 0, 0, self._content())
            case 3:
                operation = Write(*head, self._path(), random.randrange(12), self._content())
            case 4:
                operation = Append(*head, self._path(), self._content())
            case 5:
                operation = Truncate(*head, self._path(), random.randrange(12))
            case 6:
                flag = random.choices([*RenameFlag], [6, 1, 2])[0]
                operation = Rename(*head, self._path(), self._path(), flag)
            case 7:
                operation = Unlink(*head, self._path())
            case 8:
                operation = RemoveDirectory(*head, self._path())
            case 9:
                operation = Link(*head, self._path(), self._path())
            case 10:
                operation = Symlink(*head, self._path(), b"target", 0, 0)
            case 11:
                operation = SetAttributes(*head, self._path(), random.choice([0o600, 0o755]), None, 7, None)
            case 12:
                operation = SetXattr(*head, self._path(), b"user.a", b"1", random.choice([*XattrFlag]))
            case _:
                operation = RemoveXattr(*head, self._path(), b"user.a")
        operation = self._meaning(operation)
        content = getattr(operation, "content", None)
        if content is None or content.inline is not None:
            return operation, {}
        return operation, {content.digest: self.contents[content.digest]}

    def _meaning(self, operation: Operation) -> Operation:
        """Often for the object or directory that a node shows under this name or another. By its turn that may have
        changed."""
        random = Random(repr(operation.id))  # what else is made does not depend on it
        if random.random() < 0.6:
            return operation
        path = operation.path if random.random() < 0.8 else self._root + b"/" + random.choice(NAMES)
        if isinstance(operation, InPlace):
            return operation._replace(expected_inode=self._seen(path, random))
        return operation._replace(expected_parent=self._seen(path.rpartition(b"/")[0], random))


class Operations:
    """One rule over all zones, its clients, and what must be true of them in the end."""

    def __init__(
        self,
        world: World,
        *,
        clients: int,
        count: int,
        rule: int = RULE,
        path: bytes = PATH,
        existing: Callable[[], list[bytes]] = list,
    ) -> None:
        self.world = world
        self._existing = existing
        self._path = path
        self.contents: dict[bytes, bytes] = {}
        self.created_ns = 0
        self._rule = rule
        self._left = count
        self._clients = [Client(world, f"client {number}", rule) for number in range(clients)]
        self._tasks: list[asyncio.Task[None]] = []
        world.looks.append(self._look)

    def _look(self) -> None:
        """Zones are where they say that they are, in the middle of everything."""
        for machine in self.world.up:
            if machine.node is not None and not machine.node.failed:
                check_projected(machine.node, self._rule)

    def start(self) -> None:
        self._tasks = [self.world.loop.create_task(self._drive(client)) for client in self._clients]
        if self.world.random.random() < 0.5:
            self._tasks.append(self.world.loop.create_task(self._read_on(self._clients[0])))

    @property
    def done(self) -> bool:
        return all(task.done() for task in self._tasks)

    def stop_asking(self) -> None:
        """What is on its way is finished, nothing more is begun."""
        self._left = 0

    async def create(self, name: str = "data") -> None:
        """The rule, which everything else needs."""
        client = Client(self.world, f"admin of {name}", self._rule)
        zones = sorted(m.zone for m in self.world.machines.values() if m.zone != NO_ZONE)
        members = tuple(ZoneMember(zone, f"zone {zone}", b"/srv/" + name.encode()) for zone in zones)
        self.created_ns = 1
        record = CreateRule(client.next_id(), self.created_ns, name, b"/" + name.encode(), -1, members)
        await client.send(record, {}, next(m for m in self.world.machines.values() if m.zone != NO_ZONE))

    def _maker(self, random: Random) -> Maker:
        alike = is_alike(self.world.seed)
        return Maker(random, self.contents, self._path, self._existing, self._seen, alike=alike)

    async def _drive(self, client: Client) -> None:
        maker = self._maker(client.random)
        pause_s = client.random.choice([0.0, 0.02, 0.2])
        while self._left > 0:
            self._left -= 1
            if client.random.random() < 0.1:
                await client.read()
            else:
                now_ns = int(self.world.loop.now * 1e9)
                await client.do(lambda id_, zone, now_ns=now_ns: maker.make(id_, zone, now_ns))  # type: ignore[misc]
            if pause_s:
                await asyncio.sleep(client.random.uniform(0.0, 2 * pause_s))

    def _seen(self, path: bytes, random: Random) -> int:
        nodes = [machine.node for machine in self.world.up if machine.zone != NO_ZONE and machine.node is not None]
        if not nodes:
            return 0
        with random.choice(nodes).environment.read() as tables:
            inode = View(tables).resolve(path)
        return 0 if inode is None else inode.number

    async def _read_on(self, client: Client) -> None:
        """Asks any node for a read point, again and again."""
        while self._left > 0:
            await asyncio.sleep(client.random.uniform(0.0, 0.3))
            await client.read()

    # -- at rest ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        zones = self.world.zone_files(self._rule)
        check_equal(zones)
        name, files = next(iter(zones.items()))
        node = self.world.machines[name].node
        assert node is not None
        with node.environment.read() as tables:
            view = View(tables)
            rule = next(one for one in view.rules() if one.number == self._rule)
            different = difference(zone_rows(files), namespace_rows(view, rule.root))
        if different:
            raise Violation(f"the files of {name} are not what the namespace says:\n{different}")
        self._check_model(zone_rows(files))

    def _check_model(self, found: dict[bytes, tuple[object, ...]]) -> None:
        """The log, carried out by the model, gives the files; and every answer is one that the model allows."""
        root = ModelNode(Kind.DIRECTORY, 0o755, mtime_ns=self.created_ns)
        model = Model([RuleModel(PATH, -1, root)])
        seen: set[OperationId] = set()
        answers = {call.id: call.applied for call in self.world.checks.calls}
        for gsn, data in enumerate(self.world.checks.records(), 1):
            record = decode(data)
            if isinstance(record, CreateRule) and record.path == PATH and not root.number:
                root.number = gsn << 16
            if not isinstance(record, Operation | Guarded) or record.id in seen:
                continue
            seen.add(record.id)
            verdict = self._judge(model, gsn, record)
            answer = answers.get(record.id)
            if answer is not None and answer.outcome.errno not in verdict.allowed:
                raise Violation(f"{record} was answered {answer.outcome}, allowed is {sorted(verdict.allowed)}")
            if verdict.commit is not None:
                verdict.commit(gsn)
        wanted = _model_files(model)
        if wanted.keys() != found.keys():
            raise Violation(f"the files are {sorted(found)}, those of the model {sorted(wanted)}")
        different = difference(found, wanted)
        if different:
            raise Violation(f"the files are not what the model has:\n{different}")

    def _judge(self, model: Model, _gsn: int, record: Operation | Guarded) -> Verdict:
        """What the model says of the next record."""
        assert not isinstance(record, Guarded), "no client here sends any"
        return model.judge(self._with_bytes(record))

    def _with_bytes(self, record: Operation) -> Operation:
        content = getattr(record, "content", None)
        if content is None or content.inline is not None:
            return record
        whole: Content = content._replace(inline=self.contents[content.digest])
        changed: Operation = record._replace(content=whole)  # type: ignore[call-arg]
        return changed


def _model_files(model: Model) -> dict[bytes, Row]:
    """Every path with what a zone must have there, as `zone_rows` has it."""
    found = dict(model.walk(model.rules[0]))
    firsts: dict[int, bytes] = {}
    for path in sorted(found):
        firsts.setdefault(id(found[path]), path)
    return {path: (*_model_row(node), firsts[id(node)]) for path, node in sorted(found.items())}


def _model_row(node: ModelNode) -> Row:
    mode = 0o777 if node.kind is Kind.SYMLINK or node.mode is None else node.mode
    content = (len(node.data), blake3(node.data).digest()) if node.kind is Kind.FILE else None
    attributes = Attributes(mode, node.uid, node.gid, node.mtime_ns or 0, tuple(sorted(node.xattrs.items())))
    return node.kind, attributes, content, node.target, node.rdev


# -- one run ----------------------------------------------------------------------------------------------------------


def settings_of(random: Random) -> Settings:
    """A small or a larger group, with or without a witness, on a quick or a slow machine."""
    zones = random.choice([(1, 2, 3)] * 3 + [(1, 2, NO_ZONE)] * 2 + [(1, 2, 3, 4, 5), (1, 2, 3, 4, NO_ZONE)])
    slow = random.random() < 0.3
    compacting = random.random() < 0.3
    return Settings(
        zones=zones,
        delay_s=random.choice([(0.0002, 0.002), (0.0005, 0.03)]),
        sync_s=(0.0, 0.03) if slow else (0.0, 0.002),
        heartbeat_s=random.choice([0.15, 0.3, 0.3]),
        election_timeout_min_s=1.0,
        election_timeout_max_s=2.0,
        log_entries_kept=10 if compacting else 10_000,
        compact_entries_min=10 if compacting else 10_000,
        checkpoint_s=random.choice([0.1, 5.0]),
        raft={"compaction_margin": 8, "window_entries_max": random.choice([16, 4096])} | random.choice([{}, SMALL]),
    )


def run(seed: int) -> World:
    """Raises Violation; the world as it was at the end."""
    random = Random(repr((seed, "operations")))
    world = World(("operations", seed), settings_of(random))
    with world:
        world.start()
        operations = Operations(world, clients=random.choice([1, 3, 6]), count=random.choice([20, 60]))
        created = world.loop.create_task(operations.create())
        if not world.run_until(created.done, REST_S):
            raise Violation("the rule was not created in time")
        faults = Faults(world, world.seed)
        operations.start()
        for _ in range(random.choice([4, 10, 20])):
            world.run_for(random.choice([0.0, 0.01, 0.05, 0.3, 1.0, 2.0]))
            faults.inject()
        world.run_for(random.choice([0.1, 1.0]))
        faults.heal()
        come_to_rest(world, operations)
        world.checks.check_history()
        world.checks.check_states(list(world.machines.values()))
        operations.check()
    return world


def come_to_rest(world: World, operations: Operations) -> None:
    """All that was asked for is answered, and every zone is where the log is, directory times included."""
    operations.stop_asking()
    if not world.run_until(lambda: operations.done, REST_S):
        raise Violation(f"clients still wait {REST_S} s after the faults have stopped")
    settle(world)


def settle(world: World) -> None:
    """Every node folds all that anybody has, carries it out, and makes it durable."""
    deadline, last = world.loop.now + REST_S, -1
    while last != len(world.checks.records()):
        last = len(world.checks.records())
        with world.within(world.loop.outside):
            settled = [world.loop.create_task(_settle(world, name, last)) for name in world.machines]
            together = asyncio.gather(*settled, return_exceptions=True)
        if not world.run_until(together.done, deadline - world.loop.now):
            nodes = {m.name: m.node for m in world.machines.values()}
            at = {n: (p.projected, p.stopped) for n, node in nodes.items() if node and (p := node.projector)}
            raise Violation(f"zones are not up to date {REST_S} s after the faults have stopped: of {last}, {at}")
        for task in settled:
            task.result()


async def _settle(world: World, name: str, last: int) -> None:
    node = world.machines[name].node
    assert node is not None
    done = world.loop.create_future()

    async def wait() -> None:
        await node.gateway.wait(last, REST_S)
        if node.projector is not None:
            await node.projector.wait_through(last, REST_S)
            await node.projector.checkpoint()
        world.loop.at(world.loop.now, world.loop.outside, done.set_result, None)

    world.loop.at(world.loop.now, node.process, lambda: node.spawn(wait()))
    await done
