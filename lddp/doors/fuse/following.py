"""What the log changes without this mount having asked for it, told to the kernel, so that it may believe for long what
it was told before.

Changes of this mount's own are left out: the kernel knows them from their answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from lddp.core.namespace import Inode
from lddp.core.view import View
from lddp.doors.fuse import wire
from lddp.doors.fuse.file import File
from lddp.doors.fuse.tree import Tree

Notices = list[Sequence[bytes]]
SETTLE_TURNS = 8
"""Turns of the loop until who waited for a record of this mount knows its GSN; a notice too many does no harm."""


class Following:
    """`changed` is called with the inodes that each fold has touched; `run` tells the kernel of them."""

    def __init__(
        self,
        tree: Tree,
        tell: Callable[[Notices], Awaitable[None]],
        tell_apart: Callable[[Notices], Awaitable[None]] | None = None,
    ) -> None:
        """`tell` returns when the kernel was told, `tell_apart` as well, which holds up no other."""
        self._tree = tree
        self._tell = tell
        self._tell_apart = tell_apart or tell
        self._ahead: set[int] = set()
        self._stored: set[int] = set()
        self._misled: set[int] = set()
        self._paging: dict[int, asyncio.Task[None]] = {}
        """The kernel is told of whose bytes."""
        self._again: set[int] = set()
        """Of these once more then."""
        self._wake = asyncio.Event()
        self._done = asyncio.Event()
        self._done.set()
        self._seen = tree.ground.applied()
        tree.doubt = self.changed
        tree.files.stored = tree.tell = self.stored
        tree.files.misled = self.misled

    def changed(self, numbers: Iterable[int]) -> None:
        inodes, files = self._tree.inodes, self._tree.files
        known = {number for number in numbers if number in inodes or files.get(number) is not None}
        if known:
            self._ahead |= known
            self._wake.set()
            self._done.clear()

    def stored(self, number: int) -> None:
        """The kernel does not know that its attributes may be others: what a program has stored through a mapping has
        been found, or a call has changed more than its answer says."""
        self._stored.add(number)
        self.changed([number])

    def misled(self, number: int) -> None:
        """The kernel may have other bytes of it than the mount shows."""
        self._tree.inodes.pages_are_lost(number)
        if (file := self._tree.files.get(number)) is not None:
            self._tree.passthrough.refresh(file)
        self._misled.add(number)
        self.changed([number])

    @property
    def is_told(self) -> bool:
        return self._done.is_set() and not self._paging and self._tree.passthrough.is_fresh

    async def told(self) -> None:
        """Returns when the kernel knows of every change so far, and has it where it reads by itself."""
        await self._done.wait()
        while self._paging:
            await asyncio.wait(list(self._paging.values()))
            await self._done.wait()
        await self._tree.passthrough.fresh()

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            for task in self._paging.values():
                task.cancel()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            for _ in range(SETTLE_TURNS):
                await asyncio.sleep(0)
            self._wake.clear()
            numbers, self._ahead = self._ahead, set()
            with self._tree.ground.view() as view:
                seen, self._seen = self._seen, view.gsn
                notices = [notice for number in numbers for notice in self._notices(view, number, seen)]
                notices += [wire.inode_notice(self._tree.inodes.node(number), -1) for number in self._stored]
                self._stored.clear()
                self._tree.orders.told(numbers)
            notices += [notice for number in self._misled for notice in self._of_bytes(number)]
            self._misled.clear()
            if notices:
                await self._tell(notices)
            if not self._ahead:
                self._done.set()

    def _of_bytes(self, number: int) -> Notices:
        """What makes the kernel forget the bytes of a file. Where it is open, that is told apart from all else: the
        kernel waits for who reads or writes pages of it, and has them locked, perhaps until bytes are here."""
        file = self._tree.files.get(number)
        if number in self._paging:
            self._again.add(number)
        elif file is not None and file.opens:
            self._paging[number] = asyncio.get_running_loop().create_task(self._tell_of_bytes(file))
        else:
            return [wire.inode_notice(self._tree.inodes.node(number), 0)]
        return []

    async def _tell_of_bytes(self, file: File) -> None:
        number = file.number
        file.is_told = True
        try:
            while True:
                self._again.discard(number)
                await self._tell_apart([wire.inode_notice(self._tree.inodes.node(number), 0)])
                if number not in self._again:
                    break
        finally:
            file.is_told = False
            del self._paging[number]

    def _notices(self, view: View, number: int, seen: int) -> Notices:
        tree = self._tree
        inode = view.inode(number)
        notices: Notices = []
        if inode is None:
            tree.files.gone(number)
        for directory, name in tree.inodes.names(number):
            if view.child(directory, name) != number:
                tree.inodes.lost_name(number, directory, name)
                notices.append(wire.entry_notice(tree.inodes.node(directory), name))
        # Of what is gone: the kernel took the last name away itself.
        own = not notices if inode is None else tree.orders.is_own(inode, seen)
        if not own:
            tree.inodes.changed(number, tree.ground.time_ns())
            # What is cached of the bytes as well, or attributes only.
            if inode is not None and self._is_other_content(inode):
                self._misled.add(number)  # of which the kernel is told below
            else:
                notices.append(wire.inode_notice(tree.inodes.node(number), -1))
        return notices

    def _is_other_content(self, inode: Inode) -> bool:
        tree, file = self._tree, self._tree.files.get(inode.number)
        digest = b"" if inode.content is None else inode.content.digest
        if file is not None:
            file.is_orphan = False  # the removal of its last name may have been promised, and refused
        if file is not None and file.is_ahead:
            digest = file.digest  # with what was written through the pages
        elif file is not None and file.digest != digest:
            file.is_stale = True
            tree.passthrough.refresh(file)
            tree.files.forget_idle(file)
        return tree.inodes.has_pages_of_another(inode.number, digest)
