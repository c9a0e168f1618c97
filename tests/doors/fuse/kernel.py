"""The kernel's side of the protocol, for tests without a mount: encodes requests, decodes answers."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import Outcome
from lddp.core.view import View
from lddp.doors.fuse import protocol, wire
from lddp.doors.fuse.filesystem import Filesystem
from lddp.doors.fuse.ground import Patience, Top
from lddp.doors.fuse.protocol import Opcode
from lddp.doors.fuse.tree import Tree
from lddp.errors import LddpError
from tests.doors.fuse.passing import FakeBacking, Modes, Opened
from tests.doors.webhdfs.machine import MachineBackend

PATIENCE_S = 60.0
WRITE_CACHE = 1
"""What the kernel writes for a mapping."""


class MachineGround(MachineBackend):
    """The real state machine, with files in memory."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self.listeners: list[Callable[[set[int]], None]] = []

    def apply(self, record: r.Record) -> Outcome:
        outcome = super().apply(record)
        for listener in getattr(self, "listeners", ()):  # the first record comes before there are any
            listener(set(self.machine.namespace.prior))
        return outcome

    def time_ns(self) -> int:
        """Goes on with the log."""
        return 1_700_000_000_123_456_789 + self.machine.gsn

    def follow(self, listener: Callable[[set[int]], None]) -> None:
        self.listeners.append(listener)

    def unfollow(self, listener: Callable[[set[int]], None]) -> None:
        self.listeners.remove(listener)

    @contextmanager
    def view(self) -> Iterator[View]:
        yield View(self.tables)

    async def submit_folded(self, records: Sequence[r.Record], timeout_s: float) -> list[tuple[int, Outcome]]:
        return await self.submit_many(records, timeout_s, visible=False)

    def volume(self, rule: int) -> os.statvfs_result:
        return os.statvfs(self._directory)

    def scratch(self) -> Path:
        return self._directory


class Shown(NamedTuple):
    inode: int
    size: int
    mode: int
    links: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


def shown(data: bytes) -> Shown:
    inode, size, _, atime, mtime, ctime, a, m, c, mode, links, uid, gid, *_ = struct.unpack_from("<3Q3q10I", data)
    times = (second * 10**9 + part for second, part in ((atime, a), (mtime, m), (ctime, c)))
    return Shown(inode, size, mode, links, uid, gid, *times)


class Listed(NamedTuple):
    """What READDIRPLUS says of a name. `node` is 0 where the kernel is not to know it."""

    name: bytes
    node: int
    attributes: Shown
    after: int
    """Where the listing goes on."""


