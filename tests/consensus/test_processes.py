"""Three members as processes on uvloop, LMDB and Unix sockets; the leader is killed, and killed again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from lddp.core.tables import Table
from lddp.storage.environment import Environment

NAMES = "abc"
DEADLINE_S = 60.0


class Process:
    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.leader = "-"
        self.applied: set[str] = set()
        self.barriers = 0
        self.news = asyncio.Event()
        self._process: asyncio.subprocess.Process
        self._listening: asyncio.Task[None]

    async def start(self) -> None:
        script = str(Path(__file__).with_name("process.py"))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            script,
            self.name,
            NAMES,
            str(self.directory),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.leader = "-"
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := (await self._process.stdout.readline()).decode().split():
            match line:
                case ["leader", name]:
                    self.leader = name
                case ["applied", text]:
                    self.applied.add(text)
                case ["barrier", _]:
                    self.barriers += 1
            self.news.set()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()
        await self._listening

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(DEADLINE_S):
            await self._process.wait()
        await self._listening


@asynccontextmanager
async def three(directory: Path) -> AsyncIterator[dict[str, Process]]:
    processes = {name: Process(name, directory) for name in NAMES}
    try:
        for process in processes.values():
            await process.start()
        yield processes
    finally:
        for process in processes.values():
            if process._process.returncode is None:
                await process.kill()


async def test_no_acknowledged_record_is_lost_when_leaders_are_killed(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    async with three(tmp_path) as processes:
        await processes["a"].until(lambda: processes["a"].leader != "-")
        for episode in range(3):
            leader = processes[processes["a" if processes["a"].leader != "-" else "b"].leader]
            follower = next(process for process in processes.values() if process is not leader)
            texts = [f"{episode}.{number}" for number in range(50)]
            for text in texts:
                leader.tell(f"submit {text}")
            await follower.until(lambda follower=follower, texts=texts: texts[-1] in follower.applied)  # type: ignore[misc]
            acknowledged += texts
            leader.tell(f"submit {episode}.unsure")
            await leader.kill()
            rest = [process for process in processes.values() if process is not leader]
            for process in rest:
                await process.until(lambda process=process, leader=leader: process.leader not in ("-", leader.name))  # type: ignore[misc]
            await leader.start()
            await leader.until(lambda leader=leader: leader.leader != "-")  # type: ignore[misc]
        for process in processes.values():
            process.tell("barrier")
        for process in processes.values():
            await process.until(lambda process=process: process.barriers == 1)  # type: ignore[misc]
        for process in processes.values():
            await process.end()
    logs = []
    for name in NAMES:
        with (
            Environment.open(str(tmp_path / name), ecosystem="e", node=name) as environment,
            environment.read() as tables,
        ):
            logs.append([record.decode() for _, record in tables.scan(Table.CONTROL)])
    assert logs[0] == logs[1] == logs[2]
    assert [text for text in logs[0] if not text.endswith("unsure")] == acknowledged
