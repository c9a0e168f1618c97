"""A file that is read has the bytes of the version that its ETag says, whatever moves and is replaced meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from lddp.admin.wire import Origin, record_of
from lddp.core.records import MigrationAction
from lddp.errors import ElsewhereError, OperationError, UnavailableError
from lddp.node import reading
from lddp.replay.batches import Batches
from lddp.zones.posix import PosixZone
from tests.node.trio import SOURCE, TARGET, Trio
from tests.node.zones import PATIENCE_S, Zones, zones

HERE = "zone-1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Zones]:
    async with zones(tmp_path, 1) as world:
        yield world


class Client:
    """Does operations at a node and reads its files, in this process."""

    def __init__(self, world: Zones, name: str = HERE) -> None:
        self.node = world.nodes[name]
        self.backend = self.node.backend

    async def do(self, name: str, path: bytes, *arguments: Any, visible: bool = True) -> int:
        """The version that comes of it."""
        id = self.backend.next_id()
        record = record_of(
            Origin(id.session, self.backend.zone_number(), 5, 0, 0), [id.sequence, name, path, *arguments]
        )
        ((_, outcome),) = await self.backend.submit_many([record], PATIENCE_S, visible=visible)
        assert outcome.errno == 0, (name, path, outcome)
        return outcome.version

    async def read(self, path: bytes) -> tuple[int, bytes]:
        """(version, bytes)."""
        opened = await self.backend.open_file(path)
        try:
            return opened.entry.version, os.pread(opened.descriptor, 1 << 20, 0)
        finally:
            opened.close()


class Meanwhile:
    """What happens right before and right after the zone's file is opened, the first time that this is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._steps: list[Callable[[], Coroutine[Any, Any, Any]]] = []
        self.opened = 0
        whole = PosixZone.open_read

        def run() -> None:
            if self._steps:
                asyncio.run_coroutine_threadsafe(self._steps.pop(0)(), loop).result(PATIENCE_S)

        def open_read(zone: PosixZone, path: bytes) -> int:
            run()
            self.opened += 1
            descriptor = whole(zone, path)
            run()
            return descriptor

        monkeypatch.setattr(PosixZone, "open_read", open_read)

    def happens(
        self,
        before: Callable[[], Coroutine[Any, Any, Any]],
        after: Callable[[], Coroutine[Any, Any, Any]] | None = None,
    ) -> None:
        self._steps = [before, after or _nothing]


async def _nothing() -> None:
    return None


