"""What peers push, on its way into the store. An acknowledgement means: whole, verified, and durable if so asked."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from functools import partial

from blake3 import blake3

from lddp.content.arrival import Arrival
from lddp.content.forgotten import Forgotten
from lddp.content.frames import DIGEST_BYTES, DURABLE, GROWING, UPLOAD_BYTES, Connection, Header, Type
from lddp.content.handover import HANDOVER_SECONDS, Handover
from lddp.content.intake import Intake
from lddp.content.limiter import ByteBudget
from lddp.content.packs import PACK_ID_BYTES
from lddp.content.store import Store
from lddp.content.traffic import Traffic
from lddp.core.limits import FILE_BYTES_MAX
from lddp.core.records import Content
from lddp.errors import CorruptError, FormatError

logger = logging.getLogger(__name__)

BODIES_BYTES_MAX = 64 * 1024 * 1024
"""What all connections together may have in memory between the network and the store."""


class Taker:
    """Takes packs and files of any number of connections."""

    def __init__(
        self,
        store: Store,
        traffic: Traffic,
        handover: Handover | None,
        bodies_bytes_max: int,
        is_needed: Callable[[bytes], bool],
    ) -> None:
        self._store = store
        self._is_needed = is_needed
        self._traffic = traffic
        self._handover = handover
        self._bodies = ByteBudget(bodies_bytes_max)
        self._forgotten = Forgotten()

    async def take_pack(self, connection: Connection, header: Header) -> None:
        if header.length < PACK_ID_BYTES + DIGEST_BYTES:
            raise FormatError(f"{connection.peer} pushed a pack without a name")
        await self._bodies.acquire(header.length)  # meanwhile nothing is read, and the peer stops sending
        try:
            pack_id = await connection.receive_body(PACK_ID_BYTES)
            digest = await connection.receive_body(DIGEST_BYTES)
            data = await connection.receive_body(header.length - PACK_ID_BYTES - DIGEST_BYTES)
            self._traffic[connection.peer].received += len(data)
            if blake3(data).digest() != digest:
                raise CorruptError("the pack did not arrive as it was sent; send it again")
            keep = self._store.add_pack(pack_id, data, bool(header.flags & DURABLE))
            await connection.while_working(header.id, asyncio.create_task(keep))
        except (OSError, CorruptError) as error:
            await _refuse(connection, header.id, error)
            return
        finally:
            self._bodies.release(header.length)
        await connection.send(Type.ACK, header.id)

    async def take_offer(self, connection: Connection, header: Header) -> None:
        """A file whose sender is on this host: its descriptor comes to the handover, and the kernel copies."""
        if self._handover is None or not connection.is_local():
            await connection.send(Type.NOT_HERE, header.id)
            return
        async with self._handover.expect() as (token, descriptor):
            await connection.send(Type.PLACE, header.id, 0, [token, os.fsencode(self._handover.path)])
            begin = await connection.receive_header(HANDOVER_SECONDS * 2)
            if begin is None:
                return
            wrong = begin.flags & GROWING or begin.id != header.id or begin.offset != header.offset
            if begin.type is not Type.PUSH_BEGIN or wrong:
                raise FormatError(f"{connection.peer} sent {begin.type.name} after OFFER")
            await self.take_file(connection, begin, descriptor.result() if descriptor.done() else None)

    async def take_file(self, connection: Connection, begin: Header, descriptor: int | None = None) -> None:
        upload = await connection.receive_body(begin.length)
        if upload and len(upload) != UPLOAD_BYTES:
            raise FormatError(f"{connection.peer} named an upload with {len(upload)} bytes")
        if begin.offset > (0 if begin.flags & GROWING else FILE_BYTES_MAX):
            raise FormatError(f"{connection.peer} pushes a file of {begin.offset} bytes")
        with self._forgotten.push(upload):
            await self._take_file(connection, begin, upload, descriptor)

    async def _take_file(self, connection: Connection, begin: Header, upload: bytes, descriptor: int | None) -> None:
        try:
            durable = bool(begin.flags & DURABLE)
            arrival = await self._store.disk.make(Arrival.discard, self._store.arrival, durable=durable)
        except OSError as error:
            await _refuse(connection, begin.id, error)
            await self._discard(connection, begin)
            return
        intake = Intake(arrival, self._store.disk, None if begin.flags & GROWING else begin.offset)
        try:
            if descriptor is None:
                end = await self._receive(connection, begin, intake)
            else:
                end = await self._copy(connection, begin, intake, descriptor)
            if end is not None:
                await self._finish(connection, begin, intake, end, upload)
        finally:
            await intake.close(keep=False)

    async def _receive(self, connection: Connection, begin: Header, intake: Intake) -> bytes | None:
        """The digest that the sender names at the end; None where the disk failed, which the sender knows then."""
        try:
            while (header := await self._next(connection, begin)).type is Type.DATA:
                await self._bodies.acquire(header.length)
                release = partial(self._bodies.release, header.length)
                pieces: list[bytes] = []
                try:
                    await connection.receive_pieces(header.length, pieces)
                except BaseException:
                    release()
                    raise
                self._traffic[connection.peer].received += header.length
                await intake.put(header.offset, pieces, release)
        except OSError as error:
            await _refuse_file(connection, begin, intake, error)
            await self._discard(connection, begin)
            return None
        if begin.flags & GROWING:
            intake.ends_at(header.offset)
            begin = begin._replace(offset=header.offset)
        return await self._digest(connection, begin, header)

    async def _next(self, connection: Connection, begin: Header) -> Header:
        header = await connection.receive_answer(begin.id)
        if header.type not in (Type.DATA, Type.PUSH_END):
            raise FormatError(f"{connection.peer} sent {header.type.name} within a file")
        return header

    async def _digest(self, connection: Connection, begin: Header, end: Header) -> bytes:
        digest = await connection.receive_body(end.length)
        if len(digest) != DIGEST_BYTES or end.offset != begin.offset:
            raise FormatError(f"{connection.peer} ended a file of {begin.offset} bytes at {end.offset}")
        return digest

    async def _discard(self, connection: Connection, begin: Header) -> None:
        """Reads the rest of a refused file, until its sender has seen the refusal and closes, or ends it."""
        while (header := await self._next(connection, begin)).type is Type.DATA:
            await connection.receive_pieces(header.length, [])
        await connection.receive_body(header.length)

    async def _copy(self, connection: Connection, begin: Header, intake: Intake, descriptor: int) -> bytes | None:
        run, arrival = self._store.disk.run, intake.arrival

        async def copy() -> None:
            while connection.usable and not await run(arrival.take_from, descriptor, begin.offset):
                pass

        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FormatError(f"{connection.peer} handed over something that is no regular file")
            await connection.while_working(begin.id, asyncio.create_task(copy()))
        except OSError as error:
            await _refuse_file(connection, begin, intake, error)
            await self._discard(connection, begin)
            return None
        self._traffic[connection.peer].handed += arrival.offset
        header = await self._next(connection, begin)
        if header.type is not Type.PUSH_END:
            raise FormatError(f"{connection.peer} sent bytes of a file that it handed over")
        return await self._digest(connection, begin, header)

    async def _finish(
        self, connection: Connection, begin: Header, intake: Intake, digest: bytes, upload: bytes
    ) -> None:
        async def finish() -> None:
            if await intake.finish() != digest:
                raise CorruptError("the file did not arrive as it was read, or changed meanwhile; send it again")
            durable = bool(begin.flags & DURABLE)
            await self._store.disk.run(self._publish, intake.arrival, digest, durable, upload)

        try:
            await connection.while_working(begin.id, asyncio.create_task(finish()))
        except (OSError, CorruptError, _GivenUpError) as error:
            await _refuse_file(connection, begin, intake, error)
            return
        await connection.send(Type.ACK, begin.id)

    def _publish(self, arrival: Arrival, digest: bytes, durable: bool, upload: bytes) -> None:
        """All of it in one thread, which goes on where its connection breaks."""
        self._store.publish(arrival, digest, durable=durable, pushed=upload)
        if upload in self._forgotten:
            self._forget(digest, upload)
            raise _GivenUpError("its upload was given up")

    async def forget(self, connection: Connection, header: Header) -> None:
        """What an upload brought, unless something else needs the same bytes."""
        body = await connection.receive_body(header.length)
        if len(body) != DIGEST_BYTES + UPLOAD_BYTES:
            raise FormatError(f"{connection.peer} sent a FORGET of {len(body)} bytes")
        self._forgotten.add(body[DIGEST_BYTES:])
        try:
            await self._store.disk.run(self._forget, body[:DIGEST_BYTES], body[DIGEST_BYTES:])
        except OSError as error:
            await _refuse(connection, header.id, error)
            return
        await connection.send(Type.ACK, header.id)

    def _forget(self, digest: bytes, upload: bytes) -> None:
        self._store.take_back(Content(digest, 0), upload, is_needed=self._is_needed(digest))


class _GivenUpError(Exception):
    """No record will name what was pushed."""


async def _refuse_file(connection: Connection, begin: Header, intake: Intake, error: Exception) -> None:
    """What came of it is gone before its sender knows: it may have been what there was no room for."""
    try:
        await connection.while_working(begin.id, asyncio.create_task(intake.close(keep=False)))
    finally:
        await _refuse(connection, begin.id, error)


async def _refuse(connection: Connection, id_: int, error: Exception) -> None:
    logger.warning("a push of %s was refused: %s", connection.peer, error)
    await connection.send(Type.REFUSED, id_, 0, [str(error).encode()[:1024]])
