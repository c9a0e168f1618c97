"""One replica alone, with an outlet that records: the counterpart of `stock.Stock`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lddp.consensus.config import RaftConfig
from lddp.consensus.replica import Replica
from lddp.consensus.wire import REGULAR, Append, Canvass, CanvassReply, Entry, Message, Vote, encode_records
from lddp.core.tables import Table, Tables
from tests.fakes.memory import MemoryKeyValue

from .simulation import SeededRandom, VirtualClock


def entry(index: int, term: int, record: bytes | None = None) -> Entry:
    records = [record if record is not None else b"%d.%d" % (term, index)]
    return bytes([REGULAR]) + encode_records(records), index, term


class Member:
    """One `Replica` named `a` with the peers given, all linked."""

    def __init__(self, peers: str = "bc", keyvalue: MemoryKeyValue | None = None, **settings: Any) -> None:
        self.clock = VirtualClock()
        self.keyvalue = keyvalue or MemoryKeyValue()
        self.sent: list[tuple[str, Message]] = []
        self.applied: list[tuple[int, bytes]] = []
        config = RaftConfig(
            node="a", address="unix:/a", peers=dict.fromkeys(peers, "unix:/p"), ecosystem="e", **settings
        )
        self.replica = Replica(config, self.keyvalue, self.apply, clock=self.clock, random=SeededRandom(1), outlet=self)
        self.waited_for = True
        """Whether somebody waits for every fold to be durable."""
        for peer in peers:
            self.replica.link_up(peer)

    def apply(self, tables: Tables, index: int, records: Sequence[bytes]) -> bool:
        for record in records:
            self.applied.append((index, record))
            tables.put(Table.CONTROL, index.to_bytes(8, "big"), record)
        return self.waited_for

    def send(self, peer: str, message: Message) -> None:
        self.sent.append((peer, message))

    def receive(self, peer: str, *messages: Message) -> None:
        for message in messages:
            self.replica.deliver(peer, message)
        self.cycle()

    def append(self, peer: str, term: int, previous: tuple[int, int], commit: int, *entries: Entry) -> None:
        self.receive(peer, Append(term, commit, *previous, entries))

    def cycle(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.replica.begin()
        self.replica.finish()

    def lead(self) -> None:
        """Makes it the leader by the votes of all peers."""
        self.cycle(5.0)
        self.cycle(0.1)
        term = self.replica.core.term + 1
        asked = [peer for peer, message in self.sent if isinstance(message, Canvass)]
        for peer in dict.fromkeys(asked):
            self.replica.deliver(peer, CanvassReply(term, term - 1, True))
        self.cycle()
        for peer in dict.fromkeys(asked):
            self.replica.deliver(peer, Vote(term))
        self.cycle()
        assert self.replica.core.is_leader

    def taken(self, kind: type[Any]) -> list[Any]:
        """All messages of a kind sent so far; they are forgotten."""
        found = [message for _, message in self.sent if isinstance(message, kind)]
        self.sent = [item for item in self.sent if not isinstance(item[1], kind)]
        return found

    def terms(self) -> list[int]:
        journal = self.replica.journal
        return [journal.entry(index)[2] for index in range(journal.first, journal.last + 1)]
