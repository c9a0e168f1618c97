"""Watching with fanotify: one mark covers the whole filesystem, directories to come included."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable

from lddp.doors.watch import kernel
from lddp.doors.watch.events import Accept, Batch
from lddp.doors.watch.fanotify_format import parse
from lddp.doors.watch.queue import READ_SIZE, WINDOW_S, KernelQueue
from lddp.errors import ZoneError

_log = logging.getLogger(__name__)

_MASK = (
    kernel.FAN_CREATE
    | kernel.FAN_DELETE
    | kernel.FAN_RENAME
    | kernel.FAN_MODIFY
    | kernel.FAN_CLOSE_WRITE
    | kernel.FAN_ATTRIB
    | kernel.FAN_ONDIR
)
_ROOT_MASK = kernel.FAN_DELETE_SELF | kernel.FAN_MOVE_SELF | kernel.FAN_ONDIR
"""Of the root alone: anywhere else the event of the parent directory says the same."""

_SCRATCH_MASK = (
    kernel.FAN_CREATE
    | kernel.FAN_DELETE
    | kernel.FAN_MODIFY
    | kernel.FAN_CLOSE_WRITE
    | kernel.FAN_ATTRIB
    | kernel.FAN_EVENT_ON_CHILD
)
"""Not renames: what leaves such a directory may come into the tree."""

_EVENT_SIZE_COUNTED = 24
"""What FIONREAD counts for an event, however long it is."""

_REFUSALS = {
    errno.EPERM: "fanotify needs CAP_SYS_ADMIN",
    errno.ENOSYS: "this kernel has no fanotify",
    errno.EINVAL: "fanotify of this kernel cannot report renames by handle (Linux 5.17 can)",
    errno.ENODEV: "this filesystem has no identity for fanotify (FUSE has none)",
    errno.EXDEV: "fanotify cannot watch a subvolume as a filesystem of its own",
    errno.EOPNOTSUPP: "this filesystem has no file handles for fanotify",
    errno.EMFILE: "no fanotify group is left: raise fs.fanotify.max_user_groups or the limit of open files",
    errno.ENOSPC: "no fanotify mark is left: raise fs.fanotify.max_user_marks",
}


class FanotifyWatcher(KernelQueue):
    """All changes on the filesystem that `root` is on, by whichever mount they are made.

    `accept` keeps those that matter. Changes that this process makes are dropped unless `own_changes`; those of
    `ignored_processes` (ids, in this process's namespace) always. `queue_limited` bounds the kernel's queue at
    fs.fanotify.max_queued_events instead of by memory.
    """

    kind = "fanotify"

    def __init__(
        self,
        root: bytes,
        *,
        accept: Accept | None = None,
        ignored_processes: Iterable[int] = (),
        own_changes: bool = False,
        queue_limited: bool = False,
        window_s: float = WINDOW_S,
    ) -> None:
        super().__init__(window_s)
        self.reason = "fanotify covers the whole filesystem without a race"
        self.ignored_processes = set(ignored_processes)
        if not own_changes:
            self.ignored_processes.add(os.getpid())
        self._root = root
        self._accept = accept
        self._queue_limited = queue_limited

    async def start(self) -> None:
        """ZoneError with the kernel's errno where fanotify is not to be had here."""
        flags = kernel.FAN_CLOEXEC | kernel.FAN_NONBLOCK | kernel.FAN_UNLIMITED_MARKS
        flags |= kernel.FAN_REPORT_DFID_NAME_TARGET
        if not self._queue_limited:
            flags |= kernel.FAN_UNLIMITED_QUEUE
        try:
            descriptor = kernel.fanotify_init(flags)
            try:
                whole = kernel.FAN_MARK_ADD | kernel.FAN_MARK_FILESYSTEM
                kernel.fanotify_mark(descriptor, whole, _MASK, self._root)
                kernel.fanotify_mark(descriptor, kernel.FAN_MARK_ADD | kernel.FAN_MARK_ONLYDIR, _ROOT_MASK, self._root)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise self._refusal(error) from error
        self._opened(descriptor)

    def leave_out(self, directory: bytes) -> None:
        """What happens to files in this directory outside of the tree, until they are moved elsewhere, is of no
        interest, and the kernel need not tell it. Kernels before 6.0 go on telling."""
        tree, other = (os.path.realpath(path) + b"/" for path in (self._root, directory))
        if self._descriptor < 0 or other.startswith(tree) or tree.startswith(other):
            return
        how = kernel.FAN_MARK_ADD | kernel.FAN_MARK_ONLYDIR | kernel.FAN_MARK_IGNORE_SURV
        try:
            kernel.fanotify_mark(self._descriptor, how, _SCRATCH_MASK, directory)
        except OSError as error:
            _log.info("the kernel goes on telling what happens in %r: %s", directory, error)

    def _refusal(self, error: OSError) -> ZoneError:
        number = error.errno or errno.EIO
        why = _REFUSALS.get(number, str(error))
        return ZoneError(number, f"cannot watch {os.fsdecode(self._root)}: {why}")

    async def stop(self) -> None:
        descriptor = self._end()
        if descriptor >= 0:
            os.close(descriptor)

    def _waiting_size(self) -> int:
        return kernel.queued_size(self._descriptor) // _EVENT_SIZE_COUNTED

    async def _collect(self) -> tuple[Batch, int]:
        """On the event loop: one read is a few milliseconds of parsing, and a thread would take the same lock."""
        try:
            data = os.read(self._descriptor, READ_SIZE)
        except BlockingIOError:
            self._is_flooded = False
            return [], self._taken
        self._is_flooded = len(data) > READ_SIZE // 2
        batch, count = parse(data, self.ignored_processes, self._accept)
        self._taken += count
        return batch, self._taken
