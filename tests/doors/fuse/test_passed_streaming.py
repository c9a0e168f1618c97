"""Files that the kernel reads by itself and that programs write so much to that it is sent early, in mounts of real
nodes; and what becomes of both when a node ends."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.bench.nodes import Ecosystem, ecosystem
from lddp.doors.fuse import streaming
from lddp.errors import UnavailableError
from lddp.node import uploads
from tests.doors.fuse.cloning import Driven, can_clone, cloning_filesystem, driven
from tests.doors.fuse.lake import OPEN, SIZE, Lake, lake_at, reader
from tests.doors.fuse.live import abort, can_mount
from tests.doors.fuse.test_mounted import FSX
from tests.doors.fuse.test_mounted_streaming import MIB, held, until
from tests.doors.fuse.test_promises import wait_for
from tests.node.trio import SOURCE, TARGET

pytestmark = [can_mount, can_clone]
RULE = "data"
MIB_WRITTEN = 12
SENT = 10 * MIB
"""These are with the other zone before the close."""
WRITE = f"""
import random
dice = random.Random({MIB_WRITTEN})
for _ in range({MIB_WRITTEN}): os.write(fd, dice.randbytes(1 << 20))
"""


def written() -> bytes:
    dice = random.Random(MIB_WRITTEN)
    return b"".join(dice.randbytes(MIB) for _ in range(MIB_WRITTEN))


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with lake_at(tmp_path) as lake:
        yield lake


async def streamed(lake: Lake, how: str = "os.open('f', os.O_WRONLY)") -> Driven:
    """A program that has written a file, most of which is with the other zone."""
    writer = await lake.here()
    await writer.do(f"fd = {how}")
    await writer.do(WRITE)
    store = lake.nodes.nodes[TARGET].config.staging_directory / "content"
    await lake.nodes.until(lambda: held(store) >= SENT)
    return writer


async def shows(program: Driven, data: bytes) -> None:
    """Compared there: this process serves the mount, and may not wait for it."""
    code = f"__import__('hashlib').sha256(os.pread(fd, {len(data)} + 1, 0)).hexdigest()"
    assert await program.ask(code) == hashlib.sha256(data).hexdigest()


async def test_a_passed_file_is_streamed_before_a_reader(lake: Lake) -> None:
    program, number = await reader(lake)
    await program.do("mapped = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)")
    writer = await streamed(lake)
    await shows(program, written())
    assert await program.ask("mapped[:8]") == written()[:8]
    assert (lake.nodes.source / "f").stat().st_size == SIZE
    late = await lake.here()
    await late.do("fd = os.open('f', os.O_RDONLY)")
    await shows(late, written())
    await writer.do("os.close(fd)")
    await lake.agreed()
    there = await lake.there()
    await there.do("fd = os.open('f', os.O_RDONLY)")
    await shows(there, written())
    assert number in lake.passthrough
    await lake.nodes.assert_equal()


async def test_who_opens_what_is_streamed_is_passed_later(lake: Lake) -> None:
    writer = await streamed(lake, "os.open('new', os.O_WRONLY | os.O_CREAT)")
    program = await lake.here()
    await program.do("fd = os.open('new', os.O_RDONLY); number = os.fstat(fd).st_ino")
    number = await program.ask("number")
    await shows(program, written())
    await writer.do("os.close(fd)")
    await shows(program, written())
    assert number not in lake.passthrough
    await program.do("os.close(fd)")
    await lake.settled()
    await program.do("fd = os.open('new', os.O_RDONLY)")
    assert number in lake.passthrough
    await shows(program, written())


async def test_cut_while_it_is_streamed(lake: Lake) -> None:
    program, _ = await reader(lake)
    writer = await streamed(lake)
    await writer.do(f"os.ftruncate(fd, {3 * MIB})")
    await shows(program, written()[: 3 * MIB])
    await writer.do("os.pwrite(fd, b'new', 5)")
    await shows(program, written()[:5] + b"new" + written()[8 : 3 * MIB])
    await writer.do("os.close(fd)")
    await lake.nodes.assert_equal()
    store = lake.nodes.nodes[TARGET].config.staging_directory / "content"
    await lake.nodes.until(lambda: not held(store))


async def test_another_zone_moves_what_is_streamed(lake: Lake) -> None:
    program, _ = await reader(lake)
    writer, other = await streamed(lake), await lake.there()
    await other.do("os.mkdir('d'); os.rename('f', 'd/g'); open('f', 'w').write('another')")
    await lake.agreed()
    await writer.do("os.pwrite(fd, b'more', 0)")
    await writer.do("os.close(fd)")
    await lake.agreed()
    expected = b"more" + written()[4:]
    await shows(program, expected)
    await other.do("fd = os.open('d/g', os.O_RDONLY)")
    await shows(other, expected)
    assert await other.ask("open('f').read()") == "another"
    await lake.nodes.assert_equal()


async def test_another_zone_removes_what_is_streamed(lake: Lake) -> None:
    program, number = await reader(lake)
    writer, other = await streamed(lake), await lake.there()
    await other.do("os.unlink('f')")
    await lake.agreed()
    await writer.do("os.pwrite(fd, b'more', 0)")
    await writer.do("os.fsync(fd)")
    await shows(program, b"more" + written()[4:])
    await writer.do("os.close(fd)")
    assert await other.ask("os.listdir()") == await program.ask("os.listdir()") == []
    await program.do("os.close(fd)")
    await lake.over(number)
    stores = [lake.nodes.nodes[name].config.staging_directory / "content" for name in (SOURCE, TARGET)]
    await lake.nodes.until(lambda: not any(map(held, stores)))


async def test_a_mount_that_ends_and_comes_again(lake: Lake) -> None:
    """What was passed is let go of, and passes again in the next mount."""
    program, _ = await reader(lake)
    await program.do("mapped = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)")
    await lake.nodes.unmount(lazily=True)
    assert await program.ask("mapped[:4]") == b"aaaa"
    await lake.nodes.mount()
    await (await reader(lake))[0].do("os.close(fd)")
    await lake.nodes.stop(SOURCE)
    await lake.nodes.start(SOURCE)
    await lake.nodes.mount()
    again, _ = await reader(lake)
    await shows(again, b"a" * SIZE)
    writer = await streamed(lake)
    await shows(again, written())
    await writer.do("os.close(fd)")
    await lake.nodes.assert_equal()


async def test_random_operations_that_are_sent_early_beside_a_reader(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything a sixteenth as large as it is."""
    for name in ("STREAM_FROM_BYTES", "BEHIND_BYTES", "CHUNK_BYTES", "WINDOW_BYTES"):
        monkeypatch.setattr(streaming, name, getattr(streaming, name) // 16)
    monkeypatch.setattr(uploads, "GROW_FROM_BYTES", uploads.GROW_FROM_BYTES // 16)
    monkeypatch.setattr(uploads, "STEP_BYTES", uploads.STEP_BYTES // 16)
    for seed in range(2):
        await lake.nodes.programs.python(f"open('fsx-0', 'wb').write(b'x' * {SIZE})")
        await lake.settled()
        command = (sys.executable, str(FSX), ".", "--operations", "300", "--seed", str(seed), "--reader")
        await lake.nodes.programs.run(*command)
        await lake.nodes.assert_equal()
        await lake.nodes.programs.sh("rm fsx-*")
    stores = [lake.nodes.nodes[name].config.staging_directory / "content" for name in (SOURCE, TARGET)]
    await lake.nodes.until(lambda: not any(map(held, stores)))


async def mounted(nodes: Ecosystem, point: Path) -> None:
    body = {"rule": RULE, "mountpoint": str(point), "passthrough": True}
    made = await asyncio.to_thread(nodes.client("node-1").change, "POST", "/v1/mounts", body=body)
    assert made["passthrough"] is True, made


async def settled(nodes: Ecosystem, zone: Path) -> None:
    await asyncio.to_thread(wait_for, nodes, list(nodes.nodes))
    await asyncio.to_thread(subprocess.run, ["sync", "-f", zone], check=True)


@asynccontextmanager
async def started_again(nodes: Ecosystem) -> AsyncIterator[int]:
    command = [sys.executable, "-m", "lddp.cli.main", "node", "--config", nodes.nodes["node-1"]["config"]]
    node = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    try:
        yield node.pid
    finally:
        node.terminate()
        await node.wait()


PASSES = OPEN + f"; mapped = mmap.mmap(fd, {SIZE}, prot=mmap.PROT_READ)"


async def test_a_node_that_is_killed(tmp_path: Path) -> None:
    """Who has mapped a passed file keeps it; what was not committed is lost as ever; the next mount passes again."""
    point = tmp_path / "mnt"
    point.mkdir()
    with cloning_filesystem(tmp_path) as disk, ecosystem(disk / "lab", "--nodes", "3") as nodes:
        nodes.create_rule(RULE, [str(node["zone"]) for node in nodes.nodes.values()])
        file = nodes.root(str(nodes.nodes["node-1"]["zone"])) / RULE / "f"
        pid = int(nodes.described["pids"]["node-1"])
        try:
            await mounted(nodes, point)
            async with driven(point) as program, driven(point) as writer:
                await program.do(f"open('f', 'wb').write(b'a' * {SIZE})")
                await settled(nodes, file.parent)
                await program.do(PASSES)
                await writer.do("fd = os.open('f', os.O_WRONLY)")
                await writer.do("os.pwrite(fd, b'lost', 10)")
                os.kill(pid, signal.SIGSTOP)
                # Nobody needs the node for that.
                assert await program.ask("os.pread(fd, 6, 9), mapped[9:15]") == (b"alosta", b"alosta")
                os.kill(pid, signal.SIGKILL)
                assert await writer.ask("os.pwrite(fd, b'never', 0)") in (errno.ENOTCONN, errno.ECONNABORTED)
                assert await program.ask("mapped[:5]") == b"aaaaa"
            assert file.read_bytes() == b"a" * SIZE
            async with started_again(nodes) as pid:
                await asyncio.to_thread(until, lambda: answers(nodes))
                await settled(nodes, file.parent)
                await mounted(nodes, point)
                async with driven(point) as program:
                    await program.do(PASSES)
                    os.kill(pid, signal.SIGSTOP)
                    await shows(program, b"a" * SIZE)
                    os.kill(pid, signal.SIGCONT)
        finally:
            abort(point)


def answers(nodes: Ecosystem) -> bool:
    try:
        return bool(nodes.status("node-1"))
    except UnavailableError:
        return False
