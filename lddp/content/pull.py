"""Bytes from other nodes: resumed where an earlier attempt ended, from the same holder or another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from blake3 import blake3

from lddp.content.arrival import Arrival
from lddp.content.connections import Connections
from lddp.content.frames import DIGEST_BYTES, Connection, Type, Wanted
from lddp.content.intake import Intake
from lddp.content.store import Store
from lddp.content.traffic import Traffic
from lddp.core.records import Content
from lddp.errors import FormatError, LimitError, UnavailableError

logger = logging.getLogger(__name__)

BREAKS_MAX = 2
"""How often in a row a holder's connection may break without a byte gained before the next holder is asked."""


class Puller:
    """Brings contents into a store. Several who want the same wait for one transfer."""

    def __init__(self, store: Store, connections: Connections, traffic: Traffic) -> None:
        self._store = store
        self._connections = connections
        self._traffic = traffic
        self._running: dict[bytes, _Shared] = {}

    async def fetch(self, content: Content, inode: int, holders: Sequence[str]) -> None:
        """Brings the bytes here. UnavailableError when none of the holders has them now, OSError when this node's disk
        does not take them; what has come so far is kept for the next attempt."""
        if await self._store.disk.run(self._store.open, content) is not None:
            return
        if content.pack:
            if await self._store.disk.run(self._store.pack, content.pack) is None:
                await self._once(b"pack" + content.pack, lambda: self._fetch_pack(content.pack, holders))
            # Somebody else may have brought it between the two looks.
            if await self._store.disk.run(self._store.open, content) is not None:
                return
        key = bytes([content.sealed]) + content.digest
        await self._once(key, lambda: self._fetch_file(content, inode, holders))

    async def _once(self, key: bytes, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work`, or waits for the one who does; it is cancelled when nobody waits for it any more."""
        shared = self._running.get(key)
        if shared is None:
            shared = self._running[key] = _Shared(asyncio.ensure_future(work()))
            shared.task.add_done_callback(lambda _: self._running.pop(key))
        shared.waiters += 1
        try:
            await asyncio.wait((shared.task,))
        finally:
            shared.waiters -= 1
            if not shared.waiters and not shared.task.done():
                shared.task.cancel()
                await asyncio.wait((shared.task,))
        shared.task.result()

    # -- packs ------------------------------------------------------------------------------------------------------

    async def _fetch_pack(self, pack_id: bytes, holders: Sequence[str]) -> None:
        """Brings a pack from whoever has it; without it, its contents are pulled one by one."""
        for holder in self._in_order(holders):
            try:
                async with self._connections.use(holder) as connection:
                    if await self._pull_pack(connection, pack_id):
                        return
            except (UnavailableError, FormatError, LimitError) as error:
                logger.info("pack %s did not come from %s: %s", pack_id.hex(), holder, error)

    async def _pull_pack(self, connection: Connection, pack_id: bytes) -> bool:
        id_ = self._connections.next_id()
        await connection.send(Type.PULL_PACK, id_, 0, [pack_id])
        answer = await connection.receive_answer(id_)
        if answer.type is Type.NOT_HERE:
            return False
        if answer.type is not Type.PACK or answer.length < DIGEST_BYTES:
            raise FormatError(f"{connection.peer} answered PULL_PACK with {answer.type.name}")
        digest = await connection.receive_body(DIGEST_BYTES)
        data = await connection.receive_body(answer.length - DIGEST_BYTES)
        self._traffic[connection.peer].pulled += len(data)
        if blake3(data).digest() != digest:
            raise FormatError(f"{connection.peer} sent a pack that is not what it says")
        await self._store.add_pack(pack_id, data)
        return True

    # -- files ------------------------------------------------------------------------------------------------------

    async def _fetch_file(self, content: Content, inode: int, holders: Sequence[str]) -> None:
        run = self._store.disk.run
        arrival = await self._store.disk.make(Arrival.close, self._store.part, content)
        intake = Intake(arrival, self._store.disk, content.size)
        try:
            if arrival.found_bytes > content.size or not content.sealed:
                await run(arrival.start_again)
            while not await run(arrival.catch_up):
                pass
            await intake.recover()
            for holder in self._in_order(holders):
                if await self._from_holder(holder, Wanted(content, inode), intake):
                    await run(self._store.publish, arrival, content.digest, sealed=content.sealed)
                    return
        finally:
            await intake.close(keep=True)
        names = ", ".join(holders) or "nobody asked"
        raise UnavailableError(f"content {content.digest.hex()[:16]} is not to be had now from {names}; retry")

    def _in_order(self, holders: Sequence[str]) -> list[str]:
        """As given, but those that failed lately last."""
        return sorted(holders, key=self._connections.is_down)

    async def _from_holder(self, holder: str, wanted: Wanted, intake: Intake) -> bool:
        """True when the content is whole; False where the holder does not have it or cannot be reached."""
        breaks = 0
        while breaks < BREAKS_MAX:
            begin = intake.arrival.offset
            try:
                async with self._connections.use(holder) as connection:
                    came = await self._pull(connection, wanted, intake)
                if came is not None:
                    return came
            except (UnavailableError, FormatError, LimitError) as error:
                await intake.recover()
                logger.info("a pull from %s broke at %d: %s", holder, intake.arrival.offset, error)
                if not wanted.content.sealed:
                    await intake.start_again()
                breaks = 0 if intake.arrival.offset > begin else breaks + 1
        return False

    async def _pull(self, connection: Connection, wanted: Wanted, intake: Intake) -> bool | None:
        """One attempt: True when whole, False when the holder does not have it, None when it should be asked again for
        all of it, because the bytes of an earlier attempt may be to blame."""
        content = wanted.content
        begin = intake.arrival.offset
        id_ = self._connections.next_id()
        await connection.send(Type.PULL, id_, begin, [wanted.pack()])
        while (header := await connection.receive_answer(id_)).type is Type.DATA:
            pieces: list[bytes] = []
            try:
                await connection.receive_pieces(header.length, pieces)
            finally:
                self._traffic[connection.peer].pulled += sum(map(len, pieces))
                await intake.put(header.offset, pieces, _nothing_to_release)
        if header.type is Type.NOT_HERE:
            await intake.recover()
            return False
        digest = await connection.receive_body(header.length)
        if header.type is not Type.PULL_END or header.offset != content.size:
            raise FormatError(f"{connection.peer} answered PULL with {header.type.name} at {header.offset}")
        if await intake.finish() == (content.digest if content.sealed else digest):
            return True
        logger.warning("%s gave other bytes than content %s", connection.peer, content.digest.hex()[:16])
        await intake.start_again()
        return None if begin else False


def _nothing_to_release() -> None:
    """A pull has one body in memory, and the connections bound the number of pulls."""


class _Shared:
    __slots__ = ("task", "waiters")

    def __init__(self, task: asyncio.Future[None]) -> None:
        self.task = task
        self.waiters = 0
