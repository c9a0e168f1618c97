"""A group of replicas on a virtual clock, a network that delays and breaks, and disks that lose what was not synced.

Everything that production runs is run here except sockets and LMDB. What must hold is checked at every step: one
order everywhere, nothing acknowledged is lost, no entry applied twice, at most one leader a term, and read points
that cover all that was acknowledged before.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from itertools import count, pairwise

from lddp.consensus.config import RaftConfig
from lddp.consensus.replica import Replica
from lddp.consensus.wire import Message, decode_message, encode_message
from lddp.core.tables import Table, Tables
from tests.fakes.memory import MemoryKeyValue

_APPLIED_KEY = b"applied"


class VirtualClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


class SeededRandom:
    def __init__(self, seed: object) -> None:
        self._random = random.Random(repr(seed))

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)


class Node:
    """One member's process: gone and back again at a crash, its database as of the last commit."""

    def __init__(self, group: Group, name: str) -> None:
        self.group = group
        self.name = name
        self.keyvalue = MemoryKeyValue()
        self.replica: Replica
        self.up = False
        self.life = 0
        self.busy = False
        self.wanted = False
        self.unacknowledged: set[bytes] = set()

    def start(self) -> None:
        peers = {name: "unix:/simulated" for name in self.group.nodes if name != self.name}
        config = RaftConfig(
            node=self.name, address="unix:/simulated", peers=peers, ecosystem="simulated", **self.group.settings
        )
        random_ = SeededRandom((self.group.seed, self.name, self.life))
        self.replica = Replica(config, self.keyvalue, self.apply, clock=self.group.clock, random=random_, outlet=self)
        self.replica.on_committed.append(self.committed)
        self.up, self.busy = True, False
        self.wake()

    def crash(self) -> None:
        self.life += 1
        self.up = False
        self.replica.close()
        self.keyvalue = self.keyvalue.copy()
        self.unacknowledged.clear()

    def send(self, peer: str, message: Message) -> None:
        self.group.carry(self.name, peer, message)

    def submit(self, record: bytes) -> None:
        if self.replica.inbox.put([record]):
            self.unacknowledged.add(record)
            self.wake()

    def apply(self, tables: Tables, index: int, records: Sequence[bytes]) -> bool:
        before = tables.get(Table.META, _APPLIED_KEY) or b"0"
        assert int(before) < index, f"{self.name} applies {index} after {before!r}"
        tables.put(Table.META, _APPLIED_KEY, str(index).encode())
        for at, record in enumerate(records):
            tables.put(Table.CONTROL, index.to_bytes(8, "big") + at.to_bytes(4, "big"), record)
        self.group.check_same(self.name, index, tuple(records))
        return self.group.random.random() < 0.5

    def committed(self, first: int, last: int) -> None:
        for index in range(first, last + 1):
            for record in self.group.decided.get(index, ()):
                if record in self.unacknowledged:
                    self.unacknowledged.discard(record)
                    self.group.acknowledged[record] = index

    def records(self) -> list[bytes]:
        with self.keyvalue.read() as tables:
            return [record for _, record in tables.scan(Table.CONTROL)]

    # -- cycles: as RaftMember does them, with a disk that takes its time ---------------------------------------------

    def wake(self) -> None:
        self.wanted = True
        if self.up and not self.busy:
            self.busy = True
            self.group.after(0.0, self._begin, self.life)

    def _begin(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        self.wanted = False
        self.replica.begin()
        self.group.check_leaders()
        self.group.after(self.group.random.uniform(*self.group.sync_s), self._finish, life)

    def _finish(self, life: int) -> None:
        if life != self.life or not self.up:
            return
        self.replica.finish()
        self.busy = False
        if self.wanted:
            self.wake()
            return
        self.group.after(max(0.0, self.replica.next_at() - self.group.clock.now), self._due, life)

    def _due(self, life: int) -> None:
        if life == self.life and self.up and self.replica.next_at() <= self.group.clock.now:
            self.wake()


class Group:
    def __init__(self, seed: int, names: str = "abc", *, sync_s: tuple[float, float] = (0.0, 0.02), **settings: object):
        self.seed = seed
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.sync_s = sync_s
        self.delay_s = (0.0005, 0.01)
        self.settings: dict[str, object] = {"compaction_margin": 8, "window_entries_max": 16, **settings}
        self.nodes: dict[str, Node] = {}
        self.decided: dict[int, tuple[bytes, ...]] = {}
        self.acknowledged: dict[bytes, int] = {}
        self.leaders: dict[int, str] = {}
        self.reads_answered = 0
        self.muted: set[tuple[str, str]] = set()
        """(source, target) whose messages vanish without a trace while the link stays up."""
        self._links: dict[tuple[str, str], int] = {}
        self._epochs = count(1)
        self._arrivals: dict[tuple[str, str], float] = {}
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = count()
        for name in names:
            self.nodes[name] = Node(self, name)
        for node in self.nodes.values():
            node.start()

    # -- time -------------------------------------------------------------------------------------------------------

    def after(self, delay_s: float, action: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (self.clock.now + delay_s, next(self._numbers), action, arguments))

    def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self._events and self._events[0][0] <= end:
            at, _, action, arguments = heapq.heappop(self._events)
            self.clock.now = max(self.clock.now, at)
            action(*arguments)
        self.clock.now = end

    def run_until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        end = self.clock.now + seconds
        while not condition():
            assert self.clock.now < end, "the condition did not come true in time"
            self.run(0.01)

    # -- network ----------------------------------------------------------------------------------------------------

    def connect(self, one: str, other: str) -> None:
        pair = _pair(one, other)
        if pair in self._links or not (self.nodes[one].up and self.nodes[other].up):
            return
        self._links[pair] = next(self._epochs)
        for name, peer in ((one, other), (other, one)):
            self.nodes[name].replica.link_up(peer)
            self.nodes[name].wake()

    def disconnect(self, one: str, other: str) -> None:
        if self._links.pop(_pair(one, other), None) is None:
            return
        for name, peer in ((one, other), (other, one)):
            if self.nodes[name].up:
                self.nodes[name].replica.link_down(peer)
                self.nodes[name].wake()

    def connect_all(self) -> None:
        for one in self.nodes:
            for other in self.nodes:
                if one < other:
                    self.connect(one, other)

    def isolate(self, name: str) -> None:
        for other in self.nodes:
            if other != name:
                self.disconnect(name, other)

    def carry(self, source: str, target: str, message: Message) -> None:
        epoch = self._links.get(_pair(source, target))
        if epoch is None or (source, target) in self.muted:
            return
        way = (source, target)
        at = max(self._arrivals.get(way, 0.0), self.clock.now + self.random.uniform(*self.delay_s))
        self._arrivals[way] = at
        self.after(at - self.clock.now, self._arrive, source, target, epoch, encode_message(message))

    def _arrive(self, source: str, target: str, epoch: int, body: bytes) -> None:
        arrives = self._links.get(_pair(source, target)) == epoch
        if arrives and self.nodes[target].replica.deliver(source, decode_message(body)):
            self.nodes[target].wake()

    # -- faults -----------------------------------------------------------------------------------------------------

    def crash(self, name: str) -> None:
        if self.nodes[name].up:
            self.nodes[name].crash()
            self.isolate(name)

    def restart(self, name: str) -> None:
        if not self.nodes[name].up:
            self.nodes[name].start()

    # -- use and checks ---------------------------------------------------------------------------------------------

    @property
    def leader(self) -> Node | None:
        leading = [node for node in self.nodes.values() if node.up and node.replica.core.is_leader]
        return max(leading, key=lambda node: node.replica.core.term) if leading else None

    def elect(self) -> Node:
        self.run_until(lambda: self.leader is not None)
        assert self.leader is not None
        return self.leader

    def read(self, name: str) -> None:
        """Asks for a read point; when it comes it must cover all that is acknowledged now."""
        node, due = self.nodes[name], max(self.acknowledged.values(), default=0)

        def answered(index: int) -> None:
            assert index >= due, f"read point {index} misses the acknowledged entry {due}"
            self.reads_answered += 1

        node.replica.read_point(answered)
        node.wake()

    def check_same(self, name: str, index: int, records: tuple[bytes, ...]) -> None:
        assert self.decided.setdefault(index, records) == records, f"{name} applies something else at {index}"

    def check_leaders(self) -> None:
        for node in self.nodes.values():
            if node.up and node.replica.core.is_leader:
                term = node.replica.core.term
                assert self.leaders.setdefault(term, node.name) == node.name, f"two leaders in term {term}"

    def heal_and_check(self) -> None:
        """Ends all faults; then everybody must agree on everything that was acknowledged."""
        self.muted.clear()
        for name in self.nodes:
            self.restart(name)
        self.connect_all()
        self.run_until(self._settled, 60.0)
        logs = [node.records() for node in self.nodes.values()]
        for one, other in pairwise(logs):
            assert one == other
        assert set(self.acknowledged) <= set(logs[0]), "an acknowledged record is lost"
        assert len(logs[0]) == len(set(logs[0])), "a record that was submitted once is there twice"

    def _settled(self) -> bool:
        leader = self.leader
        if leader is None or len(leader.replica.inbox) or not leader.replica.core.commit_is_current:
            return False
        last = leader.replica.core.last
        journals = [node.replica.journal for node in self.nodes.values()]
        folds = [node.replica.fold for node in self.nodes.values()]
        durable = all(fold.committed == last for fold in folds)
        return (
            durable
            and all(journal.applied == last == journal.last for journal in journals)
            and not any(len(node.replica.inbox) for node in self.nodes.values())
        )


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
