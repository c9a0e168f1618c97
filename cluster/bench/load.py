"""A client process that keeps operations outstanding on `/v1/operations/stream`, in a closed loop.

Operations that are ready together travel in one frame, as any client library would send them; several frames are under
way at once, so that the nodes always have work. Run as a module: reads its task as JSON on standard input and
writes one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import uvloop

from cluster.bench.report import percentile

FRAME_OPERATIONS_MIN = 16
ANSWER_S = 120.0
COMMAND = (sys.executable, "-m", "cluster.bench.load")


@dataclass(frozen=True, slots=True)
class Task:
    """`kind` is put (whole files of `size` bytes), mkdir (every directory once) or fill (every file once, a directory
    for each `keys` files). `operations` ends it early; 0 is no end but the time."""

    endpoint: str
    token_file: str
    rule: str
    kind: str
    outstanding: int
    seconds: float
    warm_seconds: float = 1.0
    ack: str = "ordered"
    size: int = 184
    keys: int = 4096
    frames: int = 8
    operations: int = 0
    first: int = 0


def run(task: Task) -> dict[str, Any]:
    """Runs the task in a process of its own: per_second, p50_ms, p99_ms, operations; start_seconds is what the process
    took beside the task."""
    before = time.monotonic()
    limit = task.seconds + task.warm_seconds + 2 * ANSWER_S
    done = subprocess.run(
        COMMAND, input=json.dumps(asdict(task)).encode(), check=True, stdout=subprocess.PIPE, timeout=limit
    )
    found: dict[str, Any] = json.loads(done.stdout)
    found["start_seconds"] = time.monotonic() - before - found["busy_seconds"]
    return found


class _Load:
    def __init__(self, task: Task) -> None:
        self._task = task
        self._next = task.first
        self._value = b"v" * task.size
        self._sent: dict[int, float] = {}
        self._pack = msgpack.Packer(use_bin_type=True).pack
        self.latencies: list[tuple[float, float, int]] = []
        """(answered at, seconds, operations) of every frame."""

    def _operation(self, number: int) -> list[Any]:
        task = self._task
        prefix = b"/" + task.rule.encode()
        match task.kind:
            case "put":
                return [number, "put", b"%b/k%08d" % (prefix, number % task.keys), self._value]
            case "mkdir":
                return [number, "mkdir", b"%b/d%08d" % (prefix, number)]
            case "fill":
                directory, within = divmod(number, task.keys)
                path = b"%b/d%05d" % (prefix, directory)
                return [number, "mkdir", path] if within == 0 else [number, "create", b"%b/f%05d" % (path, within)]
            case other:
                raise ValueError(f"no load is called {other}")

    def frame(self, count: int) -> bytes:
        """The next operations; their time begins now."""
        if self._task.operations:
            count = min(count, self._task.first + self._task.operations - self._next)
        if count <= 0:
            return b""
        self._sent[self._next] = time.monotonic()
        batch = [self._operation(number) for number in range(self._next, self._next + count)]
        self._next += count
        return bytes(self._pack(batch))

    def answered(self, data: bytes) -> int:
        """Notes an answer; how many operations it was for."""
        answers = msgpack.unpackb(data)
        for sequence, code, _ in answers:
            if code:
                raise RuntimeError(f"operation {sequence} failed with errno {code}")
        now = time.monotonic()
        self.latencies.append((now, now - self._sent.pop(answers[0][0]), len(answers)))
        return len(answers)

    @property
    def waiting(self) -> bool:
        return bool(self._sent)


async def _converse(task: Task) -> dict[str, Any]:
    load = _Load(task)
    frames = max(1, min(task.frames, task.outstanding // FRAME_OPERATIONS_MIN))
    token = Path(task.token_file).read_text("ascii").strip()
    url = f"{task.endpoint}/v1/operations/stream?session={secrets.token_hex(8)}&ack={task.ack}"
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers, max_msg_size=0) as socket:
        begin = time.monotonic() + task.warm_seconds
        end = begin + task.seconds
        for number in range(frames):
            share = task.outstanding // frames + (number < task.outstanding % frames)
            if data := load.frame(share):
                await socket.send_bytes(data)
        while load.waiting:
            async with asyncio.timeout(ANSWER_S):
                count = load.answered(await socket.receive_bytes())
            if time.monotonic() < end and (data := load.frame(count)):
                await socket.send_bytes(data)
    if task.operations:
        begin, end = begin - task.warm_seconds, load.latencies[-1][0]
    measured = [(seconds, count) for at, seconds, count in load.latencies if begin <= at - seconds and at <= end]
    milliseconds = [seconds * 1000 for seconds, count in measured for _ in range(count)]
    return {
        "per_second": len(milliseconds) / (end - begin),
        "p50_ms": percentile(milliseconds, 0.50),
        "p99_ms": percentile(milliseconds, 0.99),
        "operations": len(milliseconds),
        "busy_seconds": load.latencies[-1][0] - (begin if task.operations else begin - task.warm_seconds),
    }


def main() -> None:
    task = Task(**json.load(sys.stdin))
    sys.stdout.write(json.dumps(uvloop.run(_converse(task))) + "\n")


if __name__ == "__main__":
    main()
