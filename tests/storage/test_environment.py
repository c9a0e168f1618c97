"""What an environment refuses at open, and what it survives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from lddp.core.tables import Table
from lddp.errors import CorruptError, StorageError, UsageError
from lddp.storage.environment import FORMAT_VERSION, Environment
from lddp.storage.overlay import Overlay
from lddp.storage.residency import shared_resident_bytes


def opened(
    directory: Path, *, ecosystem: str = "e", node: str = "n", witness: bool = False, map_size: int = 64 << 20
) -> Environment:
    return Environment.open(str(directory), ecosystem=ecosystem, node=node, witness=witness, map_size=map_size)


@pytest.fixture
def used(tmp_path: Path) -> Path:
    with opened(tmp_path) as environment:
        for start in range(0, 2000, 500):
            with environment.write() as tables:
                for number in range(start, start + 500):
                    tables.put(Table.INODES, number.to_bytes(8, "big"), b"v" * 100)
    return tmp_path


def test_what_was_committed_is_there_again(used: Path) -> None:
    with opened(used) as environment, environment.read() as tables:
        assert sum(1 for _ in tables.scan(Table.INODES)) == 2000


def test_another_nodes_database_is_refused(used: Path) -> None:
    with pytest.raises(UsageError, match="belongs to node 'n'"):
        opened(used, node="other")
    with pytest.raises(UsageError, match="belongs to ecosystem 'e'"):
        opened(used, ecosystem="other")
    opened(used).close()


def test_the_database_of_another_role_is_refused(tmp_path: Path) -> None:
    """A witness counts records and folds none: what comes after them has nothing to be folded onto."""
    opened(tmp_path / "w", witness=True).close()
    with pytest.raises(UsageError, match="belongs to a witness, and 'n' is a voter now"):
        opened(tmp_path / "w")
    opened(tmp_path / "w", witness=True).close()
    opened(tmp_path / "v").close()
    with pytest.raises(UsageError, match="belongs to a voter, and 'n' is a witness now"):
        opened(tmp_path / "v", witness=True)


def test_a_database_whose_marker_says_no_role_gets_that_of_its_next_start(used: Path) -> None:
    marker = json.dumps({"format": FORMAT_VERSION, "ecosystem": "e", "node": "n"}).encode()
    with lmdb.open(str(used), max_dbs=32) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"\x00environment", marker)
    opened(used, witness=True).close()
    with pytest.raises(UsageError, match="belongs to a witness"):
        opened(used)


def test_a_newer_format_is_refused(used: Path) -> None:
    marker = json.dumps({"format": FORMAT_VERSION + 1, "ecosystem": "e", "node": "n"}).encode()
    with lmdb.open(str(used), max_dbs=32) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"\x00environment", marker)
    with pytest.raises(UsageError, match="newer lddp"):
        opened(used)


@pytest.mark.parametrize("lost", [512, 4096, 8192])
def test_a_database_whose_making_lost_its_head_to_a_power_cut_is_made_again(used: Path, lost: int) -> None:
    data = used / "data.mdb"
    with open(data, "r+b") as file:
        file.write(bytes(lost))
    with pytest.raises(CorruptError, match="not a database of ours"):
        opened(used)
    (used / "marker.json").unlink()  # it comes when the database is whole
    with opened(used) as environment, environment.read() as tables:
        assert list(tables.scan(Table.INODES)) == []


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", b"b")
    with pytest.raises(CorruptError, match="without our marker"):
        opened(tmp_path)


def test_a_database_in_use_is_refused(used: Path) -> None:
    with opened(used):
        script = f"""
from lddp.errors import UsageError
from lddp.storage.environment import Environment
try:
    Environment.open({str(used)!r}, ecosystem="e", node="n")
except UsageError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
        assert "in use by another process" in done.stdout
        with pytest.raises(UsageError, match="in use"):
            opened(used)
    opened(used).close()


