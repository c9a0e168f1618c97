"""Overflow, settling, cancelling, stopping, refusal."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lddp.doors.watch import Event, FanotifyWatcher, Flag, InotifyWatcher, Overflow, Watcher, kernel, open_watcher
from lddp.errors import UnavailableError, ZoneError
from tests.doors.watching import DEADLINE_S, Mirror, handle_of, tree_of, until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="fanotify needs root")
Make = Callable[[Path], Watcher]


def fanotify(root: Path) -> Watcher:
    """Of this directory alone: other programs use the same filesystem."""
    ours = kernel.handle_at(kernel.AT_FDCWD, bytes(root))[0]
    return FanotifyWatcher(os.fsencode(root), accept=ours.__eq__, own_changes=True)


def inotify(root: Path) -> Watcher:
    return InotifyWatcher(os.fsencode(root))


BOTH = [pytest.param(fanotify, marks=needs_root), inotify]


def descriptors() -> set[str]:
    return {os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)}


def watches() -> int:
    """How many directories this process watches with inotify."""
    infos = [Path(entry.path).read_text() for entry in os.scandir("/proc/self/fdinfo") if os.path.exists(entry.path)]
    return sum(info.count("inotify wd:") for info in infos)


def queue_length(kind: str) -> int:
    return int(Path(f"/proc/sys/fs/{kind}/max_queued_events").read_text())


def make_more_than(count: int, root: Path) -> None:
    for number in range(count // 2 + 10):
        at = root / f"{number}"
        at.touch()
        at.chmod(0o600)


@needs_root
async def test_fanotify_overflow_is_told_and_watching_goes_on(tmp_path: Path) -> None:
    mirror = Mirror(os.fsencode(tmp_path))
    watcher = FanotifyWatcher(mirror.root, own_changes=True, queue_limited=True)
    await watcher.start()
    # Events of one name are merged, so it takes one name each.
    make_more_than(2 * queue_length("fanotify"), tmp_path)
    await until(watcher, watcher.mark(), mirror)
    assert mirror.overflows
    (tmp_path / "after").touch()
    await until(watcher, watcher.mark(), mirror)
    await watcher.stop()
    assert mirror.tree() == tree_of(mirror.root)


async def test_inotify_overflow_is_told_after_lost_directories_are_watched(tmp_path: Path) -> None:
    mirror = Mirror(os.fsencode(tmp_path))
    watcher = inotify(tmp_path)
    await watcher.start()
    make_more_than(queue_length("inotify"), tmp_path)
    (tmp_path / "lost" / "deep").mkdir(parents=True)
    await until(watcher, watcher.mark(), mirror)
    assert mirror.overflows
    (tmp_path / "lost" / "deep" / "after").touch()
    await until(watcher, watcher.mark(), mirror)
    await watcher.stop()
    assert mirror.tree() == tree_of(mirror.root)


@pytest.mark.parametrize("make", BOTH)
async def test_settle_returns_after_the_consumer_has_dealt_with_all_before(make: Make, tmp_path: Path) -> None:
    watcher = make(tmp_path)
    await watcher.start()
    seen: set[bytes] = set()

    async def consume() -> None:
        while True:
            batch = await watcher.batch()
            await asyncio.sleep(0)
            seen.update(event.name for event in batch if isinstance(event, Event))

    consuming = asyncio.ensure_future(consume())
    async with asyncio.timeout(DEADLINE_S):
        for number in range(50):
            (tmp_path / f"{number}").touch()
            await watcher.settle()
            assert b"%d" % number in seen
    consuming.cancel()
    await asyncio.wait([consuming])
    await watcher.stop()


@pytest.mark.parametrize("make", BOTH)
async def test_settle_waits_until_the_consumer_comes_back(make: Make, tmp_path: Path) -> None:
    watcher = make(tmp_path)
    await watcher.start()
    (tmp_path / "file").touch()
    mark = watcher.mark()
    await until(watcher, mark)
    settling = asyncio.ensure_future(watcher.settle())
    await asyncio.sleep(0)
    assert watcher.passed(mark)
    assert not settling.done()
    reading = asyncio.ensure_future(watcher.batch())
    async with asyncio.timeout(DEADLINE_S):
        await settling
    await watcher.stop()
    with pytest.raises(UnavailableError):
        await reading


@pytest.mark.parametrize("make", BOTH)
async def test_settle_does_not_wait_for_the_end_of_a_stream(make: Make, tmp_path: Path) -> None:
    watcher = make(tmp_path)
    await watcher.start()
    number = 0

    async def consume() -> None:
        nonlocal number
        while True:
            number += 1
            (tmp_path / f"{number}").touch()
            await watcher.batch()

    consuming = asyncio.ensure_future(consume())
    async with asyncio.timeout(DEADLINE_S):
        await watcher.settle()
        await asyncio.sleep(0)
        await watcher.settle()
    consuming.cancel()
    await asyncio.wait([consuming])
    await watcher.stop()


@pytest.mark.parametrize("make", BOTH)
async def test_cancelled_batch_loses_nothing(make: Make, tmp_path: Path) -> None:
    watcher = make(tmp_path)
    await watcher.start()
    seen: set[bytes] = set()
    for number in range(200):
        waiting = asyncio.ensure_future(watcher.batch())
        for _ in range(number % 7):
            await asyncio.sleep(0)
        (tmp_path / f"{number}").touch()
        for _ in range(number % 5):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            seen.update(event.name for event in waiting.result() if isinstance(event, Event))
    found = await until(watcher, watcher.mark())
    await watcher.stop()
    seen.update(event.name for event in found if isinstance(event, Event))
    assert seen >= {b"%d" % number for number in range(200)}


@pytest.mark.parametrize("make", BOTH)
async def test_stop_frees_descriptors_and_whoever_waits(make: Make, tmp_path: Path) -> None:
    before = descriptors()
    watcher = make(tmp_path)
    await watcher.start()
    waiting = asyncio.ensure_future(watcher.batch())
    await asyncio.sleep(0)
    await watcher.stop()
    await watcher.stop()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(UnavailableError):
            await waiting
    with pytest.raises(UnavailableError):
        await watcher.batch()
    assert descriptors() == before


@needs_root
async def test_accept_and_own_changes_keep_others_out(tmp_path: Path) -> None:
    (tmp_path / "wanted").mkdir()
    (tmp_path / "unwanted").mkdir()
    wanted = kernel.handle_at(kernel.AT_FDCWD, bytes(tmp_path / "wanted"))[0]
    watcher = FanotifyWatcher(bytes(tmp_path), accept=lambda handle: handle == wanted, own_changes=True)
    silent = FanotifyWatcher(bytes(tmp_path), accept=lambda handle: handle == wanted)
    await watcher.start()
    await silent.start()
    (tmp_path / "unwanted" / "file").touch()
    (tmp_path / "wanted" / "file").touch()
    found = await until(watcher, watcher.mark())
    assert {event.directory for event in found if isinstance(event, Event)} == {wanted}
    mark = silent.mark()
    async with asyncio.timeout(DEADLINE_S):
        reading = asyncio.ensure_future(silent.batch())
        await silent.settle()
    assert silent.passed(mark)
    assert not reading.done()
    await silent.stop()
    with pytest.raises(UnavailableError):
        await reading
    await watcher.stop()


@needs_root
async def test_accepted_object_is_told_of_by_any_name(tmp_path: Path) -> None:
    root, outside = tmp_path / "source", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "file").touch()
    os.link(root / "file", outside / "name")
    target = kernel.handle_at(kernel.AT_FDCWD, bytes(root / "file"))[0]
    watcher = FanotifyWatcher(bytes(root), accept=lambda handle: handle == target, own_changes=True)
    await watcher.start()
    (outside / "name").write_text("by another name")
    found = await until(watcher, watcher.mark())
    await watcher.stop()
    assert {event.target for event in found if isinstance(event, Event)} == {target}


async def test_directory_that_left_is_watched_no_longer(tmp_path: Path) -> None:
    root, outside = tmp_path / "source", tmp_path / "outside"
    (root / "sub" / "deep").mkdir(parents=True)
    outside.mkdir()
    watcher = InotifyWatcher(bytes(root))
    await watcher.start()
    assert watches() == 3
    os.rename(root / "sub", outside / "sub")
    await until(watcher, watcher.mark())
    assert watches() == 1
    await watcher.stop()


@needs_root
async def test_open_watcher_prefers_fanotify_and_says_why(tmp_path: Path) -> None:
    watcher = await open_watcher(bytes(tmp_path))
    assert watcher.kind == "fanotify"
    assert "filesystem" in watcher.reason
    await watcher.stop()


async def test_open_watcher_falls_back_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> int:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(kernel, "fanotify_init", refuse)
    watcher = await open_watcher(bytes(tmp_path))
    assert watcher.kind == "inotify"
    assert "CAP_SYS_ADMIN" in watcher.reason
    await watcher.stop()


@needs_root
async def test_filesystem_without_identity_is_refused_with_its_reason() -> None:
    with pytest.raises(ZoneError, match="cannot watch /proc") as caught:
        await FanotifyWatcher(b"/proc").start()
    assert caught.value.errno in (errno.ENODEV, errno.EOPNOTSUPP)


async def test_exhausted_watches_name_the_setting_and_heal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(bytes(tmp_path))
    watcher = inotify(tmp_path)
    await watcher.start()
    real = kernel.inotify_watch

    def refuse(descriptor: int, directory: int, mask: int) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(kernel, "inotify_watch", refuse)
    (tmp_path / "new" / "deep").mkdir(parents=True)
    mark = watcher.mark()
    with pytest.raises(ZoneError, match=r"fs\.inotify\.max_user_watches"):
        await until(watcher, mark, mirror)
    assert not watcher.passed(mark)
    monkeypatch.setattr(kernel, "inotify_watch", real)
    (tmp_path / "new" / "deep" / "file").touch()
    await until(watcher, watcher.mark(), mirror)
    (tmp_path / "new" / "deep" / "later").touch()
    await until(watcher, watcher.mark(), mirror)
    await watcher.stop()
    assert mirror.tree() == tree_of(mirror.root)


async def test_exhausted_watches_at_the_start_leave_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, directory: int, mask: int) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(kernel, "inotify_watch", refuse)
    before = descriptors()
    watcher = inotify(tmp_path)
    with pytest.raises(ZoneError, match=r"fs\.inotify\.max_user_watches"):
        await watcher.start()
    await watcher.stop()
    assert descriptors() == before


async def test_very_deep_tree_is_watched_to_its_end(tmp_path: Path) -> None:
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(40):
        os.mkdir(b"d" * 250, dir_fd=at)
        below = os.open(b"d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    watcher = inotify(tmp_path)
    await watcher.start()
    os.mkdir("new", dir_fd=at)
    await until(watcher, watcher.mark())
    os.close(os.open("new/file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    found = await until(watcher, watcher.mark())
    os.close(at)
    await watcher.stop()
    assert b"file" in [event.name for event in found if not isinstance(event, Overflow)]


@needs_root
async def test_other_filesystem_mounted_below_is_not_entered(tmp_path: Path) -> None:
    inner = tmp_path / "mounted"
    inner.mkdir()
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"tmpfs", bytes(inner), b"tmpfs", 0, b"size=1m") < 0:
        pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    try:
        watcher = inotify(tmp_path)
        await watcher.start()
        (inner / "file").touch()
        (tmp_path / "ours").touch()
        found = await until(watcher, watcher.mark())
        await watcher.stop()
    finally:
        library.umount(bytes(inner))
    names = {event.name for event in found if not isinstance(event, Overflow)}
    assert names == {b"ours"}


@needs_root
async def test_what_is_left_out_is_not_told_until_it_moves(tmp_path: Path) -> None:
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    root.mkdir()
    scratch.mkdir()
    watcher = FanotifyWatcher(bytes(root), own_changes=True)
    await watcher.start()
    watcher.leave_out(bytes(scratch))
    scratch_handle = handle_of(bytes(scratch))
    for number in range(3):
        made = scratch / f"{number}"
        made.write_bytes(b"made here")
        made.chmod(0o640)
    os.unlink(scratch / "2")
    os.rename(scratch / "0", root / "in")
    os.rename(scratch / "1", tmp_path / "elsewhere")
    (root / "in").write_bytes(b"changed")
    events = [one for one in await until(watcher, watcher.mark()) if isinstance(one, Event)]
    await watcher.stop()
    told = [one for one in events if scratch_handle in (one.directory, one.new_directory)]
    assert {(one.name, one.new_name) for one in told} == {(b"0", b"in"), (b"1", b"elsewhere")}
    at_root = [one for one in events if one.directory == handle_of(bytes(root)) and one.name == b"in"]
    assert any(one.flags & Flag.MODIFIED for one in at_root)


@needs_root
async def test_nothing_of_the_tree_can_be_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "name").symlink_to(root / "sub")
    watcher = FanotifyWatcher(bytes(root), own_changes=True)
    await watcher.start()
    for directory in (root, root / "sub", tmp_path / "name", tmp_path):
        watcher.leave_out(bytes(directory))
    (root / "file").write_bytes(b"1")
    (root / "sub" / "file").write_bytes(b"1")
    events = [one for one in await until(watcher, watcher.mark()) if isinstance(one, Event)]
    await watcher.stop()
    places = {(one.directory, one.name) for one in events if one.flags & Flag.MODIFIED}
    assert {(handle_of(bytes(root)), b"file"), (handle_of(bytes(root / "sub")), b"file")} <= places
