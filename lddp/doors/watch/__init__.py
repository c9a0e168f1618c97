"""The watcher: notices every change that any program makes below a directory, by the kernel's own means.

`events` has the contract, `open_watcher` picks the means: fanotify (one mark on the filesystem, needs CAP_SYS_ADMIN)
or inotify (one watch a directory). Watching begins before the consumer's first listing, and every event is a reason
to look again; so nothing depends on order, and merging is free.

What the kernel does, found on Linux 6.18 and the same on ext4, XFS, btrfs and tmpfs:

- Handles in fanotify's events equal those of name_to_handle_at, on all four.
- Events are queued before the system call returns; CLOSE_WRITE of the last descriptor before close() or exit returns.
- A hard link gives CREATED of the new name and ATTRIBUTES of the object alone (no directory). So does unlink:
  REMOVED of the name and ATTRIBUTES of the object; and a rename over another file ATTRIBUTES of the one replaced.
- A rename is one event with both places; RENAME_EXCHANGE is two, one for each object. RENAME_WHITEOUT makes a
  device at the old name without an event of its own: looking at the old name finds it.
- chmod, chown, setxattr, removexattr and utimensat of both times give ATTRIBUTES; utimensat of the modification time
  alone gives MODIFIED; of the access time alone, nothing. chattr gives nothing.
- truncate, O_TRUNC, fallocate and copy_file_range give MODIFIED.
- A write through a descriptor names the place by which it was opened, even if that is gone: a removed name, a name
  outside of the tree, `#inode` of an O_TMPFILE. fanotify's `target` says which object it was; inotify cannot.
- Stores through mmap give nothing, not at msync either, and neither do writes by libaio (io_submit): both show as
  CLOSE_WRITE only, at munmap and close. A program that keeps such a file open for ever is seen by nobody: the last look
  before a migration completes must compare fingerprints, not rely on events.
- FUSE has no identity for fanotify (ENODEV); /proc neither.
- fanotify's FIONREAD counts 24 bytes an event, whatever its length; inotify's counts real bytes.

Not crossed: other filesystems mounted below the root. fanotify covers every mount of one filesystem, bind mounts too.
"""

from lddp.doors.watch.events import Accept, Batch, Event, Flag, Overflow, Watcher
from lddp.doors.watch.fanotify import FanotifyWatcher
from lddp.doors.watch.inotify import InotifyWatcher
from lddp.doors.watch.opening import open_watcher

__all__ = [
    "Accept",
    "Batch",
    "Event",
    "FanotifyWatcher",
    "Flag",
    "InotifyWatcher",
    "Overflow",
    "Watcher",
    "open_watcher",
]
