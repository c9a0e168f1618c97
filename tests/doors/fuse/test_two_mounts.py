"""Two mounts of one rule at two nodes: what one zone does to a name while a program of the other has the file open."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lddp.doors.fuse.committing import RANGES_FROM_BYTES
from tests.doors.fuse.live import PATIENCE_S, MountedTrio, Programs, can_mount, trio
from tests.doors.fuse.test_mounted import trio_mount_at_target
from tests.node.trio import SOURCE, TARGET

pytestmark = can_mount
SMALL, BIG = 5000, RANGES_FROM_BYTES * 2


class Two(NamedTuple):
    nodes: MountedTrio
    here: Programs
    there: Programs

    async def agreed(self) -> None:
        """Both mounts show all that is in the log."""
        for name in (SOURCE, TARGET):
            await self.nodes.nodes[name].backend.barrier(PATIENCE_S)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    async with trio(tmp_path) as nodes, trio_mount_at_target(nodes) as there:
        yield Two(nodes, nodes.programs, there)


HOLDING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
size = int(sys.argv[1])
fd = os.open('f', os.O_RDWR)
os.pwrite(fd, b'mine', 10)
print('open', flush=True)
signal.sigwait([signal.SIGUSR1])
os.pwrite(fd, b'more', 100); os.fsync(fd)
os.fchmod(fd, 0o600); os.utime(fd, ns=(1, 10**18)); os.ftruncate(fd, size - 1)
os.setxattr(fd, 'user.a', b'x'); assert os.getxattr(fd, 'user.a') == b'x'
found = os.fstat(fd)
assert (found.st_mode & 0o7777, found.st_size) == (0o600, size - 1), found
assert os.pread(fd, size, 0) == b'a' * 10 + b'mine' + b'a' * 86 + b'more' + b'a' * (size - 105)
os.close(fd)
"""
THEIRS = "test -e {0} && grep -qx theirs {0} && test $(stat -c %a {0}) = 640"
MINE = "test $(stat -c %s-%a {0}) = {1}-600 && test $(head -c 14 {0} | tail -c 4) = mine"
ELSEWHERE = {
    "renamed": ("mv f g", "test ! -e f && " + MINE.format("g", "$SIZE")),
    "renamed and replaced": ("mv f g; cp ../theirs f", MINE.format("g", "$SIZE") + " && " + THEIRS.format("f")),
    "replaced": ("cp ../theirs n; mv n f", THEIRS.format("f")),
    "one of two names replaced": (
        "ln f g; cp ../theirs n; mv n f",
        MINE.format("g", "$SIZE") + " && " + THEIRS.format("f"),
    ),
    "exchanged": ("cp ../theirs g; mv f n; mv g f; mv n g", MINE.format("g", "$SIZE") + " && " + THEIRS.format("f")),
    "unlinked": ("rm f", 'test -z "$(ls)"'),
    "unlinked and made again": ("rm f; cp ../theirs f", THEIRS.format("f")),
}


@pytest.mark.parametrize("size", [SMALL, BIG])
async def test_a_file_that_is_open_here_and_changes_its_name_there(two: Two, size: int) -> None:
    """Whether this zone has learnt of it or not when the program goes on."""
    nodes, here, there = two
    await here.sh("umask 027; echo theirs > theirs")
    for place, (elsewhere, expected) in enumerate(ELSEWHERE.values()):
        await here.sh(f"mkdir d{place}; cd d{place}; head -c {size} /dev/zero | tr '\\0' a > f")
        await two.agreed()
        script = f"cd d{place}; exec {shlex.join([sys.executable, '-c', HOLDING, str(size)])}"
        holding = await here.start("bash", "-ec", script)
        assert holding.stdout is not None
        assert await asyncio.wait_for(holding.stdout.readline(), PATIENCE_S) == b"open\n"
        await there.sh(f"umask 027; cd d{place}; {elsewhere}")
        holding.send_signal(signal.SIGUSR1)
        assert await here.result(holding) == (0, "", "")
        await two.agreed()
        for programs in (here, there):
            await programs.sh(f"cd d{place}; SIZE={size - 1}; {expected}")
    await nodes.assert_equal()


STAYING = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print('there', flush=True)
signal.sigwait([signal.SIGUSR1])
os.unlink('f'); os.mkdir('new'); os.rename('g', 'new/h'); os.symlink('f', 's')
with open('made', 'x') as file:
    file.write('mine')
