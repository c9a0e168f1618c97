"""What all operations of a mount share."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from lddp.config import WriteMode
from lddp.core.namespace import Inode
from lddp.core.records import InPlace
from lddp.doors.fuse import wire
from lddp.doors.fuse.committing import Committer
from lddp.doors.fuse.errors import Errors, Opened
from lddp.doors.fuse.file import File
from lddp.doors.fuse.files import Files
from lddp.doors.fuse.ground import Ground, Patience, Top
from lddp.doors.fuse.inodes import Inodes
from lddp.doors.fuse.ordering import Orders, Stamp, refused
from lddp.doors.fuse.passthrough import Passthrough
from lddp.doors.fuse.pipeline import Pipeline
from lddp.doors.fuse.promised import Promised
from lddp.doors.fuse.streaming import Streams
from lddp.errors import LddpError

_log = logging.getLogger(__name__)
LOST_LOGGED_MAX = 16
"""How many files of which something is lost are named in the log."""


def _tell_nobody(number: int) -> None:
    """Where nothing is mounted."""


def _doubt_nothing(numbers: set[int]) -> None:
    """Where nobody follows."""


class Tree:
    """The mounted rule: its namespace, its open files, and the way to the log."""

    def __init__(
        self, ground: Ground, top: Top, patience: Patience, valid_ns: int, mode: WriteMode = WriteMode.SYNC
    ) -> None:
        self.errors = Errors()
        self.pipeline = Pipeline(ground, top, patience, self.errors) if mode is WriteMode.PIPELINED else None
        self.ground = ground = ground if self.pipeline is None else Promised(self.pipeline)
        self.top = top
        self.valid_ns = valid_ns
        """How long the kernel may believe what it was told of names and attributes."""
        self.inodes = Inodes(top.root)
        self.orders = Orders(ground, top, patience, self.pipeline)
        self.files = Files(self.orders, self.inodes.pages_come)
        self.passthrough = Passthrough(self.files, ground.scratch)
        self.appends_directly = False
        """Whether the kernel keeps no page of what is written with O_APPEND: it would have it where it believes the end
        to be, until it is told."""
        self.tell: Callable[[int], None] = _tell_nobody
        """The kernel is to be told that this inode's attributes may be others. No call may wait until it was: until the
        call is answered, the kernel may hold what an earlier notice waits for."""
        self.doubt: Callable[[set[int]], None] = _doubt_nothing
        """The kernel is to be told of these inodes where it may be wrong about them."""
        self.let_go: Callable[[File], object] = self.files.let_go
        """Instead of `files.let_go`: commits what is still to be committed then."""
        self.take_back: Callable[[File], None] = self.files.abandon
        """A cut of a file that the caller holds was not ordered: nobody is to commit it later."""
        self.streams = Streams(ground, self.files)
        self.committer = Committer(self.orders, self.files, self.inodes, self.streams)
        if self.pipeline is not None:
            self.pipeline.is_known = self.is_known

    def is_known(self, number: int) -> bool:
        """Whether the kernel or an open file has it."""
        return number in self.inodes or self.files.get(number) is not None

    # -- what is shown ------------------------------------------------------------------------------------------------

    def shown(self, inode: Inode, *, gone: bool = False) -> wire.Attributes:
        file = self.files.get(inode.number)
        if file is not None and file.is_known and (gone or file.is_ahead):
            shown = self.inodes.attributes(inode, file.size, file.mtime_ns or inode.mtime_ns)
            shown = shown._replace(ctime_ns=max(shown.ctime_ns, file.changed_ns))
        else:
            shown = self.inodes.attributes(inode, inode.size, inode.mtime_ns)
        return shown._replace(links=0) if gone else shown

    def entry(self, inode: Inode, directory: int, name: bytes) -> bytes:
        """An answer that makes the kernel hold the node, as this name in this directory."""
        self.inodes.looked_up(inode, directory, name)
        return wire.entry_answer(self.shown(inode), self.valid_ns)

    def attributes(self, number: int) -> bytes:
        with self.ground.view() as view:
            inode = view.inode(number)
        if inode is not None:
            self.inodes.seen(inode)
            return wire.attributes_answer(self.shown(inode), self.valid_ns)
        last = self.inodes.last(number)
        if last is None:
            raise refused(errno.ESTALE)
        return wire.attributes_answer(self.shown(last, gone=True), self.valid_ns)

    def inode(self, number: int) -> Inode:
        with self.ground.view() as view:
            inode = view.inode(number)
        if inode is None:
            raise refused(errno.ESTALE)
        return inode

    async def certain(self, number: int) -> Inode | None:
        """None where it has no name any more, for good: a removal that is only promised may be refused yet."""
        while True:
            with self.ground.view() as view:
                inode = view.inode(number)
            if inode is not None or not await self.orders.until_certain(number):
                return inode

    # -- changes ------------------------------------------------------------------------------------------------------

    async def change(self, number: int, record: Callable[[Stamp, bytes], InPlace], *also: int) -> bool:
        """Orders a record about an inode, given its path; it changes the inodes `also` as well. False where the inode
        has no name any more: then the change is its holders' own."""
        stamp = self.orders.stamp()

        def records(_: Inode, path: bytes) -> list[InPlace]:
            nonlocal stamp
            stamp = self.orders.stamp()
            return [record(stamp, path)]

        while (outcomes := await self.orders.about(number, records)) is None:
            if await self.certain(number) is None:
                return False
        if outcomes[0].errno:
            raise refused(outcomes[0].errno)
        for one in (number, *also):
            self.inodes.changed(one, stamp[2])
        return True

    async def barrier(self) -> None:
        """Returns when what was promised so far is in the log, or was refused."""
        if self.pipeline is not None:
            await self.pipeline.barrier()

    def report(self, opened: Opened) -> None:
        """OSError where something that was promised to who has this open was refused; once."""
        number = self.errors.look(opened)
        if number:
            raise refused(number)

    async def commit_all(self) -> None:
        """Everything that was written and not committed yet, and everything that was promised. What cannot be committed
        does not hinder the rest."""
        await self.passthrough.look_at_all()
        for file in self.files:
            if file.is_ahead:
                try:
                    await self.committer.commit(file)
                except (OSError, LddpError) as error:
                    _log.error("inode %d of %s was not committed: %s", file.number, self.top.name, error)
        await self.barrier()

    def uncommitted(self) -> list[int]:
        """Files with a name, of which something was written that is not in the log and not promised either; also those
        without, where a node has failed and cannot tell."""
        ahead = [file.number for file in self.files if file.is_ahead]
        try:
            with self.ground.view() as view:
                return [number for number in ahead if view.inode(number) is not None]
        except LddpError:
            return ahead

    async def close(self) -> None:
        """What was written and not committed, and what is promised still, is lost, and said to be."""
        lost = self.uncommitted()
        for number in lost[:LOST_LOGGED_MAX]:
            _log.error("what was written to inode %d of %s was not committed, and is lost", number, self.top.name)
        if len(lost) > LOST_LOGGED_MAX:
            text = "so it is with %d more files in the mount of %s"
            _log.error(text, len(lost) - LOST_LOGGED_MAX, self.top.name)
        await self.streams.close()
        if self.pipeline is not None:
            await self.pipeline.close()
