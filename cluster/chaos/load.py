"""The clients of a campaign: changes from the drill's chooser at all nodes, looks at what is there, and registers,
whose histories are short enough to be searched exhaustively."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from urllib.parse import quote_from_bytes

import aiohttp
from yarl import URL

from cluster.chaos.history import Look, Recorder
from cluster.chaos.nodes import Nodes
from cluster.chaos.search import OPERATIONS_MAX
from cluster.drill_load import BATCH_MAX, MADE_MAX, Client, History, Submitted
from cluster.drill_nodes import ROOT

LOOKERS = 5
LOOK_TIMEOUT_S = 4.0
PAUSE_S = (0.02, 0.3)
IMPATIENT = 0.03
"""Of the operations are given up early, so that some outcomes stay unknown."""
IMPATIENT_S = 3.0
REGISTER_PAUSE_S = (0.05, 0.3)
NOT_A_STATE = (errno.ENOSPC, errno.EIO)

More = Callable[[], bool]
Answers = dict[int, tuple[int, int]]


class Changer(Client):
    """Submits as the drill's client does, at a rate, and gives up when the campaign is over: then nobody knows."""

    def __init__(
        self, nodes: Nodes, node: str, chance: random.Random, recorder: Recorder, made: deque[tuple[bytes, bool]]
    ) -> None:
        # A history of its own: what the drill counts as a violation may be a full disk here.
        super().__init__(nodes, node, chance, History(made=made))
        self._recorder = recorder
        self.over = asyncio.Event()

    async def change(self, more: More, rate: float) -> None:
        """Until there is to be no more; `rate` is in operations a second."""
        async with self._cluster.session() as self._http:
            while more():
                operations = self._draw()
                began = time.monotonic()
                await self._send(operations, self._way(operations))
                pause = len(operations) / rate * self._chance.uniform(0.5, 1.5) - (time.monotonic() - began)
                await asyncio.sleep(max(0.0, pause))

    def _draw(self) -> list[Submitted]:
        if self._chance.random() < 0.6:
            return [self._next(True)]
        return [self._next(False) for _ in range(self._chance.randint(1, BATCH_MAX))]

    def _way(self, operations: list[Submitted]) -> Callable[..., Awaitable[Answers | None]]:
        return self._single if operations[0].alone else self._chance.choice((self._packed, self._json))

    async def _send(self, operations: list[Submitted], send: Callable[..., object], stay: bool = False) -> None:
        began = time.monotonic()
        self._recorder.operations += operations
        patience = IMPATIENT_S if self._chance.random() < IMPATIENT else float("inf")
        for operation in operations:
            operation.invoked = began
        while True:
            for operation in operations:
                operation.node, operation.tries = self._node, operation.tries + 1
            answers = await self._try(operations, send)
            now = time.monotonic()
            if answers is not None:
                self._answered(operations, answers, now)
                break
            if self.over.is_set() or now - began > patience:
                break
            self._recorder.retries += 1
            await asyncio.sleep(self._chance.uniform(*PAUSE_S))
            if not stay and self._chance.random() < 0.7:
                self._node = self._chance.choice(self._cluster.names)
        for operation in operations:
            self._recorder.ended(operation)

    async def _try(self, operations: list[Submitted], send: Callable[..., object]) -> Answers | None:
        """None: to be sent again, for the same outcome."""
        try:
            answers = await send(self._node, operations)  # type: ignore[misc]
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        for text in self._history.violations:
            said = text.partition(": ")[2][:160]
            self._recorder.refused[said] = self._recorder.refused.get(said, 0) + 1
        refused = bool(self._history.violations)
        self._history.violations.clear()
        return None if refused else answers

    def _answered(self, operations: list[Submitted], answers: Answers, now: float) -> None:
        for operation in operations:
            if operation.sequence in answers:
                self._history.answered(operation, answers[operation.sequence], now)


class Register(Changer):
    """One of the clients that share a path: puts, appends, unlinks and strong reads, few enough to be searched."""

    async def use(self, sample: Sample, more: More) -> None:
        async with self._cluster.session() as self._http:
            reader = Looker(self._cluster, self._chance, self._recorder, self._http, f"register {self._session.hex()}")
            while more():
                path, operations = sample.turn()
                name = self._chance.choices(("put", "append", "unlink", "read"), (3, 4, 1, 4))[0]
                if name == "read":
                    look = await reader.look(self._node, "read", path, True)
                    if look.completed >= 0:
                        operations.append(look)
                else:
                    data = {"data": self._chance.randbytes(4)} if name != "unlink" else {}
                    mode = {"mode": 0o644} if name == "put" else {}
                    operation = self._make(name, path, data | mode, True)
                    operations.append(operation)
                    await self._send([operation], self._single)
                await asyncio.sleep(self._chance.uniform(*REGISTER_PAUSE_S))
                if self._chance.random() < 0.1:
                    self._node = self._chance.choice(self._cluster.names)


