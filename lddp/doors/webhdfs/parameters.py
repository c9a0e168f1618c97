"""The query of a WebHDFS request. Names are compared without case, as Hadoop's servers do (clients send `createParent`
and `createparent`), and so are booleans and enumerations (HdfsCLI sends `recursive=True`). What an operation does not
know is ignored. An empty value is an absent one."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from lddp.doors.webhdfs.remote import illegal
from lddp.errors import UsageError
from lddp.serving.paths import checked

FIELDS_MAX = 256
LONG_MAX = 2**63 - 1
SHORT_MAX = 2**15 - 1
INT_MAX = 2**31 - 1
ACTION = re.compile(r"[r-][w-][x-]")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*\$?")
"""Hadoop's `dfs.webhdfs.user.provider.user.pattern`."""


class Parameters:
    def __init__(self, query: str) -> None:
        """Raises RemoteError. Bytes that are not UTF-8 become lone surrogates (PEP 383)."""
        try:
            pairs = parse_qsl(
                query, keep_blank_values=True, encoding="utf-8", errors="surrogateescape", max_num_fields=FIELDS_MAX
            )
        except ValueError:
            raise illegal("query", f"more than {FIELDS_MAX} parameters") from None
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if value:
                self._values.setdefault(name.lower(), []).append(value)

    def text(self, name: str) -> str:
        """The first value, as Hadoop takes it; empty where there is none."""
        return self._values.get(name, [""])[0]

    def texts(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.text(name).lower()
        if not value:
            return default
        if value not in ("true", "false"):
            raise illegal(name, f'Failed to parse "{value}" to Boolean.')
        return value == "true"

    def number(self, name: str, default: int, low: int = 0, high: int = LONG_MAX) -> int:
        value = self.text(name)
        if not value:
            return default
        # More than 19 digits are out of every range; Python would take its time with them.
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", value):
            raise illegal(name, f'Failed to parse "{value[:40]}" as a radix-10 long integer.')
        number = int(value)
        if not low <= number <= high:
            bound = f"{number} < {low}" if number < low else f"{number} > {high}"
            raise illegal(name, f"Invalid parameter range: {name} = {bound}")
        return number

    def permission(self, name: str, default: int) -> int:
        value = self.text(name)
        if not value:
            return default
        if not re.fullmatch(r"[01]?[0-7]{1,3}", value.lstrip("0") or "0"):
            raise illegal(name, f'Failed to parse "{value[:40]}" as a radix-8 short integer, from 0 to 1777.')
        return int(value, 8)

    def user(self, name: str) -> str:
        value = self.text(name)
        if value and not USER.fullmatch(value):
            raise illegal(name, f'"{value[:80]}" does not belong to the domain {USER.pattern}')
        return value

    def choice(self, name: str, *known: str) -> str:
        """One of `known`, in upper case; empty where it is absent."""
        value = self.text(name).upper()
        if value and value not in known:
            raise illegal(name, f"No enum constant {value[:40]}; it is one of {', '.join(known)}")
        return value

    def choices(self, name: str, *known: str) -> frozenset[str]:
        """Any of `known` between commas, in upper case."""
        values = frozenset(one for one in self.text(name).upper().replace(" ", "").split(",") if one)
        if not values <= frozenset(known):
            raise illegal(name, f"No enum constant; each is one of {', '.join(known)}")
        return values

    def action(self, name: str) -> str:
        value = self.text(name).lower()
        if not ACTION.fullmatch(value):
            raise illegal(name, f'"{value[:40]}" does not belong to the domain {ACTION.pattern}')
        return value

    def path(self, name: str) -> bytes:
        """An absolute path, which must be there."""
        value = self.text(name)
        if not value:
            raise illegal(name, "it is missing")
        return path_of(name, value)

    def paths(self, name: str) -> list[bytes]:
        """Absolute paths between commas; at least one."""
        value = self.text(name)
        if not value:
            raise illegal(name, "it is missing")
        return [path_of(name, one) for one in value.split(",")]


def path_of(name: str, value: str) -> bytes:
    path = value.encode("utf-8", "surrogateescape")
    if len(path) > 1 and path.endswith(b"/"):
        path = path[:-1]
    try:
        return checked(path)
    except UsageError as error:
        raise illegal(name, str(error)) from None
