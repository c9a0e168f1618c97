"""What a simulated mount stands on: the node's own ground, with files and uploads of the simulated world."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blake3 import blake3

from lddp.access import ContentWriter
from lddp.core.records import Content, OperationId, Outcome, Record
from lddp.core.rules import Rule
from lddp.doors.fuse import copying
from lddp.errors import ElsewhereError
from lddp.node.mounts import NodeGround
from lddp.node.reading import Reader, Seen
from lddp.submissions import Applied
from tests.sim.checks import Call
from tests.sim.uploads import Upload

if TYPE_CHECKING:
    from tests.sim.node import Node


class SimulatedReader(Reader):
    """Finds and checks files as a node does; what it opens is a copy, in a file that the kernel knows."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)  # type: ignore[arg-type]
        self._simulated = node

    async def _open(self, zone: Any, path: bytes) -> int:
        def copy() -> int:
            files = self._simulated.world.descriptors
            there = zone.open_read(path)
            try:
                data = files.pread(there, files.fstat(there).st_size, 0)
            finally:
                files.close(there)
            descriptor = copying.new_file(self._simulated.machine.directory)
            os.pwrite(descriptor, data, 0)
            return descriptor

        return await asyncio.get_running_loop().run_in_executor(self._simulated.looking, copy)

    def _others(self, _seen: Seen, message: str) -> ElsewhereError:
        return ElsewhereError(message, [])


class Uploading(NamedTuple):
    """How much goes with its record, and how long the rest takes, at most."""

    inline_max: int
    slow_s: float


class SimulatedUpload:
    """Implements `lddp.access.ContentWriter`."""

    def __init__(self, node: Node, rule: Rule, uploading: Uploading, contents: dict[bytes, bytes]) -> None:
        self._node = node
        self._rule = rule
        self._uploading = uploading
        self._contents = contents
        self._data = b""
        self._content: Content | None = None
        self._upload: Upload | None = None

    async def write(self, data: bytes) -> None:
        self._data += data

    async def rewrite(self, offset: int, data: bytes) -> None:
        self._data = self._data[:offset] + data + self._data[offset + len(data) :]

    async def seal(self) -> Content:
        if self._content is None:
            data = self._data
            self._contents[blake3(data).digest()] = data
            if len(data) <= self._uploading.inline_max:
                self._content = Content(blake3(data).digest(), len(data), data)
            else:
                self._upload = Upload(self._node, self._rule, data)
                self._content = self._upload.content
        return self._content

    async def commit(self) -> Content:
        content = await self.seal()
        if self._upload is not None:
            await asyncio.sleep(self._node.process.random.uniform(0.0, self._uploading.slow_s))
            await self._upload.spread(self._node.process.random)
        return content

    async def abort(self) -> None:
        if self._upload is not None:
            await self._upload.abort()

    def used(self) -> None:
        if self._upload is not None:
            self._upload.used()


class SimulatedGround(NodeGround):
    """Of one mount. `ids` are those of its records; times are different from each other, so that each record can be
    told from all others whatever id it is given when it is sent again."""

    def __init__(self, node: Node, uploading: Uploading, contents: dict[bytes, bytes]) -> None:
        super().__init__(node)  # type: ignore[arg-type]
        self._simulated = node
        self._reader = SimulatedReader(node)
        self._uploading = uploading
        self._contents = contents
        self._began: dict[OperationId, float] = {}
        self._time_ns = 0
        self.ids: set[OperationId] = set()

    def time_ns(self) -> int:
        self._time_ns = max(self._time_ns + 1, self._simulated.clock.time_ns())
        return self._time_ns

    def next_id(self) -> OperationId:
        id = super().next_id()
        self.ids.add(id)
        return id

    async def submit_folded(self, records: Sequence[Record], timeout_s: float) -> list[tuple[int, Outcome]]:
        """What is answered is checked as what any client is told."""
        world, process = self._simulated.world, self._simulated.process
        for record in records:
            self._began.setdefault(record.id, world.loop.now)
        answers = await super().submit_folded(records, timeout_s)
        told_at = process.now()

        def told() -> None:
            if told_at <= process.died_at:
                machine = self._simulated.machine
                machine.shown = max(machine.shown, *(gsn for gsn, _ in answers))
                for record, answer in zip(records, answers, strict=True):
                    call = Call(record, self._began[record.id])
                    world.checks.calls.append(call)
                    world.checks.acknowledged(call, Applied(*answer), world.loop.now)

        world.loop.at(told_at, world.loop.outside, told)
        return answers

    def content_writer(self, path: bytes, size: int | None) -> ContentWriter:
        with self.view() as view:
            found = view.find(path)
        assert found is not None, "a mount's paths are in its rule"
        return SimulatedUpload(self._simulated, found[0], self._uploading, self._contents)

    def volume(self, rule: int) -> os.statvfs_result:
        return os.statvfs(self._simulated.machine.directory)

    def scratch(self) -> Path:
        return self._simulated.machine.directory