"""


async def test_a_program_in_a_directory_that_moves_there(two: Two) -> None:
    """It works on where its directory has gone, and not in the one that has its place."""
    _, here, there = two
    await here.sh("echo theirs > theirs; mkdir d; touch d/f d/g")
    await two.agreed()
    staying = await here.start("bash", "-ec", f"cd d; exec {shlex.join([sys.executable, '-c', STAYING])}")
    assert staying.stdout is not None
    assert await asyncio.wait_for(staying.stdout.readline(), PATIENCE_S) == b"there\n"
    await there.sh("mv d e; mkdir d; cp theirs d/f; cp theirs d/g")
    staying.send_signal(signal.SIGUSR1)
    assert await here.result(staying) == (0, "", "")
    await two.agreed()
    for programs in (here, there):
        assert await programs.sh("cat d/* e/made; ls d e e/new") == (
            "theirs\ntheirs\nmined:\nf\ng\n\ne:\nmade\nnew\ns\n\ne/new:\nh\n"
        )


PAGE, PAGES, TIMES = 4096, BIG // 4096, 120
WRITING = """
import json, os, sys
page, pages = int(sys.argv[1]), int(sys.argv[2])
written = []
while len(written) < pages and not (len(set(written)) > 1 and os.path.exists('stop')):
    fd = os.open('f', os.O_RDWR)
    place = len(written)
    os.pwrite(fd, b'%08d' % place, place * page)
    os.fsync(fd)
    for part in range(4):
        os.setxattr(fd, 'user.%d.%d' % (place, part), b'')
    written.append(os.fstat(fd).st_ino)
    os.close(fd)
    if len(written) == 1:
        print('writing', flush=True)
print(json.dumps(written))
"""
REPLACING = """
import ctypes, sys
libc = ctypes.CDLL(None)
for count in range(int(sys.argv[1])):
    assert not libc.renameat2(-100, b'f', -100, b'other-%d' % (count % 20), 2)  # RENAME_EXCHANGE
with open('stop', 'w'):
    pass
"""
NUMBERS = "import json, os; print(json.dumps({name: os.stat(name).st_ino for name in os.listdir('.')}))"


async def test_a_change_is_in_the_file_that_was_open_however_often_its_name_is_taken(two: Two) -> None:
    """One zone gives a name to one file after the other, the other zone writes to what it has opened by that name and
    gives it attributes: all are found at the file that was meant, by the name that it has then."""
    nodes, here, there = two
    await here.sh(f"truncate -s {BIG} f $(seq -f other-%g 0 19)")
    await two.agreed()
    writing = await here.start(sys.executable, "-c", WRITING, str(PAGE), str(PAGES))
    assert writing.stdout is not None
    assert await asyncio.wait_for(writing.stdout.readline(), PATIENCE_S) == b"writing\n"
    await there.run(sys.executable, "-c", REPLACING, str(TIMES))
    code, out, err = await here.result(writing)
    assert code == 0, err
    written = json.loads(out)
    assert len(set(written)) > 1, "the name was given away while it was written to"
    await nodes.settled()
    numbers = json.loads(await here.python(NUMBERS))
    for zone in nodes.zones:
        for name, number in numbers.items():
            data = (zone / name).read_bytes().ljust(BIG, b"\0")
            marks = {place for place in range(PAGES) if data[place * PAGE : place * PAGE + 8] != bytes(8)}
            assert marks == {place for place, one in enumerate(written) if one == number}, (zone, name)
            assert set(os.listxattr(zone / name)) == {f"user.{place}.{part}" for place in marks for part in range(4)}
            assert all(data[place * PAGE : place * PAGE + 8] == b"%08d" % place for place in marks)


READING = """
import os, sys
fd = os.open('flag', os.O_RDONLY)
while True:
    print(os.pread(fd, 1, 0).decode(), flush=True)
    sys.stdin.readline()
"""


async def test_a_flag_that_is_read_here_and_changed_there(two: Two) -> None:
    """Its bytes come back again and again, and the program here keeps it open."""
    nodes, here, there = two
    await here.sh("printf 0 > flag; cat flag")
    await two.agreed()
    (nodes.directory / "reading").write_text(READING)
    os.mkfifo(nodes.directory / "next")
    reading = await here.start("bash", "-ec", f"exec {sys.executable} ../reading < ../next")
    assert reading.stdout is not None
    with await asyncio.to_thread(open, nodes.directory / "next", "wb", 0) as again:
        found = [await asyncio.wait_for(reading.stdout.readline(), PATIENCE_S)]
        for flag in ("1", "0", "1", "0"):
            await there.sh(f"printf {flag} 1<> flag")
            await two.agreed()
            await asyncio.to_thread(again.write, b"\n")
            found.append(await asyncio.wait_for(reading.stdout.readline(), PATIENCE_S))
        reading.kill()
    await reading.wait()
    assert found == [b"0\n", b"1\n", b"0\n", b"1\n", b"0\n"]