class Sample:
    """The path that the registers use now, and what they did to it; another one when that is enough."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._left = 0

    def turn(self) -> tuple[bytes, list[Submitted | Look]]:
        if not self._left:
            self._recorder.samples.append([])
            self._left = OPERATIONS_MAX
        self._left -= 1
        return ROOT + b"/register-%d" % len(self._recorder.samples), self._recorder.samples[-1]


class Looker:
    """Reads files, directories and attributes; `strong` behind a barrier at the same node."""

    def __init__(
        self, nodes: Nodes, chance: random.Random, recorder: Recorder, http: aiohttp.ClientSession, name: str
    ) -> None:
        self._nodes = nodes
        self._chance = chance
        self._recorder = recorder
        self._http = http
        self._name = name

    async def run(self, more: More, made: deque[tuple[bytes, bool]], rate: float) -> None:
        while more():
            known = self._chance.choice(made) if made and self._chance.random() < 0.95 else (ROOT, True)
            kind = self._chance.choice(("list", "stat") if known[1] else ("read", "read", "stat"))
            node = self._chance.choice(self._nodes.names)
            await self.look(node, kind, known[0], self._chance.random() < 0.5)
            await asyncio.sleep(self._chance.uniform(0.5, 1.5) / rate)

    async def look(self, node: str, kind: str, path: bytes, strong: bool) -> Look:
        """One look, at one node, without retries. Not completed where it failed in a way that says nothing."""
        look = Look(self._name, node, kind, path, strong, time.monotonic())
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                if strong:
                    url = f"{self._nodes.endpoints[node]}/v1/barrier?timeout=5"
                    async with self._http.post(url) as answer:
                        if answer.status != 200:
                            return look
                        look.floor = int((await answer.json())["index"])
                await self._get(look)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return look
        if look.completed >= 0:
            self._recorder.looks.append(look)
            self._recorder.ended(look)
        return look

    async def _get(self, look: Look) -> None:
        query = "limit=10000&op=list" if look.kind == "list" else f"op={look.kind}"
        target = f"{self._nodes.endpoints[look.node]}/v1/files{quote_from_bytes(look.path)}?{query}"
        async with self._http.get(URL(target, encoded=True)) as answer:
            body = await answer.read()
            look.index = int(answer.headers.get("Lddp-Index", "0"))
            if answer.status == 200:
                look.errno, look.value = 0, _value(look.kind, body, await answer.json() if look.kind != "read" else {})
            else:
                document = await answer.json(content_type=None)
                number = getattr(errno, str(document.get("errno")), 0)
                if answer.status in (500, 503) or not number or number in NOT_A_STATE:
                    said = f"GET {look.kind}: HTTP {answer.status}: {str(document.get('detail'))[:100]}"
                    self._recorder.refused[said] = self._recorder.refused.get(said, 0) + 1
                    return
                look.errno = number
        look.completed = time.monotonic()


def _value(kind: str, body: bytes, document: dict[str, object]) -> bytes:
    if kind == "read":
        return body
    if kind == "stat":
        return f"{document['kind']} {document['size'] if document['kind'] == 'file' else 0}".encode()
    entries = document["entries"]
    assert isinstance(entries, list)
    return b"\0".join(sorted(_name(entry) for entry in entries))


def _name(entry: dict[str, object]) -> bytes:
    from lddp.serving.paths import bytes_in

    name = bytes_in(entry, "name")
    assert name is not None
    return name


class Load:
    """All clients of a campaign."""

    def __init__(self, nodes: Nodes, recorder: Recorder, seed: int, rate: float) -> None:
        self._nodes = nodes
        self._recorder = recorder
        self._seed = seed
        self._rate = rate
        self._made: deque[tuple[bytes, bool]] = deque(maxlen=MADE_MAX)
        self._more = True
        self._clients: list[Changer] = []

    def stop(self) -> None:
        """No new operations; what is under way is still asked for."""
        self._more = False

    def give_up(self) -> None:
        """What has no answer yet gets one more try at most."""
        for client in self._clients:
            client.over.set()

    async def run(self) -> None:
        """Until stopped, and every operation has ended."""
        names, sample = self._nodes.names, Sample(self._recorder)

        def more() -> bool:
            return self._more

        async with self._nodes.session() as http, asyncio.TaskGroup() as tasks:
            for number, name in enumerate(2 * names):
                chance = random.Random(f"{self._seed} changer {number}")
                client = Changer(self._nodes, name, chance, self._recorder, self._made)
                self._clients.append(client)
                tasks.create_task(client.change(more, self._rate / (2 * len(names))))
            for number in range(LOOKERS):
                chance = random.Random(f"{self._seed} looker {number}")
                looker = Looker(self._nodes, chance, self._recorder, http, f"looker {number}")
                tasks.create_task(looker.run(more, self._made, self._rate / 4 / LOOKERS))
            for number in range(5):
                chance = random.Random(f"{self._seed} register {number}")
                register = Register(self._nodes, names[number % len(names)], chance, self._recorder, deque(maxlen=8))
                self._clients.append(register)
                tasks.create_task(register.use(sample, more))
