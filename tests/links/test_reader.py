"""Frames that go to a callback as they arrive: whole, in order, and no faster than they are wanted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lddp.errors import FormatError, LimitError
from lddp.links.frames import FRAME_BYTES_MAX, encode_frame, read_frame
from lddp.links.reader import LinkReader, open_link

BODIES = [b"first", b"", b"x" * 70_000, b"last"]


class Pausable(asyncio.Transport):
    """The side of a transport that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Taken:
    """What a reader gives, and after how many frames it said that no more came with them."""

    def __init__(self) -> None:
        self.transport = Pausable()
        self.reader = LinkReader()
        self.reader.set_transport(self.transport)
        self.bodies: list[bytes] = []
        self.bursts: list[int] = []
        self.room: asyncio.Future[None] | None = None
        self.error: Exception | None = None

    def take(self, body: bytes) -> asyncio.Future[None] | None:
        if self.error is not None:
            raise self.error
        self.bodies.append(body)
        return self.room

    async def start(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.reader.frames(self.take, lambda: self.bursts.append(len(self.bodies))))
        await asyncio.sleep(0)
        return task


@pytest.mark.parametrize("step", [1, 3, 4, 5, 1000, 1 << 20])
async def test_frames_come_whole_and_in_order_however_they_are_cut(step: int) -> None:
    taken, data = Taken(), b"".join(map(encode_frame, BODIES))
    task = await taken.start()
    for at in range(0, len(data), step):
        taken.reader.feed_data(data[at : at + step])
    assert taken.bodies == BODIES
    assert taken.bursts[-1] == len(BODIES) and len(taken.bursts) <= len(BODIES)
    assert not task.done()
    task.cancel()


async def test_what_comes_together_is_announced_once() -> None:
    taken = Taken()
    task = await taken.start()
    taken.reader.feed_data(encode_frame(b"a") + encode_frame(b"b") + encode_frame(b"c")[:3])
    assert (taken.bodies, taken.bursts) == ([b"a", b"b"], [2])
    taken.reader.feed_data(encode_frame(b"c")[3:])
    assert taken.bursts == [2, 3]
    task.cancel()


async def test_what_was_read_before_is_not_given_and_what_came_with_it_is() -> None:
    taken = Taken()
    taken.reader.feed_data(encode_frame(b"hello") + encode_frame(b"one") + encode_frame(b"two")[:5])
    assert await read_frame(taken.reader) == b"hello"
    task = await taken.start()
    assert taken.bodies == [b"one"]
    taken.reader.feed_data(encode_frame(b"two")[5:])
    assert taken.bodies == [b"one", b"two"]
    task.cancel()


async def test_a_transport_that_was_paused_before_reads_again() -> None:
    taken = Taken()
    taken.reader.feed_data(encode_frame(bytes(1 << 20)))
    assert not taken.transport.reading
    task = await taken.start()
    assert taken.transport.reading and len(taken.bodies[0]) == 1 << 20
    task.cancel()


async def test_nothing_more_comes_until_there_is_room() -> None:
    taken = Taken()
    task = await taken.start()
    taken.room = room = asyncio.get_running_loop().create_future()
    taken.reader.feed_data(encode_frame(b"a") + encode_frame(b"b"))
    taken.reader.feed_data(encode_frame(b"c"))
    assert (taken.bodies, taken.transport.reading) == ([b"a"], False)
    taken.room = None
    room.set_result(None)
    await asyncio.sleep(0)
    assert (taken.bodies, taken.transport.reading) == ([b"a", b"b", b"c"], True)
    task.cancel()


@pytest.mark.parametrize("error", [FormatError("no"), LimitError("no"), ConnectionAbortedError("no")])
async def test_what_the_taker_raises_ends_it(error: Exception) -> None:
    taken = Taken()
    task = await taken.start()
    taken.error = error
    taken.reader.feed_data(encode_frame(b"a"))
    taken.error = None
    taken.reader.feed_data(encode_frame(b"b"))
    with pytest.raises(type(error), match="no"):
        await task
    assert taken.bodies == []


async def test_what_nobody_foresaw_ends_it_and_nothing_is_given_twice() -> None:
    taken = Taken()
    task = await taken.start()
    taken.reader.feed_data(encode_frame(b"a"))
    taken.error = RuntimeError("a fault")
    with pytest.raises(RuntimeError, match="a fault"):
        taken.reader.feed_data(encode_frame(b"b"))
    taken.error = None
    taken.reader.feed_data(encode_frame(b"c"))
    with pytest.raises(ConnectionAbortedError):
        await task
    assert taken.bodies == [b"a"]


async def test_a_frame_beyond_the_limit_is_refused_by_its_head() -> None:
    taken = Taken()
    task = await taken.start()
    taken.reader.feed_data((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(LimitError, match="beyond the limit"):
        await task


@pytest.mark.parametrize("rest", [b"", b"\0", encode_frame(b"abc")[:-1]])
async def test_the_end_of_the_stream_ends_it(rest: bytes) -> None:
    taken = Taken()
    task = await taken.start()
    taken.reader.feed_data(encode_frame(b"a") + rest)
    taken.reader.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await task
    assert taken.bodies == [b"a"]


async def test_a_stream_that_has_ended_gives_what_came_and_ends() -> None:
    taken = Taken()
    taken.reader.feed_data(encode_frame(b"a"))
    taken.reader.feed_eof()
    task = await taken.start()
    with pytest.raises(asyncio.IncompleteReadError):
        await task
    assert taken.bodies == [b"a"]


@pytest.mark.parametrize("before", [True, False])
async def test_a_lost_connection_ends_it(before: bool) -> None:
    taken = Taken()
    if before:
        taken.reader.set_exception(ConnectionResetError("gone"))
    task = await taken.start()
    if not before:
        taken.reader.set_exception(ConnectionResetError("gone"))
    with pytest.raises(ConnectionResetError, match="gone"):
        await task


async def test_over_a_real_connection(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    done = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for body in BODIES * 50:
            writer.write(encode_frame(body))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        done.set()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_unix_server(serve, path)
    reader, writer = await open_link(lambda factory: loop.create_unix_connection(factory, path))
    bodies: list[bytes] = []
    with pytest.raises(asyncio.IncompleteReadError):
        await asyncio.wait_for(reader.frames(bodies.append, lambda: None), 20)
    assert bodies == BODIES * 50
    await asyncio.wait_for(done.wait(), 20)
    writer.close()
    server.close()
    await server.wait_closed()
