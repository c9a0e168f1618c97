"""Names: lookup, what makes and takes them, and listings."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lddp.core import records as r
from lddp.core.limits import NAME_BYTES_MAX
from lddp.core.namespace import Inode
from lddp.core.records import InPlace, Kind, Record, RenameFlag
from lddp.doors.fuse import wire
from lddp.doors.fuse.errors import Opened
from lddp.doors.fuse.inodes import user_device
from lddp.doors.fuse.ordering import KINDS, Place, Stamp, refused
from lddp.doors.fuse.tree import Tree

_KIND_BY_TYPE = {bits: kind for kind, bits in KINDS.items()}
_FLAGS = {0: RenameFlag.NONE, 1: RenameFlag.NOREPLACE, 2: RenameFlag.EXCHANGE}
_DIRECTORY = KINDS[Kind.DIRECTORY]
Made = r.MakeDirectory | r.Create | r.Symlink


class Owner(NamedTuple):
    mode: int
    uid: int
    gid: int


class Names:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._listings: dict[int, list[tuple[bytes, int, int]]] = {}
        self._opened: dict[int, Opened] = {}
        self._handle = 0

    def _directory(self, request: wire.Request) -> int:
        return self._tree.inodes.number(request.node)

    def _child(self, directory: int, name: bytes) -> Inode | None:
        with self._tree.ground.view() as view:
            number = view.child(directory, name)
            return view.inode(number) if number else None

    def _existing(self, directory: int, name: bytes) -> Inode:
        child = self._child(directory, name)
        if child is None:
            raise refused(errno.ENOENT)
        return child

    def lookup(self, request: wire.Request) -> bytes:
        name = wire.name_in(request.body)
        if len(name) > NAME_BYTES_MAX:
            raise refused(errno.ENAMETOOLONG)  # the kernel's own limit is higher
        directory = self._directory(request)
        return self._tree.entry(self._existing(directory, name), directory, name)

    # -- making -------------------------------------------------------------------------------------------------------

    def owner(self, directory: int, request: wire.Request, mode: int) -> Owner:
        """Of something new, as a setgid directory would have it (inode(7))."""
        with self._tree.ground.view() as view:
            parent = view.inode(directory)
        if parent is None:
            raise refused(errno.ENOENT)
        if parent.mode < 0 or not parent.mode & stat.S_ISGID:
            return Owner(mode & 0o7777, request.uid, request.gid)
        inherited = stat.S_ISGID if stat.S_IFMT(mode) == _DIRECTORY else 0
        return Owner(mode & 0o7777 | inherited, request.uid, parent.gid)

    async def make(self, directory: int, name: bytes, record: Callable[[Stamp, bytes], Made]) -> Inode:
        """Orders what makes a name; the inode behind it."""

        def there(stamp: Stamp, path: bytes) -> Record:
            return record(stamp, path)._replace(expected_parent=directory)

        outcome, time_ns = await self._tree.orders.naming([(directory, name)], there)
        self._touched(time_ns, outcome.inode, directory)
        return self._tree.inode(outcome.inode)

    def entry_of_made(self, inode: Inode, directory: int, name: bytes) -> bytes:
        """The answer that makes the kernel know it by a new name. What became of the name while nobody knew it here is
        to be told then."""
        tree = self._tree
        entry = tree.entry(inode, directory, name)
        if (inode.parent, inode.name) != (directory, name):  # its first name
            with tree.ground.view() as view:
                is_there = view.child(directory, name) == inode.number
            if not is_there:
                tree.doubt({inode.number})
        return entry

    def _touched(self, time_ns: int, *numbers: int) -> None:
        for number in numbers:
            self._tree.inodes.changed(number, time_ns)

    async def mkdir(self, request: wire.Request) -> bytes:
        made = wire.mkdir(request.body)
        directory = self._directory(request)
        owner = self.owner(directory, request, made.mode | _DIRECTORY)
        return self.entry_of_made(
            await self.make(directory, made.name, lambda stamp, path: r.MakeDirectory(*stamp, path, *owner)),
            directory,
            made.name,
        )

    async def mknod(self, request: wire.Request) -> bytes:
        made = wire.mknod(request.body)
        kind = _KIND_BY_TYPE.get(stat.S_IFMT(made.mode) or KINDS[Kind.FILE])
        if kind is None:
            raise refused(errno.EOPNOTSUPP)  # sockets are not replicated
        directory = self._directory(request)
        owner = self.owner(directory, request, made.mode)
        device = user_device(made.rdev) if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) else 0
        return self.entry_of_made(
            await self.make(directory, made.name, lambda stamp, path: r.Create(*stamp, path, kind, *owner, device)),
            directory,
            made.name,
        )

    async def symlink(self, request: wire.Request) -> bytes:
        name, target = wire.two_names(request.body)
        directory = self._directory(request)
        owner = self.owner(directory, request, 0o777)
        return self.entry_of_made(
            await self.make(directory, name, lambda stamp, path: r.Symlink(*stamp, path, target, owner.uid, owner.gid)),
            directory,
            name,
        )

    async def link(self, request: wire.Request) -> bytes:
        node, name = wire.link(request.body)
        tree, directory = self._tree, self._directory(request)
        number = tree.inodes.number(node)

        def record(stamp: Stamp, old: bytes) -> InPlace:
            with tree.ground.view() as view:
                path = tree.orders.place(view, directory, name)
            return r.Link(*stamp, old, path, expected_to_parent=directory)

        async with tree.files.quiet(number):
            if not await tree.change(number, record, directory):
                raise refused(errno.ENOENT)
        return self.entry_of_made(tree.inode(number), directory, name)

    # -- taking away --------------------------------------------------------------------------------------------------

    async def unlink(self, request: wire.Request) -> bytes:
        tree, directory, name = self._tree, self._directory(request), wire.name_in(request.body)
        child = self._existing(directory, name)
        tree.inodes.seen(child)

        def record(stamp: Stamp, path: bytes) -> Record:
            return r.Unlink(*stamp, path, expected_parent=directory)

        async with tree.files.quiet(child.number):
            _, time_ns = await tree.orders.naming([(directory, name)], record)
        self._lost(child, time_ns, directory, name)
        return b""

    async def rmdir(self, request: wire.Request) -> bytes:
        directory, name = self._directory(request), wire.name_in(request.body)
        child = self._existing(directory, name)
        self._tree.inodes.seen(child)

        def record(stamp: Stamp, path: bytes) -> Record:
            return r.RemoveDirectory(*stamp, path, directory)

        _, time_ns = await self._tree.orders.naming([(directory, name)], record)
        self._lost(child, time_ns, directory, name)
        return b""

    def _lost(self, child: Inode, time_ns: int, directory: int, name: bytes) -> None:
        """An inode has lost a name, perhaps its last."""
        self._tree.inodes.lost_name(child.number, directory, name)
        self._touched(time_ns, child.number, directory)
        if child.nlink <= 1 or child.kind is Kind.DIRECTORY:
            self._tree.files.gone(child.number)

    # -- moving -------------------------------------------------------------------------------------------------------

    async def rename(self, request: wire.Request) -> bytes:
        return await self._rename(request, wire.rename(request.body))

    async def rename2(self, request: wire.Request) -> bytes:
        return await self._rename(request, wire.rename2(request.body))

    async def _rename(self, request: wire.Request, move: wire.Move) -> bytes:
        flag = _FLAGS.get(move.flags)
        if flag is None:
            raise refused(errno.EINVAL)
        tree = self._tree
        directory, target_directory = self._directory(request), tree.inodes.number(move.directory)
        child, replaced = self._existing(directory, move.name), self._child(target_directory, move.to)
        both = [child] if replaced is None else [child, replaced]
        for one in both:
            tree.inodes.seen(one)
        places = (directory, move.name), (target_directory, move.to)
        believed = [{tree.inodes.believed(*place)} for place in places]
        there = [child, replaced]

        def record(stamp: Stamp, path: bytes, to: bytes) -> Record:
            # Another zone may have come in between since this call began.
            there[:] = [self._child(*place) for place in places]
            for beliefs, place in zip(believed, places, strict=True):
                beliefs.add(tree.inodes.believed(*place))
            return r.Rename(*stamp, path, to, flag, directory, target_directory)

        async with tree.files.quiet(*(one.number for one in both)):
            alone = any(one.kind is Kind.DIRECTORY for one in both)
            outcome, time_ns = await tree.orders.naming(places, record, alone=alone)
        moved, replaced = outcome.inode, there[1]
        # A call of the same kernel may have been answered in between, and it moves what it knows by now.
        by_now = tree.inodes.believed(*places[1])
        if by_now != moved:
            believed[1].add(by_now)
        self._touched(time_ns, moved, directory, target_directory)
        # Two names of one file both stay, and the kernel may go on believing both.
        if replaced is None or replaced.number != moved:
            tree.inodes.lost_name(moved, directory, move.name)
        if replaced is not None and replaced.number != moved:
            if flag is RenameFlag.EXCHANGE:
                self._touched(time_ns, replaced.number)
                tree.inodes.lost_name(replaced.number, target_directory, move.to)
                tree.inodes.got_name(replaced.number, directory, move.name)
            else:
                self._lost(replaced, time_ns, target_directory, move.to)
        tree.inodes.got_name(moved, target_directory, move.to)
        self._moved_as_well(believed[0] - {moved}, places)
        if flag is RenameFlag.EXCHANGE:
            self._moved_as_well(believed[1] - {0 if replaced is None else replaced.number}, places[::-1])
        return b""

    def _moved_as_well(self, believed: set[int], places: Sequence[Place]) -> None:
        """The kernel has moved what it knew by the name, even where another zone had given that to another object: it
        is to be told once more."""
        for number in sorted(believed - {0}):
            self._tree.inodes.got_name(number, *places[1])  # and perhaps it has the other name, too: that is seen then
            self._tree.doubt({number})

    # -- listing ------------------------------------------------------------------------------------------------------

    def opendir(self, request: wire.Request) -> bytes:
        directory = self._tree.inode(self._directory(request)).number
        self._handle += 1
        self._opened[self._handle] = self._tree.errors.open(directory)
        return wire.open_answer(self._handle)

    def _listing(self, directory: int, handle: int, offset: int) -> list[tuple[bytes, int, int]]:
        """(name, inode, type) of what the directory had when this handle began to be read: what is there all the time
        is listed once, whatever else comes and goes."""
        if offset == 0 or handle not in self._listings:
            with self._tree.ground.view() as view:
                here = view.inode(directory)
                if here is None:
                    self._listings[handle] = []
                    return []
                above = here.parent if directory != self._tree.top.root else directory
                found = [(b".", directory, _DIRECTORY), (b"..", above or directory, _DIRECTORY)]
                for name, number in view.list(directory):
                    child = view.inode(number)
                    if child is not None:
                        found.append((name, number, KINDS[child.kind]))
                self._listings[handle] = found
        return self._listings[handle]

    def readdir(self, request: wire.Request) -> bytes:
        span = wire.span(request.body)
        listing = self._listing(self._directory(request), span.handle, span.offset)
        data = bytearray()
        for index in range(span.offset, len(listing)):
            name, number, kind = listing[index]
            entry = wire.directory_entry(self._tree.inodes.node(number), index + 1, kind, name)
            if len(data) + len(entry) > span.size:
                break
            data += entry
        return bytes(data)

    def readdirplus(self, request: wire.Request) -> bytes:
        span = wire.span(request.body)
        directory = self._directory(request)
        listing = self._listing(directory, span.handle, span.offset)
        data = bytearray()
        with self._tree.ground.view() as view:
            for index in range(span.offset, len(listing)):
                name, number, kind = listing[index]
                entry = wire.directory_entry(self._tree.inodes.node(number), index + 1, kind, name)
                if len(data) + len(wire.NO_ENTRY) + len(entry) > span.size:
                    break
                # The kernel takes an entry for a lookup, and the name may be another's by now, or nobody's.
                is_so = index > 1 and view.child(directory, name) == number
                inode = view.inode(number) if is_so else None
                data += (wire.NO_ENTRY if inode is None else self._tree.entry(inode, directory, name)) + entry
        return bytes(data)

    def releasedir(self, request: wire.Request) -> bytes:
        handle = wire.handle(request.body)
        self._listings.pop(handle, None)
        self._opened.pop(handle, None)
        return b""

    async def fsyncdir(self, request: wire.Request) -> bytes:
        """Without promises every change of a name was durable before it returned."""
        await self._tree.barrier()
        opened = self._opened.get(wire.handle(request.body))
        if opened is not None:
            self._tree.report(opened)
        return b""
