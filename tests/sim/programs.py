"""Programs in simulated mounts: some of what they do is in a directory of their own, the rest where everybody meets."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from lddp.doors.fuse.protocol import ROOT, Opcode, SetAttribute
from tests.doors.fuse.kernel import Open, Refused, listed
from tests.sim.alike import some_of_the_same
from tests.sim.checks import Violation
from tests.sim.mounts import READERS_MAX
from tests.sim.operations import NAMES
from tests.sim.promises import Opened, Told

if TYPE_CHECKING:
    from tests.sim.mounts import Life

OPEN_MAX = 4
FLAG = b"flag"
EXCHANGE = 2
REPORTED = frozenset(
    (
        errno.EEXIST,
        errno.ENOENT,
        errno.ESTALE,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENOTEMPTY,
        errno.EINVAL,
        errno.ENODATA,
        errno.EPERM,
    )
)
"""What something that was promised can be refused with."""


@dataclass(eq=False)
class Held:
    """An open file or directory of a program."""

    opened: Opened
    node: int
    handle: int
    file: Open | None = None


class Program:
    """`run` does one thing after the other until its mount is to stop."""

    def __init__(self, life: Life, number: int) -> None:
        self._life = life
        self._kernel = life.kernel
        self._history = life.history
        self._random = life.random
        self._name = b"own %b %d" % (life.history.name.encode(), number)
        self._held: list[Held] = []
        self._numbers = count()
        self._own = 0
        self._own_names: list[bytes] = []
        self._own_bytes: dict[int, bytes] = {}
        """Of the files there, by their nodes."""
        self._pause_s = self._random.choice([0.01, 0.03, 0.1])
        self._syncs = self._random.choice([0.02, 0.1, 0.3])

    async def run(self) -> None:
        if await self._try(self._begin()) and self._own:
            while not self._life.is_stopping:
                await self._step()
                # A few calls one after the other, and a while of nothing.
                if self._random.random() < 0.4:
                    await asyncio.sleep(self._random.uniform(0.0, 5 * self._pause_s))
        for held in list(self._held):
            await self._sync(held)
            await self._close(held)

    async def _try(self, work: Awaitable[object]) -> bool:
        """Whether it was not refused."""
        try:
            await work
        except Refused:
            return False
        return True

    async def _begin(self) -> None:
        self._own = (await self._kernel.mkdir(self._name)).inode
        self._history.own.add(self._own)
        await self._open_directory(self._own)

    async def _step(self) -> None:
        random = self._random
        if self._life.passes and self._life.passing.random() < 0.3:
            await self._try(self._stay_somewhere())
        if self._life.is_alike and self._life.passing.random() < 0.4:
            await self._try(self._life.passing.choice([self._flag, self._flag, self._list])())
        if random.random() < self._syncs and self._held:
            await self._sync(random.choice(self._held))
        elif random.random() < 0.4:
            if not await self._try(self._at_home()) and self._life.soft_s is None:
                raise Violation(f"{self._history.name}: refused in a directory where nobody else is")
        else:
            await self._try(random.choices([self._in_shared, self._to_held], [4, 1])[0]())
        if len(self._held) > OPEN_MAX:
            await self._close(random.choice(self._held[1:]))

    # -- where nobody else is -----------------------------------------------------------------------------------------

    async def _at_home(self) -> None:
        kernel, random, own = self._kernel, self._random, self._own
        name = b"%04d" % next(self._numbers)
        kind = random.randrange(9) if self._own_names else random.randrange(3)
        chosen = random.choice(self._own_names) if self._own_names else b""
        if kind == 0:
            await kernel.mkdir(name, own)
        elif kind in (1, 2):
            file = await kernel.create(name, node=own)
            held = self._hold(file)
            self._own_names.append(name)
            self._own_bytes[file.node] = data = self._bytes()
            await file.write(0, data)
            if random.random() < self._syncs:
                await self._sync(held)
            await self._close(held)
        elif kind == 3:
            await kernel.rename(chosen, name, node=own, above=own)
            self._own_names[self._own_names.index(chosen)] = name
        elif kind == 4:
            self._own_names.remove(chosen)
            await kernel.unlink(chosen, own)
        elif kind == 5:
            node = (await kernel.lookup(chosen, own)).inode
            await kernel.setattr(node, SetAttribute.MODE, mode=random.choice([0o600, 0o644, 0o755]))
            if random.random() < 0.5:
                await kernel.setattr(node, SetAttribute.UID | SetAttribute.GID, uid=7, gid=random.randrange(3))
        elif kind == 6:
            node = (await kernel.lookup(chosen, own)).inode
            self._own_names.append(name)
            await kernel(Opcode.LINK, own, node.to_bytes(8, "little") + name + b"\0")
        else:
            node = (await kernel.lookup(chosen, own)).inode
            wanted = self._own_bytes.get(node)
            found = await self._read(node)
            if found is not None and self._life.soft_s is None and found != wanted:
                raise Violation(f"{self._history.name}: {chosen!r} reads {found!r}, and {wanted!r} were written")

    async def _read(self, node: int) -> bytes | None:
        """The whole file; None where this zone has not got it now."""
        try:
            file = await self._kernel.open(node)
        except Refused:
            return None
        try:
            return await file.read()
        except Refused:
            return None
        finally:
            await file.release()

    async def _stay_somewhere(self) -> None:
        """Reads a file, and keeps it open for long."""
        readers, random, above = self._life.readers, self._life.passing, await self._walk(self._random.choice([0, 1]))
        names = [name for name, _ in (await self._kernel.names(above))[2:] if not name.startswith(b"own")]
        found = await self._kernel.lookup(random.choice(names or [b"none"]), above)
        if not stat.S_ISREG(found.mode):
            return
        file = await self._kernel.open(found.inode)
        readers.append(file)
        await self._try(file.read())
        if len(readers) > READERS_MAX:
            await readers.pop(self._life.passing.randrange(self._life.flag is not None, READERS_MAX)).close()

    async def _flag(self) -> None:
        """Reads a file that all write in place, so that its bytes come back; or is one of those who write it."""
        kernel, life, random = self._kernel, self._life, self._life.passing
        if life.flag is not None and random.random() < 0.7:
            await life.flag.read()
            return
        try:
            node = (await kernel.lookup(FLAG)).inode
        except Refused:
            self._hold(await kernel.create(FLAG))
            return
        if life.flag is None:
            life.flag = await kernel.open(node)
            life.readers.insert(0, life.flag)
            return
        held = self._hold(await kernel.open(node, os.O_WRONLY))
        assert held.file is not None
        await self._try(held.file.write(0, random.choice([b"yes", b"no "])))
        await self._close(held)

    async def _list(self) -> None:
        """With attributes, while others change what is listed."""
        kernel, random = self._kernel, self._life.passing
        handle, offset = await kernel.opendir(ROOT), 0
        while True:
            body = struct.pack("<QQIIQII", handle, offset, 500, 0, 0, 0, 0)
            found = list(listed(await kernel(Opcode.READDIRPLUS, ROOT, body)))
            if not found:
                break
            offset = found[-1].after
            await asyncio.sleep(random.uniform(0.0, 5 * self._pause_s))
        await kernel(Opcode.RELEASEDIR, ROOT, struct.pack("<QIIQ", handle, 0, 0, 0))

    # -- where everybody is -------------------------------------------------------------------------------------------

    async def _walk(self, depth: int) -> int:
        node = ROOT
        for _ in range(depth):
            names = [name for name, _ in (await self._kernel.names(node))[2:] if not name.startswith(b"own")]
            if not names:
                break
            found = await self._kernel.lookup(self._random.choice(names), node)
            if not stat.S_ISDIR(found.mode):
                break
            node = found.inode
        return node

    async def _in_shared(self) -> None:
        kernel, random = self._kernel, self._random
        above, name, to = await self._walk(random.choice([0, 0, 1, 2])), random.choice(NAMES), random.choice(NAMES)
        match random.choices(range(12), [4, 6, 3, 3, 6, 2, 3, 1, 2, 3, 1, 3])[0]:
            case 0:
                await kernel.mkdir(name, above)
            case 1:
                await self._write(name, above)
            case 2:
                await kernel.unlink(name, above)
            case 3:
                await kernel(Opcode.RMDIR, above, name + b"\0")
            case 4:
                target = await self._walk(random.choice([0, 1, 1, 2]))
                flag = random.choice([0, 0, 0, 1, EXCHANGE])
                await kernel.rename(name, to, flag, node=above, above=target)
            case 5:
                node = (await kernel.lookup(name, above)).inode
                await kernel(Opcode.LINK, await self._walk(1), node.to_bytes(8, "little") + to + b"\0")
            case 6:
                node = (await kernel.lookup(name, above)).inode
                valid = random.choice([SetAttribute.MODE, SetAttribute.GID, SetAttribute.MTIME])
                fields = {
                    "mode": random.choice([0o700, 0o644]),
                    "gid": 3,
                    "mtime_ns": self._life.kernel.ground.time_ns(),
                }
                await kernel.setattr(node, valid, **fields)
            case 7:
                await kernel(Opcode.SYMLINK, above, name + b"\0" + b"target\0")
            case 8:
                if len(self._held) <= OPEN_MAX:
                    await self._open_directory(above)
            case 9:
                await self._build(name, above)
            case 10:
                found = await kernel.lookup(name, above)
                if stat.S_ISREG(found.mode):
                    await self._read(found.inode)
            case _:
                node = (await kernel.lookup(name, above)).inode
                body = struct.pack("<II", 1, random.choice([0, 0, 1, 2])) + b"user.a\0" + b"1"
                await kernel(Opcode.SETXATTR, node, body)

    async def _build(self, name: bytes, above: int) -> None:
        """A directory with something in it, all of which depends on the first step."""
        kernel, random = self._kernel, self._random
        top = (await kernel.mkdir(name, above)).inode
        below = (await kernel.mkdir(random.choice(NAMES), top)).inode if random.random() < 0.5 else top
        await self._write(random.choice(NAMES), below)
        if random.random() < 0.5:
            await kernel.rename(name, random.choice(NAMES), node=above, above=await self._walk(random.choice([0, 1])))

    async def _write(self, name: bytes, above: int) -> None:
        """A new file, or all or a part of an old one."""
        kernel, random = self._kernel, self._random
        try:
            file = await kernel.create(name, os.O_RDWR | os.O_EXCL, node=above)
        except Refused as refused:
            if refused.number != errno.EEXIST:
                raise
            found = await kernel.lookup(name, above)
            if not stat.S_ISREG(found.mode):
                return
            file = await kernel.open(found.inode, os.O_RDWR | random.choice([0, os.O_TRUNC]))
        held = self._hold(file)
        await self._try(file.write(random.choice([0, 0, 3]), self._bytes()))
        if random.random() < 0.7:
            await self._close(held)

    async def _to_held(self) -> None:
        files = [held for held in self._held if held.file is not None]
        if files:
            held = self._random.choice(files)
            assert held.file is not None
            if held.file.passes and self._life.passing.random() < 0.7:
                self._store(held.file)
            elif self._random.random() < 0.8:
                await held.file.write(self._random.randrange(4), self._bytes())
            else:
                size = self._random.randrange(12)
                await self._kernel.setattr(held.node, SetAttribute.SIZE, size=size)

    def _store(self, file: Open) -> None:
        """To a mapping, which ends where the file does."""
        size = os.fstat(file.opened.backing).st_size
        if size:
            file.store(0, self._bytes()[:size])
            self._life.node.world.count("store")

    def _bytes(self) -> bytes:
        """Inline or not, and never the same but where all is alike."""
        if self._life.is_alike:
            return some_of_the_same(self._random)
        return b"%b %d " % (self._name, next(self._numbers)) * self._random.choice([1, 1, 4])

    # -- what is open -------------------------------------------------------------------------------------------------

    def _hold(self, file: Open) -> Held:
        held = Held(self._history.open(self._kernel.tree.inodes.number(file.node)), file.node, file.handle, file)
        self._held.append(held)
        return held

    async def _open_directory(self, node: int) -> None:
        handle = await self._kernel.opendir(node)
        self._held.append(Held(self._history.open(self._kernel.tree.inodes.number(node)), node, handle))

    async def _sync(self, held: Held) -> None:
        call = self._kernel.fsyncdir(held.handle, held.node) if held.file is None else held.file.fsync()
        await self._told(held, lambda: call, is_barrier=True)

    async def _close(self, held: Held) -> None:
        self._held.remove(held)
        if held.file is None:
            return
        await self._told(held, held.file.flush, is_barrier=False)
        await held.file.release()

    async def _told(self, held: Held, call: Callable[[], Awaitable[None]], *, is_barrier: bool) -> None:
        """A call that reports errors of what was promised."""
        history, number = self._history, 0
        begin = history.tick()
        try:
            await call()
        except Refused as refused:
            number = refused.number
        if number == errno.EIO and self._life.soft_s is not None:
            return
        if number and number not in REPORTED:
            raise Violation(f"{history.name}: a sync of {held.opened.number} failed with {errno.errorcode[number]}")
        end = history.tick()
        floor = max(begin, history.barred) if is_barrier else 0
        told = Told(begin, floor, end, number)

        def tell() -> None:
            held.opened.told.append(told)
            history.sure = max(history.sure, floor)

        self._life.tell(tell)
