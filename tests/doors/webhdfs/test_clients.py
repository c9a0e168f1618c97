"""Real clients drive the door: HdfsCLI with its command line, and fsspec's `webhdfs`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lddp.errors import UnavailableError
from tests.doors.webhdfs.conftest import TOKEN, Served

hdfs = pytest.importorskip("hdfs", reason="HdfsCLI (`hdfs` on PyPI) is not installed")
fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
requests = pytest.importorskip("requests", reason="requests, which both clients use, is not installed")

LARGE = bytes(range(256)) * 4096 * 20
COMMAND_S_MAX = 120


@pytest.fixture
def cli(served: Served) -> Iterator[Any]:
    with requests.Session() as session:
        yield hdfs.TokenClient(served.url, TOKEN, root="/data", session=session)


@pytest.fixture
def filesystem(served: Served) -> Iterator[Any]:
    host, port = served.url.removeprefix("http://").split(":")
    filesystem = fsspec.filesystem("webhdfs", host=host, port=int(port), token=TOKEN, skip_instance_cache=True)
    yield filesystem
    filesystem.session.close()


# -- HdfsCLI ----------------------------------------------------------------------------------------------------------


def test_hdfscli_writes_and_reads(cli: Any, served: Served) -> None:
    cli.write("new/dir/x", data=b"one", permission="640")
    cli.write("new/dir/x", data=iter([b" two", b" three"]), append=True)
    assert served.node.content(b"/data/new/dir/x") == b"one two three"
    with pytest.raises(hdfs.HdfsError, match="already exists"):
        cli.write("new/dir/x", data=b"four")
    cli.write("new/dir/x", data="fünf", overwrite=True, encoding="utf-8")
    with cli.read("new/dir/x", encoding="utf-8") as reader:
        assert reader.read() == "fünf"
    with cli.read("new/dir/x", offset=1, length=2) as reader:
        assert reader.read() == "ü".encode()
    with cli.write("large") as writer:
        for start in range(0, len(LARGE), 1024 * 1024):
            writer.write(LARGE[start : start + 1024 * 1024])
    with cli.read("large", chunk_size=65536) as reader:
        assert b"".join(reader) == LARGE
    assert cli.checksum("large")["algorithm"] == "MD5-of-0MD5-of-512CRC32C"


def test_hdfscli_names(cli: Any) -> None:
    cli.makedirs("a/b", permission="700")
    assert cli.status("a/b")["permission"] == "700"
    assert cli.status("none", strict=False) is None
    with pytest.raises(hdfs.HdfsError, match="does not exist"):
        cli.status("none")
    cli.write("a/b/x y%+ä", data=b"x")
    assert cli.list("a/b") == ["x y%+ä"]
    assert cli.list("a", status=True)[0][1]["type"] == "DIRECTORY"
    cli.rename("a/b", "a/c")
    assert list(cli.walk("/data")) == [
        ("/data", ["a"], []),
        ("/data/a", ["c"], []),
        ("/data/a/c", [], ["x y%+ä"]),
    ]
    assert cli.content("a")["fileCount"] == 1
    assert cli.resolve("a/#LATEST") == "/data/a/c"
    with pytest.raises(hdfs.HdfsError, match="not empty"):
        cli.delete("a")
    assert cli.delete("a", recursive=True) is True
    assert cli.delete("a", recursive=True) is False


def test_hdfscli_attributes(cli: Any) -> None:
    cli.write("x", data=b"x")
    cli.set_permission("x", "600")
    cli.set_owner("x", owner="4711")
    cli.set_times("x", access_time=1000, modification_time=2000)
    cli.set_replication("x", 3)
    status = cli.status("x")
    assert (status["permission"], status["owner"], status["modificationTime"]) == ("600", "4711", 2000)
    assert cli.acl_status("x")["permission"] == "600"


def test_hdfscli_takes_the_next_node_where_one_cannot(cli: Any, served: Served) -> None:
    served.node.failure = UnavailableError("no leader; wait for a majority")
    with pytest.raises(hdfs.HdfsError, match="no leader"):
        cli.makedirs("x")


def run(served: Served, directory: Path, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """HdfsCLI's own command, as a user starts it."""
    config = directory / "hdfscli.cfg"
    config.write_text(
        f"[global]\ndefault.alias = lddp\n[lddp.alias]\nclient = TokenClient\nurl = {served.url}\ntoken = {TOKEN}\n"
        "root = /data\n"
    )
    command = [sys.executable, "-W", "ignore", "-m", "hdfs", *arguments]
    environment = {**os.environ, "HDFSCLI_CONFIG": str(config), "HOME": str(directory), "TMPDIR": str(directory)}
    return subprocess.run(command, input=data, capture_output=True, env=environment, timeout=COMMAND_S_MAX)


def test_hdfscli_the_command(served: Served, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "one").write_bytes(b"1")
    (tree / "below" / "two").write_bytes(LARGE)
    uploaded = run(served, tmp_path, "upload", "-s", str(tree), "copy")
    assert uploaded.returncode == 0, uploaded.stderr
    assert served.node.content(b"/data/copy/below/two") == LARGE
    downloaded = run(served, tmp_path, "download", "-s", "copy", str(tmp_path / "back"))
    assert downloaded.returncode == 0, downloaded.stderr
    assert (tmp_path / "back" / "below" / "two").read_bytes() == LARGE
    assert (tmp_path / "back" / "one").read_bytes() == b"1"

    assert run(served, tmp_path, "upload", "-", "stream", data=b"piped").returncode == 0
    assert run(served, tmp_path, "upload", "-A", "-", "stream", data=b" twice").returncode == 0
    assert run(served, tmp_path, "download", "stream", "-").stdout == b"piped twice"
    assert run(served, tmp_path, "upload", str(tree / "one"), "stream").returncode == 1
    assert run(served, tmp_path, "upload", "-f", str(tree / "one"), "stream").returncode == 0
    assert served.node.content(b"/data/stream") == b"1"
    assert run(served, tmp_path, "download", "none", "-").returncode == 1


