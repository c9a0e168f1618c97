"""Pipelined mounts of real nodes, and what programs see in them."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import Outcome, Record
from lddp.doors.fuse.mount import Mount
from lddp.doors.fuse.promised import Promised
from tests.doors.fuse.live import PATIENCE_S, MountedTrio, can_mount, needs, trio
from tests.doors.fuse.test_mounted import CALLS, DATABASES, PROGRAMS, trio_mount_at_target
from tests.node.trio import SOURCE, TARGET, WITNESS

pytestmark = can_mount


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[MountedTrio]:
    async with trio(tmp_path, mode=WriteMode.PIPELINED) as nodes:
        yield nodes


def mount_of(nodes: MountedTrio) -> Mount:
    return nodes.nodes[SOURCE].mounts.mounts[bytes(nodes.point)]


async def test_calls_of_posix(nodes: MountedTrio) -> None:
    await nodes.programs.python(CALLS)
    tree = await nodes.assert_equal()
    assert {"d2/f", "d2/e", "l", "p", "big", "mapped", "mine/f"} <= tree.keys()


@needs("git", "make", "cc", "tar")
async def test_programs(nodes: MountedTrio) -> None:
    await nodes.programs.sh(PROGRAMS)
    await nodes.programs.python(DATABASES)
    await nodes.assert_equal()


async def test_fsync_and_unmounting_bring_everything_into_the_log(nodes: MountedTrio) -> None:
    await nodes.programs.sh("mkdir d; for n in $(seq 50); do echo $n > d/$n; done; sync d")
    assert not nodes.nodes[SOURCE].backend.mounts()[0]["queued"]
    await nodes.nodes[TARGET].backend.wait(nodes.nodes[SOURCE].gateway.latest_gsn, PATIENCE_S)
    assert len(list((nodes.target / "d").iterdir())) == 50
    await nodes.programs.sh("for n in $(seq 50); do mv d/$n d/x$n; done; rm d/x1")
    await nodes.unmount()
    await nodes.settled()
    assert {path.name for path in (nodes.target / "d").iterdir()} == {f"x{number}" for number in range(2, 51)}


async def test_without_a_majority_calls_return_and_barriers_wait(nodes: MountedTrio) -> None:
    await nodes.programs.sh("mkdir a; sync .")
    await nodes.stop(TARGET, WITNESS)
    assert await nodes.programs.sh("mkdir a/d; echo new > a/d/f; mv a b; cat b/d/f; ls b") == "new\nd\n"
    waiting = await nodes.programs.start("sync", ".")
    await nodes.until(lambda: nodes.nodes[SOURCE].backend.mounts()[0]["calls"] == 1)
    assert waiting.returncode is None and nodes.nodes[SOURCE].backend.mounts()[0]["queued"]
    with pytest.raises(OSError) as caught:
        await mount_of(nodes).stop(commit_s=0.1)
    assert caught.value.errno == errno.ETIMEDOUT and nodes.is_mounted()
    await nodes.start(TARGET, WITNESS)
    assert (await nodes.programs.result(waiting))[0] == 0
    await nodes.assert_equal()
    assert (nodes.target / "b/d/f").read_text() == "new\n"


async def test_soft_fails_at_the_barrier_without_a_majority(nodes: MountedTrio) -> None:
    await nodes.unmount()
    await nodes.mount(soft_s=0.5)
    await nodes.stop(TARGET, WITNESS)
    script = """
import errno, os
os.mkdir('d')
top = os.open('.', os.O_RDONLY)
try:
    os.fsync(top)
except OSError as error:
    assert error.errno == errno.EIO
else:
    raise AssertionError
assert os.listdir('.') == ['d']
"""
    await nodes.programs.python(script)
    await nodes.start(TARGET, WITNESS)
    await nodes.until(lambda: not nodes.nodes[SOURCE].backend.mounts()[0]["queued"])
    await nodes.assert_equal()
    assert (nodes.target / "d").is_dir()


class Held(Promised):
    """A node that takes nothing before it is let."""

    def __init__(self, promised: Promised) -> None:
        super().__init__(promised.pipeline)
        self.let = asyncio.Event()

    async def submit_folded(self, records: Sequence[Record], timeout_s: float) -> list[tuple[int, Outcome]]:
        await self.let.wait()
        return await super().submit_folded(records, timeout_s)


async def test_the_kernel_hears_of_what_was_refused(nodes: MountedTrio) -> None:
    """What it was promised is in its caches by then. It has a directory locked until an fsync of it is answered, and
    nobody can take names out of its caches before."""
    await nodes.programs.sh("mkdir d; sync .")
    tree = mount_of(nodes).tree
    assert tree.pipeline is not None and isinstance(tree.ground, Promised)
    held = tree.pipeline.orders.ground = Held(tree.ground)
    await nodes.programs.sh("echo mine > d/f; mkdir e; cat d/f; stat d/f e")
    backend = nodes.nodes[TARGET].backend
    for record in (r.MakeDirectory, r.MakeDirectory):
        path = b"/data/d/f" if backend.entry(b"/data/d/f") is None else b"/data/d/f/theirs"
        fields = backend.next_id(), backend.zone_number(), backend.time_ns(), path, 0o755, 0, 0
        assert not (await backend.submit(record(*fields), PATIENCE_S))[1].errno
    held.let.set()
    await nodes.programs.sh("sync d && exit 1; true")
    await mount_of(nodes).told()
    assert await nodes.programs.sh("ls d/f; sync d; ls -d e") == "theirs\ne\n"
    await nodes.assert_equal()


CONFLICTS = """
import os, random, sys
chosen = random.Random(int(sys.argv[1]))
def path():
    return '/'.join(chosen.choice('abc') for _ in range(chosen.randrange(1, 4)))
def write(name):
    with open(name, 'w') as file:
        file.write('x' * chosen.randrange(60))
def fsync(name):
    descriptor = os.open(name, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
calls = [os.mkdir, os.mkdir, write, write, os.unlink, os.rmdir, os.listdir, lambda name: os.rename(name, path()),
         lambda name: os.chmod(name, 0o700), lambda name: os.link(name, path()), os.stat]
done = 0
for number in range(400):
    try:
        chosen.choice(calls)(path())
        done += 1
    except OSError:
        pass
    if chosen.random() < 0.03:
        try:
            fsync(path())
        except OSError:
            pass
try:
    fsync('.')
except OSError:
    pass
print(done)
"""


async def test_programs_in_two_zones_at_once(nodes: MountedTrio) -> None:
    """They make and take away the same names. In the end both mounts show what both zones have."""
    async with trio_mount_at_target(nodes, WriteMode.PIPELINED) as there:
        for seed in (1, 3):
            command = [sys.executable, "-c", CONFLICTS]
            working = [
                asyncio.create_task(programs.run(*command, str(seed + place)))
                for place, programs in enumerate((nodes.programs, there))
            ]
            assert all(int(done) > 20 for done in await asyncio.gather(*working))
        await there.sh("sync . || sync .")
        await nodes.programs.sh("sync . || sync .")
        await nodes.settled()
        mounted = await nodes.assert_equal()
        assert await there.snapshot() == mounted
