"""Whole files through WebHDFS and `lddp://`, beside a plain aiohttp server on the same disk."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from cluster.bench.context import Context
from cluster.bench.large import resident
from cluster.bench.nodes import Ecosystem, ecosystem
from cluster.bench.report import progress
from cluster.bench.static import served
from lddp.doors.fsspec import LddpFileSystem

FILE_BYTES = 1 << 30
BLOCK_BYTES = 1 << 20
PATIENCE_S = 600.0
GOAL = 0.5
GROWTH_MIB_MAX = 128.0
RULE = "doors"


class Plain:
    """An HTTP client that does as little as one can. `to` is a file for what is read, None for nowhere."""

    def __init__(self, host: str, token: str = "") -> None:
        self._host = host
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def put(self, target: str, local: Path) -> None:
        headers = {**self._headers, "Content-Length": str(local.stat().st_size)}
        with open(local, "rb") as file:
            self._ask("PUT", target, file, headers)

    def location(self, target: str) -> str:
        """Where a request without bytes is sent on to."""
        return self._ask("PUT", target, None, self._headers).partition(self._host)[2]

    def _ask(self, method: str, target: str, body: object, headers: dict[str, str]) -> str:
        connection = http.client.HTTPConnection(self._host, timeout=PATIENCE_S, blocksize=BLOCK_BYTES)
        connection.request(method, target, body, headers)  # type: ignore[arg-type]  # a file or None
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {target}: {answer.status} {said[:200]!r}")
        return answer.getheader("Location", "")

    def get(self, target: str, to: Path | None) -> None:
        connection = http.client.HTTPConnection(self._host, timeout=PATIENCE_S)
        connection.request("GET", target, headers=self._headers)
        answer = connection.getresponse()
        buffer = memoryview(bytearray(BLOCK_BYTES))
        size = 0
        with open(to or os.devnull, "wb", buffering=0) as file:
            while count := answer.readinto(buffer):
                file.write(buffer[:count])
                size += count
        connection.close()
        if answer.status >= 400 or size != FILE_BYTES:
            raise RuntimeError(f"GET {target}: {answer.status}, {size} bytes")


def run(context: Context) -> None:
    home = context.scratch / "doors"
    home.mkdir()
    source = home / "source"
    with open(source, "wb") as file:
        for _ in range(FILE_BYTES // BLOCK_BYTES):
            file.write(os.urandom(BLOCK_BYTES))
    (home / "plain").mkdir()
    with ecosystem(home / "lddp", "--nodes", "1") as nodes, served(home / "plain") as host:
        nodes.create_rule(RULE, [str(node["zone"]) for node in nodes.nodes.values()])
        _measure(context, nodes, Plain(host), source)
    context.report.note(
        "doors: files of 1 GiB, a client in Python on the same machine, one zone; the server beside is aiohttp's static"
        " files (sendfile) and a handler that writes uploads to disk and syncs them, as lddp does; WebHDFS is read to"
        " nowhere, lddp:// into a file, and the server beside as the one it stands by."
    )


def _rate(work: Callable[[], None]) -> float:
    """MiB a second, with nothing of before still to be written."""
    os.sync()
    before = time.monotonic()
    work()
    return FILE_BYTES / (1 << 20) / (time.monotonic() - before)


def _measure(context: Context, nodes: Ecosystem, plain: Plain, source: Path) -> None:
    (node,) = nodes.nodes.values()
    token = nodes.token_file.read_text("ascii").strip()
    hadoop = Plain(urlsplit(str(node["endpoint"])).netloc, token)
    fs = LddpFileSystem((str(node["endpoint"]),), token=token, timeout_s=PATIENCE_S, skip_instance_cache=True)
    copy = source.with_name("copy")
    path = f"/{RULE}/file"
    steps: dict[str, Callable[[], None]] = {
        "aiohttp upload": lambda: plain.put("/files/file", source),
        "WebHDFS upload": lambda: hadoop.put(hadoop.location(f"/webhdfs/v1{path}?op=CREATE&overwrite=true"), source),
        "lddp:// upload": lambda: fs.put_file(str(source), path),
        "aiohttp download": lambda: plain.get("/files/file", None),
        "WebHDFS download": lambda: hadoop.get(f"/webhdfs/v1{path}?op=OPEN", None),
        "aiohttp download to a file": lambda: plain.get("/files/file", copy),
        "lddp:// download to a file": lambda: fs.get_file(path, str(copy)),
    }
    rates: dict[str, list[float]] = {what: [] for what in steps}
    growth: list[float] = []
    for number in range(context.rounds):
        progress(f"doors, round {number + 1} of {context.rounds}")
        before = _settled(int(node["pid"]))
        for what, step in steps.items():
            rates[what].append(_rate(step))
            copy.unlink(missing_ok=True)
        growth.append(resident(int(node["pid"]))["VmHWM"] - before)
    fs.close()
    for what, beside in (
        ("WebHDFS upload", "aiohttp upload"),
        ("lddp:// upload", "aiohttp upload"),
        ("WebHDFS download", "aiohttp download"),
        ("lddp:// download to a file", "aiohttp download to a file"),
    ):
        context.report.at_least("doors", what, "MiB/s", rates[what], "aiohttp", rates[beside], GOAL)
    context.report.below("doors", "the node's peak beyond what it had before", "MiB", growth, GROWTH_MIB_MAX)
    context.report.plain("doors", "resident after all of it", "MiB", [resident(int(node["pid"]))["VmRSS"]])


def _settled(pid: int) -> float:
    """MiB resident now; the peak is counted from here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return resident(pid)["VmRSS"]