async def test_a_file_that_is_replaced_before_it_is_opened(world: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    client, meanwhile = Client(world), Meanwhile(monkeypatch)
    await client.do("put", b"/data/f", b"old")
    versions = []

    async def replace() -> None:
        versions.append(await client.do("put", b"/data/f", b"new"))

    meanwhile.happens(replace)
    assert await client.read(b"/data/f") == (versions[0], b"new")


async def test_another_file_that_is_moved_into_its_place(world: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    client, meanwhile = Client(world), Meanwhile(monkeypatch)
    await client.do("put", b"/data/f", b"one")
    await client.do("put", b"/data/g", b"other")
    versions = []

    async def exchange() -> None:
        await client.do("rename", b"/data/f", b"/data/h")
        versions.append(await client.do("rename", b"/data/g", b"/data/f"))

    meanwhile.happens(exchange)
    assert await client.read(b"/data/f") == (versions[0], b"other")


async def test_a_directory_above_it_that_is_exchanged_and_exchanged_back(
    world: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Path, inode and version are the same before and after: only the entries on the way tell."""
    client, meanwhile = Client(world), Meanwhile(monkeypatch)
    for name, data in ((b"d", b"right"), (b"e", b"wrong")):
        await client.do("mkdir", b"/data/" + name)
        await client.do("put", b"/data/" + name + b"/f", data)

    async def exchange() -> None:
        await client.do("rename", b"/data/d", b"/data/e", 2)

    meanwhile.happens(exchange, exchange)
    assert (await client.read(b"/data/d/f"))[1] == b"right"
    assert meanwhile.opened == 2


async def test_a_file_that_is_removed_before_it_is_opened(world: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    client, meanwhile = Client(world), Meanwhile(monkeypatch)
    await client.do("put", b"/data/f", b"old")
    meanwhile.happens(lambda: client.do("unlink", b"/data/f"))
    with pytest.raises(OperationError, match="does not exist"):
        await client.read(b"/data/f")


async def test_a_directory_whose_move_is_ordered_and_not_carried_out(
    world: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it leads by then, another file was before: that one is not read."""
    client = Client(world)
    for name, data in ((b"d", b"right"), (b"e", b"wrong")):
        await client.do("mkdir", b"/data/" + name)
        await client.do("put", b"/data/" + name + b"/f", data)
    carry, may_go_on = Batches.carry, asyncio.Event()
    loop = asyncio.get_running_loop()

    def held(self: Batches, ready: Any) -> Any:
        asyncio.run_coroutine_threadsafe(may_go_on.wait(), loop).result(PATIENCE_S)
        return carry(self, ready)

    monkeypatch.setattr(Batches, "carry", held)
    version = await client.do("rename", b"/data/d", b"/data/e", 2, visible=False)
    await client.node.gateway.wait(version, PATIENCE_S)
    looking = asyncio.create_task(client.read(b"/data/e/f"))
    done, _ = await asyncio.wait({looking}, timeout=0)
    assert not done
    may_go_on.set()
    assert (await looking)[1] == b"right"


async def test_who_reads_learns_that_the_file_is_changed_in_place(world: Zones) -> None:
    client = Client(world)
    version = await client.do("put", b"/data/f", b"0123456789")
    for name, *arguments in (("append", b"x"), ("write", 3, b"y"), ("truncate", 4)):
        opened = await client.backend.open_file(b"/data/f")
        assert opened.is_intact()
        await client.do(name, b"/data/f", *arguments)
        assert not opened.is_intact(), name
        opened.close()
    projector = client.node.projector
    assert projector is not None
    assert not projector.readings._open, "nobody reads any more"
    assert (await client.read(b"/data/f"))[0] > version


async def test_who_reads_goes_on_reading_what_is_replaced(world: Zones) -> None:
    client = Client(world)
    version = await client.do("put", b"/data/f", b"old")
    opened = await client.backend.open_file(b"/data/f")
    await client.do("put", b"/data/f", b"new")
    await client.do("append", b"/data/f", b"er")
    await client.do("unlink", b"/data/f")
    assert (opened.entry.version, os.pread(opened.descriptor, 99, 0)) == (version, b"old")
    opened.close()


async def test_a_path_that_never_settles_is_an_error(world: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(world)
    await client.do("put", b"/data/f", b"old")
    monkeypatch.setattr(reading, "SETTLE_S", 0.0)
    meanwhile = Meanwhile(monkeypatch)
    meanwhile.happens(lambda: client.do("put", b"/data/f", b"new"))
    with pytest.raises(UnavailableError, match="changes all the time"):
        await client.read(b"/data/f")


async def test_a_reader_that_gives_up_leaves_no_descriptor(world: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    client, meanwhile = Client(world), Meanwhile(monkeypatch)
    await client.do("put", b"/data/f", b"old")
    began, go_on = asyncio.Event(), asyncio.Event()
    before = set(os.listdir("/proc/self/fd"))

    async def wait() -> None:
        began.set()
        await go_on.wait()

    meanwhile.happens(wait)
    looking = asyncio.create_task(client.read(b"/data/f"))
    await began.wait()
    looking.cancel()
    await asyncio.wait({looking})
    go_on.set()
    await world.until(lambda: meanwhile.opened == 1 and set(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may open files by their handles")
async def test_what_a_source_has_that_the_log_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs are ahead of the log: the source sends readers to the zones that have what the log says."""
    monkeypatch.setattr(reading, "FOLLOW_S", 0.0)
    trio = Trio(tmp_path)
    (trio.source / "f").write_bytes(b"as the log knows it")
    await trio.start()
    await trio.migrate()
    await trio.state("live")
    await trio.caught_up()
    await trio.change(MigrationAction.PAUSE)
    await trio.state("paused")
    source, target = trio.nodes[SOURCE].backend, trio.nodes[TARGET].backend
    opened = await source.open_file(b"/data/f")
    await trio.outside("printf 'and what it is now' > f")
    assert not opened.is_intact()
    opened.close()
    with pytest.raises(ElsewhereError, match="the log has not got it yet") as caught:
        await source.open_file(b"/data/f")
    assert [(node["name"], node["zone"]) for node in caught.value.nodes] == [(TARGET, TARGET)]
    there = await target.open_file(b"/data/f")
    assert os.pread(there.descriptor, 99, 0) == b"as the log knows it"
    there.close()
    await trio.close()
