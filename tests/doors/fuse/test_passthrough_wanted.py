"""Passthrough is for who asks for it, where there can be some; elsewhere it is told why not."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lddp.doors.fuse.backing import why_not_passing
from tests.doors.fuse.cloning import can_clone, cloning_filesystem, driven
from tests.doors.fuse.live import can_mount, trio
from tests.doors.fuse.passing import FakeBacking
from tests.node.trio import SOURCE


def fails(number: int) -> object:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_where_everything_can_be_had(tmp_path: Path) -> None:
    kernel = FakeBacking()
    assert why_not_passing(kernel, tmp_path) == ""
    assert kernel.clones == 1 and not kernel.files and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "number", "why"),
    [
        ("is_clean", errno.ENOSYS, "be asked what is on the disk (Linux 6.5 and later can): Function not implemented"),
        ("clone", errno.EOPNOTSUPP, "make clones of files (XFS and btrfs can): Operation not supported"),
        ("is_held", errno.EINVAL, "be asked who has a file open: Invalid argument"),
        ("open", errno.ELOOP, "be read by the kernel for a mount: Too many levels of symbolic links"),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, what: str, number: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = FakeBacking()
    monkeypatch.setattr(kernel, what, fails(number))
    assert why_not_passing(kernel, tmp_path) == f"the filesystem of {tmp_path} cannot {why}"


@contextmanager
def without_clones(directory: Path) -> Iterator[Path]:
    mounted = directory / "memory"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "none", mounted], check=True, capture_output=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


@can_mount
@pytest.mark.parametrize("configured", [False, True])
async def test_a_filesystem_without_clones_is_mounted_without(
    tmp_path: Path, configured: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with without_clones(tmp_path) as disk, caplog.at_level(logging.WARNING):
        async with trio(disk, mounted=not configured, configured=configured, passthrough=True) as nodes:
            if configured:
                await nodes.make_rule()
                await nodes.until(lambda: bool(nodes.nodes[SOURCE].backend.mounts()))
            (shown,) = nodes.nodes[SOURCE].backend.mounts()
            assert shown["passthrough"] is False
            assert "cannot make clones of files (XFS and btrfs can)" in shown["why_no_passthrough"]
            (line,) = [one.getMessage() for one in caplog.records if "passthrough" in one.getMessage()]
            assert line == f"{nodes.point} is without passthrough: {shown['why_no_passthrough']}"
            caplog.clear()
            assert await nodes.programs.sh("head -c 2M /dev/zero > f; sync f; wc -c < f") == "2097152\n"


@can_mount
@can_clone
@pytest.mark.parametrize("wanted", [False, True])
async def test_it_is_for_who_asks(tmp_path: Path, wanted: bool) -> None:
    with cloning_filesystem(tmp_path) as disk:
        async with trio(disk, passthrough=wanted) as nodes:
            (shown,) = nodes.nodes[SOURCE].backend.mounts()
            assert shown["passthrough"] is wanted and shown["why_no_passthrough"] == ""
            await nodes.programs.sh("head -c 2M /dev/zero > f")
            await nodes.settled()
            await asyncio.to_thread(subprocess.run, ["sync", "-f", nodes.source], check=True)
            passthrough = nodes.nodes[SOURCE].mounts.mounts[bytes(nodes.point)].tree.passthrough
            async with driven(nodes.point) as program:
                await program.do("fd = os.open('f', os.O_RDONLY)")
                assert (await program.ask("os.fstat(fd).st_ino") in passthrough) is wanted
