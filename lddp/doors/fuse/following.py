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
from lddp.doors.fuse.tree import Tree

Notices = list[Sequence[bytes]]
SETTLE_TURNS = 8
"""Turns of the loop until who waited for a record of this mount knows its GSN; a notice too many does no harm."""


class Following:
    """`changed` is called with the inodes that each fold has touched; `run` tells the kernel of them."""

    def __init__(self, tree: Tree, tell: Callable[[Notices], Awaitable[None]]) -> None:
        self._tree = tree
        self._tell = tell
        self._ahead: set[int] = set()
        self._stored: set[int] = set()
        self._misled: set[int] = set()
        self._forgotten: set[int] = set()
        """Of whose bytes the kernel is told now."""
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
        return self._done.is_set() and self._tree.passthrough.is_fresh

    async def told(self) -> None:
        """Returns when the kernel knows of every change so far, and has it where it reads by itself."""
        await self._done.wait()
        await self._tree.passthrough.fresh()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            for _ in range(SETTLE_TURNS):
                await asyncio.sleep(0)
            self._wake.clear()
            numbers, self._ahead = self._ahead, set()
            with self._tree.ground.view() as view:
                seen, self._seen = self._seen, view.gsn
                self._forgotten = set(self._misled)
                notices = [notice for number in numbers for notice in self._notices(view, number, seen)]
                notices += [wire.inode_notice(self._tree.inodes.node(number), -1) for number in self._stored]
                self._stored.clear()
                notices += [wire.inode_notice(self._tree.inodes.node(number), 0) for number in self._misled]
                self._misled.clear()
                self._tree.orders.told(numbers)
            if notices:
                await self._tell_of(notices)
            if not self._ahead:
                self._done.set()

    async def _tell_of(self, notices: Notices) -> None:
        """Whoever reads or writes pages that are to be forgotten has them locked, and must not wait meanwhile."""
        files = [file for number in self._forgotten if (file := self._tree.files.get(number)) is not None]
        for file in files:
            file.is_told = True
        try:
            await self._tell(notices)
        finally:
            for file in files:
                file.is_told = False

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
            # Attributes only, or what is cached of the bytes as well.
            has_other = inode is not None and self._is_other_content(inode)
            self._forgotten |= {number} if has_other else set()
            notices.append(wire.inode_notice(tree.inodes.node(number), 0 if has_other else -1))
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
