"""Open files: open, create, read, write, and what brings their bytes into the log."""

from __future__ import annotations

import asyncio
import errno
import logging
import os

from lddp.core import records as r
from lddp.core.namespace import Inode
from lddp.core.operations import EMPTY_DIGEST
from lddp.core.records import Kind
from lddp.doors.fuse import allocating, protocol, wire
from lddp.doors.fuse.file import File, Handle
from lddp.doors.fuse.metadata import Metadata
from lddp.doors.fuse.names import Names
from lddp.doors.fuse.ordering import refused
from lddp.doors.fuse.session import Answer
from lddp.doors.fuse.tree import Tree
from lddp.errors import LddpError

_log = logging.getLogger(__name__)


class Data:
    def __init__(self, tree: Tree, names: Names, metadata: Metadata) -> None:
        self._tree = tree
        self._names = names
        self._metadata = metadata
        self._handles: dict[int, Handle] = {}
        self._last = 0
        self._late: set[asyncio.Task[None]] = set()
        tree.passthrough.let_go = tree.let_go = self._let_go
        tree.take_back = self._take_back
        tree.passthrough.commit = self._commit_soon

    def _handle(self, number: int) -> Handle:
        handle = self._handles.get(number)
        if handle is None:
            raise refused(errno.EBADF)
        return handle

    # -- opening ------------------------------------------------------------------------------------------------------

    async def open(self, request: wire.Request) -> bytes:
        flags, own = wire.open_flags(request.body)
        number = self._tree.inodes.number(request.node)
        if own & protocol.OPEN_KILL_SUIDGID and flags & os.O_TRUNC:
            await self._metadata.kill_privileges(number)
        return await self._open(number, flags)

    async def _open(self, number: int, flags: int) -> bytes:
        tree = self._tree
        file = tree.files.get(number)
        if (file is None or not file.opens) and not self._is_named(number):
            raise refused(errno.ESTALE)  # removed elsewhere: the kernel looks what has the name now
        file = tree.files.hold(number)
        file.was_committed = file.was_committed and file.opens > 1
        try:
            if flags & os.O_TRUNC:
                await tree.files.truncate(file, 0)
            elif not (file.is_known and file.is_ahead):
                await tree.files.freshened(file)
            way = await tree.passthrough.open(file, flags)
        except BaseException:
            self._let_go(file)
            raise
        self._last += 1
        self._handles[self._last] = Handle(file, flags, tree.errors.open(number), passes=way.passes)
        self._commit_what_is_left(file)  # while it was opened, it counted for who may write
        keep = tree.inodes.keeps_pages(number, file.digest) and bool(file.digest) and not way.passes
        answer = (protocol.FOPEN_KEEP_CACHE if keep else way.flags) | self._directly(flags)
        return wire.open_answer(self._last, answer, way.backing)

    def _directly(self, flags: int) -> int:
        return protocol.FOPEN_DIRECT_IO if self._tree.appends_directly and flags & os.O_APPEND else 0

    async def create(self, request: wire.Request) -> bytes:
        made = wire.create(request.body)
        tree, directory = self._tree, self._tree.inodes.number(request.node)
        owner = self._names.owner(directory, request, made.mode)
        try:
            inode = await self._names.make(
                directory, made.name, lambda stamp, path: r.Create(*stamp, path, Kind.FILE, *owner)
            )
        except OSError as error:
            if error.errno != errno.EEXIST or made.flags & os.O_EXCL:
                raise
            return await self._open_instead(directory, made)
        file = tree.files.hold(inode.number)
        if not file.is_known and inode.content is not None and inode.content.digest == EMPTY_DIGEST:
            file.become_empty(EMPTY_DIGEST)  # what another zone has put already comes with the first read
        tree.passthrough.opened_cached(inode.number)
        self._last += 1
        self._handles[self._last] = Handle(file, made.flags, tree.errors.open(inode.number), has_made=True)
        entry = self._names.entry_of_made(inode, directory, made.name)
        tree.inodes.keeps_pages(inode.number, EMPTY_DIGEST)
        return entry + wire.open_answer(self._last, self._directly(made.flags))

    async def _open_instead(self, directory: int, made: wire.Make) -> bytes:
        """Somebody else has made it meanwhile, in this zone or another."""
        with self._tree.ground.view() as view:
            number = view.child(directory, made.name)
            inode: Inode | None = view.inode(number) if number else None
        if inode is None or inode.kind is not Kind.FILE:
            raise refused(errno.EEXIST)
        opened = await self._open(number, made.flags)
        with self._tree.ground.view() as view:
            entry = self._tree.entry(view.inode(number) or inode, directory, made.name)
        self._tree.doubt({number})  # while it was opened, it may have lost the name
        return entry + opened

    # -- bytes --------------------------------------------------------------------------------------------------------

    def read(self, request: wire.Request) -> Answer:
        span = wire.span(request.body)
        file = self._handle(span.handle).file
        data = file.read_at_once(span.offset, span.size)
        return self._tree.files.read(file, span.offset, span.size) if data is None else data  # type: ignore[return-value]

    def write(self, request: wire.Request) -> Answer:
        span = wire.span(request.body)
        file, data = self._handle(span.handle).file, wire.written(request.body)
        moves = span.opened & os.O_APPEND and span.offset != file.size
        if not (span.flags & protocol.WRITE_KILL_SUIDGID or moves):
            done = self._tree.files.write_at_once(file, span.offset, data)
            if done is not None:
                return wire.write_answer(done)
        return self._write(file, span, data)  # type: ignore[return-value]

    async def _write(self, file: File, span: wire.Span, data: memoryview) -> bytes:
        """O_APPEND is for the filesystem to do: the end of the file that the kernel knows may be that of before."""
        if span.flags & protocol.WRITE_KILL_SUIDGID:
            await self._metadata.kill_privileges(file.number)
        appends = bool(span.opened & os.O_APPEND)
        offset, done = await self._tree.files.write(file, span.offset, data, appends=appends)
        if offset != span.offset:
            self._tree.files.misled(file.number)  # the kernel has put the bytes where it has asked for
        return wire.write_answer(done)

    def _is_named(self, number: int) -> bool:
        with self._tree.ground.view() as view:
            return view.inode(number) is not None

    async def fallocate(self, request: wire.Request) -> bytes:
        wanted = wire.allocation(request.body)
        file = self._handle(wanted.handle).file
        files, given = self._tree.files, (wanted.mode, wanted.offset, wanted.length)
        await self._tree.orders.patiently(lambda: allocating.allocate(files, file, *given))
        return b""

    async def lseek(self, request: wire.Request) -> bytes:
        number, offset, whence = wire.seek(request.body)
        return wire.seek_answer(await self._tree.files.seek(self._handle(number).file, offset, whence))

    # -- into the log -------------------------------------------------------------------------------------------------

    def flush(self, request: wire.Request) -> Answer:
        handle = self._handle(wire.handle(request.body))
        if not handle.writes:
            return b""
        if handle.file.is_ahead or handle.file.mirror >= 0:
            return self._close(handle)  # type: ignore[return-value]
        if handle.file.was_committed and self._tree.pipeline is not None and not handle.has_made:
            return self._close_certainly(handle)  # type: ignore[return-value]
        self._tree.report(handle.opened)
        return b""

    async def _close(self, handle: Handle) -> bytes:
        """A file that existed is in the log then, for whoever opens it elsewhere. One that this open has made is queued
        where its making was."""
        await self._tree.passthrough.look(handle.file)
        await self._tree.committer.commit(handle.file)
        if not handle.has_made:
            await self._tree.barrier()
        self._tree.report(handle.opened)
        return b""

    async def _close_certainly(self, handle: Handle) -> bytes:
        """Where somebody has committed what was written, with a time that was set or by another close, and it may be
        queued still."""
        await self._tree.orders.until_certain(handle.file.number)
        self._tree.report(handle.opened)
        return b""

    async def fsync(self, request: wire.Request) -> bytes:
        handle = self._handle(wire.handle(request.body))
        await self._tree.passthrough.look(handle.file)
        if handle.file.is_ahead:
            await self._tree.committer.commit(handle.file)
        await self._tree.barrier()
        self._tree.report(handle.opened)
        return b""

    def release(self, request: wire.Request) -> bytes:
        """Nobody waits for this one. What a mapping has written after the last close is still to be committed."""
        handle = self._handles.pop(wire.handle(request.body), None)
        if handle is not None:
            self._tree.passthrough.closed(handle)
            self._let_go(handle.file)
        return b""

    def _changers(self, file: File) -> int:
        """How many holds of it are of somebody who commits what is written to it, or is told that this failed: who has
        it open to write, cuts it, or commits it late."""
        readers = sum(one.file is file and not one.writes for one in self._handles.values())
        return file.opens - readers - file.passes

    def _let_go(self, file: File) -> None:
        if self._tree.files.let_go(file):
            self._commit_soon(file)
        elif file.opens:
            self._commit_what_is_left(file)

    def _commit_what_is_left(self, file: File) -> None:
        """Of those who were to commit it, if they could not: no reader is asked to."""
        if file.is_ahead and not self._changers(file):
            self._commit_soon(file)

    def _take_back(self, file: File) -> None:
        """A cut by who has it not open was not ordered, and its program knows that: it is not to be committed by
        whoever closes the file some day. Where others may change it as well, their next close commits all of it."""
        if self._changers(file) == 1 and file.dirty.touched and not file.dirty.spans():
            self._tree.files.abandon(file)
            self._tree.passthrough.refresh(file)
            self._tree.files.misled(file.number)

    def _commit_soon(self, file: File) -> None:
        file.opens += 1
        task = asyncio.get_running_loop().create_task(self._commit_late(file))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _commit_late(self, file: File) -> None:
        try:
            await self._tree.committer.commit(file)
        except (OSError, LddpError) as error:
            if self._changers(file) > 1:
                file.opens -= 1  # who may write to it is asked again for what was written, and told
                return
            _log.error("what was written to inode %d is lost: %s", file.number, error)
            self._tree.files.abandon(file)
            self._tree.inodes.pages_are_lost(file.number)
            if file.opens > 1:  # who reads it
                self._tree.passthrough.refresh(file)
                self._tree.files.misled(file.number)
        self._let_go(file)

    async def close(self) -> None:
        """Ends what nobody waits for."""
        for task in list(self._late):
            task.cancel()
        if self._late:
            await asyncio.wait(self._late)
