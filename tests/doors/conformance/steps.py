"""What a case of the conformance list is made of: one call of a file system, and what must come of it.

A path is relative to the case's own directory; one that begins with `/` is the namespace's, as it stands. `errno` is
the outcome on every door (0: done). A step says what a door must be able to express for it (`needs`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Self

PATH_BYTES_OF_THE_KERNEL = 3000
"""What is longer may be beyond PATH_MAX (4,096) once it has the directory of the tests in front."""
NS_IN_MS = 1_000_000
DIRECTORY_MODE = 0o755


class Need(Enum):
    """What not every door can express."""

    APPEND = "adding to a file"
    APPEND_EXISTING = "adding to a file only where there is one"
    CONDITION = "a change of one version of a file only"
    DIRECTORY_ALONE = "making one directory, an error where it is there or what is above it is not"
    DOTS = "`.` and `..` in a path as they are"
    EXCHANGE = "exchanging two names"
    EXCLUSIVE = "making a file only where there is none"
    EXCLUSIVE_ANYWHERE = "an error at once where another zone has made the file a moment before"
    LINK = "another name of a file"
    LIST_NO_FILE = "listing what is a file is an error"
    LONG_PATH = "a path of more than 3,000 bytes"
    FILE_AS_ROOT = "a file in the place of the root"
    LARGE_XATTR = "extended attributes of more than 3,000 bytes"
    MODE = "setting permissions"
    MODE_OF_NEW = "saying the permissions of what is made"
    NANOSECONDS = "times between two milliseconds"
    NUL = "NUL in a path"
    ONTO_DIRECTORY = "renaming onto a directory, not into it"
    ONTO_ITSELF = "renaming to the same name"
    PATTERN = "renaming a name with `*`, `?` or `[` in it"
    REPLACE_NOTHING = "renaming only where the name is free"
    RULE = "paths outside of the rule, and the rule's own directory as an entry"
    SET_ID = "set-id bits"
    SYMLINK = "making a symlink"
    TIMES = "setting the time of modification"
    TREE = "removing a tree"
    TRUNCATE = "cutting a file off"
    TRUNCATE_UP = "making a file longer without bytes"
    UNFOLLOWED = "a symlink on the way or at the end that is not followed"
    UNLINK = "removing a name, an error where it is a directory"
    UNLINK_DIRECTORY = "removing a directory, an error where it is none"
    WRITE_AT = "overwriting a part of a file"
    XATTR = "extended attributes"


@dataclass(frozen=True, slots=True)
class Step:
    path: bytes
    errno: int = field(default=0, kw_only=True)
    also: frozenset[Need] = field(default=frozenset(), kw_only=True)
    """Needs that come from what is at the path."""

    def paths(self) -> tuple[bytes, ...]:
        return (self.path,)

    def below(self, directory: bytes) -> Self:
        """With paths of the namespace; `directory` is the case's own."""
        return replace(self, path=absolute(directory, self.path))

    def own_needs(self) -> set[Need]:
        return set()

    def needs(self) -> frozenset[Need]:
        found = self.own_needs() | self.also
        for path in self.paths():
            if path.startswith(b"/"):
                found.add(Need.RULE)
            if {b".", b".."} & set(path.split(b"/")):
                found.add(Need.DOTS)
            if b"\0" in path:
                found.add(Need.NUL)
            if len(path) > PATH_BYTES_OF_THE_KERNEL:
                found.add(Need.LONG_PATH)
        return frozenset(found)


def absolute(directory: bytes, path: bytes) -> bytes:
    return path if path.startswith(b"/") else (directory + b"/" + path if path else directory)


@dataclass(frozen=True, slots=True)
class Move(Step):
    """A step with a second path."""

    to: bytes

    def paths(self) -> tuple[bytes, ...]:
        return (self.path, self.to)

    def below(self, directory: bytes) -> Self:
        return replace(self, path=absolute(directory, self.path), to=absolute(directory, self.to))


# -- changes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Put(Step):
    """Makes a file of these bytes or replaces one as a whole; with `exclusive` only where the name is free."""

    data: bytes = b""
    exclusive: bool = False

    def own_needs(self) -> set[Need]:
        found = {Need.EXCLUSIVE} if self.exclusive else set()
        return found | {Need.FILE_AS_ROOT} if self.path == b"/" else found


@dataclass(frozen=True, slots=True)
class PutVersion(Step):
    """Replaces a file that is at the version it has now, or with `stale` at the one it had before its last change."""

    data: bytes = b""
    stale: bool = False

    def own_needs(self) -> set[Need]:
        return {Need.CONDITION}


