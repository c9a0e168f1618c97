"""Delegation tokens: signed, not stored, so that every node of the ecosystem takes them and none keeps a list.

The form is Hadoop's (`org.apache.hadoop.security.token.Token.encodeToUrlString` over an
`AbstractDelegationTokenIdentifier`), because its clients decode what they are given, put the service's name into it and
encode it again. The password is HMAC-SHA256 of the identifier; the key is derived from the ecosystem's bearer token, so
a new bearer token ends all of them. A token cannot be renewed beyond its end, nor ended earlier.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import NamedTuple

KIND = b"WEBHDFS delegation"
LIFETIME_MS = 24 * 3600 * 1000
TOKEN_CHARACTERS_MAX = 4096
_LABEL = b"lddp webhdfs delegation token 1"
_VERSION = 0


class Invalid(Exception):
    """Not a token of this ecosystem, or one that has ended; the message says which."""


class Identifier(NamedTuple):
    owner: str
    renewer: str
    issued_ms: int
    """Since the epoch, as `end_ms`."""
    end_ms: int

    def encode(self) -> bytes:
        names = _text(self.owner.encode()) + _text(self.renewer.encode()) + _text(b"")
        return bytes([_VERSION]) + names + _number(self.issued_ms) + _number(self.end_ms) + _number(0) + _number(0)


def decode(data: bytes) -> Identifier:
    """Raises Invalid."""
    reader = _Reader(data)
    if reader.take(1)[0] != _VERSION:
        raise Invalid("the token's identifier has an unknown version")
    owner, renewer, _real = reader.bytes(), reader.bytes(), reader.bytes()
    issued, end = reader.number(), reader.number()
    try:
        return Identifier(owner.decode(), renewer.decode(), issued, end)
    except UnicodeDecodeError:
        raise Invalid("the token's owner is not text") from None


class Tokens:
    """Issues and checks tokens for who knows the bearer token `secret`."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), _LABEL, "sha256")

    def _sign(self, identifier: bytes) -> bytes:
        return hmac.digest(self._key, identifier, "sha256")

    def issue(self, owner: str, renewer: str, now_ms: int, service: str) -> str:
        identifier = Identifier(owner, renewer, now_ms, now_ms + LIFETIME_MS).encode()
        fields = _text(identifier) + _text(self._sign(identifier)) + _text(KIND) + _text(service.encode())
        return base64.urlsafe_b64encode(fields).rstrip(b"=").decode("ascii")

    def check(self, text: str, now_ms: int) -> Identifier:
        """What a token says, if this ecosystem has signed it and its time has not come. Raises Invalid."""
        if len(text) > TOKEN_CHARACTERS_MAX:
            raise Invalid("the token is too long")
        try:
            data = base64.b64decode(
                text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True
            )
        except (binascii.Error, ValueError):
            raise Invalid("the token is not base64 for URLs") from None
        reader = _Reader(data)
        identifier, password = reader.bytes(), reader.bytes()
        if not hmac.compare_digest(password, self._sign(identifier)):
            raise Invalid("the token was not issued by this ecosystem")
        found = decode(identifier)
        if found.end_ms <= now_ms:
            raise Invalid(f"the token of {found.owner} has expired")
        return found


# -- Hadoop's Writables (org.apache.hadoop.io.WritableUtils) ----------------------------------------------------------


def _number(value: int) -> bytes:
    """writeVLong, for what is not negative: one byte up to 127, else 143 less the count of bytes, then those."""
    if value <= 127:
        return bytes([value])
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([(-112 - len(data)) & 0xFF]) + data


def _text(data: bytes) -> bytes:
    return _number(len(data)) + data


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise Invalid("the token is cut short")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self) -> int:
        first = self.take(1)[0]
        if first <= 127:
            return first
        size = -112 - (first - 256)
        if not 1 <= size <= 8:
            raise Invalid("the token holds a number that cannot be")
        return int.from_bytes(self.take(size), "big")

    def bytes(self) -> bytes:
        return self.take(self.number())
