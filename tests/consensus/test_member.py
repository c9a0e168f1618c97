"""`RaftMember` on real sockets and LMDB in one process: its interface as others use it."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from lddp.consensus import RaftConfig, RaftMember, transport
from lddp.consensus.wire import Append
from lddp.core.tables import Table, Tables
from lddp.errors import LimitError, UnavailableError
from lddp.links.credentials import Credentials
from lddp.links.issue import create_authority, issue
from lddp.links.listener import Listener
from lddp.storage.environment import Environment
from tests.consensus.member import entry
from tests.fakes.memory import MemoryKeyValue

DEADLINE_S = 30.0


class RealClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def time_ns(self) -> int:
        return time.time_ns()


class RealRandom:
    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)

    def token(self, size: int) -> bytes:
        return secrets.token_bytes(size)


class Running:
    """One node: member, listener, database, and what it applied."""

    def __init__(
        self, name: str, addresses: dict[str, str], directory: Path, held: Credentials | None, **settings: Any
    ):
        self.name = name
        self.applied: list[bytes] = []
        self.committed = asyncio.Event()
        self.environment = Environment.open(str(directory / name), ecosystem="e", node=name, map_size=256 << 20)
        self.listener = Listener(
            addresses[name], me=name, ecosystem="e", credentials=held, knows=lambda peer: peer in addresses
        )
        config = RaftConfig(
            node=name,
            address=addresses[name],
            peers={peer: address for peer, address in addresses.items() if peer != name},
            ecosystem="e",
            credentials=held,
            **settings,
        )
        self.member = RaftMember(
            config, self.environment, self.apply, clock=RealClock(), random=RealRandom(), listener=self.listener
        )
        self.member.on_committed.append(lambda _first, _last: self.committed.set())
        self.member.on_leader_change.append(lambda _leader: self.committed.set())

    def apply(self, tables: Tables, index: int, records: Sequence[bytes]) -> bool:
        for at, record in enumerate(records):
            tables.put(Table.CONTROL, index.to_bytes(8, "big") + at.to_bytes(4, "big"), record)
        self.applied += records
        return False

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self.committed.clear()
                await self.committed.wait()

    async def start(self) -> None:
        await self.member.start()
        await self.listener.start()

    async def stop(self) -> None:
        await self.member.stop()
        await self.listener.stop()
        self.environment.close()


@asynccontextmanager
async def group(
    addresses: dict[str, str], directory: Path, held: dict[str, Credentials] | None = None
) -> AsyncIterator[dict[str, Running]]:
    async with AsyncExitStack() as stack:
        nodes = {}
        for name in addresses:
            nodes[name] = Running(name, addresses, directory, held[name] if held else None)
            stack.push_async_callback(nodes[name].stop)
            await nodes[name].start()
        yield nodes


def unix(directory: Path, names: str = "abc") -> dict[str, str]:
    return {name: f"unix:{directory}/{name}-socket/s" for name in names}


def leader_of(nodes: dict[str, Running]) -> Running:
    return next(node for node in nodes.values() if node.member.role == "leader")


async def led(nodes: dict[str, Running]) -> Running:
    for node in nodes.values():
        await node.until(lambda node=node: node.member.leader is not None)  # type: ignore[misc]
    return leader_of(nodes)


async def test_three_members_order_records_from_all(tmp_path: Path) -> None:
    async with group(unix(tmp_path), tmp_path) as nodes:
        await led(nodes)
        for number in range(60):
            nodes["abc"[number % 3]].member.submit([b"%d" % number])
        for node in nodes.values():
            await node.until(lambda node=node: len(node.applied) == 60)  # type: ignore[misc]
        assert nodes["a"].applied == nodes["b"].applied == nodes["c"].applied
        for node in nodes.values():
            index = await node.member.barrier(DEADLINE_S)
            await node.member.wait_applied(index, DEADLINE_S)
            assert len(node.applied) == 60


async def test_three_members_over_tls(tmp_path: Path) -> None:
    create_authority(str(tmp_path / "authority"), ecosystem="e")
    held = {name: issue(str(tmp_path / "authority"), str(tmp_path / "keys"), node=name) for name in "abc"}
    ports = []
    for _ in "abc":
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        server.close()
        await server.wait_closed()
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip("abc", ports, strict=True)}
    async with group(addresses, tmp_path, held) as nodes:
        await led(nodes)
        nodes["b"].member.submit([b"x" * 100_000, b"y"])
        for node in nodes.values():
            await node.until(lambda node=node: len(node.applied) == 2)  # type: ignore[misc]


async def test_writes_go_on_after_the_leader_is_gone_and_it_catches_up(tmp_path: Path) -> None:
    addresses = unix(tmp_path)
    async with group(addresses, tmp_path) as nodes:
        old = await led(nodes)
        old.member.submit([b"before"])
        for node in nodes.values():
            await node.until(lambda node=node: node.applied == [b"before"])  # type: ignore[misc]
        await old.stop()
        rest = {name: node for name, node in nodes.items() if node is not old}
        for node in rest.values():
            await node.until(lambda node=node: node.member.leader in rest)  # type: ignore[misc]
        next(iter(rest.values())).member.submit([b"after"])
        for node in rest.values():
            await node.until(lambda node=node: node.applied[-1] == b"after")  # type: ignore[misc]
        again = nodes[old.name] = Running(old.name, addresses, tmp_path, None)
        await again.start()
        await again.until(lambda: again.applied == [b"after"])
        with again.environment.read() as tables:
            assert [record for _, record in tables.scan(Table.CONTROL)] == [b"before", b"after"]
        await again.stop()


async def test_leadership_is_handed_over(tmp_path: Path) -> None:
    async with group(unix(tmp_path), tmp_path) as nodes:
        old = await led(nodes)
        old.member.submit([b"x"])
        for node in nodes.values():
            await node.until(lambda node=node: node.applied == [b"x"])  # type: ignore[misc]
        heir = next(node for node in nodes.values() if node is not old)
        with pytest.raises(UnavailableError):
            heir.member.hand_over(old.name)
        old.member.hand_over(heir.name)
        await heir.until(lambda: heir.member.role == "leader")
        await old.until(lambda: old.member.leader == heir.name)


def link_of(node: Running, peer: str) -> Any:
    return node.member._links._connections.get(peer)


async def test_a_link_to_a_machine_that_is_off_is_made_anew(tmp_path: Path) -> None:
    """Where the kernel knows that it cannot be reached, the link ends with that, and not with a time that is over."""
    async with group(unix(tmp_path, "ab"), tmp_path) as nodes:
        await led(nodes)
        a, b = nodes["a"], nodes["b"]
        for number, end in ((errno.EHOSTUNREACH, a), (errno.ENETUNREACH, b)):
            link = link_of(end, "b" if end is a else "a")
            link.reader.set_exception(OSError(number, os.strerror(number)))
            async with asyncio.timeout(DEADLINE_S):
                while link_of(end, "b" if end is a else "a") in (None, link):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.001)
        a.member.submit([b"after"])
        await b.until(lambda: b"after" in b.applied)


async def test_a_member_that_does_not_connect_any_more_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason, it would never be linked again."""

    async def unforeseen(*_: object, **__: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr(transport, "connect", unforeseen)
    async with group(unix(tmp_path, "ab"), tmp_path) as nodes:
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(ZeroDivisionError):
                await asyncio.shield(nodes["a"].member.failed)
        with pytest.raises(UnavailableError):
            nodes["a"].member.submit([b"record"])
    assert "node a stops: unforeseen" in caplog.text


async def test_messages_of_the_application(tmp_path: Path) -> None:
    async with group(unix(tmp_path, "ab"), tmp_path) as nodes:
        await led(nodes)
        got: asyncio.Future[tuple[str, dict[str, Any]]] = asyncio.get_running_loop().create_future()
        nodes["b"].member.on_message.append(lambda peer, message: got.set_result((peer, message)))
        nodes["a"].member.send("b", {"digest": b"x", "index": 7})
        async with asyncio.timeout(DEADLINE_S):
            assert await got == ("a", {"digest": b"x", "index": 7})
        with pytest.raises(LimitError):
            nodes["a"].member.send("b", {"x": b"y" * 100_000})


@asynccontextmanager
async def single(apply: Any = lambda _tables, _index, _records: None, **settings: Any) -> AsyncIterator[RaftMember]:
    config = RaftConfig(node="a", address="unix:/none", ecosystem="e", **settings)
    member = RaftMember(config, MemoryKeyValue(), apply, clock=RealClock(), random=RealRandom())
    await member.start()
    try:
        yield member
    finally:
        await member.stop()


async def test_a_single_member_leads_at_once() -> None:
    async with single() as member:
        index = await member.barrier(DEADLINE_S)
        member.submit([b"x"])
        await member.wait_applied(index + 1, DEADLINE_S)
        assert (member.leader, member.role, member.applied_index) == ("a", "leader", index + 1)


async def test_a_single_member_waits_for_no_heartbeat() -> None:
    """A majority of one has what it has written."""
    timeouts = {"election_timeout_min_s": DEADLINE_S * 4, "election_timeout_max_s": DEADLINE_S * 5}
    async with single(heartbeat_s=DEADLINE_S, **timeouts) as member:
        for _ in range(3):
            index = member.last_index
            member.submit([b"x"])
            await member.wait_applied(index + 1, DEADLINE_S / 2)


async def test_who_waits_for_what_is_folded_already_does_not_wait_for_more_to_come() -> None:
    slow = {
        "heartbeat_s": DEADLINE_S,
        "election_timeout_min_s": DEADLINE_S * 4,
        "election_timeout_max_s": DEADLINE_S * 5,
    }
    async with single(fold_quiet_s=DEADLINE_S * 2, fold_delay_s=DEADLINE_S * 2, **slow) as member:
        for ask in (lambda index: member.wait_applied(index, DEADLINE_S / 2), lambda _: hurried(member)):
            folded = asyncio.Event()
            member.on_folded.append(lambda _first, _last, folded=folded: folded.set())
            member.submit([b"x"])
            await folded.wait()
            index = member.last_index
            assert member.applied_index < index
            await ask(index)
            assert member.applied_index == index


async def hurried(member: RaftMember) -> None:
    committed = asyncio.Event()
    member.on_committed.append(lambda _first, _last: committed.set())
    member.hurry()
    async with asyncio.timeout(DEADLINE_S / 2):
        await committed.wait()


async def test_changes_are_written_and_their_results_come_after_the_commit() -> None:
    async with single() as member:

        def write(tables: Tables) -> str:
            tables.put(Table.LOCAL, b"k", b"v")
            return "done"

        def fail(tables: Tables) -> None:
            tables.put(Table.LOCAL, b"bad", b"v")
            raise KeyError("mine")

        good, bad, read = (
            member.transact(write),
            member.transact(fail),
            member.transact(lambda tables: (tables.get(Table.LOCAL, b"k"), tables.get(Table.LOCAL, b"bad"))),
        )
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(KeyError, match="mine"):
                await bad
            assert (await good, await read) == ("done", (b"v", None))


async def test_queues_are_bounded() -> None:
    config = RaftConfig(
        node="a",
        address="unix:/none",
        peers={"b": "unix:/nobody"},
        ecosystem="e",
        pending_records_max=10,
        waiters_max=3,
    )
    member = RaftMember(config, MemoryKeyValue(), lambda *_: None, clock=RealClock(), random=RealRandom())
    with pytest.raises(UnavailableError, match="not running"):
        member.submit([b"x"])
    await member.start()
    member.submit([b"x"] * 10)
    with pytest.raises(UnavailableError, match="too many operations"):
        member.submit([b"x"])
    with pytest.raises(LimitError):
        member.submit([b"x" * (2 << 20)])
    assert member.pending_records == 10
    waits = [asyncio.create_task(member.barrier(DEADLINE_S)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="too many callers"):
        await member.barrier(DEADLINE_S)
    with pytest.raises(UnavailableError, match="was not applied within"):
        await member.wait_applied(99, 0.01)
    await member.stop()
    for wait in waits:
        with pytest.raises(UnavailableError, match="is stopping"):
            await wait


async def test_no_leader_no_read_point() -> None:
    async with single(peers={"b": "unix:/nobody"}) as member:
        with pytest.raises(UnavailableError, match="no leader confirmed"):
            await member.barrier(0.05)


def test_a_link_that_always_has_more_gets_one_cycle_a_round() -> None:
    """The first is done when its messages are there; the next ones wait, so that others come in between."""

    async def run() -> list[int]:
        async with single(peers={"b": "unix:/nobody", "c": "unix:/nobody"}) as member:
            await asyncio.sleep(0)
            last = []
            for index in range(2, 5):
                member.receive("b", Append(1, 1, index - 1, min(index - 2, 1), (entry(index, 1),)), 10)
                member.received()
                last.append(member.last_index)
            for _ in range(2):
                await asyncio.sleep(0)
            return [*last, member.last_index]

    assert uvloop.run(run()) == [2, 2, 2, 4]


async def test_an_exception_in_apply_stops_the_member(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_tables: Tables, _index: int, _records: Sequence[bytes]) -> None:
        raise RuntimeError("broken fold")

    async with single(broken) as member:
        index = await member.barrier(DEADLINE_S)
        waiting = asyncio.create_task(member.wait_applied(index + 1, DEADLINE_S))
        await asyncio.sleep(0)
        member.submit([b"x"])
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(RuntimeError, match="broken fold"):
                await member.failed
        with pytest.raises(UnavailableError, match="has stopped after an error"):
            await waiting
        with pytest.raises(UnavailableError, match="not running"):
            member.submit([b"y"])
        assert member.applied_index == index
        assert "stops: broken fold" in caplog.text
