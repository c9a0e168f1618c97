"""The network between simulated nodes: connections that delay, clog and break, and requests beside them.

As over TCP, a message arrives whole and in order or its connection ends. A path that is clogged in one direction holds
what is sent over it until it is free again or the connection breaks, of which nobody is told; an end that learns that
its connection broke makes another one, or waits for the one of its peer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from lddp.consensus.config import RaftConfig
from lddp.consensus.transport import Receiver
from lddp.consensus.wire import Message, decode_message, encode_message
from lddp.errors import FormatError, LimitError, UnavailableError
from lddp.links.listener import Listener
from lddp.ports import Random as RandomPort
from tests.sim.loop import Process, SimulatedLoop

T = TypeVar("T")
REDIAL_S = (0.01, 1.0)
NOTICE_S = (0.0, 0.3)
"""How long an end of a broken connection may not know of it."""
UNACKNOWLEDGED_S = 6.0
"""As `links.tuning` tells the kernel."""
REQUEST_TIMEOUT_S = 5.0
SLOW_REQUEST_S = 1.0
SLOW_REQUESTS = 0.2
"""So many of them may take as long as this, as large contents do."""
REPEATED_MAX = 3
Way = tuple[str, str]


class Links:
    """One member's connections to its peers, in the place of `consensus.transport.Links`."""

    def __init__(self, network: Network, config: RaftConfig, receiver: Receiver) -> None:
        self._network = network
        self.name = config.node
        self.peers = sorted(config.peers)
        self.receiver = receiver
        self.process = network.loop.current
        self.up: dict[str, int] = {}
        """Peer -> number of the connection to it."""
        self.refused = 0
        self.notes_dropped = 0

    @property
    def connected(self) -> frozenset[str]:
        return frozenset(self.up)

    def start(self, _listener: Listener | None) -> None:
        self._network.attach(self.name, self)

    async def stop(self) -> None:
        self._network.detach(self.name)

    def send(self, peer: str, message: Message) -> None:
        number = self.up.get(peer)
        if number is not None:
            self._network.before_leaving(self.name, peer, message)
            self._network.carry(self.name, peer, number, encode_message(message))

    def garbled(self, peer: str, number: int, body: bytes) -> None:
        """What arrived is not what was sent. Encryption notices it, or else decoding may; either ends the link."""
        if self.up.get(peer) == number:
            with contextlib.suppress(FormatError, LimitError):
                decode_message(body)
            self.refused += 1
            self._network.cut(self.name, peer)

    # -- called by the network, in this member's process --------------------------------------------------------------

    def opened(self, peer: str, number: int) -> None:
        if peer in self.up:
            self.closed(peer, self.up[peer])
        self.up[peer] = number
        self.receiver.link_up(peer)

    def closed(self, peer: str, number: int) -> None:
        if self.up.get(peer) == number:
            del self.up[peer]
            self.receiver.link_down(peer)
            self._network.redial(self.name, peer)

    def arrived(self, peer: str, number: int, body: bytes) -> None:
        if self.up.get(peer) == number:
            self.receiver.receive(peer, decode_message(body), len(body))


