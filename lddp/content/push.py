"""Bytes to other nodes: each is read once and hashed in the same pass, and no peer waits for a slower one."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from blake3 import blake3

from lddp.content.connections import GROWING_MAX, Connections
from lddp.content.disk import DiskThreads
from lddp.content.feed import Feed, Pass
from lddp.content.frames import DURABLE, GROWING, TEXT_BYTES_MAX, Connection, Header, Type
from lddp.content.growing import IDLE_S, Growing, Share
from lddp.content.handover import TOKEN_BYTES, hand_over
from lddp.content.limiter import Limiter
from lddp.content.traffic import Traffic
from lddp.errors import FormatError, LimitError, UnavailableError

logger = logging.getLogger(__name__)

ATTEMPTS = 2
FORGETTING_MAX = 256
"""Uploads that peers are being told to forget. What is more waits for their sweeps."""
BEHIND_MAX = 8
"""Pushes per peer that may still be under way after enough others have answered; the peer pulls the rest."""


class Pushed(NamedTuple):
    """What became of a file's push. `size` is not the size asked for where the file is shorter or longer by now: then
    look at the file again; nobody has it. `digest` is that of the bytes read, up to the size asked for."""

    digest: bytes
    size: int
    peers: set[str]


class Pusher:
    """Sends packs and files to several peers at once."""

    def __init__(
        self,
        connections: Connections,
        limiter: Limiter,
        disk: DiskThreads,
        traffic: Traffic,
        *,
        hands_over: bool = True,
    ) -> None:
        self._connections = connections
        self._limiter = limiter
        self._disk = disk
        self._traffic = traffic
        self._hands_over = hands_over
        self._behind: dict[asyncio.Task[bool], tuple[str, bytes]] = {}
        """Their peers and uploads."""
        self._growing: list[Growing] = []
        self._forgetting: set[asyncio.Task[None]] = set()

    async def push_pack(
        self, pack_id: bytes, data: bytes, durable: bool, to: Sequence[str], *, enough: int | None = None
    ) -> set[str]:
        """The peers that have the pack now. A peer that is down or does not answer in time is left out. With
        `enough`, returns when that many have it; the others get it meanwhile, or pull it."""
        digest = blake3(data).digest() if to else b""

        async def push(connection: Connection) -> bool:
            await self._limiter.take(connection.peer, len(data))
            id_ = self._connections.next_id()
            body = (pack_id, digest, data)
            await connection.send(Type.PUSH_PACK, id_, 0, body, DURABLE if durable else 0)
            if not await _accepted(connection, await connection.receive_answer(id_)):
                return False
            self._traffic[connection.peer].pushed += len(data)
            return True

        tasks = {asyncio.create_task(self._attempts(peer, push)): peer for peer in to}
        return await self._gather(tasks, enough)

    async def push_file(
        self,
        descriptor: int,
        size: int,
        durable: bool,
        to: Sequence[str],
        *,
        enough: int | None = None,
        upload: bytes = b"",
        told: Callable[[int], None] | None = None,
    ) -> Pushed:
        """Sends the first `size` bytes of an open regular file, which the caller keeps open meanwhile. Raises OSError
        where it cannot be read. With no peers it is hashed only. `upload`: UPLOAD_BYTES at random, to `forget` by.
        `told` hears how far it has come."""
        file_pass = Pass(descriptor, size, self._disk, told)
        tasks: dict[asyncio.Task[bool], str] = {}
        try:
            for peer in to:
                feed = file_pass.feed()
                task = asyncio.create_task(self._push_file(feed, peer, durable, upload))
                task.add_done_callback(feed.close)
                tasks[task] = peer
            digest = await file_pass.run()
            found = os.fstat(descriptor).st_size if file_pass.offset == size else file_pass.offset
            if found != size:
                await _end(tasks)
                return Pushed(digest, found, set())
        except BaseException:
            await _end(tasks)
            raise
        has = await self._gather(tasks, enough, upload)
        file_pass.passed(size)
        return Pushed(digest, size, has)

    def grow(
        self, descriptor: int, durable: bool, to: Sequence[str], *, enough: int = 0, upload: bytes = b""
    ) -> Growing | None:
        """Begins to push an open regular file to which its caller still appends; `grown` ends it. None where too many
        grow already."""
        self._growing = [one for one in self._growing if not one.is_over]
        if len(self._growing) >= GROWING_MAX:
            idlest = max(self._growing, key=lambda one: one.idle_s)
            if idlest.idle_s < IDLE_S:
                return None
            idlest.cancel()
            self._growing.remove(idlest)
        growing = Growing(descriptor, self._disk, self._connections.clock, enough, upload)
        for peer in to:
            share = Share(growing)
            growing.add(peer, share, asyncio.create_task(self._push_growing(share, peer, durable)))
        self._growing.append(growing)
        return growing

    async def grown(self, growing: Growing) -> set[str]:
        """The peers that have all of a file that has come to its end, when there are enough of them or no more to wait
        for; the others get it meanwhile, or pull it."""
        return await self._gather(growing.tasks, growing.enough, growing.upload)

    def forget(self, digest: bytes, upload: bytes, peers: Sequence[str]) -> None:
        """No record will name what an upload brought: tells its peers, in the background. Who cannot be reached keeps
        the bytes until its sweep."""
        if peers and len(self._forgetting) < FORGETTING_MAX:
            task = asyncio.create_task(self._forget(digest, upload, peers))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    async def _forget(self, digest: bytes, upload: bytes, peers: Sequence[str]) -> None:
        async def forget(connection: Connection) -> bool:
            id_ = self._connections.next_id()
            await connection.send(Type.FORGET, id_, 0, [digest, upload])
            return await _accepted(connection, await connection.receive_answer(id_))

        # What is still on its way would come after the word that it is not wanted.
        behind = [task for task, (_, other) in self._behind.items() if other == upload]
        if behind:
            await asyncio.wait(behind)
        await asyncio.gather(*(self._attempts(peer, forget) for peer in peers))

    async def _attempts(self, peer: str, push: Callable[[Connection], Awaitable[bool]]) -> bool:
        """Runs `push` over a connection to the peer; again, over a fresh one, where a reused one turned out stale."""
        for _ in range(ATTEMPTS):
            if self._connections.is_down(peer):
                return False
            try:
                async with self._connections.use(peer) as connection:
                    return await push(connection)
            except UnavailableError as error:
                logger.info("a push to %s failed: %s", peer, error)
            except (FormatError, LimitError) as error:
                logger.error("%s does not follow the protocol: %s", peer, error)
                return False
            except _RefusedEarlyError as error:
                logger.warning("%s refused a file: %s", peer, error)
                return False
        return False

    async def _push_file(self, feed: Feed, peer: str, durable: bool, upload: bytes) -> bool:
        async def push(connection: Connection) -> bool:
            feed.rewind()
            id_ = self._connections.next_id()
            handed = self._may_hand_over(connection) and await self._offer(connection, id_, feed)
            await connection.send(Type.PUSH_BEGIN, id_, feed.size, [upload], DURABLE if durable else 0)
            if not handed:
                return await _accepted(connection, await self._stream(connection, id_, feed))
            feed.leave()
            digest = await connection.while_working(id_, feed.digest())
            await connection.send(Type.PUSH_END, id_, feed.size, [digest])
            if not await _accepted(connection, await connection.receive_answer(id_)):
                return False
            self._traffic[peer].handed += feed.size
            return True

        return await self._attempts(peer, push)

    def _may_hand_over(self, connection: Connection) -> bool:
        """What the kernel copies has no rate."""
        return self._hands_over and self._limiter.rate is None and connection.is_local()

    async def _offer(self, connection: Connection, id_: int, feed: Feed) -> bool:
        """Hands the descriptor over where the peer has a place for it."""
        await connection.send(Type.OFFER, id_, feed.size)
        answer = await connection.receive_answer(id_)
        body = await connection.receive_body(answer.length)
        if answer.type is Type.NOT_HERE:
            return False
        if answer.type is not Type.PLACE or not TOKEN_BYTES < len(body) < TEXT_BYTES_MAX:
            raise FormatError(f"{connection.peer} answered an offer with {answer.type.name}")
        path = os.fsdecode(body[TOKEN_BYTES:])
        return await self._disk.run(hand_over, path, body[:TOKEN_BYTES], feed.descriptor)

    async def _stream(self, connection: Connection, id_: int, feed: Feed) -> Header:
        """Sends the bytes and returns the answer's header. An answer before the end is a refusal."""
        answer = asyncio.create_task(connection.receive_answer(id_, patient=True))
        try:
            while (chunk := await feed.next()) is not None:
                offset, data = chunk
                await self._send(connection, id_, offset, data, answer)
            digest = await connection.while_working(id_, feed.digest())
            await connection.send(Type.PUSH_END, id_, feed.size, [digest])
            return await connection.within_deadline(answer)
        finally:
            await _end([answer])

    async def _send(
        self, connection: Connection, id_: int, offset: int, data: bytes | memoryview, answer: asyncio.Task[Header]
    ) -> None:
        view, step = memoryview(data), self._limiter.quantum()
        for at in range(0, max(1, len(view)), step):
            part = view[at : at + step]
            await self._limiter.take(connection.peer, len(part))
            if answer.done():
                raise _RefusedEarlyError(await _refusal(connection, answer.result()))
            await connection.send(Type.DATA, id_, offset + at, [part])
            self._traffic[connection.peer].pushed += len(part)

    async def _push_growing(self, share: Share, peer: str, durable: bool) -> bool:
        async def push(connection: Connection) -> bool:
            share.rewind()
            id_ = self._connections.next_id()
            flags = GROWING | (DURABLE if durable else 0)
            await connection.send(Type.PUSH_BEGIN, id_, 0, [share.growing.upload], flags)
            answer = asyncio.create_task(connection.receive_answer(id_, patient=True))
            try:
                size, digest = await self._follow(connection, id_, share, answer)
                await connection.send(Type.PUSH_END, id_, size, [digest])
                return await _accepted(connection, await connection.within_deadline(answer))
            finally:
                await _end([answer])

        return await self._attempts(peer, push)

    async def _follow(
        self, connection: Connection, id_: int, share: Share, answer: asyncio.Task[Header]
    ) -> tuple[int, bytes]:
        """Sends what the writer has written, until its end: size and digest."""
        while True:
            share.more.clear()
            while (chunk := await share.next()) is not None:
                await self._send(connection, id_, *chunk, answer)
            if share.growing.end is not None and share.has_all:
                return share.growing.end
            await self._until_more(connection, id_, share, answer)

    async def _until_more(self, connection: Connection, id_: int, share: Share, answer: asyncio.Task[Header]) -> None:
        more = asyncio.create_task(share.more.wait())
        try:
            while not more.done():
                await asyncio.wait((more, answer), timeout=connection.breath_s, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    raise _RefusedEarlyError(await _refusal(connection, answer.result()))
                if not more.done():
                    await connection.send(Type.WORKING, id_)
        finally:
            await _end([more])

    async def _gather(self, tasks: dict[asyncio.Task[bool], str], enough: int | None, upload: bytes = b"") -> set[str]:
        """The peers whose task returned true, when `enough` of them or all are done."""
        pending = set(tasks)
        have: set[str] = set()
        try:
            while pending and (enough is None or len(have) < enough):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                have |= {tasks[task] for task in done if not task.cancelled() and task.result()}
        except BaseException:
            await _end(tasks)
            raise
        await _end([task for task in pending if not self._leave_behind(task, tasks[task], upload)])
        return have

    def _leave_behind(self, task: asyncio.Task[bool], peer: str, upload: bytes) -> bool:
        if sum(other == peer for other, _ in self._behind.values()) >= BEHIND_MAX:
            return False
        self._behind[task] = peer, upload
        task.add_done_callback(self._done_behind)
        return True

    def _done_behind(self, task: asyncio.Task[bool]) -> None:
        del self._behind[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a push under way in the background failed", exc_info=error)

    async def close(self) -> None:
        for growing in self._growing:
            await _end(growing.tasks)
        await _end(list(self._forgetting))
        await _end(list(self._behind))


class _RefusedEarlyError(Exception):
    """The peer does not want the rest; the connection is closed, because the rest of a frame may be on its way."""


async def _refusal(connection: Connection, header: Header) -> str:
    return (await connection.receive_body(header.length)).decode(errors="replace")


async def _accepted(connection: Connection, answer: Header) -> bool:
    if answer.type is Type.ACK:
        return True
    if answer.type is not Type.REFUSED:
        raise FormatError(f"{connection.peer} answered a push with {answer.type.name}")
    logger.warning("%s refused a push: %s", connection.peer, await _refusal(connection, answer))
    return False


async def _end(tasks: Sequence[asyncio.Task[Any]] | dict[asyncio.Task[bool], str]) -> None:
    """Cancels tasks and waits until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(list(tasks))
    for task in tasks:
        if not task.cancelled():
            task.exception()  # the caller already has an error, or no interest any more
