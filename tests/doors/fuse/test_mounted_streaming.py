"""Large files that programs write in mounts of real nodes, and what the members hold before they are closed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.bench.nodes import Ecosystem, ecosystem
from lddp.config import WriteMode
from lddp.doors.fuse import streaming
from lddp.node import uploads
from tests.doors.fuse.live import abort, can_mount, trio
from tests.doors.fuse.test_mounted import FSX
from tests.doors.fuse.test_promises import mount, read_until, wait_for, zone_of
from tests.node.trio import SOURCE, TARGET

pytestmark = can_mount
MIB = 1 << 20
PATIENCE_S = 120.0
WRITE = """
import os, random, sys
size = {mib} << 20
dice = random.Random({mib})
file = open('f', 'wb', buffering=0)
for _ in range({mib}):
    file.write(dice.randbytes(1 << 20))
print('written', flush=True)
"""
"""Then a line at a time of what else is to be done, from standard input."""
DO = """
for line in sys.stdin:
    exec(line)
    print('done', flush=True)
"""
MIB_WRITTEN = 12
SENT_MIB = 10
"""These are with the members before the close."""


class Program:
    """Writes a file in a directory, and then does what it is told."""

    def __init__(self, directory: Path) -> None:
        command = ["bash", "-c", 'cd "$0" && exec "$@"', str(directory), sys.executable, "-c"]
        self.process = subprocess.Popen(
            [*command, WRITE.format(mib=MIB_WRITTEN) + DO],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        read_until(self.process, "written")

    def do(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        read_until(self.process, "done")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Lab:
    """Three nodes with a zone each, and a mount at the first one."""

    def __init__(self, nodes: Ecosystem, point: Path) -> None:
        self.nodes = nodes
        self.point = point
        self.zones = {name: zone_of(nodes, name) for name in nodes.nodes}
        roots = {name: nodes.root(str(node["zone"])) for name, node in nodes.nodes.items()}
        self.stores = {name: root.with_name(f".{root.name}.staging") / "content" for name, root in roots.items()}

    @contextlib.contextmanager
    def program(self) -> Iterator[Program]:
        """It has written its file, and what is sent before the close has come everywhere."""
        program = Program(self.point)
        try:
            until(lambda: all(held(store) >= SENT_MIB * MIB for store in self.stores.values()))
            yield program
        finally:
            program.end()

    def assert_is(self, name: str, data: bytes) -> None:
        """In all zones; and nothing is left in any store."""
        wait_for(self.nodes, list(self.nodes.nodes))
        for zone in self.zones.values():
            assert (zone / name).read_bytes() == data
        self.until_empty()

    def until_empty(self) -> None:
        until(lambda: not any(map(held, self.stores.values())))


def written() -> bytearray:
    dice = random.Random(MIB_WRITTEN)
    return bytearray(b"".join(dice.randbytes(MIB) for _ in range(MIB_WRITTEN)))


def held(store: Path) -> int:
    """Bytes in a content store."""
    total = 0
    for folder in ("incoming", "blobs", "parts", "suspects"):
        for path in (store / folder).iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def made(directory: Path) -> Iterator[Lab]:
    point = directory / "mnt"
    point.mkdir()
    with ecosystem(directory / "lab", "--nodes", "3") as nodes:
        mount(nodes, "node-1", point, WriteMode.SYNC)
        try:
            yield Lab(nodes, point)
        finally:
            abort(point)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with made(tmp_path_factory.mktemp("streaming")) as lab:
        yield lab


def test_the_members_hold_the_bytes_before_the_close(lab: Lab) -> None:
    with lab.program() as program:
        assert all((zone / "f").stat().st_size == 0 for zone in lab.zones.values())
        program.do("file.close()")
        lab.assert_is("f", bytes(written()))


def test_what_is_written_again_anywhere_is_right_in_all_zones(lab: Lab) -> None:
    dice, data = random.Random(7), written()
    with lab.program() as program:
        for _ in range(200):
            piece = dice.randbytes(dice.randrange(1, 20_000))
            at = dice.randrange(len(data))
            data[at : at + len(piece)] = piece
            program.do(f"os.pwrite(file.fileno(), bytes.fromhex('{piece.hex()}'), {at})")
        program.do("os.ftruncate(file.fileno(), size + 5)")
        data += bytes(MIB_WRITTEN * MIB + 5 - len(data))
        del data[MIB_WRITTEN * MIB + 5 :]
        program.do("file.close()")
        lab.assert_is("f", bytes(data))


def test_fsync_brings_it_into_all_zones_and_the_rest_follows(lab: Lab) -> None:
    with lab.program() as program:
        program.do("os.fsync(file.fileno())")
        lab.assert_is("f", bytes(written()))
        program.do("file.write(bytes(size)); file.close()")
        lab.assert_is("f", bytes(written()) + bytes(MIB_WRITTEN * MIB))


def test_a_file_that_is_unlinked_before_the_close_leaves_nothing(lab: Lab) -> None:
    with lab.program() as program:
        program.do("os.unlink('f')")
        lab.until_empty()
        program.do("file.write(bytes(size)); file.close()")
        lab.until_empty()


def test_a_file_that_is_cut_and_written_anew(lab: Lab) -> None:
    with lab.program() as program:
        program.do("os.ftruncate(file.fileno(), 0); os.pwrite(file.fileno(), b'anew', 0)")
        program.do("file.close()")
        lab.assert_is("f", b"anew")


def test_a_member_that_stands_still_holds_nobody_up(lab: Lab) -> None:
    leader = lab.nodes.leader()
    name = next(name for name in ("node-2", "node-3") if name != leader)
    with lab.program() as program:
        os.kill(lab.nodes.described["pids"][name], signal.SIGSTOP)
        try:
            program.do("file.write(bytes(3 * size)); file.close()")
        finally:
            os.kill(lab.nodes.described["pids"][name], signal.SIGCONT)
        lab.assert_is("f", bytes(written()) + bytes(3 * MIB_WRITTEN * MIB))


def test_a_killed_node_leaves_nothing_anywhere(tmp_path: Path) -> None:
    with made(tmp_path) as lab, lab.program():
        os.kill(lab.nodes.described["pids"]["node-1"], signal.SIGKILL)
        until(lambda: not held(lab.stores["node-2"]) and not held(lab.stores["node-3"]))
        assert held(lab.stores["node-1"])
        command = [sys.executable, "-m", "lddp.cli.main", "node", "--config", lab.nodes.nodes["node-1"]["config"]]
        again = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            lab.until_empty()
            assert not list((lab.zones["node-1"].parent.parent / ".zone-1.staging" / "mounts").iterdir())
        finally:
            again.terminate()
            again.wait()


@pytest.mark.parametrize("mode", WriteMode)
async def test_random_work_that_is_sent_early(tmp_path: Path, mode: WriteMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a model, and then both zones, with everything a sixteenth as large as it is."""
    for name in ("STREAM_FROM_BYTES", "BEHIND_BYTES", "CHUNK_BYTES", "WINDOW_BYTES"):
        monkeypatch.setattr(streaming, name, getattr(streaming, name) // 16)
    monkeypatch.setattr(uploads, "GROW_FROM_BYTES", uploads.GROW_FROM_BYTES // 16)
    monkeypatch.setattr(uploads, "STEP_BYTES", uploads.STEP_BYTES // 16)
    async with trio(tmp_path, mode=mode) as nodes:
        for seed in range(2):
            await nodes.programs.run(sys.executable, str(FSX), ".", "--operations", "200", "--seed", str(seed))
            await nodes.assert_equal()
            await nodes.programs.sh("rm fsx-*")
        stores = [nodes.nodes[name].config.staging_directory / "content" for name in (SOURCE, TARGET)]
        await nodes.until(lambda: not any(list((store / "incoming").iterdir()) for store in stores))
        assert not nodes.nodes[SOURCE].store.undecided()