class Network:
    """All connections. `delay_s` bounds the time on the way; times are the loop's."""

    def __init__(self, loop: SimulatedLoop, seed: object) -> None:
        self.loop = loop
        self.random = Random(repr(seed))
        self.delay_s = (0.0002, 0.005)
        self.redial_s, self.notice_s = REDIAL_S, NOTICE_S
        self.slow_requests = SLOW_REQUESTS
        self.clogged: dict[Way, int] = {}
        self.before_leaving: Callable[[str, str, Message], None] = lambda _name, _peer, _message: None
        self.messages = 0
        self.lost = 0
        self._ends: dict[str, Links] = {}
        self._dialling: set[Way] = set()
        self._broken: set[int] = set()
        """Connections that broke, of which an end may not have heard that they were made."""
        self._number = 0
        self._free_at: dict[tuple[str, str, int], float] = {}
        self._garbling: set[Way] = set()
        self._latest: dict[Way, deque[tuple[Process, Process, bytes]]] = {}
        self._repeating: set[Way] = set()
        self._held: dict[Way, list[tuple[int, bytes, Process, float]]] = {}
        self.processes: dict[str, Process] = {}
        """The processes that run now, by their nodes' names."""

    def links(self, config: RaftConfig, receiver: Receiver, _random: RandomPort) -> Links:
        """In the place of the class."""
        return Links(self, config, receiver)

    # -- connections ------------------------------------------------------------------------------------------------

    def attach(self, name: str, links: Links) -> None:
        self._ends[name] = links
        self._dialling = {way for way in self._dialling if way[0] != name}
        self.processes[name] = links.process
        for peer in links.peers:
            self.redial(name, peer)

    def detach(self, name: str) -> None:
        """The process is gone: its kernel resets what it had, and the peers are told, if anything comes through."""
        self._ends.pop(name, None)
        self.processes.pop(name, None)
        for peer in sorted(self._ends):
            number = self._ends[peer].up.get(name)
            if number is not None:
                self._tell_closed(peer, name, number)

    def redial(self, name: str, peer: str) -> None:
        """The member whose name comes first makes the connection."""
        first, second = sorted((name, peer))
        if name == first:
            process = self._ends[name].process
            self.loop.at(process.now() + self.random.uniform(*self.redial_s) / 2, process, self._dial, first, second)

    def _dial(self, first: str, second: str) -> None:
        here = self._ends.get(first)
        if here is None or second in here.up or (first, second) in self._dialling:
            return
        there = self._ends.get(second)
        if there is None or self.is_cut(first, second) or there.process.free_at > self.loop.now + self.redial_s[1]:
            self.redial(first, second)
            return
        self._number += 1
        self._dialling.add((first, second))
        at = here.process.now() + 2 * self._delay()
        self.loop.at(at, here.process, self._open, here, first, second, self._number, there.process)
        accepted = self._free_at[first, second, self._number] = at + self._delay()  # nothing arrives before that
        self.loop.at(accepted, there.process, self._open, there, second, first, self._number, here.process)

    def _open(self, end: Links, name: str, peer: str, number: int, other: Process) -> None:
        self._dialling.discard((name, peer))
        if end.up.get(peer, 0) > number:
            return  # of a process that is gone, whose successor was quicker
        end.opened(peer, number)
        self._say_again(end, peer, name, number)
        if (other.dead or number in self._broken) and self._ends.get(name) is end:
            self._tell_closed(name, peer, number)

    def _say_again(self, end: Links, source: str, target: str, number: int) -> None:
        if (source, target) in self._repeating:
            self._repeating.discard((source, target))
            for sender, receiver, body in self._latest.get((source, target), ()):
                if not sender.dead and receiver is end.process:
                    self.loop.at(self.loop.now + self._delay(), receiver, end.arrived, source, number, body)

    def is_cut(self, one: str, other: str) -> bool:
        return (one, other) in self.clogged or (other, one) in self.clogged

    def cut(self, one: str, other: str) -> None:
        """The connection breaks; what is on its way is lost. Each end learns it in its own time."""
        for name, peer in ((one, other), (other, one)):
            end = self._ends.get(name)
            number = None if end is None else end.up.get(peer)
            self._held.pop((name, peer), None)
            if number is not None:
                self._free_at.pop((name, peer, number), None)
                self._broken.add(number)
                self._tell_closed(name, peer, number)

    def _tell_closed(self, name: str, peer: str, number: int) -> None:
        end = self._ends[name]
        self.loop.at(self.loop.now + self.random.uniform(*self.notice_s), end.process, end.closed, peer, number)

    def clog(self, source: str, target: str) -> None:
        """Nothing comes through in this direction; what is sent waits, until the kernel gives the connection up."""
        if (source, target) not in self.clogged:
            self._number += 1
            self.clogged[source, target] = self._number
            at = self.loop.now + UNACKNOWLEDGED_S
            self.loop.at(at, self.loop.outside, self._timed_out, source, target, self._number)

    def _timed_out(self, source: str, target: str, clog: int) -> None:
        if self.clogged.get((source, target)) == clog:
            self.cut(source, target)

    def unclog(self, source: str, target: str) -> None:
        self.clogged.pop((source, target), None)
        for number, body, process, sent_at in self._held.pop((source, target), []):
            self._deliver(source, target, number, body, process, sent_at)

    def unclog_all(self) -> None:
        for source, target in sorted(self.clogged):
            self.unclog(source, target)

    def garble(self, source: str, target: str) -> None:
        """The next message in this direction arrives with other bytes."""
        self._garbling.add((source, target))

    def repeat(self, one: str, other: str) -> None:
        """The connection breaks, and the latest messages that went over it come once more over the next one."""
        self._repeating |= {(one, other), (other, one)}
        self.cut(one, other)

    # -- messages ---------------------------------------------------------------------------------------------------

    def _delay(self) -> float:
        return self.random.uniform(*self.delay_s)

    def carry(self, source: str, target: str, number: int, body: bytes) -> None:
        self.messages += 1
        process = self._ends[source].process
        if (source, target) in self.clogged:
            self._held.setdefault((source, target), []).append((number, body, process, process.now()))
        else:
            self._deliver(source, target, number, body, process, process.now())

    def _deliver(self, source: str, target: str, number: int, body: bytes, sender: Process, sent_at: float) -> None:
        end = self._ends.get(target)
        if end is None:
            self.lost += 1
            return
        way = (source, target, number)
        at = max(self._free_at.get(way, 0.0), sent_at + self._delay(), self.loop.now)
        self._free_at[way] = at
        self.loop.at(at, end.process, self._arrive, end, source, number, body, sender, sent_at)

    def _arrive(self, end: Links, source: str, number: int, body: bytes, sender: Process, sent_at: float) -> None:
        if sent_at > sender.died_at:
            self.lost += 1  # the sender was killed while it was still busy with what came before
        elif (source, end.name) in self._garbling:
            self._garbling.discard((source, end.name))
            place = self.random.randrange(len(body))
            end.garbled(source, number, body[:place] + self.random.randbytes(8) + body[place + 8 :])
        else:
            self._latest.setdefault((source, end.name), deque(maxlen=REPEATED_MAX)).append((sender, end.process, body))
            end.arrived(source, number, body)

    # -- requests beside the group's connections ----------------------------------------------------------------------

    async def request(self, source: str, target: str, work: Callable[[], T], bytes_count: int = 0) -> T:
        """Has `work` done in the target's process. UnavailableError where it does not answer: then it may be done."""
        asking = self.loop.current
        future: asyncio.Future[T] = self.loop.create_future()
        deadline = asking.now() + REQUEST_TIMEOUT_S
        process = self.processes.get(target)
        if process is not None and not self.is_cut(source, target):
            slow_s = self.random.uniform(0.0, SLOW_REQUEST_S) if self.random.random() < self.slow_requests else 0.0
            at = asking.now() + 2 * self._delay() + bytes_count * 1e-8 + slow_s
            self.loop.at(at, process, self._serve, source, target, work, asking, future)
        else:
            deadline = asking.now() + self.random.uniform(0.0, 0.5)
        unanswered = UnavailableError(f"{target} does not answer {source}")
        timer = self.loop.at(deadline, asking, _give_up, future, unanswered)
        try:
            return await future
        finally:
            timer.cancel()

    def _serve(
        self, source: str, target: str, work: Callable[[], Any], asking: Process, future: asyncio.Future[Any]
    ) -> None:
        answer = work()
        if not self.is_cut(source, target):
            at = self.loop.current.now() + self._delay()
            self.loop.at(at, asking, _settle, future, answer)


def _settle(future: asyncio.Future[T], answer: T) -> None:
    if not future.done():
        future.set_result(answer)


def _give_up(future: asyncio.Future[Any], error: UnavailableError) -> None:
    if not future.done():
        future.set_exception(error)
