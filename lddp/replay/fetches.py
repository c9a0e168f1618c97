"""Bytes on their way here, for effects that wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from lddp.core import effects as e
from lddp.core.records import Content
from lddp.errors import LddpError, UnavailableError, errno_name, quoted
from lddp.ports import ContentStore, Sleep
from lddp.replay.carrier import Carrier
from lddp.replay.outbox import Item
from lddp.replay.places import path_of
from lddp.replay.progress import Order

_log = logging.getLogger(__name__)
FETCHES_AT_ONCE = 8
RETRY_S = 0.25
EARLY_MAX = 512
EARLY_BYTES_MAX = 64 << 20
EARLY_FREE_BYTES_MIN = 8 * EARLY_BYTES_MAX
"""What the disk must have free: bytes that are not used yet must not keep out those that are waited for."""


class Fetches:
    """`holders` names the nodes to ask for a rule's bytes, and `is_needed` says whether an effect waits for its own
    still; `fetched` is called when one fetch is over, however it was."""

    def __init__(
        self,
        store: ContentStore,
        carriers: Mapping[int, Carrier],
        holders: Callable[[int], Sequence[str]],
        is_needed: Callable[[Item], bool],
        sleep: Sleep,
        fetched: Callable[[], None],
    ) -> None:
        self._store = store
        self._carriers = carriers
        self._holders = holders
        self._is_needed = is_needed
        self._sleep = sleep
        self._fetched = fetched
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._early: dict[Order, int] = {}
        """Effects whose bytes were asked for before their turn, and how many these are."""
        self._early_bytes = 0
        self._slots = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._refused: dict[bytes, str] = {}

    def __bool__(self) -> bool:
        return bool(self._tasks)

    @property
    def problem(self) -> str:
        """Why this node's disk does not take bytes that effects wait for; empty while it does."""
        return next(iter(self._refused.values()), "")

    def begin(self, item: Item) -> None:
        """Brings the bytes of an effect here, unless they are on their way, until they are there or not needed."""
        self._begin(item, early=False)

    def foresee(self, item: Item) -> None:
        """As `begin`, once, for an effect that waits for others: what stands behind each other would be fetched one
        after the other, with a look at all that waits between. Of what is next, and not too much of it."""
        effect = item.effect
        if len(self._early) >= EARLY_MAX or not isinstance(effect, e.PutFileEffect | e.WriteEffect):
            return
        size = 0 if effect.content.inline is not None else effect.content.size
        if not size or item.order in self._early or self._early_bytes + size > EARLY_BYTES_MAX:
            return
        self._early[item.order] = size
        self._early_bytes += size
        is_here = self._store.open(effect.content, waits=False) is not None
        if not is_here and self._carriers[item.rule].zone.free_bytes() >= EARLY_FREE_BYTES_MIN:
            self._begin(item, early=True)

    def ended(self, item: Item) -> None:
        """It waits no more."""
        self._early_bytes -= self._early.pop(item.order, 0)

    def cancel(self) -> None:
        """Ends all of them."""
        for task in self._tasks.values():
            task.cancel()

    def _begin(self, item: Item, *, early: bool) -> None:
        assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect), "other effects bring no bytes"
        content = item.effect.content
        if content.digest not in self._tasks:
            self._tasks[content.digest] = asyncio.get_running_loop().create_task(self._fetch(content, item, early))

    async def _fetch(self, content: Content, item: Item, early: bool) -> None:
        try:
            while not await self._is_fetched(content, item, early) and not early:
                await self._sleep(RETRY_S)
        finally:
            self._refused.pop(content.digest, None)
            self._tasks.pop(content.digest, None)
            self._fetched()

    async def _is_fetched(self, content: Content, item: Item, early: bool) -> bool:
        """Whether there is no more to do."""
        try:
            async with self._slots:
                if self._is_needed(item):
                    await self._store.fetch(content, item.effect.inode, self._holders(item.rule))
            return True
        except OSError as error:
            if not early:
                self._refuse(content, item, error)
        except UnavailableError as error:
            self._refused.pop(content.digest, None)
            if not early:
                _log.info("bytes for inode %d: %s", item.effect.inode, error)
        except LddpError as error:
            _log.warning("bytes for inode %d: %s", item.effect.inode, error)
        return False

    def _refuse(self, content: Content, item: Item, error: OSError) -> None:
        """The disk does not take them: said once, and shown for as long as it is so."""
        path = quoted(path_of(item.effect))
        reason = f"{errno_name(error.errno or 0)} at the bytes of {path}: {error.strerror or error}"
        if self._refused.get(content.digest) != reason:
            _log.error("bytes cannot be kept here: %s; they are fetched again until it is mended", reason)
        self._refused[content.digest] = reason
