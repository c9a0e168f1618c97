"""What a rule's migration leaves out and how it treats what a target has: the settings kept in the rule's options."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgpack

from lddp.core.records import Kind
from lddp.errors import UsageError
from lddp.ports import Status
from lddp.replay.existing import OnExisting

INTEGER_MAX = (1 << 63) - 1
SHOWN_MAX = 100
"""Characters of a pattern in a message."""


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """Exclusions apply to the path relative to the rule's root; a directory that is excluded hides what is below it.

    `exclude` are shell patterns, matched against the whole path where they hold a `/`, which may be their first
    character, else against the last name; one that ends in `/` means directories only. `exclude_regex` are searched in
    the path. Both are of characters, as which bytes that are no UTF-8 count one by one. Sizes in bytes, ages in seconds
    before the file was last modified; 0 is no limit. Size and age limits concern regular files that the log does not
    have yet: one that it has is followed, however it grows or is changed. `bandwidth` is in bytes/s for each peer, 0
    for no limit.
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
        """UsageError for a pattern or policy that cannot be used, or a value of another type or beyond INTEGER_MAX."""
        for field in fields(self):
            value = getattr(self, field.name)
            plain = type(field.default)
            texts = plain is tuple and type(value) is tuple and all(type(item) is str for item in value)
            if not texts and (plain is tuple or type(value) is not plain):
                wanted = "a list of texts" if plain is tuple else f"of type {plain.__name__}"
                raise UsageError(f"option {field.name} is {wanted}, not {value!r}")
            if plain is int and value < 0:
                raise UsageError(f"option {field.name} is not negative, not {value!r}")
            if plain is int and value > INTEGER_MAX:
                raise UsageError(f"option {field.name} is at most {INTEGER_MAX}, not {value!r}")
        if self.on_existing not in {policy.value for policy in OnExisting}:
            raise UsageError(f"on_existing is one of {', '.join(OnExisting)}; not {self.on_existing!r}")
        for glob in self.exclude:
            with _usable("the pattern", glob):
                _compile([glob], ())
        for expression in self.exclude_regex:
            with _usable("the regular expression", expression):
                _expression(expression)


@contextmanager
def _usable(what: str, text: str) -> Iterator[None]:
    """UsageError in place of what Python says of a pattern that it cannot use."""
    try:
        yield
    except RecursionError:
        reason = "it is nested too deeply"
    except UnicodeEncodeError:
        reason = "it has half of a surrogate pair"
    except (re.error, OverflowError) as error:
        reason = str(error)
    else:
        return
    shown = text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "..."
    raise UsageError(f"{what} {shown!r} is not valid: {reason}")


def _nothing(_handle: bytes) -> bool:
    return False


class Exclusion:
    """The exclusions of some options, ready to be asked thousands of times a second. Files are as old as they are at
    `now_ns`, nanoseconds since the epoch: nothing would tell that one has grown old enough meanwhile."""

    def __init__(self, options: MigrationOptions, now_ns: int) -> None:
        self._options = options
        self._now_ns = now_ns
        self._patterns = _compile([glob for glob in options.exclude if not glob.endswith("/")], options.exclude_regex)
        self._of_directories = _compile([glob for glob in options.exclude if glob.endswith("/")], ())
        self._limits = any((options.size_bytes_min, options.size_bytes_max, options.age_s_min, options.age_s_max))
        self._has_patterns = bool(self._patterns or self._of_directories)
        self.excludes_nothing = not (self._has_patterns or self._limits)

    def excludes(self, path: bytes, status: Status, is_in_log: Callable[[bytes], bool] = _nothing) -> bool:
        """Whether the object at `path` (relative to the rule's root) is left out. `is_in_log` says of its handle
        whether the log has the object, about which size and age do not decide any more."""
        if self.excludes_nothing:
            return False
        if self.matches(path, status.kind):
            return True
        return (
            self._limits
            and status.kind is Kind.FILE
            and self._is_beyond_limits(status)
            and not is_in_log(status.handle)
        )

    def matches(self, path: bytes, kind: Kind | None) -> bool:
        """Whether a pattern leaves out the path, at which something of this kind is (None: nobody knows)."""
        if not self._has_patterns:
            return False
        return self._match(_characters(path), kind)

    def hides(self, path: bytes, kind: Kind | None) -> bool:
        """Whether a pattern leaves out the path, at which something of this kind is, or a directory above it."""
        if not self._has_patterns:
            return False
        text = _characters(path)
        parts = text.split("/")
        above = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        return any(self._match(one, Kind.DIRECTORY) for one in above) or self._match(text, kind)

    def _match(self, text: str, kind: Kind | None) -> bool:
        return _matches(self._patterns, text) or (kind is Kind.DIRECTORY and _matches(self._of_directories, text))

    def _is_beyond_limits(self, status: Status) -> bool:
        options = self._options
        age_s = (self._now_ns - status.mtime_ns) / 1e9
        return (
            (options.size_bytes_min > 0 and status.size < options.size_bytes_min)
            or (0 < options.size_bytes_max < status.size)
            or (options.age_s_min > 0 and age_s < options.age_s_min)
            or (0 < options.age_s_max < age_s)
        )


def _characters(path: bytes) -> str:
    """What patterns are matched against; a byte that is no UTF-8 counts as one character."""
    return path.decode("utf-8", "surrogateescape")


def _matches(patterns: Sequence[re.Pattern[str]], text: str) -> bool:
    return any(pattern.search(text) for pattern in patterns)


def _compile(globs: Sequence[str], expressions: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    """The globs as one pattern. Expressions stay apart: their flags and the numbers of their groups are their own."""
    parts = []
    for glob in globs:
        translated = fnmatch.translate(_normal(glob).strip("/"))
        anchored = "/" in glob.rstrip("/")
        parts.append(rf"(?:\A{translated})" if anchored else rf"(?:(?:\A|(?<=/)){translated})")
    alone = [re.compile("|".join(parts), re.DOTALL)] if parts else []
    return (*alone, *map(_expression, expressions))


def _expression(text: str) -> re.Pattern[str]:
    """Raises re.error."""
    return re.compile(_normal(text), re.DOTALL)


def _normal(text: str) -> str:
    """With characters, as paths have them, for what was given as their bytes."""
    return _characters(text.encode("utf-8", "surrogateescape"))
