"""Fields of the messages between nodes: what a peer of another version may send, or leave out, is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from lddp.errors import FormatError

_T = TypeVar("_T")
_INTEGER_MAX = 1 << 62


def number(message: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number, not negative. FormatError for anything else, and where there is neither it nor a default."""
    value = message.get(key, default)
    if type(value) is not int or not 0 <= value < _INTEGER_MAX:
        raise FormatError(f"{key!r} is missing, or no whole number in range")
    return value


def several(message: Mapping[str, Any], key: str, kind: type[_T]) -> list[_T]:
    """All of one type; none where the field is missing. FormatError."""
    return checked_list(message.get(key, []), key, kind)


def checked_list(value: object, key: str, kind: type[_T]) -> list[_T]:
    if type(value) is not list or not all(type(one) is kind for one in value):
        raise FormatError(f"{key!r} is not a list of {kind.__name__}")
    return value


def text(message: Mapping[str, Any], key: str) -> str:
    """FormatError where there is none."""
    value = message.get(key)
    if type(value) is not str:
        raise FormatError(f"{key!r} is missing, or no text")
    return value
