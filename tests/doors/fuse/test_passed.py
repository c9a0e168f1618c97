"""Files that the kernel reads by itself, in mounts of real nodes: programs read what they would read without."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lddp.doors.fuse.file import File
from lddp.doors.fuse.passthrough import PASS_FROM_BYTES, Passthrough, Way
from tests.doors.fuse.cloning import can_clone
from tests.doors.fuse.lake import SIZE, Lake, lake_at, reader
from tests.doors.fuse.live import can_mount
from tests.doors.fuse.test_mounted import FSX

pytestmark = [can_mount, can_clone]


@pytest.fixture
async def lake(tmp_path: Path) -> AsyncIterator[Lake]:
    async with lake_at(tmp_path) as lake:
        yield lake


async def test_a_file_is_passed_while_it_is_open(lake: Lake) -> None:
    program, number = await reader(lake)
    assert await program.ask(f"os.pread(fd, 1 << 25, 0) == b'a' * {SIZE}")
    await program.do("os.close(fd)")
    await lake.over(number)


async def test_a_reader_sees_who_writes_in_the_same_mount(lake: Lake) -> None:
    program, _ = await reader(lake)
    writer = await lake.here()
    await writer.do("fd = os.open('f', os.O_WRONLY); os.pwrite(fd, b'new', 10)")
    assert await program.ask("os.pread(fd, 6, 8)") == b"aanewa"
    await writer.do(f"os.ftruncate(fd, {SIZE} + 5)")
    assert await program.ask(f"os.pread(fd, 9, {SIZE} - 2)") == b"aa\0\0\0\0\0"
    await writer.do("os.close(fd)")
    await lake.nodes.assert_equal()


async def test_a_reader_sees_what_another_zone_puts(lake: Lake) -> None:
    program, _ = await reader(lake)
    await program.do(f"mapped = mmap.mmap(fd, {SIZE}, prot=mmap.PROT_READ)")
    other = await lake.there()
    await other.do(f"open('f', 'wb').write(b'b' * {SIZE})")
    await lake.agreed()
    assert await program.ask(f"os.pread(fd, 1 << 25, 0) == b'b' * {SIZE}")
    assert await program.ask("mapped[:3]") == b"bbb"


async def test_a_reader_sees_what_another_zone_changes_in_place(lake: Lake) -> None:
    program, _ = await reader(lake)
    other = await lake.there()
    await other.do("fd = os.open('f', os.O_WRONLY); os.pwrite(fd, b'new', 10); os.close(fd)")
    await lake.agreed()
    assert await program.ask("os.pread(fd, 6, 8)") == b"aanewa"
    await other.do("os.truncate('f', 20)")
    await lake.agreed()
    assert await program.ask("os.pread(fd, 99, 0)") == b"a" * 10 + b"new" + b"a" * 7
    assert await program.ask("os.fstat(fd).st_size") == 20
    await other.do("os.rename('f', 'g')")
    await lake.agreed()
    assert await program.ask("os.path.exists('f'), os.pread(fd, 5, 8)") == (False, b"aanew")


async def test_who_opens_after_another_zones_close_reads_its_bytes(lake: Lake) -> None:
    """Also while others have had the file open since before."""
    held, _ = await reader(lake)
    other, late = await lake.there(), await lake.here()
    for turn in range(5):
        await other.do(f"open('f', 'wb').write(b'%d' % {turn} * {SIZE})")
        await lake.agreed()
        assert await late.ask(f"open('f', 'rb').read() == b'%d' % {turn} * {SIZE}")
        assert await held.ask("os.pread(fd, 1, 9)") == b"%d" % turn


async def test_a_removed_file_stays_for_who_has_it_open_and_its_room_comes_back(lake: Lake) -> None:
    size = 32 << 20
    program, other = await lake.here(), await lake.there()
    await program.do(f"with open('big', 'wb') as file: file.write(b'a' * {size})")
    await lake.settled()
    await program.do("fd = os.open('big', os.O_RDONLY); number = os.fstat(fd).st_ino")
    number = await program.ask("number")
    assert number in lake.passthrough
    await other.do("os.unlink('big')")
    await lake.agreed()
    assert await program.ask(f"os.pread(fd, 1 << 26, 0) == b'a' * {size} and not os.path.exists('big')")
    held = os.statvfs(lake.nodes.source).f_bfree
    await program.do("os.close(fd)")
    await lake.over(number)
    # Neither this process nor the kernel has the copy any more; what else is on the disk may have grown by less.
    await lake.nodes.until(lambda: os.statvfs(lake.nodes.source).f_bfree >= held + size // 2 // 4096)


async def test_a_writer_that_maps_is_seen_and_committed(lake: Lake) -> None:
    program, number = await reader(lake)
    writer = await lake.here()
    await writer.do(f"fd = os.open('f', os.O_RDWR); mapped = mmap.mmap(fd, {SIZE}); mapped[5:8] = b'map'")
    assert await program.ask("os.pread(fd, 5, 4)") == b"amapa"
    await writer.do("os.pwrite(fd, b'put', 10); os.fsync(fd)")
    assert await writer.ask("mapped[4:14]") == b"amapaaputa"
    await lake.agreed()
    assert await (await lake.there()).ask("open('f', 'rb').read(14)[4:]") == b"amapaaputa"
    # Python's mmap has a descriptor of its own, which goes with it.
    await writer.do("os.close(fd); mapped[20:24] = b'late'; mapped.close()")
    await program.do("os.close(fd)")
    await lake.over(number)
    await lake.nodes.until(lambda: (lake.nodes.source / "f").read_bytes()[20:24] == b"late")
    await lake.nodes.assert_equal()


async def test_what_is_synced_through_a_mapping_is_committed_soon(lake: Lake) -> None:
    program, _ = await reader(lake)
    writer, other = await lake.here(), await lake.there()
    await writer.do(f"fd = os.open('f', os.O_RDWR); mapped = mmap.mmap(fd, {SIZE})")
    times = [await program.ask("os.fstat(fd).st_mtime_ns")]
    for turn in range(3):
        await writer.do(f"mapped[5:9] = b'map{turn}'; mapped.flush()")
        await lake.nodes.until(lambda turn=turn: (lake.nodes.source / "f").read_bytes()[5:9] == b"map%d" % turn)  # type: ignore[misc]
        await lake.agreed()
        assert await other.ask("open('f', 'rb').read(9)") == b"aaaaamap%d" % turn
        assert await program.ask("os.pread(fd, 9, 0)") == b"aaaaamap%d" % turn
        times.append(await program.ask("os.fstat(fd).st_mtime_ns"))
    assert times == sorted(set(times))
    await writer.do("mapped.close(); os.close(fd)")
    await lake.nodes.assert_equal()


MAPPED = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
def bare(fd, size):
    # Without a descriptor of its own, as programs have it that are not written in Python.
    at = libc.mmap(None, ctypes.c_size_t(size), 3, 1, fd, ctypes.c_long(0))
    os.close(fd)
    return (ctypes.c_char * size).from_address(at)
"""


