"""What Raft rests on, looked for on the disks of a majority: who leads has their votes, and what is called committed is
in their logs. That a mistake there shows in what clients see takes more bad luck than a simulation has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from lddp.consensus.wire import Append, Message
from lddp.core.tables import Table

if TYPE_CHECKING:
    from tests.sim.node import Machine

_TERM_BYTES = 8


class Kept(NamedTuple):
    """What a machine's disk has: `first` and `last` are of the log, `ahead` has terms of what is in its write-ahead
    log alone."""

    term: int
    vote: str | None
    first: int
    last: int
    ahead: dict[int, int]


def kept(machine: Machine) -> Kept | None:
    with machine.stored.read() as tables:
        data = tables.get(Table.RAFT, b"state")
    if data is None:
        return None
    _, term, vote, _, _, first, last, _, era = msgpack.unpackb(data)
    ahead: dict[int, int] = {}
    for frame in machine.stored.wal.read(era):
        index, entries = msgpack.unpackb(frame)
        ahead |= {at: entry[0] for at, entry in enumerate(entries, index)}
        last = max(last, *ahead)
    return Kept(term, vote, first, last, ahead)


class Quorums:
    """`fail` is told of what does not hold."""

    def __init__(self, machines: Mapping[str, Machine], fail: Callable[[str], None]) -> None:
        self._machines = machines
        self._fail = fail
        self._leaders: dict[int, str] = {}
        self._committed = 0

    def leaves(self, name: str, message: Message) -> None:
        """Before a message leaves the node of this name."""
        if isinstance(message, Append):
            if message.term not in self._leaders:
                self._leaders[message.term] = name
                self._check_votes(name, message.term)
            elif self._leaders[message.term] != name:
                self._fail(f"{name} and {self._leaders[message.term]} both lead in term {message.term}")
            if message.commit > self._committed:
                self._committed = message.commit
                self._check_entry(name, message.commit)

    @property
    def _majority(self) -> int:
        return len(self._machines) // 2 + 1

    def _check_votes(self, name: str, term: int) -> None:
        """Who has come to a later term since then may have voted for it, too."""
        all_kept = {machine.name: kept(machine) for machine in self._machines.values()}
        votes = [one for one, k in all_kept.items() if k and (k.term > term or (k.term, k.vote) == (term, name))]
        if len(votes) < self._majority:
            self._fail(f"{name} leads in term {term}, for which only {votes} can have voted")

    def _check_entry(self, name: str, index: int) -> None:
        terms = Counter(self._terms_at(index))
        if not terms or max(terms.values()) < self._majority:
            self._fail(f"{name} calls entry {index} committed, and disks have it with terms {dict(terms)}")

    def _terms_at(self, index: int) -> list[int]:
        """The term of the entry on each disk that has it; of what was dropped, which is committed, that of the rest."""
        found, dropped = [], 0
        for machine in self._machines.values():
            k = kept(machine)
            if k is None or index > k.last:
                continue
            with machine.stored.read() as tables:
                data = tables.get(Table.LOG, index.to_bytes(8, "big"))
            if index in k.ahead:
                found.append(k.ahead[index])
            elif index < k.first:
                dropped += 1
            elif data is not None:
                found.append(int.from_bytes(data[:_TERM_BYTES], "big"))
        return found + [found[0] if found else 0] * dropped
