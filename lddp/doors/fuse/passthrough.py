"""Files that the kernel reads by itself, without asking this process: FUSE passthrough (Linux 6.9 and later).

What the kernel does, as its fs/fuse/iomode.c and passthrough.c have it:

- An inode is cached or passed, from the first open of it to its last release. While it is passed, every open has to be
  answered with passthrough and the same backing file; while it is cached, none may be: anything else is EIO. So who
  opens first decides. What this process knows to be open is never less than what the kernel has open.
- Which file a handle reads is settled when it is opened, and can never be changed or taken back.
- A handle with passthrough and direct input/output reads and writes through this process, but maps the backing file.
- A mapping of the backing file outlives the handle, and nothing is told of its stores, of `msync`, nor of its end.

A zone's own file is no backing file, because a handle cannot be taken off it. Another zone's record puts a new file in
its place: who had it open would read the old bytes for ever, and so would who opens it next, since both have the same
backing file. And a writer of this mount must be seen by who reads, while the zone must not have what is not in the log.

So what the kernel gets is the mount's own copy (`File.staged`), the file that holds what is written here before it is
committed. While the inode is passed it stays this one file, and everything that the mount would show is brought into it
in place:

- Bytes of programs in this mount are written to it, as always: writers of a passed inode have direct input/output.
- Bytes of other zones replace what it has as soon as their record is folded, unless it is ahead of the log; who waits
  for an index at this node waits for that as well.
- Cuts, allocations and what is orphaned work on it as they do anyway.

That costs nothing only where the copy shares its blocks with the zone's file (FICLONE: XFS, btrfs). So only there, and
where the kernel allows it, files get passthrough, from PASS_FROM_BYTES on; everything else is as without it. Nor do
files that the disk has not got yet, for which a clone would have to wait. A program that opens with O_DIRECT is never
the first one, since alignment would become its concern.

Mappings. Those that only read see all changes, because they map the same file. A program that opens for reading and
writing what is passed already may store to it, and nobody tells: so beside the copy there is a mirror from then on,
which gets every known change and no stores; where the two differ, that is what was stored. It is looked at `fsync` and
at a close. And soon after something stored has moved the copy's time: once the disk has it, which is what `msync` asks
for, or at once where the last handle that may store is closed. What is found then is committed as well, so `msync`
returns before its record is in the log, but not long. Files that are opened so are databases and the like: they do not
get passthrough again. Whether a mapping is left is known from a write lease, which is granted to nobody but who is
alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lddp.doors.fuse import copying, protocol
from lddp.doors.fuse.backing import Backing
from lddp.doors.fuse.file import File, Handle
from lddp.doors.fuse.files import Files
from lddp.errors import LddpError

_log = logging.getLogger(__name__)
PASS_FROM_BYTES = 1 << 20
LOOK_S = 0.2
"""How often it is looked whether the last mapping of a file without handles is gone."""
LOOK_SHARE = 10
"""How much longer than a look is the rest after it."""
AGAIN_S = 1.0
"""Until bytes of another zone that could not be had are asked for again."""
STORED_MAX = 65_536
_NOT_KNOWN = "what was stored to inode %d is not known: %s"
_NEVER = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL, errno.ELOOP))
"""What says that there is no passthrough here at all: no privilege, an older kernel, a filesystem without clones, or
one that is a stack itself."""


class Way(NamedTuple):
    """How an open is answered: the kernel's flags, and its number for the backing file."""

    flags: int = 0
    backing: int = 0
    passes: bool = False


def _bring_to_disk(descriptor: int) -> None:
    """Blocking."""
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        _log.warning("a file cannot be brought to the disk: %s", error.strerror)
    finally:
        os.close(descriptor)


class _Passed:
    """An inode that is passed."""

    def __init__(self, file: File, backing: int) -> None:
        self.file = file
        self.backing = backing
        self.handles = 0
        self.stores = 0
        """Handles among them by which it can be mapped to be stored to."""
        self.changed_ns = 0
        """The copy's time when it was last looked at what was stored."""
        self.again = False
        """Whether something may have been stored since without another time."""
        self.rests_until = 0.0
        """By the loop's clock: looking at a large file takes long."""

    @property
    def is_watched(self) -> bool:
        """Whether no call will tell what becomes of it."""
        return not self.handles or self.file.mirror >= 0


