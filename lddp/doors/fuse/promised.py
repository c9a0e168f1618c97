"""What a pipelined mount stands on: the node, as it will be once the queue is ordered."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from lddp.access import ContentWriter, Decided, Entry, OpenFile
from lddp.core.namespace import Inode
from lddp.core.records import OperationId, Outcome, Record
from lddp.core.view import View
from lddp.doors.fuse.ground import Ground
from lddp.doors.fuse.later import Later
from lddp.doors.fuse.ordering import refused
from lddp.doors.fuse.pipeline import Pipeline

TRIES_MAX = 16
Listener = Callable[[set[int]], None]


class _Looking:
    """At the namespace as it will be, over a view of it as it is."""

    __slots__ = ("_below", "_end", "_pipeline")

    def __init__(self, below: AbstractContextManager[View], pipeline: Pipeline) -> None:
        self._below = below
        self._pipeline = pipeline

    def __enter__(self) -> View:
        below = self._below.__enter__()
        try:
            self._pipeline.catch_up(below.tables)
            view, self._end = self._pipeline.speculation.over(below.tables)
        except BaseException:
            self._below.__exit__(*sys.exc_info())
            raise
        return view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._below.__exit__(kind, error, trace)


class Promised(Ground):
    """Implements Ground by the numbers of the mount; for what it does not say itself it asks the node."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._ground = pipeline.ground
        self._listeners: dict[Listener, Listener] = {}

    def view(self) -> AbstractContextManager[View]:
        return _Looking(self._ground.view(), self.pipeline)

    def follow(self, listener: Listener) -> None:
        """With the numbers of the mount. What is not as it was promised is told as well."""
        to_shown = self.pipeline.speculation.aliases.to_shown

        def translated(numbers: set[int]) -> None:
            listener(set(map(to_shown, numbers)))

        self._listeners[listener] = translated
        self.pipeline.changed = listener
        self._ground.follow(translated)

    def unfollow(self, listener: Listener) -> None:
        self._ground.unfollow(self._listeners.pop(listener))

    # -- bytes --------------------------------------------------------------------------------------------------------

    def content_writer(self, path: bytes, size: int | None) -> ContentWriter:
        return Later(self._ground.content_writer(path, size), self.pipeline.committed)

    async def open_file(self, path: bytes) -> OpenFile:
        """The zone's file, once there is one."""
        with self.view() as view:
            wanted = view.resolve(path)
        if wanted is None:
            raise refused(errno.ENOENT)
        found = self._there(wanted)
        for _ in range(TRIES_MAX):
            if found is None:
                await self.pipeline.barrier()
                found = self._there(wanted, with_content=False)
            if found is None:
                break
            number, place = found
            opened = await self._ground.open_file(place)
            if opened.entry.inode == number:
                return replace(opened, entry=self._shown(opened.entry, wanted.number))
            opened.close()
            found = None
        raise refused(errno.ESTALE)

    def _there(self, wanted: Inode, *, with_content: bool = True) -> tuple[int, bytes] | None:
        """Number and path of an inode in the log, if it is there; `with_content`: with the bytes that are promised."""
        real = self.pipeline.speculation.aliases.to_real(wanted.number)
        with self._ground.view() as view:
            inode = view.inode(real)
            if inode is None or (with_content and inode.content != wanted.content):
                return None
            return real, self.pipeline.orders.path(view, inode)

    def _shown(self, entry: Entry, number: int) -> Entry:
        """By the mount's number, and its version where the bytes are those of the mount's version."""
        with self.view() as view:
            mine = view.inode(number)
        with self._ground.view() as below:
            real = below.inode(entry.inode)
        same = real is not None and real.version == entry.version and mine is not None and mine.content == real.content
        return entry._replace(inode=number, version=mine.version if mine is not None and same else entry.version)

    # -- the node's ---------------------------------------------------------------------------------------------------

    def applied(self) -> int:
        return self._ground.applied()

    def zone_number(self) -> int:
        return self._ground.zone_number()

    def time_ns(self) -> int:
        return self._ground.time_ns()

    def next_id(self) -> OperationId:
        return self._ground.next_id()

    async def submit(self, record: Record, timeout_s: float) -> tuple[int, Outcome]:
        return await self._ground.submit(record, timeout_s)

    async def submit_many(
        self, records: Sequence[Record], timeout_s: float, *, visible: bool = True, decided: Decided | None = None
    ) -> list[tuple[int, Outcome]]:
        return await self._ground.submit_many(records, timeout_s, visible=visible, decided=decided)

    async def barrier(self, timeout_s: float) -> int:
        return await self._ground.barrier(timeout_s)

    async def wait(self, index: int, timeout_s: float) -> None:
        await self._ground.wait(index, timeout_s)

    async def submit_folded(self, records: Sequence[Record], timeout_s: float) -> list[tuple[int, Outcome]]:
        return await self._ground.submit_folded(records, timeout_s)

    def entry(self, path: bytes) -> Entry | None:
        return self._ground.entry(path)

    def listing(self, path: bytes, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        return self._ground.listing(path, after, limit)

    def volume(self, rule: int) -> os.statvfs_result:
        return self._ground.volume(rule)

    def scratch(self) -> Path:
        return self._ground.scratch()