@pytest.mark.parametrize("simple", [True])
def test_hdfscli_without_a_token(served: Served) -> None:
    with requests.Session() as session:
        client = hdfs.InsecureClient(served.url, user="alice", session=session)
        assert client.resolve("x") == "/user/alice/x"
        client.write("/data/x", data=b"x")
        assert client.list("/data") == ["x"]


def test_hdfscli_with_a_wrong_token(served: Served) -> None:
    with requests.Session() as session:
        client = hdfs.InsecureClient(served.url, user="root", session=session)
        with pytest.raises(hdfs.HdfsError, match="Authentication failure"):
            client.list("/data")
    with requests.Session() as session, pytest.raises(hdfs.HdfsError, match=r"base64|cut short"):
        hdfs.TokenClient(served.url, "wrong", session=session).list("/data")


# -- fsspec -----------------------------------------------------------------------------------------------------------


def test_fsspec_writes_and_reads(filesystem: Any, served: Served) -> None:
    with filesystem.open("/data/large", "wb", block_size=5 * 2**20) as file:
        file.write(LARGE)
    assert served.node.content(b"/data/large") == LARGE
    assert filesystem.size("/data/large") == len(LARGE)
    with filesystem.open("/data/large", "rb", block_size=2**20) as file:
        file.seek(len(LARGE) - 5)
        assert file.read() == LARGE[-5:]
        file.seek(0)
        assert file.read(1000) == LARGE[:1000]
    assert filesystem.cat_file("/data/large", start=10, end=20) == LARGE[10:20]
    assert filesystem.ukey("/data/large")["length"] == 28


def test_fsspec_names(filesystem: Any) -> None:
    filesystem.makedirs("/data/a/b")
    filesystem.pipe_file("/data/a/b/x y", b"x")
    assert filesystem.ls("/data/a/b") == ["/data/a/b/x y"]
    assert filesystem.info("/data/a/b/x y")["type"] == "file"
    assert filesystem.isdir("/data/a")
    assert not filesystem.exists("/data/none")
    filesystem.mv("/data/a/b", "/data/a/c")
    filesystem.cp_file("/data/a/c/x y", "/data/a/z")
    assert filesystem.find("/data") == ["/data/a/c/x y", "/data/a/z"]
    assert filesystem.glob("/data/a/*") == ["/data/a/c", "/data/a/z"]
    assert filesystem.content_summary("/data")["fileCount"] == 2
    filesystem.chmod("/data/a/z", "600")
    filesystem.chown("/data/a/z", owner="4711")
    filesystem.set_replication("/data/a/z", 2)
    assert filesystem.info("/data/a/z")["owner"] == "4711"
    with pytest.raises(RuntimeError, match="not empty"):
        filesystem.rm("/data/a")
    filesystem.rm("/data/a", recursive=True)
    assert filesystem.ls("/data") == []


def test_fsspec_errors_are_pythons(filesystem: Any, served: Served) -> None:
    with pytest.raises(FileNotFoundError):
        filesystem.info("/data/none")
    with pytest.raises(PermissionError):
        filesystem.rm("/data", recursive=True)
    with pytest.raises(ValueError, match="Invalid"):
        filesystem.chmod("/data", "999")
    host, port = served.url.removeprefix("http://").split(":")
    stranger = fsspec.filesystem("webhdfs", host=host, port=int(port), user="root", skip_instance_cache=True)
    with pytest.raises(PermissionError):
        stranger.ls("/data")
    stranger.session.close()


def test_fsspec_delegation_tokens(filesystem: Any, served: Served) -> None:
    assert filesystem.home_directory().startswith("/user/")
    token = filesystem.get_delegation_token(renewer="yarn")
    assert filesystem.renew_delegation_token(token) > served.node.time_ns() // 1_000_000
    with pytest.raises(ValueError, match="cannot be cancelled"):
        filesystem.cancel_delegation_token(token)
    host, port = served.url.removeprefix("http://").split(":")
    other = fsspec.filesystem("webhdfs", host=host, port=int(port), token=token, skip_instance_cache=True)
    other.pipe_file("/data/x", b"x")
    assert served.node.content(b"/data/x") == b"x"
    other.session.close()


def test_two_clients_that_create_the_same_file(served: Served) -> None:
    """Whatever the order in which their bytes arrive: one is told that it made it, the others that they did not."""
    outcomes: list[bytes | None] = []

    def create(data: bytes) -> None:
        with requests.Session() as session:
            client = hdfs.TokenClient(served.url, TOKEN, session=session)
            try:
                client.write("/data/same", data=data)
                outcomes.append(data)
            except hdfs.HdfsError as error:
                assert "already exists" in error.message
                outcomes.append(None)

    threads = [threading.Thread(target=create, args=(bytes([65 + one]) * 100_000,)) for one in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [data for data in outcomes if data is not None]
    assert len(outcomes) == 6
    assert served.node.content(b"/data/same") == won
