"""How mounts of real nodes begin and end where something is in the way."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from subprocess import TimeoutExpired

import pytest

from lddp.config import WriteMode
from lddp.core.records import Record
from lddp.doors.fuse import mounting
from lddp.doors.fuse.ground import Patience, Top
from lddp.doors.fuse.mount import Mount
from lddp.errors import UsageError, ZoneError
from lddp.node.mounts import NodeGround
from tests.doors.fuse.kernel import MachineGround
from tests.doors.fuse.live import PATIENCE_S, RULE, MountedTrio, can_mount, trio
from tests.doors.fuse.test_mounted import trio_mount_at_target
from tests.node.trio import SOURCE, TARGET

pytestmark = can_mount


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[MountedTrio]:
    async with trio(tmp_path) as nodes:
        yield nodes


def mount_of(nodes: MountedTrio) -> Mount:
    return nodes.nodes[SOURCE].mounts.mounts[bytes(nodes.point)]


async def never(records: Sequence[Record], timeout_s: float) -> None:
    """No majority, on a hard mount."""
    await asyncio.Event().wait()


def is_in_the_kernel(process: asyncio.subprocess.Process) -> bool:
    """Whether it waits there, and no signal ends that."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"


async def test_an_end_while_the_kernel_holds_what_a_notice_waits_for(
    nodes: MountedTrio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs want to change a directory, one after the other; the notice is behind them."""
    async with trio_mount_at_target(nodes) as there:
        await nodes.programs.sh("mkdir d; : > d/x; stat d/x")
        await nodes.nodes[TARGET].backend.wait(nodes.nodes[SOURCE].gateway.latest_gsn, PATIENCE_S)
        mount = mount_of(nodes)
        monkeypatch.setattr(mount.tree.ground, "submit_folded", never)
        first = await nodes.programs.start("mkdir", "d/a")
        await nodes.until(lambda: mount.session.in_flight == 1)
        second = await nodes.programs.start("mkdir", "d/b")
        await nodes.until(lambda: is_in_the_kernel(second))
        await there.sh("rm d/x")
        await nodes.until(lambda: not mount.is_told)
        async with asyncio.timeout(PATIENCE_S):
            await mount.stop(lazily=True, commit_s=0)
            await asyncio.to_thread(mount.session._notices.shutdown)
            assert [await one.wait() for one in (first, second)] == [1, 1]


async def test_an_end_that_would_lose_what_was_written(
    nodes: MountedTrio, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A program was killed while its close waited for a majority."""
    await nodes.programs.sh("echo before > f")
    mount = mount_of(nodes)
    monkeypatch.setattr(mount.tree.ground, "submit_folded", never)
    program = await nodes.programs.start("bash", "-c", "echo after > f")
    await nodes.until(lambda: bool(mount.tree.uncommitted()) and mount.session.in_flight == 1)
    program.kill()
    await program.wait()
    await nodes.until(lambda: mount.session.in_flight == 0)
    with pytest.raises(OSError) as caught:
        await mount.stop(commit_s=0.1)
    assert caught.value.errno == errno.ETIMEDOUT and nodes.is_mounted()
    (number,) = mount.tree.uncommitted()
    await mount.stop(lazily=True, commit_s=0.1)
    assert not nodes.is_mounted()
    assert f"what was written to inode {number} of data was not committed, and is lost" in caplog.text


async def test_a_beginning_that_fails_once_it_is_mounted(nodes: MountedTrio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would know of that mount. Where the configuration wants it, it is tried again."""
    await nodes.unmount()
    mounts = nodes.nodes[SOURCE].mounts

    def full(ground: NodeGround) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(NodeGround, "scratch", full)
    arguments = RULE, bytes(nodes.point), None, WriteMode.SYNC
    with pytest.raises(ZoneError, match="cannot be served: No space left") as caught:
        await mounts.mount(*arguments, passthrough=True)
    assert caught.value.errno == errno.ENOSPC
    assert not nodes.is_mounted() and not mounts.mounts
    monkeypatch.undo()
    await mounts.mount(*arguments, passthrough=True)
    assert await nodes.programs.sh("echo one > f; cat f") == "one\n"


async def test_a_beginning_that_is_given_up_while_it_is_mounted(
    nodes: MountedTrio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the node stops meanwhile."""
    await nodes.unmount()
    mounts, mount = nodes.nodes[SOURCE].mounts, mounting.mount
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def slow(mountpoint: bytes, source: bytes) -> int:
        begun.set()
        assert go.wait(PATIENCE_S)
        descriptor = mount(mountpoint, source)
        done.set()
        return descriptor

    monkeypatch.setattr(mounting, "mount", slow)
    starting = asyncio.create_task(mounts.mount(RULE, bytes(nodes.point), None, WriteMode.SYNC))
    await nodes.until(begun.is_set)
    starting.cancel()
    await asyncio.sleep(0)
    go.set()
    await nodes.until(done.is_set)
    await asyncio.wait([starting])
    assert starting.cancelled() and not nodes.is_mounted() and not mounts.mounts


async def test_a_beginning_that_is_given_up_once_it_is_mounted(
    nodes: MountedTrio, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nodes.unmount()
    mounts, begun = nodes.nodes[SOURCE].mounts, asyncio.Event()

    async def forever(mount: Mount, ground: NodeGround) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Mount, "_pass", forever)
    starting = asyncio.create_task(mounts.mount(RULE, bytes(nodes.point), None, WriteMode.SYNC, passthrough=True))
    await begun.wait()
    assert nodes.is_mounted()
    starting.cancel()
    await asyncio.wait([starting])
    assert not nodes.is_mounted() and not mounts.mounts


async def test_a_beginning_that_somebody_unmounts(nodes: MountedTrio, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node tries its configured mounts again and again, and must hear of it."""
    await nodes.unmount()
    mounts, mount = nodes.nodes[SOURCE].mounts, mounting.mount

    def undone(mountpoint: bytes, source: bytes) -> int:
        descriptor = mount(mountpoint, source)
        mounting.unmount(mountpoint, lazily=True)
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(mounting, "mount", undone)
        with pytest.raises(ZoneError, match="cannot be served"):
            await mounts.mount(RULE, bytes(nodes.point), None, WriteMode.SYNC)
    assert not nodes.is_mounted() and not mounts.mounts
    await mounts.mount(RULE, bytes(nodes.point), None, WriteMode.SYNC)
    assert nodes.is_mounted()


def top_of(ground: MachineGround) -> Top:
    with ground.view() as view:
        rule = next(iter(view.rules()))
    return Top(rule.number, rule.name, rule.path, rule.root)


async def test_a_mount_that_cannot_begin_leaves_nobody_who_follows_the_log(ground: MachineGround) -> None:
    """A node tries again every second."""
    with pytest.raises(UsageError):
        await Mount.start(ground, top_of(ground), b"/nowhere/at/all", Patience(), WriteMode.PIPELINED)
    assert not ground.listeners


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), TimeoutExpired("mounter", 30.0)])
async def test_a_mount_that_the_machine_does_not_make_is_an_error_of_ours(
    ground: MachineGround, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    """Any other would end the node, which tries a configured mount again instead."""

    def table() -> None:
        raise error

    monkeypatch.setattr(mounting, "table", table)
    with pytest.raises(ZoneError, match="cannot be served"):
        await Mount.start(ground, top_of(ground), os.fsencode(tmp_path), Patience())


async def test_a_mount_whose_device_cannot_be_doubled(
    ground: MachineGround, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node has no descriptor left. Nobody would answer the kernel."""
    device, other = os.pipe()
    honest = os.dup

    def dup(descriptor: int) -> int:
        if descriptor == device:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return honest(descriptor)

    monkeypatch.setattr(mounting, "mount", lambda _mountpoint, _source: device)
    monkeypatch.setattr(os, "dup", dup)
    with pytest.raises(ZoneError, match="cannot be served"):
        await Mount.start(ground, top_of(ground), os.fsencode(tmp_path), Patience(), WriteMode.PIPELINED)
    assert not ground.listeners
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(device)
    os.close(other)
