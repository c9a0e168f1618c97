"""Contents that came and whose record never did: a source that died between the two leaves them behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from lddp.content.store import Store
from lddp.core.records import Content
from lddp.errors import UnavailableError
from lddp.ports import KeyValue
from lddp.replay import outbox

_log = logging.getLogger(__name__)
EVERY_S = 12 * 3600.0
"""Far longer than a record ever comes after its bytes, while a majority is there."""
BARRIER_S = 60.0


class Sweep:
    """What no effect needs, at two looks one after the other, goes. Should its record come after all, the bytes are
    fetched again."""

    def __init__(self, environment: KeyValue, store: Store) -> None:
        self._environment = environment
        self._store = store
        self._suspected: set[bytes] = set()

    async def run(self, executor: Executor, barrier: Callable[[float], Awaitable[int]]) -> None:
        """Until cancelled. `barrier`: that of the gateway."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look_in_touch(executor, barrier)

    async def look_in_touch(self, executor: Executor, barrier: Callable[[float], Awaitable[int]]) -> None:
        """A look, if a majority is there. While it is away, records of long ago may stand in a log without being agreed
        on, and be agreed on when it is back: two looks in a row have to find it there."""
        try:
            await barrier(BARRIER_S)
        except UnavailableError as error:
            self._suspected.clear()
            _log.info("nothing is dropped now: %s", error)
            return
        count = await asyncio.get_running_loop().run_in_executor(executor, self.look)
        if count:
            _log.info("dropped %d contents that nobody has needed for a long time", count)

    def look(self) -> int:
        """How many contents were dropped. Blocking."""
        self._store.forget_undecided()
        packs, digests = self._store.held()
        unneeded = {*packs, *digests} - self._needed()
        due = unneeded & self._suspected
        self._suspected = unneeded - due
        for pack in due.intersection(packs):
            self._store.release_pack(pack)
        for digest in due.intersection(digests):
            for sealed in (True, False):
                self._store.release(Content(digest, 0, sealed=sealed))
        return len(due)

    def _needed(self) -> set[bytes]:
        """Packs and digests that effects which are not durably carried out name, and those kept for other zones."""
        with self._environment.read() as tables:
            return {*self._store.kept(), *outbox.needed(tables)}
