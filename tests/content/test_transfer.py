"""Pushes and pulls between real stores over real unix sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from pathlib import Path

import pytest

from lddp.content import give
from lddp.content.frames import Connection, Type
from lddp.content.source import FileSource
from lddp.core.records import Content
from lddp.errors import FormatError, LimitError, UnavailableError

from .world import Node, World, content_of, cut_after, flip_at, put, read, until

MIB = 1024 * 1024


def file_of(world: World, data: bytes) -> int:
    path = world.directory / os.urandom(4).hex()
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


# -- packs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
async def test_packs_reach_all_peers_but_those_that_are_down(world: World, durable: bool) -> None:
    a, b, c = [await world.node(name) for name in "abc"]
    world.refusing.add("d")
    packs = {os.urandom(16): os.urandom(random.randrange(300_000)) for _ in range(20)}
    acked = await asyncio.gather(
        *(a.pusher.push_pack(pack_id, data, durable, ["b", "c", "d"]) for pack_id, data in packs.items())
    )
    assert acked == [{"b", "c"}] * len(packs)
    for node in (b, c):
        assert {pack_id: node.store.pack(pack_id) for pack_id in packs} == packs
        assert len(node.names("packs")) == (len(packs) if durable else 0)
        assert node.traffic["client"].received == sum(map(len, packs.values()))
    assert a.traffic["b"].pushed == sum(map(len, packs.values()))


async def test_a_peer_that_failed_is_left_alone_for_a_while(world: World) -> None:
    a = await world.node("a")
    world.refusing.add("b")
    assert await a.pusher.push_pack(bytes(16), b"1", False, ["b"]) == set()
    await world.node("b")
    world.refusing.clear()
    assert await a.pusher.push_pack(bytes(16), b"1", False, ["b"]) == set()
    world.clock.now += 1.5
    assert await a.pusher.push_pack(bytes(16), b"1", False, ["b"]) == {"b"}


async def test_a_restarted_peer_is_reached_over_a_fresh_connection(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    for _ in range(3):
        assert await a.pusher.push_pack(os.urandom(16), b"1", False, ["b"]) == {"b"}
        for task in set(b._serving):
            task.cancel()
        await b.idle()


async def test_a_silent_peer_is_left_out_and_does_not_hold_the_others(world: World) -> None:
    world.stall_seconds = 0.2
    a, _ = await world.node("a"), await world.node("b")
    world.elsewhere["silent"] = str(world.directory / "silent")
    heard: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(lambda _, writer: heard.append(writer), world.elsewhere["silent"])
    assert await a.pusher.push_pack(bytes(16), b"1", False, ["b", "silent"]) == {"b"}
    pushed = await a.pusher.push_file(file_of(world, b"f" * 100_000), 100_000, False, ["b", "silent"])
    assert pushed.peers == {"b"}
    world.clock.now += 100
    pushed = await a.pusher.push_file(file_of(world, b"f" * 100_000), 100_000, False, ["b", "silent"])
    assert pushed.peers == {"b"} and len(heard) == 2
    server.close()
    for writer in heard:
        writer.close()


async def test_enough_returns_while_the_rest_goes_on(world: World) -> None:
    a, b, c = [await world.node(name) for name in "abc"]
    gate = asyncio.Event()
    connect = world.connect

    async def gated(peer: str):  # type: ignore[no-untyped-def]
        if peer == "c":
            await gate.wait()
        return await connect(peer)

    a.connections._connect = gated
    assert await a.pusher.push_pack(bytes(16), b"1", False, ["b", "c"], enough=1) == {"b"}
    assert c.store.pack(bytes(16)) is None
    gate.set()
    await asyncio.wait_for(asyncio.wait(list(a.pusher._behind)), 10)
    assert c.store.pack(bytes(16)) == b.store.pack(bytes(16)) == b"1"
    assert not a.pusher._behind


async def test_a_pack_changed_on_its_way_is_refused(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    world.spoil_request["b"] = flip_at(5000)
    assert await a.pusher.push_pack(bytes(16), bytes(10_000), True, ["b"]) == set()
    assert b.store.held() == ([], [])
    assert b.errors == []


async def test_a_refusing_disk_is_not_acknowledged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await world.node("a"), await world.node("b")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    descriptor = file_of(world, os.urandom(20 * MIB))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        assert await a.pusher.push_pack(bytes(16), b"1", True, ["b"]) == set()
        pushed = await a.pusher.push_file(descriptor, 20 * MIB, True, ["b"])
        assert pushed.peers == set()
        await b.idle()
    assert b.names("blobs") == b.names("incoming") == b.names("packs") == []
    assert (await a.pusher.push_file(descriptor, 20 * MIB, True, ["b"])).peers == {"b"}


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handover", [False, True])
@pytest.mark.parametrize("size", [0, 1, MIB, 9 * MIB + 5])
async def test_a_pushed_file_is_there(world: World, size: int, handover: bool) -> None:
    a = await world.node("a")
    others = [await world.node(name, handover=handover) for name in "bcd"]
    data = os.urandom(size)
    descriptor = file_of(world, data)
    digest, found, peers = await a.pusher.push_file(descriptor, size, True, ["b", "c", "d"])
    content = content_of(data)
    assert (digest, found, peers) == (content.digest, size, {"b", "c", "d"})
    for node in others:
        assert read(node.store, content) == data
        assert node.names("incoming") == []
        assert node.traffic["client"].handed == (size if handover else 0)
        assert node.traffic["client"].received == (0 if handover else size)
    assert await a.pusher.push_file(descriptor, size, True, []) == (digest, size, set())


@pytest.mark.parametrize("handover", [False, True])
async def test_sparse_files_stay_sparse(world: World, handover: bool) -> None:
    a, b = await world.node("a"), await world.node("b", handover=handover)
    path = world.directory / "sparse"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b"end of the first hole", 600 * MIB)
    os.ftruncate(descriptor, 900 * MIB)
    digest, size, peers = await a.pusher.push_file(descriptor, 900 * MIB, False, ["b"])
    assert peers == {"b"}
    source = b.store.open(Content(digest, size))
    assert source is not None
    assert isinstance(source, FileSource)
    taken = source.path
    assert os.stat(taken).st_blocks * 512 < MIB and os.stat(taken).st_size == size
    assert b.traffic["client"].received < MIB
    assert os.pread(os.open(taken, os.O_RDONLY), 21, 600 * MIB) == b"end of the first hole"
    if not handover:
        c = await world.node("c")
        await c.store.fetch(Content(digest, size), 1, ["b"])
        source = c.store.open(Content(digest, size))
        assert isinstance(source, FileSource) and os.stat(source.path).st_blocks * 512 < MIB
        assert c.traffic["b"].pulled < MIB


@pytest.mark.parametrize("found", [0, MIB - 1, 3 * MIB])
async def test_a_file_of_another_size_is_reported(world: World, found: int) -> None:
    a, b = await world.node("a"), await world.node("b")
    descriptor = file_of(world, os.urandom(found))
    pushed = await a.pusher.push_file(descriptor, 2 * MIB, False, ["b"])
    assert (pushed.size, pushed.peers) == (found, set())
    await b.idle()
    assert b.names("blobs") == b.names("incoming") == []


async def test_read_errors_come_out(world: World) -> None:
    a = await world.node("a")
    await world.node("b")
    descriptor = os.open(world.directory / "writeonly", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, bytes(100))
    with pytest.raises(OSError) as caught:
        await a.pusher.push_file(descriptor, 100, False, ["b"])
    assert caught.value.errno == errno.EBADF


async def test_a_file_changed_on_its_way_is_refused(world: World) -> None:
    a, b, c = [await world.node(name) for name in "abc"]
    world.spoil_request["b"] = flip_at(3 * MIB)
    data = os.urandom(5 * MIB)
    pushed = await a.pusher.push_file(file_of(world, data), len(data), False, ["b", "c"])
    assert pushed.peers == {"c"}
    assert b.names("blobs") == b.names("incoming") == []
    assert read(c.store, content_of(data)) == data


async def test_a_slow_peer_reads_for_itself(world: World) -> None:
    a, _, c = [await world.node(name) for name in "abc"]
    gate = asyncio.Event()
    connect = world.connect

    async def gated(peer: str):  # type: ignore[no-untyped-def]
        if peer == "c":
            await gate.wait()
        return await connect(peer)

    a.connections._connect = gated
    data = os.urandom(30 * MIB)
    descriptor = file_of(world, data)
    pushed = await a.pusher.push_file(descriptor, len(data), False, ["b", "c"], enough=1)
    os.close(descriptor)  # who is behind has a descriptor of its own
    assert pushed.peers == {"b"}
    gate.set()
    await asyncio.wait_for(asyncio.wait(list(a.pusher._behind)), 20)
    assert read(c.store, content_of(data)) == data


@pytest.mark.parametrize("handover", [False, True])
async def test_what_no_record_will_name_is_forgotten_also_by_who_is_behind(world: World, handover: bool) -> None:
    a, b, c = [await world.node(name, handover=handover) for name in "abc"]
    gate = asyncio.Event()
    connect = world.connect

    async def gated(peer: str):  # type: ignore[no-untyped-def]
        if peer == "c":
            await gate.wait()
        return await connect(peer)

    a.connections._connect = gated
    data = os.urandom(3 * MIB)
    content = content_of(data)
    descriptor = file_of(world, data)
    for upload in (b"1" * 16, b"2" * 16):
        pushed = await a.pusher.push_file(descriptor, len(data), True, ["b", "c"], enough=1, upload=upload)
        assert pushed.peers == {"b"}
    os.close(descriptor)
    a.pusher.forget(content.digest, b"1" * 16, ["b", "c"])
    gate.set()
    async with asyncio.timeout(60):
        await asyncio.gather(*a.pusher._forgetting)
        assert b.store.usage().blobs == 1, "another upload brought the same bytes"
        a.pusher.forget(content.digest, b"2" * 16, ["b", "c"])
        await asyncio.gather(*a.pusher._forgetting)
    assert [node.store.usage().blobs for node in (b, c)] == [0, 0]


@pytest.mark.parametrize("handover", [False, True])
async def test_a_cancelled_push_leaves_nothing(world: World, handover: bool) -> None:
    a, b = await world.node("a"), await world.node("b", handover=handover)
    data = os.urandom(20 * MIB)
    descriptor = file_of(world, data)
    before = len(os.listdir("/proc/self/fd"))
    for turns in (1, 5, 20, 60):
        task = asyncio.create_task(a.pusher.push_file(descriptor, len(data), False, ["b"]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
    await a.connections.close()
    await b.idle()
    assert b.names("incoming") == []
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert (await a.pusher.push_file(descriptor, len(data), False, ["b"])).peers == {"b"}


@pytest.mark.parametrize("handover", [False, True])
async def test_a_rate_limits_the_frames_too(world: World, handover: bool) -> None:
    """Also where the kernel could copy the file at once."""
    a, b = await world.node("a"), await world.node("b", handover=handover)
    data = os.urandom(2 * MIB)
    a.limiter.set_rate(MIB)
    waits: list[float] = []

    async def wait(_: asyncio.Event, seconds: float) -> None:
        waits.append(seconds)
        world.clock.now += seconds

    a.limiter._wait = wait
    pushed = await a.pusher.push_file(file_of(world, data), len(data), False, ["b"])
    assert pushed.peers == {"b"} and read(b.store, content_of(data)) == data
    assert sum(waits) == pytest.approx(1.5, abs=0.01), "all but the burst and the last quantum"


# -- pulls ----------------------------------------------------------------------------------------------------------


async def test_a_pull_brings_a_blob_once_for_all_who_ask(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    content = put(b.store, os.urandom(3 * MIB))
    await asyncio.gather(*(a.store.fetch(content, 7, ["x", "b"]) for _ in range(10)))
    assert read(a.store, content) == read(b.store, content)
    assert a.traffic["b"].pulled == b.traffic["client"].served == content.size
    assert a.names("parts") == []
    await a.store.fetch(content, 7, [])


async def test_the_zones_own_file_is_found(world: World) -> None:
    data = os.urandom(2 * MIB)
    asked: list[tuple[Content, int]] = []

    def locate(content: Content, inode: int) -> int | None:
        asked.append((content, inode))
        return file_of(world, data) if inode == 7 else None

    a = await world.node("a")
    await world.node("b", locate=locate)
    with pytest.raises(UnavailableError):
        await a.store.fetch(content_of(data), 8, ["b"])
    await a.store.fetch(content_of(data), 7, ["b"])
    assert read(a.store, content_of(data)) == data
    assert asked == [(content_of(data), 8), (content_of(data), 7)]


async def test_a_holder_whose_file_changed_does_not_have_it(world: World) -> None:
    data = os.urandom(2 * MIB)
    changed = data[:MIB] + bytes([data[MIB] ^ 1]) + data[MIB + 1 :]
    a = await world.node("a")
    b = await world.node("b", locate=lambda content, inode: file_of(world, changed))
    s = await world.node("s", locate=lambda content, inode: file_of(world, data[:-1]))
    with pytest.raises(UnavailableError):
        await a.store.fetch(content_of(data), 7, ["s", "b"])
    assert a.names("blobs") == []
    assert (s.doubted, b.doubted) == ([7], [7]), "who waits for the bytes waits for what is reported of them next"
    c = await world.node("c")
    put(c.store, data)
    await a.store.fetch(content_of(data), 7, ["s", "b", "c"])
    assert read(a.store, content_of(data)) == data


@pytest.mark.parametrize("seed", range(6))
async def test_a_broken_pull_goes_on_where_it_broke(world: World, seed: int) -> None:
    a, b, c = [await world.node(name) for name in "abc"]
    data = os.urandom(6 * MIB + seed)
    content = put(b.store, data)
    put(c.store, data)
    cut = random.Random(seed).randrange(100, 6 * MIB)
    world.spoil["b"] = cut_after(cut)
    world.spoil["c"] = cut_after(10**9)
    if seed % 2:
        world.refusing = set()
        await a.store.fetch(content, 1, ["b"])
    else:  # nobody else has it now: the part stays, and another holder continues it
        connect, calls = world.connect, 0

        async def once(peer: str):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls > 1:
                raise ConnectionRefusedError
            return await connect(peer)

        a.connections._connect = once
        with pytest.raises(UnavailableError):
            await a.store.fetch(content, 1, ["b"])
        part = a.directory / "store" / "parts" / a.names("parts")[0]
        came = part.stat().st_size
        assert data[:came] == part.read_bytes() and came <= cut
        a.connections._connect = connect
        await a.store.fetch(content, 1, ["c"])
        assert a.traffic["c"].pulled == content.size - came
    assert read(a.store, content) == data
    assert a.traffic["b"].pulled + a.traffic["c"].pulled == content.size, "no byte travels twice"
    assert a.names("parts") == []


async def test_bytes_changed_on_their_way_are_found_out(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    content = put(b.store, os.urandom(MIB))
    world.spoil["b"] = flip_at(500_000)
    with pytest.raises(UnavailableError):
        await a.store.fetch(content, 1, ["b"])
    assert a.names("blobs") == []
    world.spoil.clear()
    world.clock.now += 100
    await a.connections.close()
    await a.store.fetch(content, 1, ["b"])
    assert a.names("blobs") == [content.digest.hex()]


@pytest.mark.parametrize("left", [b"?" * 1000, b"?" * (2 * MIB)])
async def test_a_bad_part_is_not_the_holders_fault(world: World, left: bytes) -> None:
    a, b = await world.node("a"), await world.node("b")
    data = os.urandom(MIB)
    content = put(b.store, data)
    (a.directory / "store" / "parts" / (content.digest.hex() + ".part")).write_bytes(left)
    await a.store.fetch(content, 1, ["b"])
    assert read(a.store, content) == data


async def test_a_pack_comes_whole_or_its_contents_one_by_one(world: World) -> None:
    a, b, c = [await world.node(name) for name in "abc"]
    pieces = [os.urandom(100) for _ in range(50)]
    pack_id = os.urandom(16)
    contents = [content_of(piece)._replace(pack=pack_id, offset=100 * at) for at, piece in enumerate(pieces)]
    await b.store.add_pack(pack_id, b"".join(pieces))
    await asyncio.gather(*(a.store.fetch(content, 1, ["c", "b"]) for content in contents))
    assert [read(a.store, content) for content in contents] == pieces
    assert a.traffic["b"].pulled == 5000
    await c.store.add_pack(pack_id, bytes(5000))  # what c has of this pack is wrong
    await c.store.fetch(contents[3], 1, ["b"])
    assert read(c.store, contents[3]) == pieces[3]
    b.store.release_pack(pack_id)
    d = await world.node("d")
    with pytest.raises(UnavailableError):
        await d.store.fetch(contents[4], 1, ["b"])
    await d.store.fetch(contents[3], 1, ["c"])
    assert read(d.store, contents[3]) == pieces[3]


async def test_an_unsealed_content_must_still_be_there_at_the_end(world: World) -> None:
    data = os.urandom(2 * MIB)
    content = Content(b"i" * 32, len(data), sealed=False)
    answers = [True, False, True, True]

    def locate(wanted: Content, inode: int) -> int | None:
        assert wanted == content
        return file_of(world, data) if answers.pop(0) else None

    a = await world.node("a")
    await world.node("b", locate=locate)
    with pytest.raises(UnavailableError):
        await a.store.fetch(content, 1, ["b"])
    await a.store.fetch(content, 1, ["b"])
    assert read(a.store, content) == data
    assert answers == []


async def test_a_cancelled_pull_keeps_its_part_and_ends_when_nobody_waits(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    content = put(b.store, os.urandom(8 * MIB))
    reached, gate = asyncio.Event(), asyncio.Event()

    async def wait(_: asyncio.Event, seconds: float) -> None:
        reached.set()
        await gate.wait()
        world.clock.now += seconds

    b.limiter._wait = wait
    b.limiter.set_rate(4 * MIB)
    first = asyncio.create_task(a.store.fetch(content, 1, ["b"]))
    second = asyncio.create_task(a.store.fetch(content, 1, ["b"]))
    await asyncio.wait_for(reached.wait(), 10)
    first.cancel()
    await asyncio.wait((first,))
    assert first.cancelled() and not second.done() and a.puller._running
    second.cancel()
    await asyncio.wait((second,))
    assert not a.puller._running
    assert a.names("blobs") == [] and a.names("parts") == [content.digest.hex() + ".part"]
    gate.set()
    await a.store.fetch(content, 1, ["b"])
    assert a.names("blobs") == [content.digest.hex()]


async def test_a_full_disk_ends_a_pull(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await world.node("a"), await world.node("b")
    content = put(b.store, os.urandom(3 * MIB))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        with pytest.raises(OSError) as caught:
            await a.store.fetch(content, 1, ["b"])
        assert caught.value.errno == errno.ENOSPC
    assert a.names("blobs") == []
    await a.store.fetch(content, 1, ["b"])


async def test_a_blob_taken_while_it_is_found_is_not_here(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await world.node("a"), await world.node("b")
    content = put(b.store, os.urandom(50_000))
    source = b.store.open(content)
    assert isinstance(source, FileSource)
    path = Path(source.path)
    monkeypatch.setattr(b.store, "open", lambda _: path.rename(world.directory / "x") and source)
    with pytest.raises(UnavailableError):
        await a.store.fetch(content, 1, ["b"])
    assert give.Locate is not None


# -- what does not follow the protocol ------------------------------------------------------------------------------


async def talk(world: World, node: Node, sent: bytes) -> bytes:
    reader, writer = await world.connect(node.name)
    writer.write(sent)
    writer.write_eof()
    async with asyncio.timeout(10):
        try:
            answer = await reader.read(100_000)
        except ConnectionResetError:
            answer = b""
    writer.close()
    await node.idle()
    return answer


def frame(type_: int, length: int, body: bytes = b"", *, mark: int = 0x1DDB, offset: int = 0, flags: int = 0) -> bytes:
    header = mark.to_bytes(2, "big") + bytes([type_, flags]) + length.to_bytes(4, "big") + bytes(7) + b"\x01"
    return header + offset.to_bytes(8, "big") + body


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (frame(Type.PUSH_PACK, 2**32 - 1), LimitError),
        (frame(Type.PUSH_PACK, 9 * MIB), LimitError),
        (frame(Type.PULL, 1000), LimitError),
        (frame(Type.PULL, 3, b"abc"), FormatError),
        (frame(Type.PUSH_PACK, 3, b"abc"), FormatError),
        (frame(Type.PUSH_BEGIN, 1, b"a"), FormatError),
        (frame(Type.PUSH_BEGIN, 17, bytes(17)), LimitError),
        (frame(Type.FORGET, 32, bytes(32)), FormatError),
        (frame(Type.FORGET, 49, bytes(49)), LimitError),
        (frame(Type.PUSH_BEGIN, 0, offset=2**63), FormatError),
        (frame(Type.DATA, 0), FormatError),
        (frame(99, 0), FormatError),
        (frame(Type.PULL, 0, flags=4), FormatError),
        (frame(Type.PULL, 0, mark=1), FormatError),
        (b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n", FormatError),
        (frame(Type.PUSH_BEGIN, 0, offset=10) + frame(Type.DATA, 5, b"12345", offset=6), FormatError),
        (frame(Type.PUSH_BEGIN, 0, offset=10) + frame(Type.PULL, 0), FormatError),
        (
            frame(Type.PUSH_BEGIN, 0, offset=9)
            + frame(Type.DATA, 5, b"12345", offset=4)
            + frame(Type.DATA, 5, b"12345", offset=4),
            FormatError,
        ),
        (frame(Type.PUSH_BEGIN, 0, offset=10) + frame(Type.PUSH_END, 32, bytes(32), offset=9), FormatError),
        (frame(Type.PUSH_BEGIN, 0, offset=10) + frame(Type.PUSH_END, 3, bytes(3), offset=10), FormatError),
    ],
)
async def test_what_is_no_protocol_closes_the_connection(world: World, sent: bytes, error: type[Exception]) -> None:
    b = await world.node("b")
    await talk(world, b, sent)
    assert [type(found) for found in b.errors] == [error]
    assert b.names("incoming") == b.names("blobs") == []
    assert b.server._taker._bodies.bytes_out == 0


@pytest.mark.parametrize("cut", [1, 23, 24, 30, 60, 100])
async def test_a_frame_cut_short_is_a_broken_connection(world: World, cut: int) -> None:
    b = await world.node("b")
    await talk(world, b, frame(Type.PUSH_PACK, 148, bytes(148))[:cut])
    assert b.errors == [] and b.store.held() == ([], [])
    assert b.server._taker._bodies.bytes_out == 0


async def test_garbage_from_a_holder_is_survived(world: World) -> None:
    world.stall_seconds = 0.2
    a, b = await world.node("a"), await world.node("b")
    content = put(b.store, os.urandom(100_000))
    for position in range(24):
        world.clock.now += 100
        await a.connections.close()
        world.spoil["b"] = flip_at(position)
        a.store.release(content)
        try:
            async with asyncio.timeout(15):
                await a.store.fetch(content, 1, ["b"])
        except UnavailableError:
            assert a.names("blobs") == []
        else:
            assert read(a.store, content) == read(b.store, content)


async def test_the_memory_for_bodies_is_bounded(world: World) -> None:
    a, b = await world.node("a"), await world.node("b")
    budget = b.server._taker._bodies
    budget._bytes_max = 100_000
    highest = 0
    acquire = budget.acquire

    async def watched(size: int) -> None:
        nonlocal highest
        await acquire(size)
        highest = max(highest, budget.bytes_out)

    budget.acquire = watched  # type: ignore[method-assign]
    packs = [(os.urandom(16), os.urandom(40_000)) for _ in range(30)]
    acked = await asyncio.gather(*(a.pusher.push_pack(pack_id, data, False, ["b"]) for pack_id, data in packs))
    assert acked == [{"b"}] * 30
    assert 40_000 < highest <= 100_000
    assert budget.bytes_out == 0


async def test_a_connection_says_when_it_is_local(world: World) -> None:
    await world.node("b")
    reader, writer = await world.connect("b")
    assert Connection(reader, writer, "b").is_local()
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader2, writer2 = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert not Connection(reader2, writer2, "b").is_local()
    for closing in (writer, writer2):
        closing.close()
        await closing.wait_closed()
    server.close()
