"""A node without a log, a network and a disk: the real state machine decides, and the files are bytes in memory."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence

from blake3 import blake3

from lddp.access import Decided, Entry, OpenFile
from lddp.core import effects as e
from lddp.core.machine import StateMachine
from lddp.core.records import Content, CreateRule, Kind, OperationId, Outcome, Record, ZoneMember
from lddp.core.view import View
from lddp.errors import OperationError
from lddp.node.lookup import entry_at, find, listing_at
from tests.admin.fake_backend import FakeBackend
from tests.fakes.tables import DictTables

ZONE = 0
INLINE_MAX = 16


class MemoryWriter:
    """Collects an upload."""

    def __init__(self, node: MachineBackend) -> None:
        self._node = node
        self._hash = blake3()
        self._data = bytearray()
        self.received = self.rewritten = 0
        self.largest = 0
        self.committed = False
        self.aborted = False
        self.is_used = False
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    @property
    def data(self) -> bytes:
        return bytes(self._data)

    async def write(self, data: bytes) -> None:
        self.received += len(data)
        self.largest = max(self.largest, len(data))
        self._hash.update(data)
        if self._node.keeps_bytes:
            self._data += data
        self.started.set()

    async def rewrite(self, offset: int, data: bytes) -> None:
        assert offset + len(data) <= self.received and self._node.keeps_bytes
        self.rewritten += len(data)
        self._data[offset : offset + len(data)] = data
        self._hash = blake3(self._data)

    async def commit(self) -> Content:
        await self._node.before_commit()
        self.committed = True
        self.ended.set()
        return await self.seal()

    async def seal(self) -> Content:
        data = bytes(self._data)
        digest = self._hash.digest()
        if len(data) <= INLINE_MAX and self._node.keeps_bytes:
            return Content(digest, len(data), data)
        self._node.contents[digest] = data
        return Content(digest, self.received)

    async def abort(self) -> None:
        self.aborted = True
        self.ended.set()

    def used(self) -> None:
        self.is_used = True


class MachineBackend(FakeBackend):
    """One rule, `/data`, in one zone, unless a test makes others."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = DictTables()
        self.machine = StateMachine(self.tables)
        self.files: dict[int, bytes] = {}
        self.open_files: list[int] = []
        self.uploads: list[MemoryWriter] = []
        self.upload_begun = asyncio.Event()
        self.intact: list[bool] = []
        """What the next file that is opened says of itself, one by one; after that it is intact."""
        self.keeps_bytes = True
        self.meeting: asyncio.Barrier | None = None
        """Where every upload that has been received waits before it is committed."""
        self.committing = asyncio.Event()
        """One waits there."""
        self.waiting = asyncio.Event()
        """Records wait at `gate`."""
        self.witness = False
        self.order: list[Record] = []
        self.add_rule("data", b"/data")

    def add_rule(self, name: str, path: bytes) -> None:
        member = ZoneMember(ZONE, "onprem", b"/srv" + path)
        self.apply(CreateRule(OperationId(b"admin", self.machine.gsn), 1, name, path, -1, (member,)))

    def apply(self, record: Record) -> Outcome:
        outcome, effects = self.machine.apply(record)
        self.machine.flush()
        self.order.append(record)
        for scoped in effects:
            self._carry_out(scoped.effect)
        return outcome

    def _carry_out(self, effect: e.Effect) -> None:
        match effect:
            case e.PutFileEffect():
                self.files[effect.inode] = self._bytes(effect.content)
            case e.WriteEffect():
                old = self.files[effect.inode].ljust(effect.offset, b"\0")
                data = self._bytes(effect.content)
                self.files[effect.inode] = old[: effect.offset] + data + old[effect.offset + len(data) :]
            case e.TruncateEffect():
                self.files[effect.inode] = self.files[effect.inode][: effect.size].ljust(effect.size, b"\0")

    def _bytes(self, content: Content) -> bytes:
        if not content.size:
            return b""
        return content.inline if content.inline is not None else self.contents[content.digest]

    async def before_commit(self) -> None:
        if self.meeting is not None:
            self.committing.set()
            await self.meeting.wait()

    # -- Access -----------------------------------------------------------------------------------------------------

    def applied(self) -> int:
        return self.machine.gsn

    def zone_number(self) -> int:
        return -1 if self.witness else ZONE

    async def submit_many(
        self, records: Sequence[Record], timeout_s: float, *, visible: bool = True, decided: Decided | None = None
    ) -> list[tuple[int, Outcome]]:
        if self.failure is not None:
            raise self.failure
        if self.gate is not None:
            self.waiting.set()
            await self.gate.wait()
        self.visibly.append(visible)
        answers = []
        for record in records:
            outcome = self.apply(record)
            answers.append((self.machine.gsn, outcome))
        if decided is not None:
            decided(answers)
        return answers

    def entry(self, path: bytes) -> Entry | None:
        return entry_at(View(self.tables), path)

    def listing(self, path: bytes, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        return listing_at(View(self.tables), path, after, limit)

    async def open_file(self, path: bytes) -> OpenFile:
        entry = self.entry(path)
        if entry is None:
            raise OperationError(errno.ENOENT, f"{path!r} does not exist")
        if entry.kind is not Kind.FILE:
            raise OperationError(errno.EINVAL, f"{path!r} is not a regular file")
        descriptor = os.memfd_create("content")
        os.write(descriptor, self.files[entry.inode])
        self.open_files.append(descriptor)
        intact, self.intact = self.intact, []
        return OpenFile(descriptor, entry, self.applied(), lambda: intact.pop(0) if intact else True)

    def content_writer(self, path: bytes, size: int | None) -> MemoryWriter:  # type: ignore[override]
        if find(View(self.tables), path) is None:
            raise OperationError(errno.ENOENT, f"no rule has {path!r}")
        self.uploads.append(MemoryWriter(self))
        self.upload_begun.set()
        return self.uploads[-1]

    # -- what tests ask ---------------------------------------------------------------------------------------------

    def content(self, path: bytes) -> bytes:
        entry = self.entry(path)
        assert entry is not None, path
        return self.files[entry.inode]

    def still_open(self) -> set[int]:
        """Files that were opened for reading and not closed."""
        return {descriptor for descriptor in self.open_files if _is_memfd(descriptor)}


def _is_memfd(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:content")
    except FileNotFoundError:
        return False
