"""What peers pull: from the store, or from the zone's own file that is believed to hold the bytes."""

from __future__ import annotations

import os
from collections.abc import Callable

from blake3 import blake3

from lddp.content.frames import Connection, Header, Type, Wanted
from lddp.content.limiter import Limiter
from lddp.content.reading import SequentialRead
from lddp.content.store import Store
from lddp.content.traffic import Traffic
from lddp.core.records import Content

Locate = Callable[[Content, int], int | None]
"""(content, inode) -> an open descriptor of the zone's file that is believed to hold these bytes, or None; the server
closes it. Blocking. For an unsealed content it must be certain at the moment of the call, because no digest tells; it
is asked again when the bytes were sent."""


Doubt = Callable[[int], None]
"""(inode): the zone's file was believed to hold bytes, and holds others."""


class Giver:
    """Gives contents and packs to any number of connections."""

    def __init__(
        self, store: Store, limiter: Limiter, traffic: Traffic, locate: Locate | None, doubt: Doubt | None = None
    ) -> None:
        self._store = store
        self._limiter = limiter
        self._traffic = traffic
        self._locate = locate
        self._doubt = doubt

    async def give_pack(self, connection: Connection, header: Header) -> None:
        pack_id = await connection.receive_body(header.length)
        data = await self._store.disk.run(self._store.pack, pack_id)
        if data is None:
            await connection.send(Type.NOT_HERE, header.id)
            return
        await self._limiter.take(connection.peer, len(data))
        await connection.send(Type.PACK, header.id, 0, [blake3(data).digest(), data])
        self._traffic[connection.peer].served += len(data)

    async def give(self, connection: Connection, header: Header) -> None:
        wanted = Wanted.unpack(await connection.receive_body(header.length))
        found = await self._store.disk.make(_close, self._find, wanted)
        if isinstance(found, int) and os.fstat(found).st_size != wanted.content.size:
            os.close(found)
            found = None
            self._hear_of(wanted)
        if isinstance(found, bytes | memoryview):
            await self._send(connection, header.id, header.offset, memoryview(found)[header.offset :])
            await connection.send(Type.PULL_END, header.id, len(found))
        elif found is None:
            await connection.send(Type.NOT_HERE, header.id)
        else:
            try:
                await self._give_file(connection, header, wanted, found)
            finally:
                os.close(found)

    def _find(self, wanted: Wanted) -> bytes | memoryview | int | None:
        """The bytes in memory, or a descriptor of a file that should have them, or None."""
        content = wanted.content
        held = self._store.held_as(content)
        if held is None and self._locate is not None:
            held = self._locate(content, wanted.inode)
        return held

    def _hear_of(self, wanted: Wanted) -> None:
        """A file has not the bytes that the log says, and somebody waits for these: what is reported of it next takes
        their place. Perhaps nobody else has noticed: an operation may have met it at another one's name, or its times
        did not tell, since it was stored into through a mapping or somebody put them back."""
        if self._doubt is not None:
            self._doubt(wanted.inode)

    async def _give_file(self, connection: Connection, header: Header, wanted: Wanted, descriptor: int) -> None:
        content = wanted.content
        begin = header.offset if content.sealed else 0
        read = SequentialRead(descriptor, begin, content.size, hashing=not begin)
        while (chunk := await self._store.disk.run(read.next)) is not None:
            await self._send(connection, header.id, *chunk)
        if read.offset < content.size or not (content.sealed or await self._store.disk.run(self._still, wanted)):
            await connection.send(Type.NOT_HERE, header.id)
            return
        if content.sealed and not begin and read.digest() != content.digest:
            self._hear_of(wanted)
            await connection.send(Type.NOT_HERE, header.id)
            return
        digest = () if content.sealed else (read.digest(),)
        await connection.send(Type.PULL_END, header.id, content.size, digest)

    def _still(self, wanted: Wanted) -> bool:
        """Whether an unsealed content is still here, so that what was read meanwhile was it."""
        again = self._find(wanted)
        if not isinstance(again, int):
            return again is not None
        size = os.fstat(again).st_size
        os.close(again)
        return size == wanted.content.size

    async def _send(self, connection: Connection, id_: int, offset: int, data: bytes | memoryview) -> None:
        """One piece, in frames no larger than the limiter wishes; an empty one says how far the zeros reach."""
        view = memoryview(data)
        at = 0
        while True:
            part = view[at : at + self._limiter.quantum()]
            await self._limiter.take(connection.peer, len(part))
            await connection.send(Type.DATA, id_, offset + at, [part])
            self._traffic[connection.peer].served += len(part)
            at += len(part)
            if at >= len(view):
                return


def _close(found: bytes | memoryview | int | None) -> None:
    if isinstance(found, int):
        os.close(found)
