"""Zones to test: PosixZone on a real filesystem, FakeZone in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lddp.core.records import Attributes, Xattrs
from lddp.zones.posix import PosixZone
from tests.fakes.zone import FakeZone

AnyZone = PosixZone | FakeZone
IS_ROOT = os.geteuid() == 0
root_only = pytest.mark.skipif(not IS_ROOT, reason="needs root")


def attributes(mode: int = 0o644, mtime_ns: int = 1_600_000_000_123_456_789, xattrs: Xattrs = ()) -> Attributes:
    """Attributes with this process's owner."""
    return Attributes(mode, os.geteuid(), os.getegid(), mtime_ns, xattrs)


def read(zone: AnyZone, path: bytes) -> bytes:
    descriptor = zone.open_read(path)
    try:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def names(zone: AnyZone, path: bytes = b"") -> list[bytes]:
    return [name for name, _ in zone.list(path)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    path = tmp_path / "staging"
    path.mkdir()
    return path


@pytest.fixture
def posix(root: Path, staging: Path) -> Iterator[PosixZone]:
    """Ends with nothing left in staging but what is parked, and no descriptor more than before."""
    before = len(os.listdir("/proc/self/fd"))
    with PosixZone(str(root), str(staging)) as zone:
        yield zone
        assert os.listdir(staging / "temporary") == []
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture(params=["posix", "fake"])
def zone(request: pytest.FixtureRequest) -> AnyZone:
    if request.param == "fake":
        return FakeZone()
    found: PosixZone = request.getfixturevalue("posix")
    return found


@pytest.fixture
def no_openat2(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes zones opened afterwards walk paths as on a kernel without openat2."""

    def disable() -> None:
        monkeypatch.setattr("lddp.zones.resolve._has_openat2", lambda directory: False)

    return disable
