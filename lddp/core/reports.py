"""Observations: records of what a rule's source zone has, as it was seen there."""

from __future__ import annotations

from typing import NamedTuple

from lddp.core.values import Attributes, Content, Kind, OperationId


class ObservedEntry(NamedTuple):
    """One name in an observed directory and what it stands for.

    `identity` names the object itself in the source zone (its file handle), so that a second name of it is a hard
    link and a new name of it is a rename. `content` is None where the bytes are still to come; then a new file is
    pending. `size` is the observed size in bytes of a file. `stamp` is the source's fingerprint of the object (its
    change time in nanoseconds), kept so that the source finds what changed while it was not looking.
    """

    name: bytes
    identity: bytes
    kind: Kind
    attributes: Attributes
    size: int = 0
    content: Content | None = None
    target: bytes = b""
    rdev: int = 0
    stamp: int = 0


class DirectoryReport(NamedTuple):
    """What was seen in one directory: these names are there, those are gone.

    With `complete`, every name that is there has been reported, in this report or an earlier one of the same look;
    the directory is then listed. `attributes` is None where they were not looked at.
    """

    inode: int
    entries: tuple[ObservedEntry, ...]
    absent: tuple[bytes, ...]
    complete: bool
    attributes: Attributes | None
    stamp: int = 0


class InodeReport(NamedTuple):
    """What was seen of one file or other non-directory. `content` None leaves the content as it is."""

    inode: int
    attributes: Attributes
    size: int
    content: Content | None
    target: bytes = b""
    stamp: int = 0


class Observation(NamedTuple):
    """Facts that zone `zone` saw after it had been brought to GSN `as_of`.

    All entries of all directories are taken before all absences, so that a rename reported from both of its
    directories in one observation moves the object. `id` only tells the observer when its observation was applied;
    it is not kept, because a repeated observation is harmless.
    """

    id: OperationId
    zone: int
    as_of: int
    rule: int
    directories: tuple[DirectoryReport, ...]
    inodes: tuple[InodeReport, ...]