@pytest.mark.parametrize("stays", [True, False])
async def test_a_mapping_outlives_its_handle(lake: Lake, stays: bool) -> None:
    program, number = await reader(lake)
    writer, other = await lake.here(), await lake.there()
    await writer.do(MAPPED + f"mapped = bare(os.open('f', os.O_RDWR), {SIZE})")
    if not stays:
        await program.do("os.close(fd)")
    await writer.do("mapped[5:8] = b'map'")
    await lake.nodes.until(lambda: (lake.nodes.source / "f").read_bytes()[5:8] == b"map")
    assert number in lake.passthrough
    assert await (await lake.here()).ask("open('f', 'rb').read(10)") == b"aaaaamapaa"
    await lake.agreed()
    assert await other.ask("open('f', 'rb').read(10)") == b"aaaaamapaa"
    await other.do(f"open('f', 'wb').write(b'b' * {SIZE})")
    await lake.agreed()
    assert await writer.ask("mapped[4:9]") == b"bbbbb"
    await writer.do(f"libc.munmap(ctypes.c_void_p(ctypes.addressof(mapped)), ctypes.c_size_t({SIZE}))")
    if not stays:
        await lake.over(number)


async def test_direct_input_needs_no_alignment(lake: Lake) -> None:
    program, _ = await reader(lake)
    direct = await lake.here()
    await direct.do("fd = os.open('f', os.O_RDONLY | os.O_DIRECT)")
    assert await direct.ask("os.pread(fd, 5, 3)") == b"aaaaa"
    await program.do("fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)")
    assert await program.ask("os.pread(fd, 5, 3)") == b"aaaaa"
    writer = await lake.here()
    await writer.do("fd = os.open('f', os.O_WRONLY | os.O_DIRECT | os.O_APPEND); os.write(fd, b'end')")
    assert await direct.ask(f"os.pread(fd, 9, {SIZE} - 2)") == b"aaend"