def listed(data: bytes) -> Iterator[Listed]:
    while data:
        _, after, length, _ = struct.unpack_from("<QQII", data, 128)
        yield Listed(data[152 : 152 + length], struct.unpack_from("<Q", data)[0], shown(data[40:]), after)
        data = data[152 + (length + 7) // 8 * 8 :]


def plain(record: r.Record) -> r.Record:
    """What is asked for, however it is guarded."""
    return record.operation if isinstance(record, r.Guarded) else record


class Refused(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.number = number


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


class Kernel:
    """Calls a filesystem as the kernel does. Methods return what the call gives, and raise Refused."""

    def __init__(
        self,
        ground: MachineGround,
        patience: Patience | None = None,
        mode: WriteMode = WriteMode.SYNC,
        *,
        waits: bool = False,
    ) -> None:
        """`waits`: after each call until what was promised is in the log."""
        with ground.view() as view:
            rule = view.rule("data")
        assert rule is not None
        top = Top(rule.number, rule.name, rule.path, rule.root)
        self.ground = ground
        self.filesystem = Filesystem(Tree(ground, top, patience or Patience(), 0, mode))
        self.tree = self.filesystem.tree
        self.modes = Modes()
        self.told: Callable[[], Awaitable[None]] = self.tree.barrier
        """Returns when a mount would show all that has been folded; a fixture that follows the log gives another."""
        self._waits = waits
        self._unique = 0
        self.uid, self.gid = 1000, 1001

    def real(self, number: int) -> int:
        """How the log knows what has this number in the mount."""
        pipeline = self.tree.pipeline
        return number if pipeline is None else pipeline.speculation.aliases.real.get(number, number)

    def request(self, opcode: Opcode, node: int, body: bytes) -> wire.Request:
        self._unique += 2
        return wire.Request(opcode, self._unique, node, self.uid, self.gid, os.getpid(), memoryview(body))

    def passes(self) -> FakeBacking:
        """From here on there is passthrough."""
        backing = FakeBacking()
        self.modes.backing = self.tree.passthrough.kernel = backing
        return backing

    async def __call__(self, opcode: Opcode, node: int = protocol.ROOT, body: bytes = b"") -> bytes:
        try:
            answer = self.filesystem.handle(self.request(opcode, node, body))
            if isinstance(answer, Coroutine):
                answer = await answer
            if self._waits:
                await self.tree.barrier()
        except (OSError, LddpError) as error:
            raise Refused(error.errno or errno.EIO) from error
        return answer if isinstance(answer, bytes) else b"".join(answer)

    # -- names --------------------------------------------------------------------------------------------------------

    async def lookup(self, name: bytes, node: int = protocol.ROOT) -> Shown:
        return shown((await self(Opcode.LOOKUP, node, name + b"\0"))[40:])

    async def stat(self, node: int) -> Shown:
        return shown((await self(Opcode.GETATTR, node, bytes(16)))[16:])

    async def mkdir(self, name: bytes, node: int = protocol.ROOT, mode: int = 0o755) -> Shown:
        return shown((await self(Opcode.MKDIR, node, struct.pack("<II", mode, 0) + name + b"\0"))[40:])

    async def mknod(self, name: bytes, mode: int, rdev: int = 0, node: int = protocol.ROOT) -> Shown:
        return shown((await self(Opcode.MKNOD, node, struct.pack("<IIII", mode, rdev, 0, 0) + name + b"\0"))[40:])

    async def rename(
        self, name: bytes, to: bytes, flags: int = 0, node: int = protocol.ROOT, above: int = protocol.ROOT
    ) -> None:
        body = struct.pack("<QII", above, flags, 0) + name + b"\0" + to + b"\0"
        assert await self(Opcode.RENAME2, node, body) == b""

    async def names(self, node: int = protocol.ROOT, room: int = 4096, plus: bool = False) -> list[tuple[bytes, int]]:
        (handle,) = struct.unpack_from("<Q", await self(Opcode.OPENDIR, node, bytes(8)))
        found, offset = [], 0
        while True:
            opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
            data = await self(opcode, node, struct.pack("<QQIIQII", handle, offset, room, 0, 0, 0, 0))
            if not data:
                break
            while data:
                data = data[128:] if plus else data
                inode, offset, length, _ = struct.unpack_from("<QQII", data)
                found.append((data[24 : 24 + length], inode))
                data = data[24 + (length + 7) // 8 * 8 :]
        await self(Opcode.RELEASEDIR, node, struct.pack("<QIIQ", handle, 0, 0, 0))
        return found

    async def unlink(self, name: bytes, node: int = protocol.ROOT) -> None:
        assert await self(Opcode.UNLINK, node, name + b"\0") == b""

    async def opendir(self, node: int = protocol.ROOT) -> int:
        (handle,) = struct.unpack_from("<Q", await self(Opcode.OPENDIR, node, bytes(8)))
        return int(handle)

    async def fsyncdir(self, handle: int, node: int = protocol.ROOT) -> None:
        assert await self(Opcode.FSYNCDIR, node, struct.pack("<QII", handle, 0, 0)) == b""

    # -- files --------------------------------------------------------------------------------------------------------

    async def create(self, name: bytes, flags: int = os.O_RDWR, node: int = protocol.ROOT, mode: int = 0o644) -> Open:
        body = struct.pack("<IIII", flags | os.O_CREAT, 0o100000 | mode, 0, 0) + name + b"\0"
        answer = await self(Opcode.CREATE, node, body)
        return self._opened(shown(answer[40:]).inode, answer[128:], flags)

    async def open(self, node: int, flags: int = os.O_RDONLY) -> Open:
        answer = await self(Opcode.OPEN, node, struct.pack("<II", flags, 0))
        return self._opened(node, answer, flags)

    def _opened(self, node: int, answer: bytes, asked: int) -> Open:
        handle, flags, backing = struct.unpack("<QIi", answer)
        return Open(self, node, handle, self.modes.opened(node, flags, backing), flags, asked)

    async def setattr(self, node: int, valid: int, **fields: Any) -> Shown:
        seconds = {key: divmod(fields.get(key, 0), 10**9) for key in ("atime_ns", "mtime_ns")}
        body = struct.pack(
            "<IIQQQqqqIIIIIIII",
            *(valid, 0, fields.get("handle", 0), fields.get("size", 0), 0),
            *(seconds["atime_ns"][0], seconds["mtime_ns"][0], 0),
            *(seconds["atime_ns"][1], seconds["mtime_ns"][1], 0),
            *(fields.get("mode", 0), 0, fields.get("uid", 0), fields.get("gid", 0), 0),
        )
        return shown((await self(Opcode.SETATTR, node, body))[16:])

    @asynccontextmanager
    async def writing(self, name: bytes) -> AsyncIterator[Open]:
        opened = await self.create(name)
        yield opened
        await opened.close()


class Open(NamedTuple):
    kernel: Kernel
    node: int
    handle: int
    opened: Opened
    flags: int
    asked: int
    """What the program asked for."""

    @property
    def is_writer(self) -> bool:
        return bool(self.asked & (os.O_WRONLY | os.O_RDWR))

    @property
    def keeps_cache(self) -> bool:
        return bool(self.flags & protocol.FOPEN_KEEP_CACHE)

    @property
    def passes(self) -> bool:
        return bool(self.flags & protocol.FOPEN_PASSTHROUGH)

    async def read(self, offset: int = 0, size: int = 1 << 17) -> bytes:
        if self.passes and not self.flags & protocol.FOPEN_DIRECT_IO:
            return os.pread(self.opened.backing, size, offset)
        return await self.kernel(Opcode.READ, self.node, struct.pack("<QQIIQII", self.handle, offset, size, 0, 0, 0, 0))

    async def write(self, offset: int, data: bytes, flags: int = 0) -> int:
        """`flags`: the kernel's own. For a mapping it writes without those that the file is open with."""
        opened = 0 if flags & WRITE_CACHE else self.asked
        body = struct.pack("<QQIIQII", self.handle, offset, len(data), flags, 0, opened, 0) + data
        return int(struct.unpack_from("<I", await self.kernel(Opcode.WRITE, self.node, body))[0])

    async def flush(self) -> None:
        await self.kernel(Opcode.FLUSH, self.node, struct.pack("<QIIQ", self.handle, 0, 0, 0))

    async def fsync(self) -> None:
        await self.kernel(Opcode.FSYNC, self.node, struct.pack("<QII", self.handle, 0, 0))

    def store(self, offset: int, data: bytes) -> None:
        """Through a mapping."""
        os.pwrite(self.opened.backing, data, offset)

    async def release(self) -> None:
        self.kernel.modes.released(self.opened)
        await self.kernel(Opcode.RELEASE, self.node, struct.pack("<QIIQ", self.handle, 0, 0, 0))

    async def close(self) -> None:
        await self.flush()
        await self.release()
