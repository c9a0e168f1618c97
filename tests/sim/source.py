"""The source's side of a simulated migration: a tree that a program changes behind everybody's back, and what the
kernel tells of it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from random import Random

from blake3 import blake3

from lddp.core.records import Attributes, Kind
from lddp.doors.watch.events import Batch, Event, Flag, Overflow
from lddp.errors import UnavailableError
from tests.fakes.zone import Bytes, FakeZone, Inode
from tests.sim.alike import some_of_the_same
from tests.sim.checks import walk
from tests.sim.loop import EPOCH_S, Process, SimulatedLoop

NAMES = (b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"\xff\xfe", b".hidden")
SIZES = (0, 1, 9, 40, 60, 200, 600, 1500)
_HANDLE_TYPE = struct.Struct("<i")


class FakeWatcher:
    """Implements `doors.watch.Watcher` for one process: every change is told in order, some time after it, until more
    wait than the queue holds; then everything that waits is dropped, and that is told."""

    kind = "fanotify"
    reason = "simulated"

    def __init__(self, tree: SourceTree, process: Process, queue_max: int, delay_s: float) -> None:
        self._tree = tree
        self._process = process
        self._queue_max = queue_max
        self._delay_s = delay_s
        self._sent = 0
        self._given = 0
        self._passed = 0
        self._free_at = 0.0
        self._dropping = False
        self._arrived: list[tuple[int, Event | Overflow]] = []
        self._stopped = False
        self._changed = asyncio.Condition()
        self.overflows = 0

    def send(self, event: Event) -> None:
        """Called with the change, from outside of the process."""
        if self._process.dead:
            return
        if self._sent - self._given > self._queue_max:
            if self._dropping:
                return
            self._dropping = True
            self.overflows += 1
        self._sent += 1
        loop = self._process.loop
        self._free_at = max(self._free_at, loop.now + self._process.random.uniform(0.0, self._delay_s))
        told = Overflow() if self._dropping else event
        loop.at(self._free_at, self._process, self._arrive, self._sent, told)

    def _arrive(self, number: int, event: Event | Overflow) -> None:
        self._arrived.append((number, event))
        self._process.loop.create_task(self._tell())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def start(self) -> None:
        self._tree.watchers.append(self)

    async def stop(self) -> None:
        self._stopped = True
        if self in self._tree.watchers:
            self._tree.watchers.remove(self)
        await self._tell()

    async def batch(self) -> Batch:
        self._passed = self._given
        async with self._changed:
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._arrived or self._stopped)
        if self._stopped:
            raise UnavailableError("the watcher was stopped")
        arrived, self._arrived = self._arrived, []
        self._given = arrived[-1][0]
        if any(isinstance(event, Overflow) for _, event in arrived):
            self._dropping = False
        return [event for _, event in arrived]

    def mark(self) -> int:
        return self._sent

    def passed(self, mark: int) -> bool:
        return self._given >= mark

    async def settle(self) -> None:
        mark = self._sent
        async with self._changed:
            await self._changed.wait_for(lambda: self._passed >= mark or self._stopped)


class SourceTree:
    """The source zone's files, for programs that change them; every change goes to the watchers."""

    def __init__(self, loop: SimulatedLoop, files: FakeZone) -> None:
        self._loop = loop
        self.files = files
        self.watchers: list[FakeWatcher] = []
        self.versions: set[tuple[bytes, bytes, int]] = set()
        """Identity, digest and time of every file as it was between two changes."""

    # -- looking ----------------------------------------------------------------------------------------------------

    def find(self, path: bytes) -> Inode | None:
        inode: Inode | None = self.files.root
        for part in path.split(b"/") if path else ():
            inode = None if inode is None else inode.entries.get(part)
        return inode

    def paths(self, *kinds: Kind) -> list[bytes]:
        return sorted(path for path, inode in walk(self.files) if path and inode.kind in kinds)

    def directories(self) -> list[bytes]:
        return [b"", *self.paths(Kind.DIRECTORY)]

    def attributes(self, mode: int) -> Attributes:
        return Attributes(mode, 0, 0, int((EPOCH_S + self._loop.now) * 1e9))

    def _handle(self, path: bytes) -> bytes:
        return _HANDLE_TYPE.pack(1) + self.files.status(path).handle[1:]

    # -- telling ----------------------------------------------------------------------------------------------------

    def _tell(self, path: bytes, target: bytes, flags: int) -> None:
        above, _, name = path.rpartition(b"/")
        self._send(Event(self._handle(above), name, target, flags))

    def _tell_object(self, target: bytes) -> None:
        self._send(Event(b"", b"", target, Flag.ATTRIBUTES))

    def _send(self, event: Event) -> None:
        for watcher in self.watchers:
            watcher.send(event)

    # -- changing ---------------------------------------------------------------------------------------------------

    def make_directory(self, path: bytes) -> None:
        self.files.make_directory(path, self.attributes(0o755))
        self._tell(path, self._handle(path), Flag.CREATED | Flag.IS_DIRECTORY)

    def make_file(self, path: bytes, data: bytes) -> None:
        self.files.put_file(path, self.attributes(0o644), Bytes(data))
        self._note(path)
        self._tell(path, self._handle(path), Flag.CREATED)
        self._tell(path, self._handle(path), Flag.MODIFIED | Flag.CLOSED_WRITE)

    def make_symlink(self, path: bytes, target: bytes) -> None:
        self.files.make_node(path, Kind.SYMLINK, self.attributes(0o777), target, 0)
        self._tell(path, self._handle(path), Flag.CREATED)

    def write(self, path: bytes, offset: int, data: bytes) -> None:
        inode = self.find(path)
        assert inode is not None
        size = max(len(inode.data), offset + len(data))
        self.files.write(path, offset, Bytes(data), size, self._kept(inode))
        self._note(path)
        self._tell(path, self._handle(path), Flag.MODIFIED)

    def write_mapped(self, path: bytes, offset: int, data: bytes) -> None:
        """A store through a mapping: no time moves, and only the close is told."""
        inode = self.find(path)
        assert inode is not None
        inode.data[offset : offset + len(data)] = data[: max(0, len(inode.data) - offset)]
        self._tell(path, self._handle(path), Flag.CLOSED_WRITE)

    def truncate(self, path: bytes, size: int) -> None:
        inode = self.find(path)
        assert inode is not None
        self.files.truncate(path, size, self._kept(inode))
        self._note(path)
        self._tell(path, self._handle(path), Flag.MODIFIED)

    def _note(self, path: bytes) -> None:
        inode = self.find(path)
        assert inode is not None
        identity = self.files.status(path).handle
        self.versions.add((identity, blake3(bytes(inode.data)).digest(), inode.attributes.mtime_ns))

    def _kept(self, inode: Inode) -> Attributes:
        return inode.attributes._replace(mtime_ns=self.attributes(0).mtime_ns)

    def set_attributes(self, path: bytes, mode: int) -> None:
        inode = self.find(path)
        assert inode is not None and inode.kind is not None
        xattrs = ((b"user.a", b"%d" % mode),) if mode & 1 else ()
        self.files.set_attributes(path, inode.kind, inode.attributes._replace(mode=mode, xattrs=xattrs))
        self._tell(path, self._handle(path), Flag.ATTRIBUTES)

    def link(self, path: bytes, to: bytes) -> None:
        self.files.link(path, to)
        self._tell(to, self._handle(path), Flag.CREATED)
        self._tell_object(self._handle(path))

    def rename(self, path: bytes, to: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        old = self._handle(above)
        inode = self.find(path)
        replaced = self._handle(to) if self.find(to) is not None else b""
        self.files.rename(path, to)
        new_above, _, new_name = to.rpartition(b"/")
        assert inode is not None
        flags = Flag.MOVED | (Flag.IS_DIRECTORY if inode.kind is Kind.DIRECTORY else 0)
        self._send(Event(old, name, self._handle(to), flags, self._handle(new_above), new_name))
        if replaced:
            self._tell_object(replaced)

    def exchange(self, path: bytes, to: bytes) -> None:
        places = [path.rpartition(b"/"), to.rpartition(b"/")]
        (above, _, name), (new_above, _, new_name) = places
        old, new = self._handle(above), self._handle(new_above)
        self.files.exchange(path, to)
        for moved in (path, to):
            inode = self.find(moved)
            assert inode is not None
            inode.ctime_ns = self.files._tick()  # as kernels do
        self._send(Event(old, name, self._handle(to), Flag.MOVED, new, new_name))
        self._send(Event(new, new_name, self._handle(path), Flag.MOVED, old, name))

    def remove(self, path: bytes) -> None:
        """With everything below it, one name after the other."""
        inode = self.find(path)
        assert inode is not None
        for name in sorted(inode.entries):
            self.remove(path + b"/" + name)
        target = self._handle(path)
        self.files.remove(path)
        flags = Flag.REMOVED | (Flag.IS_DIRECTORY if inode.kind is Kind.DIRECTORY else 0)
        self._tell(path, target, flags)
        self._tell_object(target)


class Writer:
    """A program that changes the source's tree at random. `steps` counts what it did."""

    def __init__(self, tree: SourceTree, random: Random, entries_max: int, *, maps: bool, alike: bool) -> None:
        self.tree = tree
        self._alike = alike
        self.maps = maps
        """Whether it also stores through mappings: what nobody is told of such a store, no time gives away."""
        self.random = random
        self.entries_max = entries_max
        self.steps = 0
        self._fresh = 0

    def _data(self) -> bytes:
        """Mostly like no other file's."""
        if self._alike:
            return some_of_the_same(self.random)
        self._fresh += self.random.random() < 0.9
        size = self.random.choice(SIZES)
        return (b"%d " % self._fresh * size)[:size]

    def _new_path(self) -> bytes | None:
        """A free name, or None where the directory chosen has it taken."""
        above = self.random.choice(self.tree.directories())
        if above.count(b"/") >= 3:
            above = b""
        name = self.random.choice(NAMES)
        path = above + b"/" + name if above else name
        return path if self.tree.find(path) is None else None

    def populate(self, count: int) -> None:
        for _ in range(count):
            path = self._new_path()
            if path is not None:
                self.random.choice([self._make_directory, self._make_file, self._make_file, self._make_other])(path)

    def step(self) -> None:
        """One change."""
        tree, random = self.tree, self.random
        self.steps += 1
        files = tree.paths(Kind.FILE)
        everything = tree.paths(*Kind)
        path = self._new_path()
        if path is not None and (not everything or (random.random() < 0.35 and len(everything) < self.entries_max)):
            random.choice([self._make_directory, self._make_file, self._make_file, self._make_other])(path)
            return
        if not everything:
            return
        chosen = random.choice(everything)
        if files and random.random() < 0.5:
            self._change_file(random.choice(files))
        elif random.random() < 0.6:
            self._move(chosen, everything)
        elif random.random() < 0.5 or len(everything) > self.entries_max:
            tree.remove(chosen)
        else:
            tree.set_attributes(chosen, random.choice([0o600, 0o755, 0o711]))

    def _make_directory(self, path: bytes) -> None:
        self.tree.make_directory(path)

    def _make_file(self, path: bytes) -> None:
        self.tree.make_file(path, self._data())

    def _make_other(self, path: bytes) -> None:
        files = self.tree.paths(Kind.FILE)
        if files and self.random.random() < 0.7:
            self.tree.link(self.random.choice(files), path)
        else:
            self.tree.make_symlink(path, self.random.choice(NAMES))

    def _change_file(self, path: bytes) -> None:
        random = self.random
        inode = self.tree.find(path)
        assert inode is not None
        changes: list[Callable[[], None]] = [
            lambda: self.tree.write(path, random.randrange(len(inode.data) + 1), self._data()[:50]),
            lambda: self.tree.write(path, 0, random.randbytes(len(inode.data))),
            lambda: self.tree.truncate(path, random.randrange(len(inode.data) + 1)),
            lambda: self._replace(path),
        ]
        if self.maps:
            changes.append(lambda: self.tree.write_mapped(path, 0, random.randbytes(len(inode.data))))
        random.choice(changes)()

    def _replace(self, path: bytes) -> None:
        """As careful programs write: another file, then a rename over the old one."""
        beside = path.rpartition(b"/")[0]
        temporary = beside + b"/.new" if beside else b".new"
        if self.tree.find(temporary) is None:
            self.tree.make_file(temporary, self._data())
        elif temporary == path:
            return
        self.tree.rename(temporary, path)

    def _move(self, path: bytes, everything: list[bytes]) -> None:
        """To a free name, over another object, or in exchange with one."""
        tree = self.tree
        free, other = self._new_path(), self.random.choice(everything)
        if free is not None and self.random.random() < 0.6:
            if not _is_inside(free, path):
                tree.rename(path, free)
            return
        if _is_inside(other, path) or _is_inside(path, other):
            return
        if self.random.random() < 0.4:
            tree.exchange(path, other)
            return
        here, there = tree.find(path), tree.find(other)
        assert here is not None and there is not None
        alike = (here.kind is Kind.DIRECTORY) == (there.kind is Kind.DIRECTORY)
        if alike and not there.entries and here is not there:
            tree.rename(path, other)


def _is_inside(path: bytes, above: bytes) -> bool:
    return path == above or path.startswith(above + b"/")
