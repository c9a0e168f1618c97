"""`lddp migrate --once` as a program, above all where it is used wrongly: one line, an exit code, and SRC untouched."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lddp.cli.embedded import Embedded
from lddp.cli.main import run
from tests.node.trees import describe

NOBODY = 65534
TIMEOUT_S = 90
STOPPED = "Stopped; nothing is lost. Run the same command again to resume."


def migrate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lddp.cli.main", "migrate", "--once", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


class Here:
    """The command in this process, for what is refused before anything begins."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        code = run(["migrate", "--once", *map(str, arguments)])
        return subprocess.CompletedProcess([], code, *self._capsys.readouterr())


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(capsys)


may_mount = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root may mount")


def with_mounts(script: str, source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """A shell's script, where mounts are its own: $1 and $2 are SRC and DST, $3 is Python."""
    arguments = ["unshare", "-m", "sh", "-ec", script, "sh", str(source), str(target), sys.executable]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def assert_refused(result: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """The exit code, and one line that says all of this."""
    assert result.returncode == code, result
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("lddp: ")
    assert "Traceback" not in result.stdout + result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A small SRC, which nothing may write to, and a DST that is not there yet."""
    source = tmp_path / "from"
    (source / "d").mkdir(parents=True)
    for number in range(20):
        (source / "d" / f"{number}").write_bytes(b"%d" % number * 100)
    os.symlink("d/7", source / "link")
    before, times = describe(source), [os.lstat(path).st_ctime_ns for path in sorted(source.rglob("*"))]
    yield source, tmp_path / "to"
    assert describe(source) == before
    assert [os.lstat(path).st_ctime_ns for path in sorted(source.rglob("*"))] == times


def test_paths_that_cannot_work(pair: tuple[Path, Path], here: Here) -> None:
    source, target = pair
    file = source / "d" / "7"
    assert_refused(here(source, source / "d" / "to"), 2, "is inside SRC", "choose a target outside")
    assert_refused(here(source / "d", source), 2, "is inside DST")
    assert_refused(here(source, source), 2, "the same directory")
    assert_refused(here(target, source), 2, f"{target} does not exist")
    assert_refused(here(file, target), 2, "is not a directory")
    assert_refused(here(source, file.parent.parent.parent / "no" / "to"), 2, "make it first")
    (target.parent / "a file").write_bytes(b"")
    assert_refused(here(source, target.parent / "a file"), 2, "exists and is not a directory")
    (target.parent / "alias").symlink_to(source)
    assert_refused(here(source, target.parent / "alias" / "to"), 2, "is inside SRC")
    assert not target.exists()
    assert sorted(path.name for path in target.parent.iterdir()) == ["a file", "alias", "from"]


def test_settings_that_cannot_be_used(pair: tuple[Path, Path], here: Here) -> None:
    source, target = pair
    assert_refused(here(source, target, "--exclude-regex", "("), 2, "'('", "not valid")
    assert_refused(here(source, target, "--exclude-regex", "a{99999999999999999}"), 2, "not valid", "too large")
    assert_refused(here(source, target, "--bwlimit", "100000000000G"), 2, "bandwidth is at most")
    assert_refused(here(source, target, "--on-existing", "rename"), 2, "rename")
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("closed/to", ("is not writable for this user", "choose another DST")),
        ("closed", ("cannot be", "change its owner")),
    ],
)
def test_a_target_without_rights(name: str, expected: tuple[str, ...]) -> None:
    """Beside it, where the state is to be kept, or in itself."""
    top = Path(tempfile.mkdtemp(prefix="lddp-"))
    try:
        top.chmod(0o777)
        (top / "from").mkdir()
        (top / "closed").mkdir(mode=0o555)
        script = (
            "import os, sys, lddp.cli.main as m, lddp.cli.migrate\n"
            f"if os.geteuid() == 0: os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
            "sys.exit(m.run(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", script, "migrate", "--once", str(top / "from"), str(top / name)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert_refused(result, 4, *expected)
        assert sorted(path.name for path in top.rglob("*")) == ["closed", "from"]
    finally:
        shutil.rmtree(top)


def test_a_disk_that_is_full_at_the_first_start_leaves_nothing_half_done(
    pair: tuple[Path, Path], here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = pair
    state = target.parent / ".to.lddp"

    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    for call in ("mkdir", "write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, call, full)
            assert_refused(here(source, target), 1, "space")
    write_text = Path.write_text

    def full_for_tokens(path: Path, data: str) -> int:
        if path.name == "token":
            full(path)
        return write_text(path, data)

    monkeypatch.setattr(Path, "write_text", full_for_tokens)
    assert_refused(here(source, target), 1, "space")
    monkeypatch.undo()
    embedded = Embedded(source, target, state)
    embedded.open()
    assert len((state / "token").read_text()) > 32
    assert stat.S_IMODE((state / "token").stat().st_mode) == 0o600


@may_mount
def test_a_disk_without_room_for_databases_is_refused_at_once(pair: tuple[Path, Path]) -> None:
    source, target = pair
    target.mkdir()
    script = 'mount -t tmpfs -o size=1M none "$2" && "$3" -m lddp.cli.main migrate "$1" "$2"; ls -A "$2"'
    result = with_mounts(script, source, target)
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1 and "is full" in result.stderr and "16 MiB" in result.stderr, result


@may_mount
def test_a_disk_that_got_full_does_not_keep_a_migration_from_its_end(pair: tuple[Path, Path]) -> None:
    """The databases are there."""
    source, target = pair
    target.mkdir()
    script = (
        'mount -t tmpfs -o size=64M none "$2"; "$3" -m lddp.cli.main migrate --once "$1" "$2/to"'
        ' && fallocate -l $(($(df --output=avail -B1 "$2" | tail -1) - 10485760)) "$2/more"'
        ' && "$3" -m lddp.cli.main migrate --once "$1" "$2/to" && diff -r --no-dereference "$1" "$2/to"'
    )
    result = with_mounts(script, source, target)
    assert (result.returncode, result.stderr) == (0, ""), result
    assert result.stdout.count("the zones are identical") == 2


@may_mount
def test_a_target_that_is_a_mount_point(pair: tuple[Path, Path]) -> None:
    """The state is inside of it, hidden meanwhile and gone afterwards."""
    source, target = pair
    target.mkdir()
    script = (
        'mount -t tmpfs none "$2" && mkdir "$2/more"'
        ' && "$3" -m lddp.cli.main migrate --once --delete-extraneous "$1" "$2" && diff -r --no-dereference "$1" "$2"'
        ' && test "$(stat -c %y "$1")" = "$(stat -c %y "$2")"'
    )
    result = with_mounts(script, source, target)
    assert (result.returncode, result.stderr) == (0, ""), result
    assert "the zones are identical" in result.stdout and "Besides" not in result.stdout
    assert list(target.iterdir()) == [] and not (target.parent / ".to.lddp").exists()


@may_mount
def test_a_source_on_another_filesystem_than_before_is_refused(pair: tuple[Path, Path]) -> None:
    """Their roots have the same inode number."""
    source, target = pair
    script = (
        'mount -t tmpfs none "$1"; echo precious > "$1/f"; stat -c %i "$1"'
        ' && "$3" -m lddp.cli.main migrate --once "$1" "$2"'
        ' && umount "$1" && mount -t tmpfs none "$1" && stat -c %i "$1"'
        ' && "$3" -m lddp.cli.main migrate --once "$1" "$2"'
    )
    result = with_mounts(script, source, target)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result
    assert "is not the directory that was migrated before" in result.stderr and "to start afresh" in result.stderr
    first, *_, last = result.stdout.split("\n")[:-1]
    assert first == last
    assert (target / "f").read_text() == "precious\n"


def test_a_source_of_which_an_earlier_version_noted_the_inode_number_alone(pair: tuple[Path, Path], here: Here) -> None:
    source, target = pair
    state = target.parent / ".to.lddp"

    def known() -> dict[str, str | int]:
        found: dict[str, str | int] = json.loads((state / "migrate.json").read_text())
        return found

    assert migrate(source, target).returncode == 0
    noted = known()
    earlier = {key: value for key, value in noted.items() if key != "source_root"}
    (state / "migrate.json").write_text(json.dumps(earlier))
    assert migrate(source, target).returncode == 0
    assert known() == noted
    source.rename(source.parent / "before")
    source.mkdir()
    assert_refused(here(source, target), 2, str(source), "is not the directory", str(state), "afresh")
    assert known() == noted
    source.rmdir()
    (source.parent / "before").rename(source)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_migration_says_how_it_goes_on(pair: tuple[Path, Path], number: signal.Signals) -> None:
    """And leaves no process behind, and goes on."""
    source, target = pair
    command = [sys.executable, "-m", "lddp.cli.main", "migrate", "--json", str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        shown = iter(process.stdout)
        while json.loads(next(shown))["phase"] != "live":
            pass
        described = json.loads((target.parent / ".to.lddp" / "cluster.json").read_text())
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == 130
        assert process.stderr.read().split("\n") == ["", STOPPED, ""]
    assert len(described["pids"]) == 3
    told = {name: (target.parent / ".to.lddp" / f"{name}.log").read_text() for name in described["pids"]}
    assert all(f"node {name} of migrate-" in log and f"node {name} stops" in log for name, log in told.items())
    assert any("this node leads" in log for log in told.values())
    assert not any(Path(f"/proc/{pid}").exists() for pid in described["pids"].values())
    assert not (target.parent / ".to.lddp" / "cluster.json").exists()
    assert migrate(source, target).returncode == 0
    assert describe(target) == describe(source)


def test_from_the_first_run_to_a_damaged_database(pair: tuple[Path, Path]) -> None:
    source, target = pair
    state = target.parent / ".to.lddp"
    first = migrate(source, target, "--json")
    assert first.returncode == 0, first
    receipt = json.loads(first.stdout.splitlines()[-1])
    assert receipt["holds"] is True
    assert describe(target) == describe(source)

    with (state / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_refused(migrate(source, target), 2, "another 'lddp migrate'", "stop it first")

    other = target.parent / "another source"
    other.mkdir()
    assert_refused(migrate(other, target), 2, "is the target of", str(source), "remove")

    identified = (state / "migrate.json").read_bytes()
    (state / "migrate.json").write_bytes(b"{")
    assert_refused(migrate(source, target), 2, "migrate.json is damaged")
    (state / "migrate.json").write_bytes(identified)

    database = state / "target" / "data" / "data.mdb"
    whole = database.read_bytes()
    for damaged in (b"noise" * 5000, whole[: len(whole) // 3]):
        database.write_bytes(damaged)
        result = migrate(source, target)
        assert result.returncode in (1, 2), result
        assert_refused(result, result.returncode, "target", "data.mdb", "afresh")
        assert database.read_bytes() == damaged
    assert describe(target) == describe(source)
    database.write_bytes(whole)
    again = migrate(source, target)
    assert again.returncode == 0, again
    assert describe(target) == describe(source)
