"""Errors that opens are told of once."""

from __future__ import annotations

import errno

import pytest

from lddp.doors.fuse import errors as module
from lddp.doors.fuse.errors import Errors


def test_each_open_is_told_once_of_each_error() -> None:
    errors = Errors()
    one, two, other = errors.open(1), errors.open(1), errors.open(2)
    errors.add([1], errno.EEXIST)
    assert [errors.look(one), errors.look(one), errors.look(two), errors.look(other)] == [
        errno.EEXIST,
        0,
        errno.EEXIST,
        0,
    ]
    errors.add([1, 2], errno.ESTALE)
    assert [errors.look(opened) for opened in (one, two, other, one)] == [errno.ESTALE, errno.ESTALE, errno.ESTALE, 0]


def test_an_error_that_was_told_is_none_for_later_opens() -> None:
    errors = Errors()
    errors.add([1], errno.EEXIST)
    first, second = errors.open(1), errors.open(1)
    assert errors.look(first) == errno.EEXIST
    assert errors.look(second) == errno.EEXIST  # it was open before anybody was told
    assert errors.look(errors.open(1)) == 0


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_MAX", 2)
    errors = Errors()
    opened = [errors.open(number) for number in (1, 2, 3)]
    errors.add([1], errno.EEXIST)
    errors.add([2, 3], errno.EIO)
    assert [errors.look(one) for one in opened] == [0, errno.EIO, errno.EIO]
