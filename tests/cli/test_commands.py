"""The client commands against a fake node: what they print, what they change, how they end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lddp.cli.main import COMMANDS
from lddp.client.endpoints import parse_endpoint
from lddp.core.records import Kind
from lddp.errors import UnavailableError, UsageError
from tests.admin.fake_backend import FakeBackend
from tests.cli.conftest import Result, Served, serve

Lddp = Callable[..., Result]


def ok(result: Result) -> bytes:
    assert result.code == 0, result.err
    return result.out


def error(result: Result, code: int) -> str:
    """The one line that a failure gets."""
    assert result.code == code, result
    assert result.err.startswith("lddp: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    return result.err


def documents(out: bytes) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


def test_files_there_and_back(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"\0\xff" * 1000)
    local.chmod(0o640)
    ok(lddp("mkdir", "-p", "/a/b"))
    ok(lddp("mkdir", "-p", "/a/b/c", "/a/b"))
    ok(lddp("put", str(local), "/a/b/f"))
    ok(lddp("put", str(local), "/a/"))
    assert ok(lddp("cat", "/a/b/f", "/a/local")) == b"\0\xff" * 2000
    ok(lddp("get", "/a/b/f", str(tmp_path / "back")))
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o640
    ok(lddp("get", "/a/b/f", str(tmp_path / "part"), "--range", "1-2"))
    assert (tmp_path / "part").read_bytes() == b"\xff\0"
    assert ok(lddp("ls", "/a")) == b"b\nlocal\n"
    (row,) = documents(ok(lddp("ls", "/a/local", "--json")))
    assert (row["size"], row["mode"]) == (2000, "0640")
    assert b"2000 2023-11-14 22:13:20 /a/local" in ok(lddp("ls", "-l", "/a/local"))
    ok(lddp("mv", "/a/local", "/a/b"))
    assert b"/a/b/local" in served.backend.inodes
    error(lddp("mv", "-n", "/a/b/local", "/a/b/f"), 1)
    (stat,) = documents(ok(lddp("stat", "/a/b/local", "--json")))
    assert stat["kind"] == "file"
    assert b"kind      file" in ok(lddp("stat", "/a/b/local"))
    assert "not empty; remove what is in the directory first" in error(lddp("rm", "/a"), 1)
    ok(lddp("rm", "-r", "/a"))
    ok(lddp("rm", "-f", "/a"))
    assert set(served.backend.inodes) == {b"/"}


def test_names_of_any_bytes(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    name = os.fsdecode(b"/\xff %+?#\n")
    ok(lddp("put", str(tmp_path / "x"), name))
    assert b"/\xff %+?#\n" in served.backend.inodes
    assert ok(lddp("ls")) == b"\xff %+?#\n\n"
    ok(lddp("mv", name, os.fsdecode(b"/\xfe&a=b")))
    assert ok(lddp("cat", os.fsdecode(b"/\xfe&a=b"))) == b"1"
    ok(lddp("rm", os.fsdecode(b"/\xfe&a=b")))


def test_a_listing_of_several_pages(served: Served, lddp: Lddp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lddp.cli.files.PAGE", 3)
    for number in range(10):
        ok(lddp("mkdir", f"/{number}"))
    assert ok(lddp("ls", "/")) == b"".join(b"%d\n" % number for number in range(10))
    ok(lddp("rm", "-r", *(f"/{number}" for number in range(10))))


def test_conditional_put(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    local = str(tmp_path / "x")
    version = json.loads(ok(lddp("put", local, "/f", "--if-absent", "--json")))["version"]
    assert "exists; leave out --if-absent" in error(lddp("put", local, "/f", "--if-absent"), 1)
    ok(lddp("put", local, "/f", "--if-version", str(version)))
    error(lddp("put", local, "/f", "--if-version", str(version)), 1)
    error(lddp("put", local, "/f", "--if-version", "1", "--if-absent"), 2)


def test_a_get_that_fails_leaves_nothing(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    (tmp_path / "keep").write_bytes(b"old")
    ok(lddp("mkdir", "/d"))
    error(lddp("get", "/d", str(tmp_path / "keep")), 1)
    error(lddp("get", "/none", str(tmp_path / "new")), 1)
    assert (tmp_path / "keep").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keep", "token"]


def test_inspection(served: Served, lddp: Lddp) -> None:
    ok(lddp("mkdir", "/a", "/b"))
    status = json.loads(ok(lddp("status", "--json")))
    assert status["log"]["applied"] == 2
    assert b"leader     a\n" in ok(lddp("status"))
    assert ok(lddp("leader")) == b"a\n"
    assert len(json.loads(ok(lddp("nodes", "--json")))["nodes"]) == 2
    assert ok(lddp("nodes")).splitlines()[0].split() == [
        b"name", b"role", b"zone", b"leader", b"connected", b"projected", b"http",
    ]  # fmt: skip
    assert [row["index"] for row in documents(ok(lddp("log", "--json")))] == [1, 2]
    assert [row["path"] for row in documents(ok(lddp("log", "--json", "--path", "/b")))] == ["/b"]
    served.backend.log_looked_max = 1
    assert [row["index"] for row in documents(ok(lddp("log", "--json")))] == [1, 2], "whatever is looked at at once"
    assert [row["index"] for row in documents(ok(lddp("log", "--json", "--limit", "1", "--path", "/b")))] == [2]
    assert ok(lddp("log", "--to", "1")) == b"1  MakeDirectory  /a  errno=0\n"
    assert ok(lddp("barrier")) == b"2\n"
    assert ok(lddp("barrier", "--index", "1")) == b"1\n"
    error(lddp("barrier", "--index", "99", "--timeout", "0.3"), 3)


def test_rules_and_migrations(served: Served, lddp: Lddp) -> None:
    made = lddp("rule", "create", "r", "/r", "onprem:/srv/a", "eu-west:/srv/b", "--source", "onprem", "--observe-only",
                "--option", "durability=quorum", "--option", "exclude=[\"*.tmp\"]")  # fmt: skip
    assert ok(made) == b"rule r created at index 1\n"
    rule = json.loads(ok(lddp("rule", "show", "r", "--json")))
    assert [member["observe_only"] for member in rule["members"]] == [True, False]
    assert rule["options"] == {"durability": "quorum", "exclude": ["*.tmp"]}
    ok(lddp("rule", "set", "r", "durability=origin"))
    assert served.backend.rule_documents["r"]["options"] == {"durability": "origin", "exclude": ["*.tmp"]}
    assert b"onprem:/srv/a,eu-west:/srv/b" in ok(lddp("rule", "list"))
    assert "create the rule 'r': File exists" in error(lddp("rule", "create", "r", "/r", "onprem:/x"), 1)
    error(lddp("rule", "create", "q", "/q", "mars:/x"), 2)
    error(lddp("rule", "create", "q", "q", "onprem:/x"), 2)
    error(lddp("rule", "create", "q", "/q", "onprem"), 2)
    error(lddp("rule", "create", "q", "/q"), 2)
    ok(lddp("migration", "start", "r"))
    ok(lddp("migration", "pause", "r"))
    assert "it is paused" in error(lddp("migration", "pause", "r"), 1)
    ok(lddp("migration", "start", "r"))
    assert json.loads(ok(lddp("migration", "status", "r", "--json")))["state"] == "running"
    assert b"running" in ok(lddp("migration", "status"))
    assert b"files_migrated  4" in ok(lddp("migration", "status", "r"))
    ok(lddp("migration", "status", "r", "--wait", "running"))
    error(lddp("migration", "status", "r", "--wait", "live", "--timeout", "0.1"), 3)
    ok(lddp("migration", "complete", "r"))
    assert lddp("migration", "status", "r", "--wait", "live").code == 1
    error(lddp("migration", "status", "none"), 1)
    ok(lddp("rule", "remove", "r"))
    error(lddp("rule", "show", "r"), 1)


def test_receipts(served: Served, lddp: Lddp) -> None:
    good = {"id": 7, "rule": "r", "index": 6, "holds": True, "zones": [{"zone": "onprem", "digest": "aa", "files": 1}]}
    served.backend.receipt_documents = [{**good, "id": 9, "holds": False}, good]
    assert b"zone=onprem  digest=aa  files=1" in ok(lddp("receipt", "7"))
    assert lddp("receipt", "9").code == 1
    assert lddp("receipt", "r").code == 1
    assert len(json.loads(ok(lddp("receipt", "--json")))["receipts"]) == 2
    assert "has no receipt" in error(lddp("receipt", "other"), 1)
    error(lddp("receipt", "8"), 1)


def test_mounts(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    assert "no rule" in error(lddp("mount", "photos", str(point)), 1)
    served.backend.rule_documents["photos"] = {"name": "photos"}
    assert ok(lddp("mount", "photos", str(point))) == f"photos is mounted at {point}\n".encode()
    (made,) = [json.loads(ok(lddp("mount", "photos", str(point), "--soft", "--timeo", "5", "--json")))]
    assert made["soft_timeout_s"] == 5.0 and made["write_mode"] == "sync" and made["passthrough"] is False
    (made,) = [json.loads(ok(lddp("mount", "photos", str(point), "--write-mode", "pipelined", "--json")))]
    assert made["write_mode"] == "pipelined"
    (made,) = [json.loads(ok(lddp("mount", "photos", str(point), "--passthrough", "--json")))]
    assert made["passthrough"] is True
    served.backend.why_no_passthrough = "the filesystem of /staging cannot"
    without = lddp("mount", "photos", str(point), "--passthrough")
    assert ok(without) == f"photos is mounted at {point}\n".encode()
    assert without.err == "without passthrough: the filesystem of /staging cannot\n"
    assert ok(lddp("unmount", str(point))) == f"photos is not mounted at {point} any more\n".encode()
    error(lddp("unmount", str(point)), 1)


def test_the_next_endpoint_is_asked_and_a_retry_counts_once(
    served: Served, lddp: Lddp, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = FakeBackend("weak")
    weak.failure = UnavailableError("no leader; wait")
    url, stop = serve(weak)
    monkeypatch.delenv("LDDP_ENDPOINT")
    endpoints = ["--endpoint", "http://127.0.0.1:1", "--endpoint", url, "--endpoint", served.url]
    ok(lddp("mkdir", "/a", *endpoints))
    assert served.backend.inodes[b"/a"].kind is Kind.DIRECTORY
    assert "no leader; wait" in error(lddp("mkdir", "/b", "--timeout", "0.5", "--endpoint", url), 3)
    stop()
    assert "no node reachable" in error(lddp("mkdir", "/b", "--endpoint", "http://127.0.0.1:1"), 3)


def test_not_allowed(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("wrong-horse-battery-1")
    assert "bearer token" in error(lddp("status", "--token-file", str(tmp_path / "other")), 4)
    assert "cannot be read" in error(lddp("status", "--token-file", str(tmp_path / "absent")), 4)


def test_a_token_that_others_may_read_is_noticed(
    served: Served, lddp: Lddp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        ok(lddp("mkdir", "-p", "/a/b/c"))
    assert not caplog.messages
    served.token_file.chmod(0o604)
    ok(lddp("rm", "-r", "/a"))
    assert caplog.messages == [f"{served.token_file} can be read by others, who may use its token; chmod 600 it"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("mkdri",),
        ("ls", "--lnog"),
        ("ls", "relative"),
        ("ls", "/a/../b"),
        ("rm", "/"),
        ("get",),
        ("get", "/a", "b", "--range", "x"),
        ("put", "-", "/d/"),
        ("mkdir", "/a", "--mode", "rwx"),
        ("status", "--timeout", "never"),
        ("status", "--endpoint", "ftp://x"),
        ("status", "--endpoint", "http://10.1.1.1:80"),
        ("status", "--cluster", "/nonexistent/cluster"),
        ("log", "--from", "0"),
        ("mv", "/a", "/b", "-n", "--exchange"),
        ("migration", "dance", "r"),
        ("migration", "status", "--wait", "live"),
        ("rule", "create", "r", "/r", "a:/x", "--observe-only"),
        ("cluster", "up", "/tmp/x", "--nodes", "0"),
        ("cluster", "down", "/nonexistent"),
        ("node",),
        ("node", "--config", "/nonexistent/node.toml"),
        ("init", "/tmp/x", "--join", "--ecosystem", "e"),
        ("init", "/tmp/x", "--node", "Not A Name"),
    ],
)
def test_usage_mistakes_get_one_line(served: Served, lddp: Lddp, arguments: tuple[str, ...]) -> None:
    error(lddp(*arguments), 2)


def test_local_files_that_fail(served: Served, lddp: Lddp, tmp_path: Path) -> None:
    assert "/absent: No such file" in error(lddp("put", str(tmp_path / "absent"), "/f"), 1)
    assert "Is a directory" in error(lddp("put", str(tmp_path), "/f"), 1)


def test_without_any_endpoint(lddp: Lddp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LDDP_ENDPOINT", raising=False)
    monkeypatch.delenv("LDDP_CLUSTER", raising=False)
    assert "give --endpoint URL" in error(lddp("status"), 2)


def test_every_command_is_there_and_describes_itself(lddp: Lddp) -> None:
    for name in COMMANDS:
        if name != "migrate":
            assert b"Usage: lddp " + name.encode() in ok(lddp(name, "--help"))
    listing = ok(lddp("--help")).decode()
    assert all(name in listing for name in COMMANDS)


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.9.9.9:1/", "http://[::1]:1", "https://example.org"])
def test_endpoints(url: str) -> None:
    assert parse_endpoint(url).port in (1, 443)


@pytest.mark.parametrize("url", ["localhost:1", "http://127.evil.example:1", "https://h:99999", "https://h/path", "x"])
def test_what_is_no_endpoint(url: str) -> None:
    with pytest.raises(UsageError):
        parse_endpoint(url)
