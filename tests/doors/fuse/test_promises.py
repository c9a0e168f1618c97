"""What a mount promises when its node is killed: nodes that are processes, a program that works in a mount of one of
them, and kill -9 in the middle of it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.bench.nodes import Ecosystem, ecosystem
from lddp.config import WriteMode
from lddp.doors.fuse import mounting
from tests.doors.fuse.live import PATIENCE_S, abort, can_mount

pytestmark = can_mount
RULE = "data"
SYNCED_EVERY = 50
KILLED_AFTER = 230
NEVER_ENDING = 100_000
WORK = f"""
import os, sys
top = os.open('.', os.O_RDONLY)
for number in range(int(sys.argv[1])):
    name = f'{{number:06}}'
    os.mkdir(name)
    with open(name + '/new', 'w') as file:
        file.write(name * 100)
    os.rename(name + '/new', name + '/file')
    os.chmod(name, 0o700)
    if number % {SYNCED_EVERY} == 0:
        os.fsync(top)
        print('synced', flush=True)
    print(number, flush=True)
"""
"""Four steps for each number; a line after the last of them."""


@contextlib.contextmanager
def working(point: Path, count: int = NEVER_ENDING) -> Iterator[subprocess.Popen[str]]:
    """A program in a directory that does `count` numbers. Its death by a dead mount is expected."""
    command = ["bash", "-c", 'cd "$0" && exec "$@"', str(point), sys.executable, "-c", WORK, str(count)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


def read_until(program: subprocess.Popen[str], wanted: str) -> list[str]:
    assert program.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    while not lines or lines[-1] != wanted:
        ready, _, _ = select.select([program.stdout], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {wanted!r} in time"
        line = program.stdout.readline()
        assert line, f"the program ended before {wanted!r}"
        lines.append(line.strip())
    return lines


def state(directory: Path) -> int:
    """How many of the four steps were done to the directory of one number; the bytes of a file are one of them."""
    names = sorted(os.listdir(directory))
    text = directory.name * 100
    if names == ["file"]:
        assert (directory / "file").read_text() == text
        return 5 if directory.stat().st_mode & 0o777 == 0o700 else 4
    if names == ["new"]:
        content = (directory / "new").read_text()
        assert content in ("", text), f"{directory} has a part of a file"
        return 3 if content else 2
    assert not names
    return 1


def kept(zone: Path) -> int:
    """How many numbers are there. All before the last are done, and the last is at some step."""
    names = sorted(os.listdir(zone))
    assert names == [f"{number:06}" for number in range(len(names))], "there is a gap"
    states = [state(zone / name) for name in names]
    assert set(states[:-1]) <= {5}, "a later change is there and an earlier one is not"
    return len(names)


def mount(nodes: Ecosystem, name: str, point: Path, mode: WriteMode) -> None:
    nodes.create_rule(RULE, [str(node["zone"]) for node in nodes.nodes.values()])
    nodes.client(name).get("/v1/wait", {"index": str(nodes.status("node-1")["log"]["index"]), "timeout": "60"})
    body = {"rule": RULE, "mountpoint": str(point), "write_mode": mode.value}
    nodes.client(name).change("POST", "/v1/mounts", body=body)


def zone_of(nodes: Ecosystem, name: str) -> Path:
    return nodes.root(str(nodes.nodes[name]["zone"])) / RULE


def wait_for(nodes: Ecosystem, names: list[str]) -> None:
    """Until these nodes show all that is ordered."""
    index = int(nodes.client(names[0]).change("POST", "/v1/barrier", {"timeout": "60"})["index"])
    for name in names:
        nodes.client(name).get("/v1/wait", {"index": str(index), "timeout": "60"})


@pytest.mark.parametrize("mode", WriteMode)
def test_a_killed_node_loses_nothing_before_the_barrier_and_keeps_the_beginning(
    tmp_path: Path, mode: WriteMode
) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    with ecosystem(tmp_path / "lab", "--nodes", "3") as nodes:
        mount(nodes, "node-1", point, mode)
        try:
            with working(point) as program:
                lines = read_until(program, str(KILLED_AFTER))
                os.kill(nodes.described["pids"]["node-1"], signal.SIGKILL)
                rest = program.communicate(timeout=PATIENCE_S)[0].split()
        finally:
            abort(point)
        lines += rest
        done = [int(line) for line in lines if line.isdigit()]
        synced = lines[: len(lines) - lines[::-1].index("synced")].count("synced")
        others = ["node-2", "node-3"]
        wait_for(nodes, others)
        counts = {name: kept(zone_of(nodes, name)) for name in others}
        least = {WriteMode.SYNC: done[-1] + 1, WriteMode.PIPELINED: (synced - 1) * SYNCED_EVERY + 1}
        assert len(set(counts.values())) == 1
        assert least[mode] <= counts["node-2"] <= done[-1] + 2
        assert not mounting.ours(os.fsencode(point))


def test_a_killed_leader_is_not_noticed(tmp_path: Path) -> None:
    """By a program in a pipelined mount of another node."""
    point = tmp_path / "mnt"
    point.mkdir()
    with ecosystem(tmp_path / "lab", "--nodes", "3") as nodes:
        leader = nodes.leader()
        others = [name for name in nodes.nodes if name != leader]
        mount(nodes, others[0], point, WriteMode.PIPELINED)
        last = SYNCED_EVERY * 6
        try:
            # Its last step is a sync: what it was promised without one may be ordered long after its end.
            with working(point, last + 1) as program:
                read_until(program, str(SYNCED_EVERY + SYNCED_EVERY // 2))
                os.kill(nodes.described["pids"][leader], signal.SIGKILL)
                assert "synced" in read_until(program, str(last))
                assert program.wait(PATIENCE_S) == 0
            wait_for(nodes, others)
            counts = [kept(zone_of(nodes, name)) for name in others]
        finally:
            abort(point)
        assert counts == [last + 1, last + 1]
