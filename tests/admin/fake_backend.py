"""A node in memory: a Backend with a plain dictionary of paths instead of a log, a namespace and a zone."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from lddp.access import Decided, Entry, OpenFile
from lddp.admin.backend import Backend, Document, Event, Metric, RuleRequest
from lddp.config import WriteMode
from lddp.core import records as r
from lddp.core.records import Content, Kind, MigrationAction, OperationId, Outcome, Record
from lddp.errors import LddpError, OperationError, UnavailableError, UsageError
from lddp.serving.paths import named

INLINE_MAX = 16


@dataclass
class FakeInode:
    kind: Kind
    inode: int
    version: int
    mode: int
    data: bytes = b""
    target: bytes = b""
    mtime_ns: int = 0
    links: int = 1
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    def entry(self) -> Entry:
        return Entry(
            self.kind,
            self.inode,
            self.version,
            self.mode,
            os.getuid(),
            os.getgid(),
            len(self.data),
            self.mtime_ns,
            self.links,
            False,
            blake3(self.data).digest() if self.kind is Kind.FILE else b"",
            self.target,
            0,
            tuple(sorted(self.xattrs.items())),
        )


class FakeWriter:
    def __init__(self, backend: FakeBackend) -> None:
        self._backend = backend
        self._parts: list[bytes] = []
        self.aborted = False
        self.is_used = False
        self.started = asyncio.Event()
        self.gone = asyncio.Event()
        self.largest = 0

    async def write(self, data: bytes) -> None:
        self.started.set()
        self.largest = max(self.largest, len(data))
        self._parts.append(bytes(data))

    async def rewrite(self, offset: int, data: bytes) -> None:
        whole = bytearray(b"".join(self._parts))
        whole[offset : offset + len(data)] = data
        self._parts = [bytes(whole)]

    async def commit(self) -> Content:
        return await self.seal()

    async def seal(self) -> Content:
        data = b"".join(self._parts)
        digest = blake3(data).digest()
        self._backend.contents[digest] = data
        return Content(digest, len(data), data if len(data) <= INLINE_MAX else None)

    async def abort(self) -> None:
        self.aborted = True
        self.gone.set()

    def used(self) -> None:
        self.is_used = True


class Refused(Exception):
    def __init__(self, number: int) -> None:
        self.number = number


class FakeBackend:
    def __init__(self, name: str = "a", zones: Mapping[str, int] | None = None) -> None:
        self.name = name
        self.inodes: dict[bytes, FakeInode] = {b"/": FakeInode(Kind.DIRECTORY, 1, 0, 0o755)}
        self.gsn = 0
        self.outcomes: dict[OperationId, tuple[int, Outcome]] = {}
        self.contents: dict[bytes, bytes] = {}
        self.writers: list[FakeWriter] = []
        self.next_writer = FakeWriter(self)
        self.rule_documents: dict[str, Document] = {}
        self.migration_states: dict[str, str] = {}
        self.receipt_documents: list[Document] = []
        self.records: list[Document] = []
        self.log_looked_max = 1000
        self.mounted: dict[bytes, str] = {}
        self.why_no_passthrough = ""
        self.listener_left = asyncio.Event()
        self.listeners: list[asyncio.Queue[list[Event]]] = []
        self.not_ready = ""
        self.failure: LddpError | None = None
        self.submitted = 0
        self.visibly: list[bool] = []
        """Of every batch: whether its client waits for the files."""
        self.gate: asyncio.Event | None = None
        self._zones = dict(zones or {"onprem": 0, "eu-west": 1})
        self._sequence = 0

    # -- what this node is

    def status(self) -> Document:
        return {
            "node": self.name,
            "ecosystem": "orchard",
            "role": "voter",
            "zone": "onprem",
            "leader": self.name,
            "term": 3,
            "state": "leader",
            "log": {"first": 1, "last": self.gsn, "commit": self.gsn, "applied": self.gsn, "projected": self.gsn},
            "lag": {"entries": 0, "bytes": 0},
            "rules": [{"name": name, "digest": "ab" * 32} for name in self.rule_documents],
            "disk": {"free_bytes": 1000},
            "problems": [],
        }

    def readiness(self) -> str:
        return self.not_ready

    def nodes(self) -> list[Document]:
        base = {"role": "voter", "connected": True, "projected": self.gsn, "address": "127.0.0.1:1", "http": ""}
        return [
            {"name": self.name, "zone": "onprem", "leader": True, **base},
            {"name": "b", "zone": "eu-west", "leader": False, **base},
        ]

    def metrics(self) -> Iterable[Metric]:
        yield Metric("lddp_log_applied", "gauge", "The last applied index.", self.gsn)
        yield Metric("lddp_rule_pending", "gauge", "Pending inodes.", 0.5, (("rule", 'a"b\\c\nd'),))

    def applied(self) -> int:
        return self.gsn

    def zone_number(self) -> int:
        return 0

    def time_ns(self) -> int:
        return 1_700_000_000_123_456_789 + self.gsn

    # -- records

    def next_id(self) -> OperationId:
        self._sequence += 1
        return OperationId(b"fake", self._sequence)

    async def submit(self, record: Record, timeout_s: float) -> tuple[int, Outcome]:
        return (await self.submit_many([record], timeout_s))[0]

    async def submit_many(
        self, records: Sequence[Record], timeout_s: float, *, visible: bool = True, decided: Decided | None = None
    ) -> list[tuple[int, Outcome]]:
        if self.failure is not None:
            raise self.failure
        if self.gate is not None:
            await self.gate.wait()
        self.visibly.append(visible)
        answers = [self._take(record) for record in records]
        if decided is not None:
            decided(answers)
        return answers

    def _take(self, record: Record) -> tuple[int, Outcome]:
        known = self.outcomes.get(record.id)
        if known is not None:
            return known
        self.gsn += 1
        self.submitted += 1
        try:
            inode = self._apply(record)
            outcome = Outcome(0, inode.inode, inode.version)
        except Refused as refused:
            outcome = Outcome(refused.number)
        self.outcomes[record.id] = (self.gsn, outcome)
        path = getattr(record, "path", b"")
        kind = type(record).__name__
        self.records.append({"index": self.gsn, "record": kind, **named("path", path), "errno": outcome.errno})
        for queue in self.listeners:
            queue.put_nowait([Event(self.gsn, "operation", {"record": kind, **named("path", path)})])
        return self.gsn, outcome

    def _at(self, path: bytes) -> FakeInode:
        inode = self.inodes.get(path)
        if inode is None:
            raise Refused(errno.ENOENT)
        return inode

    def _new(self, path: bytes, inode: FakeInode) -> FakeInode:
        if path in self.inodes:
            raise Refused(errno.EEXIST)
        parent = self.inodes.get(path.rpartition(b"/")[0] or b"/")
        if parent is None:
            raise Refused(errno.ENOENT)
        if parent.kind is not Kind.DIRECTORY:
            raise Refused(errno.ENOTDIR)
        self.inodes[path] = inode
        return inode

    def _bytes(self, content: Content) -> bytes:
        return content.inline if content.inline is not None else self.contents[content.digest]

    def _below(self, path: bytes) -> list[bytes]:
        return [other for other in self.inodes if other.startswith(path + b"/")]

    def _apply(self, record: Record) -> FakeInode:
        n = self.gsn
        match record:
            case r.MakeDirectory():
                return self._new(record.path, FakeInode(Kind.DIRECTORY, n, n, record.mode))
            case r.Create():
                return self._new(record.path, FakeInode(record.kind, n, n, record.mode))
            case r.Symlink():
                return self._new(record.path, FakeInode(Kind.SYMLINK, n, n, 0o777, target=record.target))
            case r.Put():
                return self._put(record)
            case r.Rename():
                return self._rename(record)
            case r.Unlink() | r.RemoveDirectory() | r.Remove():
                return self._remove(record)
            case r.Link():
                inode = self._at(record.path)
                inode.links += 1
                return self._new(record.to, inode)
        return self._modify(record)

    def _modify(self, record: Record) -> FakeInode:
        inode = self._at(getattr(record, "path", b""))
        match record:
            case r.Append():
                inode.data += self._bytes(record.content)
            case r.Write():
                data = self._bytes(record.content)
                inode.data = inode.data[: record.offset].ljust(record.offset, b"\0") + data
            case r.Truncate():
                inode.data = inode.data[: record.size].ljust(record.size, b"\0")
            case r.SetAttributes():
                inode.mode = inode.mode if record.mode is None else record.mode
                inode.mtime_ns = inode.mtime_ns if record.mtime_ns is None else record.mtime_ns
            case r.SetXattr():
                inode.xattrs[record.name] = record.value
            case r.RemoveXattr():
                if inode.xattrs.pop(record.name, None) is None:
                    raise Refused(errno.ENODATA)
            case _:
                raise Refused(errno.EINVAL)
        inode.version = self.gsn
        return inode

    def _put(self, record: r.Put) -> FakeInode:
        inode = self.inodes.get(record.path)
        if record.expected_version == 0 and inode is not None:
            raise Refused(errno.EEXIST)
        if record.expected_version == r.SOME_VERSION and inode is None:
            raise Refused(errno.ESTALE)
        if record.expected_version > 0 and (inode is None or inode.version != record.expected_version):
            raise Refused(errno.ESTALE)
        if inode is None:
            inode = self._new(record.path, FakeInode(Kind.FILE, self.gsn, self.gsn, record.mode))
        if inode.kind is Kind.DIRECTORY:
            raise Refused(errno.EISDIR)
        inode.data, inode.version, inode.mtime_ns = self._bytes(record.content), self.gsn, record.time_ns
        return inode

    def _rename(self, record: r.Rename) -> FakeInode:
        inode = self._at(record.path)
        if record.flag is r.RenameFlag.NOREPLACE and record.to in self.inodes:
            raise Refused(errno.EEXIST)
        for path in [record.path, *self._below(record.path)]:
            self.inodes[record.to + path[len(record.path) :]] = self.inodes.pop(path)
        inode.version = self.gsn
        return inode

    def _remove(self, record: r.Unlink | r.RemoveDirectory | r.Remove) -> FakeInode:
        inode = self._at(record.path)
        if inode.kind is Kind.DIRECTORY:
            if isinstance(record, r.Unlink):
                raise Refused(errno.EISDIR)
            if self._below(record.path):
                raise Refused(errno.ENOTEMPTY)
        elif isinstance(record, r.RemoveDirectory):
            raise Refused(errno.ENOTDIR)
        expected = r.ANY_VERSION if isinstance(record, r.RemoveDirectory) else record.expected_version
        if expected > 0 and inode.version != expected:
            raise Refused(errno.ESTALE)
        return self.inodes.pop(record.path)

    async def barrier(self, timeout_s: float) -> int:
        return self.gsn

    async def wait(self, index: int, timeout_s: float) -> None:
        if index > self.gsn:
            raise UnavailableError(f"this node is at {self.gsn} after {timeout_s:g} s; wait longer")

    # -- files

    def entry(self, path: bytes) -> Entry | None:
        inode = self.inodes.get(path)
        return None if inode is None else inode.entry()

    def listing(self, path: bytes, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        directory = self.inodes.get(path)
        if directory is None or directory.kind is not Kind.DIRECTORY:
            raise OperationError(errno.ENOTDIR, "not a directory")
        base = path.rstrip(b"/") + b"/"
        names = sorted(p[len(base) :] for p in self.inodes if p.startswith(base) and p != b"/")
        chosen = [name for name in names if b"/" not in name and name > after][:limit]
        return [(name, self.inodes[base + name].entry()) for name in chosen]

    async def open_file(self, path: bytes) -> OpenFile:
        inode = self.inodes[path]
        if inode.kind is not Kind.FILE:
            raise OperationError(errno.EINVAL, f"a {inode.kind.name.lower()} has no bytes to read; use op=stat")
        descriptor = os.memfd_create("content")
        os.write(descriptor, inode.data)
        return OpenFile(descriptor, inode.entry(), self.gsn)

    def content_writer(self, path: bytes, size: int | None) -> FakeWriter:
        self.writers.append(self.next_writer)
        self.next_writer = FakeWriter(self)
        return self.writers[-1]

    # -- rules, migrations, receipts, log

    def zones(self) -> dict[str, int]:
        return self._zones

    def rules(self) -> list[Document]:
        return list(self.rule_documents.values())

    def rule(self, name: str) -> Document | None:
        return self.rule_documents.get(name)

    def _control(self, id: OperationId, change: Callable[[], int]) -> tuple[int, Outcome]:
        if id not in self.outcomes:
            self.gsn += 1
            self.submitted += 1
            self.outcomes[id] = (self.gsn, Outcome(change()))
        return self.outcomes[id]

    async def create_rule(self, request: RuleRequest, id: OperationId, timeout_s: float) -> tuple[int, Outcome]:
        for member in request.members:
            if member.zone not in self._zones:
                raise UsageError(f"there is no zone {member.zone!r}; known are {', '.join(self._zones)}")

        def change() -> int:
            if request.name in self.rule_documents:
                return errno.EEXIST
            self.rule_documents[request.name] = {
                "name": request.name,
                **named("path", request.path),
                "source": request.source or None,
                "members": [
                    {"zone": m.zone, **named("local_path", m.local_path), "observe_only": m.observe_only}
                    for m in request.members
                ],
                "options": dict(request.options),
            }
            return 0

        return self._control(id, change)

    async def change_rule(
        self, name: str, options: Mapping[str, Any], id: OperationId, timeout_s: float
    ) -> tuple[int, Outcome]:
        def change() -> int:
            if name not in self.rule_documents:
                return errno.ENOENT
            self.rule_documents[name]["options"] = dict(options)
            return 0

        return self._control(id, change)

    async def remove_rule(self, name: str, id: OperationId, timeout_s: float) -> tuple[int, Outcome]:
        return self._control(id, lambda: 0 if self.rule_documents.pop(name, None) else errno.ENOENT)

    def migrations(self) -> list[Document]:
        return [self._migration(rule) for rule in self.migration_states]

    def migration(self, rule: str) -> Document | None:
        return self._migration(rule) if rule in self.migration_states else None

    def _migration(self, rule: str) -> Document:
        return {
            "id": rule,
            "rule": rule,
            "state": self.migration_states[rule],
            "files_seen": 10,
            "files_migrated": 4,
            "bytes_seen": 1000,
            "bytes_migrated": 400,
            "eta_seconds": None,
            "failed_paths": [],
        }

    async def change_migration(
        self, rule: str, action: MigrationAction, id: OperationId, timeout_s: float
    ) -> tuple[int, Outcome]:
        following = {
            MigrationAction.CREATE: "created",
            MigrationAction.START: "running",
            MigrationAction.PAUSE: "paused",
            MigrationAction.RESUME: "running",
            MigrationAction.COMPLETE: "completed",
        }

        def change() -> int:
            if rule not in self.rule_documents:
                return errno.ENOENT
            if action is MigrationAction.PAUSE and self.migration_states.get(rule) != "running":
                return errno.EINVAL
            self.migration_states[rule] = following.get(action, action.name.lower())
            return 0

        return self._control(id, change)

    def receipts(self, rule: str) -> list[Document]:
        return [one for one in self.receipt_documents if rule in ("", one["rule"])]

    def receipt(self, id: int) -> Document | None:
        return next((one for one in self.receipt_documents if one["id"] == id), None)

    def mounts(self) -> list[Document]:
        return [{"rule": rule, "mountpoint": point.decode()} for point, rule in self.mounted.items()]

    async def mount(
        self, rule: str, mountpoint: bytes, soft_s: float | None, mode: WriteMode, *, passthrough: bool = False
    ) -> Document:
        if rule not in self.rule_documents:
            raise OperationError(errno.ENOENT, f"there is no rule {rule!r}")
        self.mounted[mountpoint] = rule
        document = {"rule": rule, "mountpoint": mountpoint.decode(), "soft_timeout_s": soft_s, "write_mode": mode}
        why = self.why_no_passthrough if passthrough else ""
        return document | {"passthrough": passthrough and not why, "why_no_passthrough": why}

    async def unmount(self, mountpoint: bytes, *, lazily: bool) -> Document:
        if mountpoint not in self.mounted:
            raise OperationError(errno.ENOENT, "nothing is mounted there")
        return {"rule": self.mounted.pop(mountpoint), "lazily": lazily}

    async def log(self, first: int, last: int, path: bytes, limit: int) -> tuple[list[Document], int]:
        rows = [row for row in self.records if first <= row["index"] and (not last or row["index"] <= last)]
        looked, rest = rows[: self.log_looked_max], rows[self.log_looked_max :]
        below = path.decode("utf-8", "surrogateescape")
        found = [row for row in looked if row["path"] == below or row["path"].startswith(below + "/")]
        if len(found) >= limit:
            rest = [row for row in rows if row["index"] > found[limit - 1]["index"]]
        return found[:limit], rest[0]["index"] if rest else 0

    async def subscribe(self, after: int) -> AsyncGenerator[list[Event], None]:
        if after > self.gsn:
            raise OperationError(errno.ESTALE, f"the log ends at {self.gsn}; start from there")
        queue: asyncio.Queue[list[Event]] = asyncio.Queue(1000)
        self.listeners.append(queue)
        try:
            if after >= 0:
                for row in self.records[after:]:
                    yield [Event(row["index"], "operation", row), Event(row["index"], "zone", {"zone": "onprem"})]
            while True:
                yield await queue.get()
        finally:
            self.listeners.remove(queue)
            self.listener_left.set()


_protocol: type[Backend] = FakeBackend
"""Checked by mypy: the fake is a Backend."""
