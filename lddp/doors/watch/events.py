"""What a watcher tells: where to look again.

An event is a hint, never a fact to copy: by the time it is read the tree may have moved on, and events of the same
thing are merged. What holds is this: every change is followed by an event that names it, and an event is only handed
out after its change can be seen. So a consumer that looks again at everything named ends with the truth.

The consumer's part of the contract:

- it begins its first listing after `start()` has returned;
- for each (directory, name), (new_directory, new_name) it looks that entry up again, and lists a directory that it
  had not known there;
- it looks at the object `target`, if it knows it under any name: a program may write through a name that is gone by
  now, or through a hard link outside of the tree;
- where that is not known, it reads a file that is MODIFIED, CLOSED_WRITE or has other ATTRIBUTES by its name, even if
  no time of it moved: two writes may be made in one tick of the filesystem's clock;
- it lists the whole of `directory` on LIST, even if it knows it already;
- with `accept`, a handle must be accepted from before the consumer lists or reads that object: then what was dropped
  earlier is seen by the listing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import NamedTuple, Protocol


class Flag(IntFlag):
    """What may have happened; several at once where events were merged."""

    CREATED = 1
    REMOVED = 2
    MOVED = 4
    MODIFIED = 8
    """Content or size, or the modification time alone."""
    ATTRIBUTES = 16
    """Mode, owner, times, extended attributes or the number of links."""
    CLOSED_WRITE = 32
    IS_DIRECTORY = 64
    LIST = 128
    """`directory` was not watched until now: list the whole of it."""


class Event(NamedTuple):
    """Handles are the kernel's file handles: type as little-endian int32, then the handle's bytes.

    `directory` is the parent's handle, or with an empty `name` that of the changed directory itself. Both are empty
    where the kernel knows the object alone (the link count changed, or it was opened by handle): then `target` says
    which. `target` is empty where it is not known. A rename within the filesystem also has its new place.
    """

    directory: bytes
    name: bytes
    target: bytes
    flags: int
    new_directory: bytes = b""
    new_name: bytes = b""


class Overflow(NamedTuple):
    """The kernel dropped events: look at everything again."""


Batch = list[Event | Overflow]

Accept = Callable[[bytes], bool]
"""Whether the directory or object with this handle may matter. Asked for each handle of an event until one is."""


class Watcher(Protocol):
    """Every change below one directory, on one filesystem: what is mounted below is not looked at.

    Runs on the event loop that started it and has one consumer: `batch` is awaited by one task at a time.
    """

    kind: str
    """`fanotify` or `inotify`."""
    reason: str
    """Why this kind: for the operator."""

    async def start(self) -> None:
        """From its return on no change is missed. ZoneError where the kernel refuses, saying what to do."""
        ...

    async def stop(self) -> None:
        """Gives everything back; whoever waits gets UnavailableError. May be called twice."""
        ...

    async def batch(self) -> Batch:
        """What happened since the last call; waits until something did. Cancelling it loses nothing. Order within a
        batch means nothing. ZoneError if part of the tree cannot be watched any more; a further call tries again."""
        ...

    def mark(self) -> int:
        """The present moment: `passed` is true of it once all changes made before now were returned by `batch`."""
        ...

    def passed(self, mark: int) -> bool: ...

    async def settle(self) -> None:
        """Returns when the consumer has been given every event of changes made before this call, and came back for
        more. To be called by another task than the consumer, who uses `mark` and `passed` instead."""
        ...
