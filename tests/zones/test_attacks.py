"""Somebody swaps directories for symlinks while the zone works: nothing outside of the root changes or is read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lddp.core.records import Kind
from lddp.zones.posix import PosixZone
from tests.fakes.zone import Bytes
from tests.zones.conftest import attributes, read

ROUNDS = 300


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    (path / "sub").mkdir(parents=True)
    for name in ("f", "sub/f"):
        (path / name).write_bytes(b"outside")
        os.chmod(path / name, 0o604)
        os.utime(path / name, ns=(1, 1))
    return path


def fingerprint(path: Path) -> list[tuple[str, int, int, int, int]]:
    found = []
    for directory, _, files in os.walk(path):
        for name in [".", *files]:
            status = os.stat(os.path.join(directory, name))
            found.append((name, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns))
    return sorted(found)


@contextmanager
def swapping(root: Path, outside: Path) -> Iterator[None]:
    """`root/d` is, in turns, a directory and a symlink to `outside`."""
    stop = threading.Event()
    real, link = root / "real", root / "link"
    link.symlink_to(outside)

    def swap() -> None:
        while not stop.is_set():
            for name in (real, link):
                os.rename(root / "d", root / "aside")
                os.rename(name, root / "d")
                os.rename(root / "aside", name)

    (root / "d" / "sub").mkdir(parents=True)
    real.mkdir()
    (real / "sub").mkdir()
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("openat2", [True, False])
def test_swapped_directory(
    root: Path, staging: Path, outside: Path, no_openat2: Callable[[], None], openat2: bool
) -> None:
    if not openat2:
        no_openat2()
    before = fingerprint(outside)
    with PosixZone(str(root), str(staging)) as zone, swapping(root, outside):
        work: list[Callable[[], object]] = [
            lambda: zone.put_file(b"d/f", attributes(), Bytes(b"inside")),
            lambda: zone.put_file(b"d/sub/f", attributes(), Bytes(b"inside")),
            lambda: zone.set_attributes(b"d/f", Kind.FILE, attributes(0o777, 5, ((b"user.x", b"x"),))),
            lambda: zone.write(b"d/sub/f", 0, Bytes(b"INSIDE"), 6, attributes()),
            lambda: zone.make_directory(b"d/new", attributes(0o777)),
            lambda: zone.make_node(b"d/l", Kind.SYMLINK, attributes(), b"x", 0),
            lambda: zone.link(b"d/f", b"d/sub/g"),
            lambda: zone.rename(b"d/l", b"d/sub/l"),
            lambda: zone.remove(b"d/f"),
            lambda: zone.remove(b"d/sub/f"),
            lambda: zone.list(b"d/sub"),
        ]
        done = 0
        for _ in range(ROUNDS):
            for step in work:
                try:
                    step()
                    done += 1
                except (FileNotFoundError, NotADirectoryError):
                    continue
            try:
                assert read(zone, b"d/sub/f") != b"outside"
            except (FileNotFoundError, NotADirectoryError):
                continue
        assert done > 0
    assert fingerprint(outside) == before


def test_swapped_object(root: Path, staging: Path, outside: Path) -> None:
    """The object itself becomes a symlink: its target keeps its attributes and content."""
    before = fingerprint(outside)
    stop = threading.Event()
    (root / "x").write_bytes(b"x")
    (root / "y").symlink_to(outside / "f")

    def swap() -> None:
        while not stop.is_set():
            for one, other in (("x", "t"), ("y", "x"), ("t", "y")):
                os.rename(root / one, root / other)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        with PosixZone(str(root), str(staging)) as zone:
            for number in range(ROUNDS * 5):
                for change in (
                    lambda number=number: zone.set_attributes(b"x", Kind.FILE, attributes(0o600 + number % 8, number)),
                    lambda: zone.truncate(b"x", 0, attributes()),
                    lambda: zone.make_directory(b"x/d", attributes(0o777)),
                    lambda: zone.xattrs(b"x"),
                ):
                    try:
                        change()
                    except (FileNotFoundError, NotADirectoryError):
                        continue
                    except OSError as error:
                        assert "Invalid" in str(error)
    finally:
        stop.set()
        thread.join()
    assert fingerprint(outside) == before


def test_removing_while_the_tree_is_swapped(root: Path, staging: Path, outside: Path) -> None:
    before = fingerprint(outside)
    with PosixZone(str(root), str(staging)) as zone:
        for _ in range(30):
            for number in range(5):
                (root / "t" / f"a{number}" / "b" / "c").mkdir(parents=True)
            stop = threading.Event()
            held = os.open(root / "t", os.O_RDONLY)  # goes along wherever the zone moves the tree to

            def swap(held: int = held, stop: threading.Event = stop) -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    try:
                        os.symlink(outside, f"s{number}", dir_fd=held)
                        os.rename("a0/b", f"b{number}", src_dir_fd=held, dst_dir_fd=held)
                        os.rename(f"s{number}", "a0/b", src_dir_fd=held, dst_dir_fd=held)
                    except OSError:
                        return

            thread = threading.Thread(target=swap)
            thread.start()
            zone.remove(b"t")
            stop.set()
            thread.join()
            os.close(held)
            assert not (root / "t").exists()
    assert fingerprint(outside) == before


def test_many_threads(root: Path, staging: Path) -> None:
    """One zone serves several threads, in the same directory and over the same names."""
    with PosixZone(str(root), str(staging)) as zone:
        zone.make_directory(b"d", attributes(0o755))
        failures: list[BaseException] = []

        def work(worker: int) -> None:
            try:
                for number in range(200):
                    own = b"d/%d-%d" % (worker, number)
                    zone.put_file(own, attributes(), Bytes(own))
                    zone.put_file(b"d/shared", attributes(), Bytes(own))
                    assert zone.status(own).size == len(own)
                    if number % 3 == 0:
                        zone.rename(own, own + b"r")
                        zone.list(b"d")
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(zone.list(b"d")) == 801
        for name, _ in zone.list(b"d"):
            if name != b"shared":
                assert read(zone, b"d/" + name) == b"d/" + name.rstrip(b"r")