@dataclass(frozen=True, slots=True)
class TwoCreators(Step):
    """Two clients at two zones make the same file at once; exactly one of them has made it."""

    datas: tuple[bytes, bytes]

    def own_needs(self) -> set[Need]:
        return {Need.EXCLUSIVE, Need.EXCLUSIVE_ANYWHERE}


@dataclass(frozen=True, slots=True)
class Append(Step):
    """Adds to a file that exists."""

    data: bytes

    def own_needs(self) -> set[Need]:
        return {Need.APPEND, Need.APPEND_EXISTING} if self.errno else {Need.APPEND}


@dataclass(frozen=True, slots=True)
class WriteAt(Step):
    offset: int
    data: bytes

    def own_needs(self) -> set[Need]:
        return {Need.WRITE_AT}


@dataclass(frozen=True, slots=True)
class Truncate(Step):
    size: int
    grows: bool = False

    def own_needs(self) -> set[Need]:
        return {Need.TRUNCATE, Need.TRUNCATE_UP} if self.grows else {Need.TRUNCATE}


@dataclass(frozen=True, slots=True)
class Mkdir(Step):
    mode: int = DIRECTORY_MODE

    def own_needs(self) -> set[Need]:
        found = {Need.DIRECTORY_ALONE} if self.errno else set()
        return found | {Need.MODE_OF_NEW} if self.mode != DIRECTORY_MODE else found


@dataclass(frozen=True, slots=True)
class Rename(Move):
    replaces: bool = True

    def own_needs(self) -> set[Need]:
        found = set() if self.replaces else {Need.REPLACE_NOTHING}
        if self.path == self.to:
            found.add(Need.ONTO_ITSELF)
        if set(self.path) & set(b"*?["):
            found.add(Need.PATTERN)
        return found


@dataclass(frozen=True, slots=True)
class Exchange(Move):
    def own_needs(self) -> set[Need]:
        return {Need.EXCHANGE}


@dataclass(frozen=True, slots=True)
class Remove(Step):
    """A file's name or an empty directory, whichever it is."""


@dataclass(frozen=True, slots=True)
class Unlink(Step):
    def own_needs(self) -> set[Need]:
        return {Need.UNLINK} if self.errno else set()


@dataclass(frozen=True, slots=True)
class Rmdir(Step):
    def own_needs(self) -> set[Need]:
        return {Need.UNLINK_DIRECTORY} if self.errno else set()


@dataclass(frozen=True, slots=True)
class RemoveTree(Step):
    def own_needs(self) -> set[Need]:
        return {Need.TREE}


@dataclass(frozen=True, slots=True)
class Link(Move):
    def own_needs(self) -> set[Need]:
        return {Need.LINK}


@dataclass(frozen=True, slots=True)
class Symlink(Step):
    target: bytes

    def own_needs(self) -> set[Need]:
        return {Need.SYMLINK}


@dataclass(frozen=True, slots=True)
class SetMode(Step):
    mode: int

    def own_needs(self) -> set[Need]:
        return {Need.MODE, Need.SET_ID} if self.mode & 0o6000 else {Need.MODE}


@dataclass(frozen=True, slots=True)
class SetTime(Step):
    mtime_ns: int

    def own_needs(self) -> set[Need]:
        exact = self.mtime_ns % NS_IN_MS == 0 and self.mtime_ns >= 0
        return {Need.TIMES} if exact else {Need.TIMES, Need.NANOSECONDS}


@dataclass(frozen=True, slots=True)
class SetXattr(Step):
    """`flag` is `create`, `replace` or empty."""

    name: bytes
    value: bytes
    flag: str = ""

    def own_needs(self) -> set[Need]:
        return {Need.XATTR, Need.LARGE_XATTR} if len(self.value) > 3000 else {Need.XATTR}


@dataclass(frozen=True, slots=True)
class RemoveXattr(Step):
    name: bytes

    def own_needs(self) -> set[Need]:
        return {Need.XATTR}


# -- looks: what a door answers is compared with `answer` -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read(Step):
    """The bytes from `start` to before `stop`."""

    start: int = 0
    stop: int | None = None
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class List(Step):
    """The names in a directory, in ascending order."""

    answer: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Stat(Step):
    """`answer` is (kind, size of a file, permissions of a file or directory, target of a symlink)."""

    answer: tuple[str, int, int, bytes] | None = None


LOOKS = (Read, List, Stat)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    steps: tuple[Step, ...]


def case(name: str, *steps: Step) -> Case:
    return Case(name, steps)


def answer_of(step: Step) -> Any:
    """What a look must answer; None for a change."""
    return step.answer if isinstance(step, LOOKS) else None
