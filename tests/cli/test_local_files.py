"""Local files that are no regular files, or change meanwhile: what `put` sends of them, and where `get` writes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lddp.cli import client
from tests.cli.conftest import Result, Served
from tests.cli.test_commands import error, ok

Lddp = Callable[..., Result]


def test_what_comes_out_of_a_pipe_is_sent(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    """As of a shell's <(command)."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"hello" * 100_000))
    writer.start()
    ok(lddp("put", str(pipe), "/f"))
    writer.join()
    assert ok(lddp("cat", "/f")) == b"hello" * 100_000


def test_a_file_that_says_no_size_is_sent(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    ok(lddp("put", "/proc/self/limits", "/f"))
    assert ok(lddp("cat", "/f")).startswith(b"Limit")
    (tmp_path / "empty").touch()
    ok(lddp("put", str(tmp_path / "empty"), "/f"))
    assert ok(lddp("cat", "/f")) == b""


@pytest.mark.parametrize(("size", "expected"), [(150_000, 1), (400_000, 0)])
def test_a_file_that_changes_while_it_is_sent(
    served: Served, lddp: Lddp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, expected: int
) -> None:
    """It has the bytes that it had when the command began, or fails."""
    local = tmp_path / "local"
    local.write_bytes(b"x" * 300_000)
    connect = client.http.client.HTTPConnection.connect

    def connect_late(connection: client.http.client.HTTPConnection) -> None:
        os.truncate(local, size)
        connect(connection)

    monkeypatch.setattr(client.http.client.HTTPConnection, "connect", connect_late)
    result = lddp("put", str(local), "/f")
    if expected:
        assert "ended after 150000 of 300000 bytes" in error(result, expected)
        assert "does not exist" in error(lddp("cat", "/f"), 1)
    else:
        ok(result)
        assert ok(lddp("cat", "/f")) == b"x" * 300_000


def test_a_device_or_a_pipe_is_written_into(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    """As root, /dev/null would be a regular file afterwards."""
    local, pipe = tmp_path / "local", tmp_path / "pipe"
    local.write_bytes(b"hello")
    ok(lddp("put", str(local), "/f"))
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for target in (pipe, tmp_path / "link"):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            ok(lddp("get", "/f", str(target)))
            assert os.read(reader, 100) == b"hello"
        finally:
            os.close(reader)
    assert pipe.is_fifo() and (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "local", "pipe", "token"]


def test_what_a_program_has_open_is_written_into(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    """As /dev/stdout, where the shell has redirected it into a file."""
    local, log = tmp_path / "local", tmp_path / "log"
    local.write_bytes(b"hello")
    ok(lddp("put", str(local), "/f"))
    with log.open("wb", buffering=0) as file:
        file.write(b"before ")
        ok(lddp("get", "/f", f"/proc/self/fd/{file.fileno()}"))
        assert os.path.samestat(os.fstat(file.fileno()), log.stat())
    assert log.read_bytes() == b"before hello"
