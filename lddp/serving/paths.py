"""Paths between URLs, JSON and the namespace, without loss: a name is bytes and need not be UTF-8.

In a URL a path is percent-encoded bytes. In JSON it is text, where a byte that is not part of valid UTF-8 becomes
a lone surrogate U+DC80 to U+DCFF (PEP 383); beside such a text stands the same in base64, for readers that cannot
take it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from lddp.core.limits import PATH_BYTES_MAX
from lddp.errors import UsageError

_WELL_FORMED = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[^/\0]+)+\Z").match


def is_well_formed(path: bytes) -> bool:
    """Whether `path` is absolute, not the root, and without NUL, empty, `.` or `..` components."""
    return _WELL_FORMED(path) is not None and len(path) <= PATH_BYTES_MAX


def checked(path: bytes, *, root: bool = False) -> bytes:
    """`path` if it is well formed (or, with `root`, is `/`). Raises UsageError, which the API answers with 400."""
    if is_well_formed(path) or (root and path == b"/"):
        return path
    shown = text_of(path[:200])
    if path == b"/":
        raise UsageError("the root of the namespace itself cannot be changed; name something below it")
    if len(path) > PATH_BYTES_MAX:
        raise UsageError(f"a path of {len(path)} bytes is too long; {PATH_BYTES_MAX} are possible")
    raise UsageError(
        f"the path {shown!r} is not valid; it must be absolute, without '.', '..', NUL and empty components"
    )


def from_url(raw: str, prefix: str, *, root: bool = False) -> bytes:
    """The namespace path in a request target (`/v1/files/a%FFb?op=stat` with the prefix `/v1/files`)."""
    target = raw.partition("?")[0].partition("#")[0]
    rest = target.removeprefix(prefix)
    if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        raise UsageError("the request's path has a '%' without two hexadecimal digits; encode '%' itself as %25")
    path = unquote_to_bytes(rest)
    if len(path) > 1 and path.endswith(b"/"):
        path = path[:-1]
    return checked(path or b"/", root=root)


def text_of(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def named(key: str, name: bytes) -> dict[str, str]:
    """`{key: text}`, and `key_base64` where the bytes are not UTF-8."""
    text = text_of(name)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return {key: text, f"{key}_base64": base64.b64encode(name).decode("ascii")}
    return {key: text}


def bytes_in(document: Mapping[str, Any], key: str) -> bytes | None:
    """The bytes that a JSON document gives as `key` (text) or `key_base64`; None where it gives neither."""
    encoded = document.get(f"{key}_base64")
    value = document.get(key)
    try:
        if isinstance(encoded, str):
            return base64.b64decode(encoded, validate=True)
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
    except (binascii.Error, UnicodeEncodeError):
        raise UsageError(f"'{key}' is not text or base64 of bytes; correct it") from None
    if value is None and encoded is None:
        return None
    raise UsageError(f"'{key}' must be text, or '{key}_base64' base64")
