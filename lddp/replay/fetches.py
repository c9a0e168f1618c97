"""Bytes on their way here, for effects that wait for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from lddp.core import effects as e
from lddp.core.records import Content
from lddp.errors import LddpError, UnavailableError, errno_name, quoted
from lddp.ports import ContentStore, Sleep
from lddp.replay.outbox import Item
from lddp.replay.places import path_of

_log = logging.getLogger(__name__)
FETCHES_AT_ONCE = 8
RETRY_S = 0.25


class Fetches:
    """`holders` names the nodes to ask for a rule's bytes; `ended` is called when one fetch is over, however it was."""

    def __init__(
        self,
        store: ContentStore,
        holders: Callable[[int], Sequence[str]],
        sleep: Sleep,
        ended: Callable[[], None],
    ) -> None:
        self._store = store
        self._holders = holders
        self._sleep = sleep
        self._ended = ended
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._refused: dict[bytes, str] = {}

    def __bool__(self) -> bool:
        return bool(self._tasks)

    @property
    def problem(self) -> str:
        """Why this node's disk does not take bytes that effects wait for; empty while it does."""
        return next(iter(self._refused.values()), "")

    def begin(self, item: Item, is_needed: Callable[[], bool]) -> None:
        """Brings the bytes of an effect here, unless they are on their way, until they are there or not needed."""
        assert isinstance(item.effect, e.PutFileEffect | e.WriteEffect), "other effects bring no bytes"
        content = item.effect.content
        if content.digest not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._fetch(content, item, is_needed))
            self._tasks[content.digest] = task

    def cancel(self) -> None:
        """Ends all of them."""
        for task in self._tasks.values():
            task.cancel()

    async def _fetch(self, content: Content, item: Item, is_needed: Callable[[], bool]) -> None:
        try:
            while is_needed():
                try:
                    async with self._slots:
                        await self._store.fetch(content, item.effect.inode, self._holders(item.rule))
                    break
                except OSError as error:
                    self._refuse(content, item, error)
                except UnavailableError as error:
                    self._refused.pop(content.digest, None)
                    _log.info("bytes for inode %d: %s", item.effect.inode, error)
                except LddpError as error:
                    _log.warning("bytes for inode %d: %s", item.effect.inode, error)
                await self._sleep(RETRY_S)
        finally:
            self._refused.pop(content.digest, None)
            self._tasks.pop(content.digest, None)
            self._ended()

    def _refuse(self, content: Content, item: Item, error: OSError) -> None:
        """The disk does not take them: said once, and shown for as long as it is so."""
        path = quoted(path_of(item.effect))
        reason = f"{errno_name(error.errno or 0)} at the bytes of {path}: {error.strerror or error}"
        if self._refused.get(content.digest) != reason:
            _log.error("bytes cannot be kept here: %s; they are fetched again until it is mended", reason)
        self._refused[content.digest] = reason
