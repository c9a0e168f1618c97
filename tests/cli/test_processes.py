"""Real processes: exit codes, lines on standard error, `init`, `cluster up` and `down`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lddp.cli import ecosystem, processes
from lddp.cli.main import run
from lddp.config import Role, load
from lddp.errors import UnavailableError, UsageError
from tests.cli.conftest import Served

FAKE = (sys.executable, str(Path(__file__).with_name("fake_node.py")))


def lddp(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LDDP_")}
    command = [sys.executable, "-m", "lddp.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, env={**inherited, **environment}, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--version"], 0, b""),
        (["xyzzy"], 2, b"lddp: there is no command 'xyzzy'; see 'lddp --help'\n"),
        (["mkdir"], 2, b"lddp: Missing argument 'PATH...'; see 'lddp mkdir --help'\n"),
        (["leader", "--endpoint", "http://127.0.0.1:1", "--token-file", "/nonexistent"], 4, b"lddp: the token file "),
        (["node", "--config", "/nonexistent/n.toml"], 2, b"lddp: /nonexistent/n.toml does not exist; make a"),
    ],
)
def test_exit_codes_and_lines(arguments: list[str], code: int, line: bytes) -> None:
    result = lddp(*arguments)
    assert (result.returncode, result.stderr[: len(line)]) == (code, line)
    assert result.stderr.count(b"\n") == (1 if line else 0)


def test_help_and_thin_clients_import_nothing_heavy() -> None:
    script = (
        "import sys, lddp.cli.main as m; code = m.run(['--help']); m.run(['ls']); "
        "heavy = {'aiohttp', 'cryptography', 'rich', 'asyncio', 'lmdb', 'pysyncobj', 'msgpack'} & set(sys.modules); "
        "sys.exit(' '.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_interrupted_while_following(served: Served) -> None:
    command = [sys.executable, "-m", "lddp.cli.main", "log", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert run(["mkdir", "/before"]) == 0
        made = 0
        os.set_blocking(process.stdout.fileno(), False)
        line = None
        while not line:  # the stream shows what happens after it has connected, so keep something happening
            made += 1
            assert run(["mkdir", f"/{made}"]) == 0
            line = process.stdout.readline()
        assert json.loads(line)["record"] == "MakeDirectory"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read().strip() == b""


def test_a_reader_that_goes_away_is_no_traceback(served: Served) -> None:
    for number in range(50):
        assert run(["mkdir", f"/{'x' * 200}{number}"]) == 0
    script = f"{sys.executable} -m lddp.cli.main log --limit 10000 | head -n 1"
    result = subprocess.run(["/bin/sh", "-c", script], capture_output=True, timeout=60, check=True)
    assert result.stderr == b""
    assert result.stdout.count(b"\n") == 1


# -- init -------------------------------------------------------------------------------------------------------------


def test_init_and_join(tmp_path: Path) -> None:
    home = tmp_path / "eco"
    assert lddp("init", str(home), "--ecosystem", "orchard", "--zone", "onprem").returncode == 0
    assert lddp("init", str(home), "--join", "--root", "/srv").returncode == 0
    joined = lddp("init", str(home), "--join", "--role", "witness", "--node", "w", "--peer", "unix:/run/w", "--json")
    assert json.loads(joined.stdout) == {"ecosystem": "orchard", "node": "w", "config": str(home / "w" / "node.toml")}
    configs = ecosystem.nodes_of(home)
    assert configs.keys() == {"node-1", "node-2", "w"}
    for name, config in configs.items():
        assert config.ecosystem == "orchard"
        assert config.peers.keys() == configs.keys() - {name}
        assert config.zones() == {"onprem": 0, "node-2": 1}
        assert config.token_file.read_text() == (home / "token").read_text()
        assert config.tls.key.stat().st_mode & 0o077 == 0
        assert config.token_file.stat().st_mode & 0o077 == 0
    assert configs["w"].role is Role.WITNESS
    assert str(configs["node-1"].peers["w"].address) == "unix:/run/w"
    assert {p.name for p in home.iterdir()} == {"authority", "token", "node-1", "node-2", "w"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "holds an ecosystem already"),
        (["--join", "--node", "node-1"], "exists; choose another --node"),
        (["--join", "--zone", "node-1"], "has a node already; choose another --zone"),
        (["--join", "--http", "http://10.0.0.1:80"], "tokens in the clear"),
        (["--join", "--peer", "127.0.0.1:7400"], "give each its own"),
        (["--join", "--role", "witness", "--zone", "z"], "a witness owns no zone"),
        (["--join", "--role", "observer"], "'observer' is not one of 'voter', 'witness'"),
    ],
)
def test_init_refuses_and_changes_nothing(tmp_path: Path, arguments: list[str], expected: str) -> None:
    home = tmp_path / "eco"
    ecosystem.create(home, "orchard")
    ecosystem.add_node(home, ecosystem.NodePlan("node-1", Role.VOTER, "node-1", "127.0.0.1:7400", "http://[::1]:7480"))
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and ".new" not in str(path)}
    result = lddp("init", str(home), *arguments)
    assert result.returncode == 2
    assert expected in result.stderr.decode()
    after = {path: path.read_bytes() for path in home.rglob("*") if path.is_file() and ".new" not in str(path)}
    assert after == before


def test_join_without_an_ecosystem(tmp_path: Path) -> None:
    result = lddp("init", str(tmp_path / "none"), "--join")
    assert (result.returncode, b"holds no ecosystem" in result.stderr) == (2, True)


def test_a_copied_node_directory_is_complete(tmp_path: Path) -> None:
    home = tmp_path / "eco"
    assert run(["init", str(home)]) == 0
    (home / "node-1").rename(tmp_path / "elsewhere")
    config = load(tmp_path / "elsewhere" / "node.toml", {})
    for file in (config.tls.authority, config.tls.certificate, config.tls.key, config.token_file):
        assert file.exists()
        assert file.parent == tmp_path / "elsewhere"


# -- cluster ----------------------------------------------------------------------------------------------------------


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_up_and_down_and_up_again(tmp_path: Path) -> None:
    home = tmp_path / "cluster"
    described = processes.up(home, 2, True, 60, FAKE)
    try:
        assert json.loads((home / "cluster.json").read_text()) == described
        assert [node["name"] for node in described["nodes"]] == ["node-1", "node-2", "witness"]
        assert described["zones"] == {"zone-1": 0, "zone-2": 1}
        assert all(Path(root).is_dir() for root in described["roots"].values())
        status = lddp("status", "--cluster", str(home), "--json")
        assert json.loads(status.stdout)["node"] == "node-1", status.stderr
        with pytest.raises(UsageError, match="is running"):
            processes.up(home, 2, True, 60, FAKE)
    finally:
        result = lddp("cluster", "down", str(home), "--json")
    assert json.loads(result.stdout) == {"ended": ["node-1", "node-2", "witness"]}
    assert not any(runs(pid) for pid in described["pids"].values())
    again = processes.up(home, 2, True, 60, FAKE)
    assert again["endpoints"] == described["endpoints"]
    assert len(processes.down(home, again)) == 3
    assert processes.down(home, again) == []
    with pytest.raises(UsageError, match="bring up the same number"):
        processes.up(home, 1, False, 60, FAKE)


def test_the_state_of_a_migration_is_no_cluster(tmp_path: Path) -> None:
    """Neither while its nodes do not run, nor to be filled with others."""
    (tmp_path / "migrate.json").write_bytes(b"{}")
    result = lddp("status", "--cluster", str(tmp_path))
    assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)
    assert b"run its 'lddp migrate' again" in result.stderr
    with pytest.raises(UsageError, match="is the state of a 'lddp migrate'"):
        processes.up(tmp_path, 2, False, 60, FAKE)
    assert [path.name for path in tmp_path.iterdir()] == ["migrate.json"]


def test_a_node_that_ends_at_its_start_is_quoted_and_the_others_end(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="ended at its start: the database is of a newer format; use a newer"):
        processes.up(tmp_path / "c", 2, False, 60, (*FAKE, "--fail"))
    described = json.loads((tmp_path / "c" / "cluster.json").read_text())
    assert not any(runs(pid) for pid in described["pids"].values())


class Hastened:
    """The time, which is over once somebody says so."""

    sleep = staticmethod(time.sleep)

    def __init__(self) -> None:
        self.over = False

    def monotonic(self) -> float:
        return float("inf") if self.over else time.monotonic()


def test_nodes_that_do_not_become_ready_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, look = Hastened(), processes._not_ready

    def until_answered(endpoint: str, token_file: Path) -> str:
        reason = look(endpoint, token_file)
        clock.over = "no leader" in reason
        return reason

    monkeypatch.setattr(processes, "time", clock)
    monkeypatch.setattr(processes, "_not_ready", until_answered)
    with pytest.raises(UnavailableError, match=r"not all nodes became ready .*no leader"):
        processes.up(tmp_path / "c", 1, False, 240, (*FAKE, "--leaderless"))
    described = json.loads((tmp_path / "c" / "cluster.json").read_text())
    assert not any(runs(pid) for pid in described["pids"].values())


def test_down_never_ends_a_stranger(tmp_path: Path) -> None:
    described = processes.up(tmp_path / "c", 1, False, 60, FAKE)
    node_pid = described["pids"]["node-1"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        described["nodes"][0]["pid"] = stranger.pid
        assert processes.down(tmp_path / "c", described) == []
        assert stranger.poll() is None
    described["nodes"][0]["pid"] = node_pid
    assert processes.down(tmp_path / "c", described) == ["node-1"]


def test_a_stubborn_node_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TERMINATE_S", 0.2)
    described = processes.up(tmp_path / "c", 1, False, 60, (*FAKE, "--stubborn"))
    assert processes.down(tmp_path / "c", described) == ["node-1"]
    assert not runs(described["nodes"][0].get("pid") or 0)
