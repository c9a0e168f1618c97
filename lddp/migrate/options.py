"""What a rule's migration leaves out and how it treats what a target has: the settings kept in the rule's options."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgpack

from lddp.core.records import Kind
from lddp.errors import UsageError
from lddp.ports import Status
from lddp.replay.existing import OnExisting


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """Exclusions apply to the path relative to the rule's root; a directory that is excluded hides what is below it.

    `exclude` are shell patterns, matched against the whole path and against the last name; `exclude_regex` are
    searched in the path. Sizes in bytes, ages in seconds before the file was last modified; 0 is no limit. Size and
    age limits concern regular files. `bandwidth` is in bytes/s for each peer, 0 for no limit.
    """

    on_existing: str = OnExisting.SKIP_IDENTICAL.value
    delete_extraneous: bool = False
    exclude: tuple[str, ...] = ()
    exclude_regex: tuple[str, ...] = ()
    size_bytes_min: int = 0
    size_bytes_max: int = 0
    age_s_min: int = 0
    age_s_max: int = 0
    bandwidth: int = 0

    def to_bytes(self) -> bytes:
        data: bytes = msgpack.packb(asdict(self), use_bin_type=True, unicode_errors="surrogateescape")
        return data

    @staticmethod
    def from_bytes(data: bytes) -> MigrationOptions:
        """Options of a rule. Settings that this version does not know are an error, because they could not be kept."""
        values = msgpack.unpackb(data, raw=False, unicode_errors="surrogateescape") if data else {}
        return MigrationOptions.from_mapping(values)

    @staticmethod
    def from_mapping(values: dict[str, Any]) -> MigrationOptions:
        """UsageError for an unknown setting or a wrong value."""
        known = {field.name for field in fields(MigrationOptions)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(f"unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}")
        made: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        options = MigrationOptions(**made)
        options.check()
        return options

    def check(self) -> None:
        """UsageError for a pattern or policy that cannot be used, or a value of another type."""
        for field in fields(self):
            value = getattr(self, field.name)
            plain = type(field.default)
            texts = plain is tuple and type(value) is tuple and all(type(item) is str for item in value)
            if not texts and (plain is tuple or type(value) is not plain):
                wanted = "a list of texts" if plain is tuple else f"of type {plain.__name__}"
                raise UsageError(f"option {field.name} is {wanted}, not {value!r}")
            if plain is int and value < 0:
                raise UsageError(f"option {field.name} is not negative, not {value!r}")
        if self.on_existing not in {policy.value for policy in OnExisting}:
            raise UsageError(f"on_existing is one of {', '.join(OnExisting)}; not {self.on_existing!r}")
        for pattern in self.exclude_regex:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"the regular expression {pattern!r} is not valid: {error}") from None


class Exclusion:
    """The exclusions of some options, ready to be asked thousands of times a second."""

    def __init__(self, options: MigrationOptions, now_ns: int) -> None:
        self._options = options
        self._now_ns = now_ns
        self._pattern = _compile(options.exclude, options.exclude_regex)
        self._limits = any((options.size_bytes_min, options.size_bytes_max, options.age_s_min, options.age_s_max))
        self.excludes_nothing = self._pattern is None and not self._limits

    def excludes(self, path: bytes, status: Status) -> bool:
        """Whether the object at `path` (relative to the rule's root) is left out."""
        if self.excludes_nothing:
            return False
        if self._pattern is not None and self._pattern.search(path):
            return True
        return self._limits and status.kind is Kind.FILE and self._beyond_limits(status)

    def hides(self, path: bytes) -> bool:
        """Whether a pattern leaves out the path or a directory above it."""
        if self._pattern is None:
            return False
        parts = path.split(b"/")
        return any(self._pattern.search(b"/".join(parts[: depth + 1])) for depth in range(len(parts)))

    def _beyond_limits(self, status: Status) -> bool:
        options = self._options
        age_s = (self._now_ns - status.mtime_ns) / 1e9
        return (
            (options.size_bytes_min > 0 and status.size < options.size_bytes_min)
            or (0 < options.size_bytes_max < status.size)
            or (options.age_s_min > 0 and age_s < options.age_s_min)
            or (0 < options.age_s_max < age_s)
        )


def _compile(globs: Sequence[str], expressions: Sequence[str]) -> re.Pattern[bytes] | None:
    parts = [f"(?:{expression})" for expression in expressions]
    for glob in globs:
        translated = fnmatch.translate(glob)
        parts.append(rf"(?:\A{translated})" if "/" in glob else rf"(?:(?:\A|(?<=/)){translated})")
    if not parts:
        return None
    return re.compile("|".join(parts).encode("utf-8", "surrogateescape"), re.DOTALL)
