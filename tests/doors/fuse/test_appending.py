"""Files that are open for appending in one zone while another one makes them longer or shorter.

The kernel says where it believes the end to be. Of what it is told of a file it takes no size, so that with O_APPEND
the end is for the filesystem to know.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lddp.doors.fuse.memory import COPY_BYTES_MAX
from lddp.doors.fuse.protocol import FOPEN_DIRECT_IO
from lddp.doors.fuse.wire import inode_notice
from tests.doors.fuse.followed import followed, put
from tests.doors.fuse.kernel import WRITE_CACHE, Kernel, MachineGround
from tests.doors.fuse.live import can_mount, trio
from tests.doors.fuse.test_mounted import trio_mount_at_target
from tests.doors.fuse.test_two_mounts import Two

APPEND = os.O_WRONLY | os.O_APPEND


@pytest.mark.parametrize("theirs", [b"one\ntwo\n", b"1", b"x" * COPY_BYTES_MAX], ids=["longer", "shorter", "large"])
@pytest.mark.parametrize("added", [b"end\n", b"y" * COPY_BYTES_MAX * 2], ids=["a line", "much"])
async def test_what_is_appended_comes_after_what_another_zone_put(
    kernel: Kernel, ground: MachineGround, theirs: bytes, added: bytes
) -> None:
    put(ground, b"/data/f", b"one\n")
    async with followed(kernel) as told:
        log = await kernel.open((await kernel.lookup(b"f")).inode, APPEND)
        put(ground, b"/data/f", theirs)
        await told.all()
        told.notices.clear()
        assert await log.write(4, added) == len(added)
        await told.all()
        assert b"".join(inode_notice(log.node, 0)) in told.notices  # it has them where the end was
        told.notices.clear()
        await log.write(4 + len(added), b"more\n")  # it has not asked for the size yet
        await log.write(len(theirs + added + b"more\n"), b"and more\n")
        await log.close()
        reader = await kernel.open(log.node)
        assert not reader.keeps_cache
        await reader.close()
    assert ground.content(b"/data/f") == theirs + added + b"more\nand more\n"


async def test_what_is_appended_where_the_kernel_believes_the_end_to_be(kernel: Kernel, ground: MachineGround) -> None:
    """The kernel has it in its pages then, and keeps it."""
    async with kernel.writing(b"f") as made:
        await made.write(0, b"one\n")
    async with followed(kernel) as told:
        log = await kernel.open(made.node, APPEND)
        told.notices.clear()
        for line in range(3):
            await log.write(4 + 4 * line, b"two\n")
        await log.close()
        await told.all()
        assert b"".join(inode_notice(log.node, 0)) not in told.notices
        reader = await kernel.open(log.node)
        assert reader.keeps_cache
        await reader.close()
    assert ground.content(b"/data/f") == b"one\n" + b"two\n" * 3


async def test_the_kernel_keeps_no_pages_of_what_is_appended(kernel: Kernel) -> None:
    """Where it can map such files nevertheless: the pages would have it where the kernel believes the end to be."""
    for directly in (False, True):
        kernel.tree.appends_directly = directly
        made = await kernel.create(b"%d" % directly, os.O_RDWR | os.O_APPEND)
        opened = [made, await kernel.open(made.node, APPEND), await kernel.open(made.node, os.O_RDWR)]
        assert [bool(one.flags & FOPEN_DIRECT_IO) for one in opened] == [directly, directly, False]
        for one in opened:
            await one.close()


async def test_what_was_stored_through_a_mapping_stays_where_it_is(kernel: Kernel, ground: MachineGround) -> None:
    put(ground, b"/data/f", b"one\ntwo\n")
    log = await kernel.open((await kernel.lookup(b"f")).inode, os.O_RDWR | os.O_APPEND)
    await log.write(0, b"1", WRITE_CACHE)
    await log.close()
    assert ground.content(b"/data/f") == b"1ne\ntwo\n"


LOGGER = """
import mmap, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
fd = os.open('f', os.O_RDWR | os.O_APPEND)
print('open', flush=True)
signal.sigwait([signal.SIGUSR1])
os.write(fd, b'end\\n')
assert os.pread(fd, 99, 0) == b'one\\ntwo\\nend\\n', os.pread(fd, 99, 0)
os.write(fd, b'more\\n')
mapped = mmap.mmap(fd, os.fstat(fd).st_size)
mapped[0:1] = b'O'
mapped.flush()
mapped.close()
os.close(fd)
"""


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with trio(tmp_path) as nodes, trio_mount_at_target(nodes) as there:
        yield Two(nodes, nodes.programs, there)


@can_mount
async def test_a_mounted_log_that_another_zone_has_made_longer(two: Two) -> None:
    await two.here.sh("echo one > f")
    await two.agreed()
    log = await two.here.start("python3", "-c", LOGGER)
    assert log.stdout is not None and await log.stdout.readline() == b"open\n"
    await two.there.sh("printf 'one\\ntwo\\n' > f")
    await two.agreed()
    log.send_signal(signal.SIGUSR1)
    code, _, errors = await two.here.result(log)
    assert code == 0, errors
    assert await two.here.sh("cat f") == "One\ntwo\nend\nmore\n"
