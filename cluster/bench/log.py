"""The replicated log without what lddp folds into it: three processes of the production consensus (its links, its
journal, synced), over a state that keeps the last record of each key, as a key-value store does.

Beside the figures of whole nodes it says which part is the order and which the file tree.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgpack
import uvloop

from cluster.bench.etcd import free_ports
from lddp.consensus import RaftConfig, RaftMember
from lddp.core.tables import Table, Tables
from lddp.errors import UnavailableError
from lddp.links.connect import connect
from lddp.links.credentials import Credentials
from lddp.links.frames import read_frame, write_frame
from lddp.links.issue import create_authority, issue
from lddp.links.listener import Listener
from lddp.node.system import SystemClock, SystemRandom, tune_process
from lddp.storage.environment import Environment

MEMBERS = ("log-1", "log-2", "log-3")
CLIENT = "client"
ECOSYSTEM = "bench"
CHANNEL = "load"
KEYS = 4096
RECORD_BYTES = 200
FRAMES = 8
FRAME_RECORDS_MIN = 16
WARM_S = 1.0
LEADER_S = 20.0
POLL_S = 0.05
COMMAND = (sys.executable, "-m", "cluster.bench.log")


@dataclass(frozen=True, slots=True)
class Group:
    """The members' directory, and their addresses by name."""

    directory: str
    addresses: dict[str, str]

    def credentials(self, name: str) -> Credentials:
        keys = Path(self.directory, "keys")
        return Credentials(str(keys / "authority.pem"), str(keys / f"{name}.pem"), str(keys / f"{name}.key"))


@contextmanager
def members(scratch: Path) -> Iterator[Group]:
    """Runs the members, data below `scratch`."""
    keys = scratch / "keys"
    create_authority(str(scratch / "authority"), ecosystem=ECOSYSTEM)
    for name in (*MEMBERS, CLIENT):
        issue(str(scratch / "authority"), str(keys), node=name)
    ports = free_ports(len(MEMBERS))
    group = Group(str(scratch), {name: f"127.0.0.1:{port}" for name, port in zip(MEMBERS, ports, strict=True)})
    processes = []
    for name in MEMBERS:
        process = subprocess.Popen([*COMMAND, "member", name], stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(group)).encode() + b"\n")
        process.stdin.flush()
        processes.append(process)
    try:
        yield group
    finally:
        for process in processes:
            process.communicate()


def load(group: Group, outstanding: int, seconds: float) -> float:
    """Records a second that one client process has ordered, so many of them outstanding."""
    task = json.dumps({"group": asdict(group), "outstanding": outstanding, "seconds": seconds}).encode()
    limit = seconds + WARM_S + 2 * LEADER_S
    done = subprocess.run([*COMMAND, "client"], input=task, check=True, stdout=subprocess.PIPE, timeout=limit)
    return float(done.stdout)


# -- a member ---------------------------------------------------------------------------------------------------------


class _Member:
    """Answers a client with the ids of its records once they are folded, which is after a majority has synced them."""

    def __init__(self, name: str, group: Group) -> None:
        address, credentials = group.addresses[name], group.credentials(name)
        self._environment = Environment.open(f"{group.directory}/{name}", ecosystem=ECOSYSTEM, node=name)
        self._listener = Listener(
            address, me=name, ecosystem=ECOSYSTEM, credentials=credentials, knows=lambda _name: True
        )
        config = RaftConfig(
            node=name,
            address=address,
            peers={peer: where for peer, where in group.addresses.items() if peer != name},
            ecosystem=ECOSYSTEM,
            credentials=credentials,
        )
        self._raft = RaftMember(
            config,
            self._environment,
            self._apply,
            clock=SystemClock(),
            random=SystemRandom(),
            listener=self._listener,
        )
        self._raft.on_folded.append(self._folded)
        self._client: asyncio.StreamWriter | None = None
        self._ids: list[bytes] = []

    def _apply(self, tables: Tables, _index: int, records: Sequence[bytes]) -> bool:
        put = tables.put
        for record in records:
            put(Table.CONTROL, record[8:24], record)
        if self._client is not None:
            self._ids += [record[:8] for record in records]
        return False

    def _folded(self, _first: int, _last: int) -> None:
        if self._ids and self._client is not None:
            write_frame(self._client, b"".join(self._ids))
        self._ids = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _peer: str) -> None:
        write_frame(writer, (self._raft.leader or "").encode())
        self._client = writer
        try:
            while True:
                self._raft.submit(msgpack.unpackb(await read_frame(reader)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self._client = None

    async def run(self) -> None:
        """Until standard input ends."""
        self._listener.register(CHANNEL, self._serve)
        await self._raft.start()
        await self._listener.start()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await self._raft.stop()
        await self._listener.stop()
        self._environment.close()


# -- the client -------------------------------------------------------------------------------------------------------


async def _open_leader(group: Group) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the member that leads."""
    credentials, name = group.credentials(CLIENT), MEMBERS[0]
    deadline = time.monotonic() + LEADER_S
    while time.monotonic() < deadline:
        try:
            reader, writer = await connect(
                group.addresses[name],
                credentials,
                me=CLIENT,
                ecosystem=ECOSYSTEM,
                channel=CHANNEL,
                expected_peer=name,
            )
        except UnavailableError:  # not started yet
            await asyncio.sleep(POLL_S)
            continue
        leader = (await read_frame(reader)).decode()
        if leader == name:
            return reader, writer
        writer.close()
        name = leader or name
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"no member led within {LEADER_S:g} s")


async def _converse(group: Group, outstanding: int, seconds: float) -> float:
    reader, writer = await _open_leader(group)
    value, following = b"v" * (RECORD_BYTES - 24), 0

    def send(count: int) -> None:
        nonlocal following
        numbers = range(following, following + count)
        following += count
        write_frame(writer, msgpack.packb([b"%08dk%015d%b" % (one % 10**8, one % KEYS, value) for one in numbers]))

    begin = time.monotonic() + WARM_S
    end, measured, answered = begin + seconds, 0, 0
    frames = max(1, min(FRAMES, outstanding // FRAME_RECORDS_MIN))
    for number in range(frames):
        send(outstanding // frames + (number < outstanding % frames))
    while answered < following:
        count = len(await read_frame(reader)) // 8
        answered += count
        now = time.monotonic()
        if begin <= now < end:
            measured += count
        if now < end:
            send(count)
    writer.close()
    return measured / seconds


def main() -> None:
    match sys.argv[1:]:
        case ["member", name]:
            tune_process()
            group = Group(**json.loads(sys.stdin.readline()))
            uvloop.run(_Member(name, group).run())
        case ["client"]:
            task = json.load(sys.stdin)
            found = uvloop.run(_converse(Group(**task["group"]), task["outstanding"], task["seconds"]))
            sys.stdout.write(f"{found}\n")


if __name__ == "__main__":
    main()
