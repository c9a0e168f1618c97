"""What the state machine tells the zones to do.

An effect is absolute: "inode 7 at this path has this content and these attributes", never "append". Paths are
relative to the rule's root in the zone, as of the record's place in the log. Effects must run in log order where one
concerns an inode or path that the other concerns too, or an ancestor of it.
"""

from __future__ import annotations

from typing import NamedTuple

from lddp.core.records import Attributes, Content, Kind

ALL_ZONES = -1


class Scope(NamedTuple):
    """Which zones an effect is for: `only` one, or all members `but` one; ALL_ZONES (-1) restricts nothing."""

    only: int = ALL_ZONES
    but: int = ALL_ZONES


class MakeDirectoryEffect(NamedTuple):
    inode: int
    path: bytes
    attributes: Attributes


class PutFileEffect(NamedTuple):
    """`path` names a regular file with exactly this content; what was at `path` before is replaced at once."""

    inode: int
    path: bytes
    attributes: Attributes
    content: Content
    observed: bool
    """True where the file existed before lddp knew of it: the rule's on-existing policy applies."""
    replaces: bool = False
    """True where the path stood for another file, which zones have because of lddp: no policy keeps that one."""


class MakeNodeEffect(NamedTuple):
    """A symlink, fifo or device."""

    inode: int
    path: bytes
    kind: Kind
    attributes: Attributes
    target: bytes
    rdev: int


class LinkEffect(NamedTuple):
    """`to` becomes a name of the file at `path`, replacing what was there."""

    inode: int
    path: bytes
    to: bytes


class RenameEffect(NamedTuple):
    """The object at `path` is at `to` afterwards, in place of whatever was there."""

    inode: int
    path: bytes
    to: bytes
    directory: bool


class ParkEffect(NamedTuple):
    """The object at `path` leaves the tree for the zone's staging area, under the inode's number, because the same
    record gives its name to another object first; an UnparkEffect or a RemoveEffect of it follows."""

    inode: int
    path: bytes


class UnparkEffect(NamedTuple):
    inode: int
    to: bytes


class RemoveEffect(NamedTuple):
    """The name `path` is gone; with `directory`, also everything below it. An empty path with an inode means the
    parked object of that inode."""

    inode: int
    path: bytes
    directory: bool


class SetAttributesEffect(NamedTuple):
    inode: int
    path: bytes
    kind: Kind
    attributes: Attributes


class Base(NamedTuple):
    """What a file was before it is changed in part for the first time, if it has a source whose file may be the only
    one with these bytes. `since`: the GSN of the last record that said something about the file."""

    content: Content
    since: int


class WriteEffect(NamedTuple):
    """The bytes from `offset` on are these; the file's size is `size` afterwards. `attributes` as after the write."""

    inode: int
    path: bytes
    offset: int
    content: Content
    size: int
    attributes: Attributes
    base: Base | None = None


class TruncateEffect(NamedTuple):
    inode: int
    path: bytes
    size: int
    attributes: Attributes
    base: Base | None = None


Effect = (
    MakeDirectoryEffect
    | PutFileEffect
    | MakeNodeEffect
    | LinkEffect
    | RenameEffect
    | ParkEffect
    | UnparkEffect
    | RemoveEffect
    | SetAttributesEffect
    | WriteEffect
    | TruncateEffect
)


class ScopedEffect(NamedTuple):
    rule: int
    scope: Scope
    effect: Effect