class Passthrough:
    """Which opens of one mount pass. `let_go` is called with a file that is not passed any more, and commits what it
    has; `commit` with one that still is."""

    def __init__(self, files: Files, scratch: Callable[[], Path]) -> None:
        self.kernel: Backing | None = None
        """None where the kernel cannot be asked."""
        self.let_go: Callable[[File], object] = files.let_go
        self.commit: Callable[[File], object] = lambda file: None
        self._files = files
        self._scratch = scratch
        self._is_off = False
        self._told: set[int | None] = set()
        """What the log of the node has been told already of why there is none."""
        self._passed: dict[int, _Passed] = {}
        self._cached: dict[int, int] = {}
        """How many cached handles there are of an inode."""
        self._stored: OrderedDict[int, None] = OrderedDict()
        """Inodes that were opened for reading and writing."""
        self._watch: asyncio.Task[None] | None = None
        self._left = asyncio.Event()
        """Set when a file has lost its last handle."""
        self._refreshing: dict[int, asyncio.Task[None]] = {}
        self._settling: dict[int, asyncio.Future[None]] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._passed

    # -- opens --------------------------------------------------------------------------------------------------------

    async def open(self, file: File, flags: int) -> Way:
        """Decides, and counts the handle; `closed` is to be called for it once. The file is held and fresh."""
        number, reads_and_writes = file.number, flags & os.O_ACCMODE == os.O_RDWR
        if reads_and_writes:
            self._stored[number] = None
            self._stored.move_to_end(number)
            if len(self._stored) > STORED_MAX:
                self._stored.popitem(last=False)
        if number not in self._passed and self._may_begin(file, flags):
            await self._begin(file)
        while (passed := self._passed.get(number)) is not None and reads_and_writes and file.mirror < 0:
            await self._reflect(file)
        # No await from here on: what is decided holds for whoever opens it next.
        if passed is None:
            self.opened_cached(number)
            return Way()
        passed.handles += 1
        passed.stores += reads_and_writes
        self._keep_watch(passed)
        direct = flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECT)
        return Way(protocol.FOPEN_PASSTHROUGH | (protocol.FOPEN_DIRECT_IO if direct else 0), passed.backing, True)

    def opened_cached(self, number: int) -> None:
        self._cached[number] = self._cached.get(number, 0) + 1

    def closed(self, handle: Handle) -> None:
        """The kernel has released it."""
        number = handle.file.number
        if not handle.passes:
            self._cached[number] -= 1
            if not self._cached[number]:
                del self._cached[number]
            return
        passed = self._passed[number]
        passed.handles -= 1
        passed.stores -= handle.flags & os.O_ACCMODE == os.O_RDWR
        if not passed.handles:
            self._left.set()
        self._keep_watch(passed)

    # -- from cached to passed and back -------------------------------------------------------------------------------

    def _may_begin(self, file: File, flags: int) -> bool:
        return (
            self.kernel is not None
            and not self._is_off
            and file.number not in self._cached
            and file.number not in self._stored
            and not flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECT)
            and file.size >= PASS_FROM_BYTES
            and file.is_known
            and bool(file.digest)
        )

    async def _begin(self, file: File) -> None:
        """The inode is passed afterwards, or not."""
        async with file.lock:
            try:
                has_copy = (file.staged >= 0 and not file.is_in_memory) or await self._clone(file)
                # No await from here on.
                if has_copy and file.number not in self._passed and self._may_begin(file, 0) and file.is_intact():
                    self._pass(file)
            except OSError as error:
                self._is_off = self._is_off or error.errno in _NEVER
                is_told = error.errno in self._told
                self._told.add(error.errno)
                what = "no passthrough any more" if self._is_off else f"no passthrough of inode {file.number}"
                _log.log(logging.DEBUG if is_told else logging.WARNING, "%s: %s", what, error.strerror)

    async def _clone(self, file: File) -> bool:
        """False where the zone's file changed meanwhile, or is not on the disk yet: it is brought there, for a later
        open."""
        kernel, base = self._kernel, file.base
        if base is None or file.number in self._settling:
            return False
        if not await self._files.run(kernel.is_clean, base.descriptor):
            self._settle(file.number, os.dup(base.descriptor))
            return False
        staged = await self._files.run(copying.new_file, self._scratch(), drop=os.close)
        try:
            await self._files.run(kernel.clone, base.descriptor, staged)
            await self._files.run(os.ftruncate, staged, file.size)
            if file.base is not base or not file.is_intact():
                os.close(staged)
                return False
        except BaseException:
            os.close(staged)
            raise
        base.close()
        file.base, file.staged, file.is_clone = None, staged, True
        return True

    def _settle(self, number: int, descriptor: int) -> None:
        settling = asyncio.ensure_future(self._files.run(_bring_to_disk, descriptor))
        self._settling[number] = settling
        settling.add_done_callback(lambda _: self._settling.pop(number))

    def _pass(self, file: File) -> None:
        kernel = self._kernel
        if kernel.is_held(file.staged):
            return
        self._passed[file.number] = _Passed(file, kernel.open(file.staged))
        self._files.hold(file.number)
        file.passes = True

    async def _reflect(self, file: File) -> None:
        """Makes the mirror, if the inode is passed still."""
        async with file.lock:
            if file.mirror >= 0 or file.number not in self._passed:
                return
            mirror = await self._files.run(copying.new_file, self._scratch(), drop=os.close)
            try:
                await self._files.run(copying.copy, file.staged, mirror, file.size)
            except BaseException:
                os.close(mirror)
                raise
            if file.number in self._passed:
                file.mirror = mirror
            else:
                os.close(mirror)

    async def look(self, file: File) -> None:
        """What programs have stored through mappings of the file counts as written from now on."""
        if file.mirror >= 0:
            async with file.lock:
                await self._files.notice(file)

    async def look_at_all(self) -> None:
        """What cannot be read does not hinder the rest."""
        for passed in list(self._passed.values()):
            try:
                await self.look(passed.file)
            except OSError as error:
                _log.error(_NOT_KNOWN, passed.file.number, error.strerror)

    def _keep_watch(self, passed: _Passed) -> None:
        if passed.is_watched and self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._watch_mappings())

    async def _watch_mappings(self) -> None:
        """The kernel tells of the last release, and nothing of mappings."""
        self._left.clear()
        while watched := [passed for passed in self._passed.values() if passed.is_watched]:
            for passed in watched:
                try:
                    await self._watch_one(passed)
                except OSError as error:
                    _log.error(_NOT_KNOWN, passed.file.number, error.strerror)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._left.wait()
            self._left.clear()
        self._watch = None

    async def _watch_one(self, passed: _Passed) -> None:
        file = passed.file
        if self._is_left(passed):
            await self.look(file)
            if self._is_left(passed):
                self._end(passed)
        elif file.mirror >= 0 and passed.rests_until <= asyncio.get_running_loop().time():
            await self._look_for_stores(passed)

    async def _look_for_stores(self, passed: _Passed) -> None:
        """Commits what somebody means to be kept: who has called `msync`, or has it mapped and closed."""
        file, loop = passed.file, asyncio.get_running_loop()
        changed_ns = os.fstat(file.staged).st_ctime_ns
        if not passed.again and changed_ns == passed.changed_ns:
            return
        if not passed.stores:
            await self._files.run(os.fdatasync, file.staged)
        elif not await self._files.run(self._kernel.is_clean, file.staged):
            return
        # Since then a store has moved the time again, if not within the same tick of the clock.
        passed.again, passed.changed_ns = changed_ns != passed.changed_ns, changed_ns
        began = loop.time()
        await self.look(file)
        passed.rests_until = loop.time() + LOOK_SHARE * (loop.time() - began)
        has_stores, file.has_stores = file.has_stores, False
        if file.is_ahead and has_stores:  # what was written and cut is for who did it
            self.commit(file)

    def _is_left(self, passed: _Passed) -> bool:
        """Whether nobody has it open or mapped."""
        return not passed.handles and not self._kernel.is_held(passed.file.staged)

    def _end(self, passed: _Passed) -> None:
        file = passed.file
        self._kernel.close(passed.backing)
        del self._passed[file.number]
        file.passes = False
        file.drop_mirror()
        self.let_go(file)

    @property
    def _kernel(self) -> Backing:
        assert self.kernel is not None, "what is passed has been given to the kernel"
        return self.kernel

    # -- bytes of other zones -----------------------------------------------------------------------------------------

    def refresh(self, file: File) -> None:
        """Brings what the log has into a file that the kernel reads by itself."""
        if file.passes and file.is_stale and file.number not in self._refreshing:
            self._refreshing[file.number] = asyncio.get_running_loop().create_task(self._refresh(file))

    async def _refresh(self, file: File) -> None:
        try:
            while file.passes and file.is_stale and not file.is_ahead and not file.is_orphan:
                try:
                    async with file.lock:
                        await self._files.freshen(file)
                except (OSError, LddpError) as error:
                    _log.warning("inode %d shows what it had before: %s", file.number, error)
                    await asyncio.sleep(AGAIN_S)
        finally:
            del self._refreshing[file.number]

    @property
    def is_fresh(self) -> bool:
        return not self._refreshing

    async def fresh(self) -> None:
        """Returns when all that is passed shows what has been folded so far."""
        if self._refreshing:
            await asyncio.wait(list(self._refreshing.values()))

    async def close(self) -> None:
        """The kernel has let go of the mount."""
        tasks = [*self._refreshing.values(), *([] if self._watch is None else [self._watch])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for passed in self._passed.values():
            self._kernel.close(passed.backing)
            passed.file.passes = False
        self._passed.clear()
