"""One member as a process of its own, told what to do by lines on standard input.

Lines in: `submit TEXT`, `barrier`. Lines out: `leader NAME|-`, `applied TEXT` once the transaction that holds it has
committed, `barrier INDEX`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import time
from collections.abc import Sequence

import uvloop

from lddp.consensus import RaftConfig, RaftMember
from lddp.core.tables import Table, Tables
from lddp.links.listener import Listener
from lddp.storage.environment import Environment


class SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def time_ns(self) -> int:
        return time.time_ns()


class SystemRandom:
    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)

    def token(self, size: int) -> bytes:
        return secrets.token_bytes(size)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def run(name: str, names: str, directory: str) -> None:
    addresses = {peer: f"unix:{directory}/{peer}-socket/s" for peer in names}
    folded: list[bytes] = []

    def apply(tables: Tables, index: int, records: Sequence[bytes]) -> bool:
        for at, record in enumerate(records):
            tables.put(Table.CONTROL, index.to_bytes(8, "big") + at.to_bytes(4, "big"), record)
        folded.extend(records)
        return False

    def committed(_first: int, _last: int) -> None:
        for record in folded:
            say(f"applied {record.decode()}")
        folded.clear()

    environment = Environment.open(f"{directory}/{name}", ecosystem="e", node=name, map_size=256 << 20)
    listener = Listener(addresses[name], me=name, ecosystem="e", credentials=None, knows=lambda peer: peer in names)
    config = RaftConfig(
        node=name,
        address=addresses[name],
        peers={peer: address for peer, address in addresses.items() if peer != name},
        ecosystem="e",
    )
    member = RaftMember(config, environment, apply, clock=SystemClock(), random=SystemRandom(), listener=listener)
    member.on_committed.append(committed)
    member.on_leader_change.append(lambda leader: say(f"leader {leader or '-'}"))
    await member.start()
    await listener.start()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().split():
        match line:
            case ["submit", text]:
                member.submit([text.encode()])
            case ["barrier"]:
                index = await member.barrier(30.0)
                await member.wait_applied(index, 30.0)
                say(f"barrier {index}")
    await member.stop()
    await listener.stop()
    environment.close()


if __name__ == "__main__":
    uvloop.run(run(*sys.argv[1:4]))
