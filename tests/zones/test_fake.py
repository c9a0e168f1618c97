"""Errors on demand."""

from __future__ import annotations

import errno

import pytest

from tests.fakes.zone import Bytes, FakeZone
from tests.zones.conftest import attributes, read


def test_faults() -> None:
    zone = FakeZone()
    zone.fail(errno.EIO, path=b"f", times=1)
    with pytest.raises(OSError) as caught:
        zone.put_file(b"f", attributes(), Bytes(b"1"))
    assert caught.value.errno == errno.EIO
    zone.put_file(b"f", attributes(), Bytes(b"1"))
    zone.fail(errno.EACCES, method="remove")
    for _ in range(2):
        with pytest.raises(PermissionError):
            zone.remove(b"f")
    zone.heal()
    zone.remove(b"f")
    assert zone.calls == [("put_file", b"f"), ("remove", b"f")]


def test_capacity() -> None:
    zone = FakeZone(capacity=10)
    zone.put_file(b"f", attributes(), Bytes(b"12345678"))
    with pytest.raises(OSError) as caught:
        zone.put_file(b"g", attributes(), Bytes(b"123"))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError):
        zone.truncate(b"f", 11, attributes())
    assert zone.free_bytes() == 2
    zone.remove(b"f")
    zone.put_file(b"g", attributes(), Bytes(b"1234567890"))
    assert read(zone, b"g") == b"1234567890"


def test_observing_only() -> None:
    zone = FakeZone(observe_only=True)
    with pytest.raises(OSError) as caught:
        zone.make_directory(b"d", attributes())
    assert caught.value.errno == errno.EROFS
