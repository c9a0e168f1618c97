"""Mounts of real nodes, and what programs see in them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster import fsx
from lddp.config import WriteMode
from lddp.doors.fuse import mounting
from lddp.errors import OperationError, UsageError, ZoneError
from tests.doors.fuse.live import PATIENCE_S, RULE, MountedTrio, Programs, abort, can_mount, needs, trio
from tests.node.trio import SOURCE, TARGET, WITNESS

pytestmark = can_mount
FSX = Path(fsx.__file__)


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[MountedTrio]:
    async with trio(tmp_path) as nodes:
        yield nodes


CALLS = """
import ctypes, errno, fcntl, mmap, os, stat, subprocess

def refused(number, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except OSError as error:
        assert error.errno == number, error
    else:
        raise AssertionError(call)

def write(path, data):
    with open(path, 'wb') as file:
        file.write(data)

def read(path):
    with open(path, 'rb') as file:
        return file.read()

# names
os.mkdir('d', 0o750); os.mkdir('d/e')
write('d/f', b'hello'); os.link('d/f', 'g'); os.symlink('d/f', 'l'); os.mkfifo('p', 0o600)
assert read('l') == b'hello' and os.stat('g').st_nlink == 2
os.rename('d', 'd2'); assert read('d2/f') == b'hello'; refused(errno.ENOENT, os.stat, 'd/f')
libc = ctypes.CDLL(None, use_errno=True)
def renameat2(a, b, flags):
    if libc.renameat2(-100, a, -100, b, flags):
        raise OSError(ctypes.get_errno(), a)
refused(errno.EEXIST, renameat2, b'g', b'p', 1)
os.mkdir('x'); renameat2(b'g', b'x', 2); assert os.path.isdir('g') and read('x') == b'hello'
os.rmdir('g'); os.unlink('x'); refused(errno.ENOTEMPTY, os.rmdir, 'd2')
refused(errno.EOPNOTSUPP, os.open, '.', os.O_TMPFILE | os.O_RDWR)
refused(errno.EEXIST, os.open, 'd2/f', os.O_CREAT | os.O_EXCL)
refused(errno.ENAMETOOLONG, os.stat, 'n' * 256)
for name in (b'\\xff\\xfe', 'caf\\u00e9'.encode()):
    write(name, b'x'); assert name in os.listdir(b'.')

# attributes
os.chmod('d2/f', 0o640); os.utime('d2/f', ns=(10**18 + 1, 10**18 + 2))
found = os.stat('d2/f'); assert (found.st_atime_ns, found.st_mtime_ns) == (10**18 + 1, 10**18 + 2)
os.chown('d2/f', 1, 2); os.setxattr('d2/f', 'user.a', b'\\0b'); assert os.getxattr('d2/f', 'user.a') == b'\\0b'
os.utime('d2', ns=(5, -7)); assert os.stat('d2').st_mtime_ns == -7
assert os.statvfs('.').f_namemax == 255

# bytes
write('big', os.urandom(3 << 20)); data = read('big')
fd = os.open('big', os.O_RDWR)
os.pwrite(fd, b'xyz', 100); os.ftruncate(fd, 2 << 20); os.ftruncate(fd, 3 << 20)
expected = data[:100] + b'xyz' + data[103:2 << 20] + bytes(1 << 20)
assert read('big') == expected
os.fsync(fd); os.close(fd); assert read('big') == expected
os.truncate('big', (2 << 20) + 5); expected = expected[:(2 << 20) + 5]; assert read('big') == expected
fd = os.open('big', os.O_WRONLY | os.O_APPEND); os.write(fd, b'end'); os.close(fd)
assert read('big') == expected + b'end'
fd = os.open('sparse', os.O_CREAT | os.O_RDWR); os.pwrite(fd, b'x', 1 << 30); os.posix_fallocate(fd, 0, 4096)
assert os.lseek(fd, 1 << 20, os.SEEK_DATA) > 1 << 29; os.close(fd)
os.truncate('sparse', 8192)
with open('mapped', 'w+b') as file:
    file.truncate(10000)
    with mmap.mmap(file.fileno(), 10000) as mapping:
        mapping[5000:5003] = b'map'
assert read('mapped')[5000:5003] == b'map'
with open('d2/f', 'rb') as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
    assert mapping[:] == b'hello'
fd = os.open('direct', os.O_CREAT | os.O_RDWR | os.O_DIRECT)
page = mmap.mmap(-1, 4096); page[:] = b'd' * 4096
os.write(fd, page); os.close(fd); assert read('direct') == b'd' * 4096

# without a name
fd = os.open('gone', os.O_CREAT | os.O_RDWR); os.write(fd, b'still'); os.unlink('gone')
assert os.pread(fd, 10, 0) == b'still' and os.fstat(fd).st_nlink == 0; os.close(fd)

# locks are this machine's
with open('lock', 'w') as one, open('lock', 'w') as two:
    fcntl.flock(one, fcntl.LOCK_EX); refused(errno.EWOULDBLOCK, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(one, fcntl.LOCK_EX)

# programs
write('prog', b'#!/bin/sh\\necho ran\\n'); os.chmod('prog', 0o755)
assert subprocess.run(['./prog'], capture_output=True, check=True).stdout == b'ran\\n'
os.chmod('prog', 0o644); refused(errno.EACCES, os.execv, './prog', ['prog'])

# permissions are the kernel's to check
os.mkdir('mine', 0o700); write('mine/f', b'secret')
if not os.fork():
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    refused(errno.EACCES, os.stat, 'mine/f'); refused(errno.EACCES, os.mkdir, 'other')
    os._exit(0)
assert os.wait()[1] == 0
"""


async def test_calls_of_posix(nodes: MountedTrio) -> None:
    await nodes.programs.python(CALLS)
    tree = await nodes.assert_equal()
    assert {"d2/f", "d2/e", "l", "p", "big", "mapped", "mine/f"} <= tree.keys()


PROGRAMS = """
export GIT_TEMPLATE_DIR= GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=gc.auto GIT_CONFIG_VALUE_0=0
export GIT_CONFIG_KEY_1=maintenance.auto GIT_CONFIG_VALUE_1=false  # nothing goes on in the background
mkdir src; cd src
printf 'int answer(void) { return 42; }\\n' > answer.c
printf '#include <stdio.h>\\nint answer(void);\\nint main(void) { printf("%%d\\\\n", answer()); return 0; }\\n' > main.c
printf 'prog: main.o answer.o\\n\\tcc -o prog main.o answer.o\\n' > Makefile
make -sj2; test "$(./prog)" = 42
git init -q . ; git add *.c ; git -c user.name=n -c user.email=e commit -qm first
git clone -q . ../clone; git -C ../clone fsck --strict; git -C ../clone status --porcelain
sed -i s/42/43/ answer.c; grep -q 43 answer.c; make -s; test "$(./prog)" = 43
cd ..; tar cf - src/*.c | (mkdir copy; cd copy; tar xf -); diff src/main.c copy/src/main.c
"""
DATABASES = """
import sqlite3
for mode in ('delete', 'wal'):
    base = sqlite3.connect(mode + '.db')
    assert base.execute('pragma journal_mode=' + mode).fetchone() == (mode,)
    base.execute('create table t (a integer primary key, b blob)')
    for _ in range(2):
        with base:
            base.executemany('insert into t (b) values (?)', [(bytes(3000),)] * 100)
    try:
        with base:
            base.execute('delete from t')
            raise KeyError
    except KeyError:
        pass
    assert base.execute('select count(*) from t').fetchone() == (200,)
    assert base.execute('pragma integrity_check').fetchone() == ('ok',)
    base.close()
"""


@needs("git", "make", "cc", "tar")
async def test_programs(nodes: MountedTrio) -> None:
    await nodes.programs.sh(PROGRAMS)
    await nodes.programs.python(DATABASES)
    await nodes.assert_equal()


async def test_random_operations_in_two_zones(nodes: MountedTrio) -> None:
    """`scripts/fsx` has more of them."""
    async with trio_mount_at_target(nodes) as there:
        command = [sys.executable, str(FSX), ".", "--operations", "200", "--seed", "7"]
        barrier = [option for name in (SOURCE, TARGET) for option in ("--barrier", nodes.nodes[name].url)]
        token = ("--token-file", str(nodes.directory / "token"))
        await nodes.programs.run(*command, "--hand-over", str(there.point), *barrier, *token)
    await nodes.assert_equal()


LISTING = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
fd, buffer = os.open('d', os.O_RDONLY | os.O_DIRECTORY), ctypes.create_string_buffer(4096)

def part():  # as find and ls -l do: some names, and what each is
    size, at = libc.getdents64(fd, buffer, 4096), 0
    while at < size:
        (length,) = struct.unpack_from('<H', buffer, at + 16)
        name = buffer.raw[at + 19 : at + length].split(bytes(1))[0]
        if name.startswith(b'n'):
            os.stat(b'd/' + name)
        at += length
    return size

assert part() > 0
os.rename('d/zz.tmp', 'd/zz')
while part() > 0:
    pass
with open('d/zz.tmp', 'w') as file:
    file.write('unfinished')
print(open('d/zz').read())
"""


async def test_a_directory_is_listed_while_a_file_in_it_is_replaced(nodes: MountedTrio) -> None:
    """By a rename; later the next one is prepared, by the name that the first one had."""
    await nodes.programs.sh(
        "mkdir d; cd d; for i in $(seq 300); do : > n$i; done; printf old > zz; printf new > zz.tmp"
    )
    assert await nodes.programs.python(LISTING) == "new\n"


async def test_a_change_from_another_zone_shows(nodes: MountedTrio) -> None:
    await nodes.programs.sh("mkdir d; echo one > d/f; cat d/f; stat d/g && exit 1; ls d")
    async with trio_mount_at_target(nodes) as there:
        assert await there.sh("cat d/f") == "one\n"
        await there.sh("echo two > d/f; echo new > d/g; mkdir d/h; rm -f d/absent")
        await nodes.nodes[SOURCE].backend.wait(nodes.nodes[TARGET].gateway.latest_gsn, PATIENCE_S)
        assert await nodes.programs.sh("cat d/f d/g; ls d; stat -c %s d/f") == "two\nnew\nf\ng\nh\n4\n"
        await nodes.programs.sh("mv d e; rm e/g")
        await nodes.nodes[TARGET].backend.wait(nodes.nodes[SOURCE].gateway.latest_gsn, PATIENCE_S)
        assert await there.sh("ls . e") == ".:\ne\n\ne:\nf\nh\n"
    await nodes.assert_equal()


@asynccontextmanager
async def trio_mount_at_target(nodes: MountedTrio, mode: WriteMode = WriteMode.SYNC) -> AsyncIterator[Programs]:
    point = nodes.directory / "there"
    point.mkdir()
    backend = nodes.nodes[TARGET].backend
    await backend.wait(nodes.nodes[SOURCE].gateway.latest_gsn, PATIENCE_S)
    await backend.mount(RULE, bytes(point), None, mode, passthrough=nodes.passthrough)
    try:
        yield Programs(point)
        await backend.unmount(bytes(point), lazily=False)
    finally:
        await asyncio.to_thread(abort, point)


async def test_without_a_majority_writes_wait_and_reads_go_on(nodes: MountedTrio) -> None:
    # Each in a directory of its own: the kernel lets nobody into one whose change it waits for.
    await nodes.programs.sh("mkdir a b; echo before > f; cat f")
    await nodes.stop(TARGET, WITNESS)
    writing = await nodes.programs.start("bash", "-ec", "mkdir a/d; echo after > a/d/f")
    assert await nodes.programs.sh("cat f") == "before\n"
    killed = await nodes.programs.start("mkdir", "b/never")
    await nodes.until(lambda: nodes.nodes[SOURCE].backend.mounts()[0]["calls"] == 2)
    killed.send_signal(signal.SIGTERM)
    assert (await nodes.programs.result(killed))[0] == -signal.SIGTERM
    assert writing.returncode is None
    await nodes.start(TARGET, WITNESS)
    assert (await nodes.programs.result(writing))[0] == 0
    assert await nodes.programs.sh("cat f a/d/f") == "before\nafter\n"
    await nodes.assert_equal()


async def test_soft_fails_without_a_majority(nodes: MountedTrio) -> None:
    await nodes.unmount()
    await nodes.mount(soft_s=0.5)
    await nodes.stop(TARGET, WITNESS)
    script = (
        "import os, errno\ntry: os.mkdir('d')\nexcept OSError as error: assert error.errno == errno.EIO\nelse: raise 1"
    )
    await nodes.programs.python(script)


async def test_unmounting(nodes: MountedTrio) -> None:
    await nodes.programs.sh("echo kept > f")
    holding = await nodes.programs.start("bash", "-c", "exec 3< f; echo opened; sleep 1000")
    assert holding.stdout is not None
    await asyncio.wait_for(holding.stdout.readline(), PATIENCE_S)
    with pytest.raises(ZoneError) as caught:
        await nodes.unmount()
    assert caught.value.errno == errno.EBUSY and nodes.is_mounted()
    await nodes.unmount(lazily=True)
    assert not nodes.is_mounted() and not nodes.nodes[SOURCE].backend.mounts()
    with pytest.raises(OperationError):
        await nodes.unmount()
    await nodes.mount()
    assert await nodes.programs.sh("cat f") == "kept\n"
    # Whoever may can unmount without asking the node.
    await asyncio.to_thread(mounting.unmount, bytes(nodes.point))
    await nodes.until(lambda: not nodes.nodes[SOURCE].backend.mounts())
    await nodes.mount()


async def test_what_cannot_be_mounted(nodes: MountedTrio, tmp_path: Path) -> None:
    backend = nodes.nodes[SOURCE].backend
    with pytest.raises(UsageError, match="already"):
        await nodes.mount()
    with pytest.raises(OperationError, match="no rule"):
        await backend.mount("absent", bytes(tmp_path / "x"), None, WriteMode.SYNC)
    with pytest.raises(UsageError, match="make the directory"):
        await backend.mount("data", bytes(tmp_path / "x"), None, WriteMode.SYNC)
    for own in (nodes.source, nodes.source / "below", nodes.directory):
        own.mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="overlaps"):
            await backend.mount("data", bytes(own), None, WriteMode.SYNC)


async def test_the_configuration_mounts_once_its_rule_is_there(tmp_path: Path) -> None:
    async with trio(tmp_path, mounted=False, configured=True) as nodes:
        await nodes.make_rule()
        await nodes.until(nodes.is_mounted)
        await nodes.until(lambda: bool(nodes.nodes[SOURCE].backend.mounts()))
        await nodes.programs.sh("echo one > f")
        await nodes.stop(SOURCE)
        assert not nodes.is_mounted()
        await nodes.start(SOURCE)
        await nodes.until(lambda: bool(nodes.nodes[SOURCE].backend.mounts()))
        assert await nodes.programs.sh("cat f") == "one\n"


async def test_what_a_killed_node_leaves_is_detached_by_the_next_start(tmp_path: Path) -> None:
    async with trio(tmp_path, mounted=False) as nodes:
        descriptor = await asyncio.to_thread(mounting.mount, bytes(nodes.point), b"lddp:data")
        os.close(descriptor)
        assert nodes.is_mounted()
        await nodes.make_rule()
        await nodes.mount()
        assert len(mounting.ours(bytes(nodes.point))) == 1
        await nodes.programs.sh("echo one > f; cat f")
