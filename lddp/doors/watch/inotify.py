"""Watching with inotify, for a process without privilege: one watch for each directory.

What is done here so that nothing is missed:

- a directory is watched before it is listed, and the consumer is told to list it after that (LIST);
- what is believed about places comes from looking at the tree, never from replaying events; every event of a
  directory's name is a reason to look at that name. The last event of a name is read after its last change, so the
  last look is right;
- a path that turns out to lead elsewhere leaves its directory owed. `passed` and `settle` do not move on while
  something is owed, and if the kernel has no more events to explain it, the whole tree is gone through.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from lddp.doors.watch import kernel
from lddp.doors.watch.events import Batch, Event, Flag, Overflow
from lddp.doors.watch.inotify_format import Raw, flags_of, parse
from lddp.doors.watch.queue import READ_SIZE, WINDOW_S, KernelQueue
from lddp.doors.watch.tree import Node
from lddp.doors.watch.walker import Stale, Walker
from lddp.errors import LddpError, ZoneError

_WALKS_AT_ONCE = 3
"""How often one batch tries to go through a tree that keeps moving; the next one goes on."""

_DIRECTORY_NEWS = int(Flag.LIST | Flag.IS_DIRECTORY)

_Place = tuple[bytes, bytes, bytes, bytes, bytes]


class InotifyWatcher(KernelQueue):
    """All changes below `root` by names that are in it.

    The kernel does not say who made a change, nor which object a name stood for: `target` is known of directories
    only. A write through a name that is outside of the tree, or through one that was removed while another remains,
    is not attributed: the consumer sees an absent name at most, and finds the change by looking at the files that it
    knows to have several names.
    """

    kind = "inotify"

    def __init__(self, root: bytes, *, reason: str = "asked for", window_s: float = WINDOW_S) -> None:
        super().__init__(window_s)
        self.reason = reason
        self._root = root
        self._walker: Walker | None = None
        self._found: dict[_Place, int] = {}
        self._overflowed = False
        self._scrub = False
        self._was_adrift: set[Node] = set()
        self._progress = 0
        self._failure: Exception | None = None
        self._owing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lddp-inotify")
        self._reading: asyncio.Future[tuple[Batch, int]] | None = None

    async def start(self) -> None:
        """ZoneError where the tree cannot be watched."""
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(self._thread, self._place_watches)
        try:
            descriptor = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._abandon)
            raise
        except OSError as error:
            raise ZoneError(error.errno or errno.EIO, f"cannot watch {os.fsdecode(self._root)}: {error}") from error
        self._opened(descriptor)

    def _abandon(self, starting: asyncio.Future[int]) -> None:
        if starting.exception() is None:
            os.close(starting.result())
            self._close_walker()
        self._thread.shutdown(wait=False)

    def _place_watches(self) -> int:
        descriptor = kernel.inotify_init()
        try:
            self._walker = Walker(descriptor, self._root)
            try:
                self._walker.walk(lambda _: None)
            except Stale:
                # What moved meanwhile has events that are waiting, and what was not reached is owed.
                self._owing = True
        except BaseException:
            self._close_walker()
            os.close(descriptor)
            raise
        return descriptor

    def _close_walker(self) -> None:
        walker, self._walker = self._walker, None
        if walker is not None:
            walker.close()

    async def stop(self) -> None:
        descriptor = self._end()
        reading = self._reading
        if reading is not None:
            await asyncio.wait([reading])
        if descriptor >= 0:
            os.close(descriptor)
        self._close_walker()
        self._thread.shutdown(wait=False)
        if reading is not None:
            reading.result()

    def _waiting_size(self) -> int:
        return kernel.queued_size(self._descriptor)

    def _owes(self) -> bool:
        return self._owing or self._failure is not None or self._reading is not None

    async def _collect(self) -> tuple[Batch, int]:
        """In a thread, as a new directory may be a large tree. A cancelled wait leaves the result for the next."""
        if self._failure is not None and self._reading is None:
            failure, self._failure = self._failure, None
            self._fail_settlers(failure)
            raise failure
        if self._reading is None:
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._thread, self._read, self._descriptor)
        result = await asyncio.shield(self._reading)
        self._reading = None
        return result

    def _read(self, descriptor: int) -> tuple[Batch, int]:
        walker = self._walker
        assert walker is not None, "a watcher that was started has a walker"
        with self._lock:
            try:
                data = os.read(descriptor, READ_SIZE)
            except BlockingIOError:
                data = b""
            self._taken += len(data)
            taken = self._taken
        self._is_flooded = len(data) > READ_SIZE // 2
        self._take(walker, data)
        self._pay(walker, descriptor)
        self._owing = bool(walker.owed) or self._overflowed
        if not self._owing:
            self._progress = taken
        batch: Batch = [Overflow()] if self._scrub else []
        found, self._found, self._scrub = self._found, {}, False
        batch += [Event(place[0], place[1], place[2], flags, place[3], place[4]) for place, flags in found.items()]
        return batch, self._progress

    def _note(
        self, flags: int, directory: bytes, name: bytes = b"", target: bytes = b"", to: tuple[bytes, bytes] = (b"", b"")
    ) -> None:
        place = (directory, name, target, *to)
        self._found[place] = self._found.get(place, 0) | flags

    def _on_found(self, node: Node) -> None:
        self._note(_DIRECTORY_NEWS, node.handle, b"", node.handle)

    def _take(self, walker: Walker, data: bytes) -> None:
        left: dict[int, tuple[Node, Raw]] = {}
        vacated: set[tuple[Node, bytes]] = set()
        for raw in parse(data):
            if raw.mask & kernel.IN_Q_OVERFLOW:
                self._overflowed = True
                continue
            node = walker.tree.by_watch.get(raw.watch)
            if node is None:
                # Of a directory that was given up because it is not in the tree.
                continue
            if raw.mask & kernel.IN_IGNORED:
                walker.discard(node)
            elif not raw.name:
                self._take_own(walker, node, raw)
            else:
                self._take_entry(walker, node, raw, left)
                if raw.mask & kernel.IN_MOVED_FROM and raw.mask & kernel.IN_ISDIR:
                    vacated.add((node, raw.name))
        for node, raw in left.values():
            self._note(flags_of(raw.mask), node.handle, raw.name)
        # After the names that directories came to: one that is found there is known to have moved, not to be new.
        for node, name in vacated:
            self._look(walker, node, name)

    def _take_own(self, walker: Walker, node: Node, raw: Raw) -> None:
        if raw.mask & kernel.IN_MOVE_SELF and node is not walker.tree.root:
            return
        self._note(flags_of(raw.mask) | Flag.IS_DIRECTORY, node.handle, b"", node.handle)

    def _take_entry(self, walker: Walker, node: Node, raw: Raw, left: dict[int, tuple[Node, Raw]]) -> None:
        flags = flags_of(raw.mask)
        if raw.mask & kernel.IN_MOVED_FROM:
            left[raw.cookie] = node, raw
            return
        origin = left.pop(raw.cookie, None) if raw.mask & kernel.IN_MOVED_TO else None
        if origin is None:
            self._note(flags, node.handle, raw.name)
        else:
            self._note(flags, origin[0].handle, origin[1].name, b"", (node.handle, raw.name))
        # A directory that is watched tells of its attributes itself; another may have become readable.
        may_be_readable = raw.mask & kernel.IN_ATTRIB and raw.name not in node.children
        if raw.mask & kernel.IN_ISDIR and (raw.mask & (kernel.IN_CREATE | kernel.IN_MOVED_TO) or may_be_readable):
            self._look(walker, node, raw.name)

    def _look(self, walker: Walker, node: Node, name: bytes) -> None:
        if node.watch in walker.tree.by_watch:
            self._guarded(lambda: walker.enter(node, name, self._on_found))

    def _guarded(self, look: Callable[[], None]) -> bool:
        """Whether the look was finished; if not, the walker owes it and it is taken up again."""
        try:
            look()
        except Stale:
            return False
        except (OSError, LddpError) as error:
            self._failure = self._explained(error)
            return False
        return True

    def _explained(self, error: OSError | LddpError) -> LddpError:
        if isinstance(error, LddpError):
            return error
        return ZoneError(error.errno or errno.EIO, f"cannot watch all of {os.fsdecode(self._root)}: {error}")

    def _pay(self, walker: Walker, descriptor: int) -> None:
        """Looks at what is owed, at all where that does not help, and gives up what is not in the tree any more."""
        for node in list(walker.owed):
            if node in walker.owed:
                self._guarded(partial(walker.relist, node, self._on_found))
        walks = 0
        while self._overflowed or (walker.owed and not kernel.queued_size(descriptor)):
            if self._failure is not None or walks == _WALKS_AT_ONCE:
                return
            walks += 1
            if self._guarded(lambda: walker.walk(self._on_found)) and self._overflowed:
                self._overflowed, self._scrub = False, True
        adrift = walker.tree.adrift
        # A directory that is adrift may have been moved within the tree and the event of its new place is to come.
        is_quiet = not walker.owed and not kernel.queued_size(descriptor)
        for node in set(adrift) if is_quiet else adrift & self._was_adrift:
            if node in adrift:
                walker.forget(node)
        self._was_adrift = set(adrift)