async def test_allocation_copying_and_seeking(lake: Lake) -> None:
    program, _ = await reader(lake)
    writer = await lake.here()
    await writer.do("fd = os.open('f', os.O_WRONLY)")
    await writer.do(f"os.posix_fallocate(fd, {SIZE}, 4096)")
    assert await program.ask(f"os.fstat(fd).st_size == os.lseek(fd, 0, os.SEEK_END) == {SIZE} + 4096")
    await writer.do("source = os.open('other', os.O_RDWR | os.O_CREAT); os.write(source, b'copied')")
    assert await writer.ask("os.copy_file_range(source, fd, 6, 0, 100)") == 6
    await writer.do("os.close(source)")
    assert await program.ask("os.pread(fd, 8, 99)") == b"acopieda"
    assert await program.ask("os.lseek(fd, 0, os.SEEK_DATA)") == 0
    copy = await lake.here()
    await copy.do("fd = os.open('f', os.O_RDONLY); to = os.open('copy', os.O_WRONLY | os.O_CREAT)")
    await copy.do("while os.copy_file_range(fd, to, 1 << 20): pass\nos.close(to)")
    assert await copy.ask("open('copy', 'rb').read() == open('f', 'rb').read()")
    for one in (program, writer, copy):
        await one.do("os.close(fd)")
    await lake.nodes.assert_equal()


async def test_a_program_is_executed_and_locks_hold(lake: Lake) -> None:
    big = f"shutil.copyfile(sys.executable, 'run'); os.chmod('run', 0o755); os.truncate('run', {SIZE} * 8)"
    await lake.nodes.programs.python(f"import os, shutil, sys; {big}")
    await lake.settled()
    assert await lake.nodes.programs.sh("./run -c 'print(6 * 7)'") == "42\n"
    await reader(lake)
    await lake.nodes.programs.sh("exec 3<f; flock 3; ! flock -n f true")


def counted(passthrough: Passthrough, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many opens from here on were cached, and how many passed."""
    right, ways = passthrough.open, [0, 0]

    async def count(file: File, flags: int) -> Way:
        way = await right(file, flags)
        ways[way.passes] += 1
        return way

    monkeypatch.setattr(passthrough, "open", count)
    return ways


async def test_random_operations_beside_a_reader(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    await lake.nodes.programs.python(f"open('fsx-0', 'wb').write(b'x' * {SIZE})")
    await lake.settled()
    ways = counted(lake.passthrough, monkeypatch)
    await lake.nodes.programs.run(sys.executable, str(FSX), ".", "--operations", "1000", "--seed", "3", "--reader")
    assert ways[1] > 20 and not ways[0]
    await lake.nodes.assert_equal()


STRESS = """
import mmap, os, random, sys
me, opens, seed = map(int, sys.argv[1:])
chosen = random.Random(seed * 100 + me)
names = ['s0', 's1', 's2']
mine = {name: 0 for name in names}
held = []
def value(fd, who):
    return int.from_bytes(os.pread(fd, 8, who * 8 + 8192), 'big')
for turn in range(opens):
    name = chosen.choice(names)
    ways = [os.O_RDONLY] * 6 + [os.O_WRONLY, os.O_RDONLY | os.O_DIRECT] + [os.O_RDWR] * (turn > opens * 2 // 3)
    flags = chosen.choice(ways)
    fd = os.open(name, flags)
    held.append((name, flags, fd))
    if flags & 3 != os.O_RDONLY and chosen.random() < 0.7:
        mine[name] += 1
        data = mine[name].to_bytes(8, 'big')
        if flags & 3 == os.O_RDWR and chosen.random() < 0.5:
            with mmap.mmap(fd, 1 << 20) as mapped:
                mapped[me * 8 + 8192 : me * 8 + 8200] = data
                assert mapped[me * 8 + 8192 : me * 8 + 8200] == data
        else:
            os.pwrite(fd, data, me * 8 + 8192)
    for other, how, one in held:
        if how & 3 != os.O_WRONLY:
            assert value(one, me) == mine[other], (turn, other, how, value(one, me), mine[other])
    while len(held) > chosen.randrange(1, 6):
        os.close(held.pop(chosen.randrange(len(held)))[2])
for _, _, fd in held:
    os.close(fd)
for name in names:
    fd = os.open(name, os.O_RDONLY)
    assert value(fd, me) == mine[name]
    os.close(fd)
"""


async def test_no_open_fails_in_any_order(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,200 opens by four programs; each reads back through all that it has open what it has written through any."""
    await lake.nodes.programs.python(f"for n in range(3): open('s%d' % n, 'wb').write(bytes({PASS_FROM_BYTES}))")
    await lake.settled()
    ways = counted(lake.passthrough, monkeypatch)
    programs = lake.nodes.programs
    commands = [(sys.executable, "-c", STRESS, str(me), "800", "1") for me in range(4)]
    results = await asyncio.gather(*(programs.run(*command) for command in commands))
    assert results == [""] * 4
    assert sum(ways) == 3200 + 12 and min(ways) > 12, ways  # how many of each is the machine's
    await lake.nodes.assert_equal()