@pytest.mark.parametrize("part", [0.95, 0.6, 0.3, 0.1])
def test_a_truncated_file_is_refused(used: Path, part: float) -> None:
    data = used / "data.mdb"
    os.truncate(data, int(data.stat().st_size * part) // 4096 * 4096)
    with pytest.raises(CorruptError, match="restore this node"):
        opened(used)


def test_an_emptied_or_lost_file_is_refused(used: Path) -> None:
    os.truncate(used / "data.mdb", 0)
    with pytest.raises(CorruptError, match="gone or empty"):
        opened(used)
    os.unlink(used / "data.mdb")
    with pytest.raises(CorruptError, match="gone or empty"):
        opened(used)


@pytest.mark.parametrize("garbage", [b"x" * 20000, bytes(range(64)), b"x"], ids=["letters", "bytes", "one"])
def test_garbage_is_refused(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(garbage)
    with pytest.raises((CorruptError, StorageError)):
        opened(tmp_path)


def test_a_file_without_its_free_end_is_whole(used: Path) -> None:
    with opened(used) as environment, environment.write() as tables:
        for key, _ in list(tables.scan(Table.INODES)):
            tables.delete(Table.INODES, key)
    with opened(used) as environment:
        for number in range(4):
            with environment.write() as tables:
                tables.put(Table.META, b"k", b"%d" % number)
    data = used / "data.mdb"
    os.truncate(data, data.stat().st_size - 4096)
    with opened(used) as environment, environment.read() as tables:
        assert tables.get(Table.META, b"k") == b"3"


def test_a_full_map_is_a_storage_error_and_undone(tmp_path: Path) -> None:
    with opened(tmp_path, map_size=1 << 20) as environment:
        with pytest.raises(StorageError, match="raise map_size"), environment.write() as tables:
            for number in range(10000):
                tables.put(Table.INODES, number.to_bytes(8, "big"), b"v" * 500)
        with environment.read() as tables:
            assert list(tables.scan(Table.INODES)) == []
        with environment.write() as tables:
            tables.put(Table.META, b"k", b"v")


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        opened(tmp_path / "file" / "db")


def test_an_exception_undoes_the_transaction(used: Path) -> None:
    with opened(used) as environment:
        with pytest.raises(KeyError), environment.write() as tables:
            tables.put(Table.META, b"k", b"v")
            raise KeyError
        with environment.read() as tables:
            assert tables.get(Table.META, b"k") is None


def test_a_kill_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    script = f"""
import os, sys
from lddp.core.tables import Table
from lddp.storage.environment import Environment
environment = Environment.open({str(tmp_path)!r}, ecosystem="e", node="n", map_size=64 << 20)
for number in range(1000):
    with environment.write() as tables:
        tables.put(Table.LOG, number.to_bytes(8, "big"), b"v")
    os.write(1, b"%d\\n" % number)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 20:
                process.kill()
                break
        rest = process.stdout.read().split()
    acknowledged = max([20, *map(int, rest[:-1])])
    with opened(tmp_path) as environment, environment.read() as tables:
        keys = [int.from_bytes(key, "big") for key, _ in tables.scan(Table.LOG)]
    assert keys == list(range(len(keys))) and len(keys) > acknowledged


def test_dropping_the_map_keeps_the_data(used: Path) -> None:
    with opened(used) as environment, environment.read() as tables:
        before = list(tables.scan(Table.INODES))
        resident = shared_resident_bytes()
        environment.residency.drop()
        assert shared_resident_bytes() < resident
        assert list(tables.scan(Table.INODES)) == before


def test_a_transaction_that_has_ended_holds_no_readers_slot(tmp_path: Path) -> None:
    """Whoever still has a hand on it: a frame of a stored traceback, for instance."""
    with Environment.open(str(tmp_path), ecosystem="e", node="n", map_size=1 << 24) as environment:
        kept = []
        for _ in range(600):
            with environment.read() as tables:
                kept.append(tables)
        assert environment.lmdb.info()["num_readers"] < 20
        with pytest.raises(AssertionError, match="after its end"):
            kept[0].get(Table.META, b"key")


def test_who_keeps_a_transactions_get_holds_no_readers_slot(tmp_path: Path) -> None:
    """As what a pipelined mount has looked at does, until somebody looks for cycles."""
    with Environment.open(str(tmp_path), ecosystem="e", node="n", map_size=1 << 24) as environment:
        kept = []
        for _ in range(600):
            with environment.read() as tables:
                kept.append(Overlay(tables))
                assert kept[-1].get(Table.META, b"absent") is None
        assert environment.lmdb.info()["num_readers"] < 20
        with pytest.raises(AssertionError, match="after its end"):
            kept[0].get(Table.META, b"absent")
