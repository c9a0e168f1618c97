"""Which way of watching a tree is to be had here."""

from __future__ import annotations

from collections.abc import Iterable

from lddp.doors.watch.events import Accept, Watcher
from lddp.doors.watch.fanotify import FanotifyWatcher
from lddp.doors.watch.inotify import InotifyWatcher
from lddp.doors.watch.queue import WINDOW_S
from lddp.errors import ZoneError


async def open_watcher(
    root: bytes,
    *,
    accept: Accept | None = None,
    ignored_processes: Iterable[int] = (),
    own_changes: bool = False,
    window_s: float = WINDOW_S,
) -> Watcher:
    """A started watcher of the tree at `root`: fanotify where the kernel permits it, else inotify. `kind` and
    `reason` say which and why. ZoneError where neither works.

    inotify cannot leave out changes by process, and has no use for `accept`: it sees nothing but the tree.
    """
    fanotify = FanotifyWatcher(
        root, accept=accept, ignored_processes=ignored_processes, own_changes=own_changes, window_s=window_s
    )
    try:
        await fanotify.start()
    except ZoneError as refusal:
        inotify = InotifyWatcher(root, reason=f"inotify, because {refusal}", window_s=window_s)
        await inotify.start()
        return inotify
    return fanotify
